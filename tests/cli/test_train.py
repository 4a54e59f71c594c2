"""``audit train`` as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.registry.store import Registry
from audit.train.ledger import Accounting
from audit.train.training_file import read_training

FILE = """\
name: private-digits
factory: trainable:Softmax
data: {source: sklearn.digits, split: {test: 0.2}}
epochs: 2
batch: 120
optimiser: {adam: {lr: 0.03}}
dp: {noise_multiplier: 1.2, delta: 1e-3, accountant: rdp, gradients: functorch}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.yaml"
    path.write_text(FILE)
    return path


def test_a_file_becomes_a_registered_model(audit: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = audit("train", file, "--home", home)
    assert refused.code == 2
    assert "audit model allow trainable" in refused.err
    Registry(home).trust.allow_package("trainable")
    told = audit("train", file, "--home", home)
    assert told.code == 0, told.err
    first, privacy, after = told.out.splitlines()
    assert first.startswith("registered private-digits@1: accuracy 0.")
    assert "epsilon" in privacy
    assert "at delta 0.001 (rdp), 24 steps" in privacy
    folder = home / "trainings" / "private-digits"
    assert after == f"next: audit run {folder / 'audit.yaml'} --home {home}"
    assert "24 steps (2 epochs) on 1,438 rows, batches of about 120" in told.err
    assert "by RDP; sampling rate 0.08345, noise multiplier 1.2, flat clipping at 1" in told.err
    assert "gradients: functorch" in told.err
    assert "step 12/24  loss" in told.err
    assert f"epsilon {Accounting(120 / 1438, 1.2, 1e-3, 'rdp').spent(12)[0]:.3f}" in told.err
    assert "caution: delta=0.001 is above 1/n" in told.err
    assert (folder / "privacy.json").exists()
    audited = audit(*after.removeprefix("next: audit ").split())
    assert "privacy.dp_accounting/excess <= 0" in audited.out
    assert audited.code == 0, audited.out


def test_a_mistake_is_told_with_its_line(audit: Callable[..., Any], file: Path) -> None:
    file.write_text(FILE.replace("epochs", "epoch"))
    told = audit("train", file)
    assert told.code == 2
    assert "t.yaml:4:1: epoch: unknown field 'epoch'; did you mean 'epochs'?" in told.err


def test_no_permission(audit: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    Registry(tmp_path / "home").trust.allow_package("trainable")
    told = audit("train", file, "--home", tmp_path / "home", "--out", file / "below")
    assert told.code == 2
    assert "cannot train in" in told.err


def test_the_training_files_of_the_project_are_valid(repository: Path) -> None:
    found = sorted((repository / "trainings").glob("*.yaml"))
    assert found
    for path in found:
        read_training(path)
