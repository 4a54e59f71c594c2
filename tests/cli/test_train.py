"""``audit train`` as a user types it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainable import known_entropy

from audit.registry.store import Registry
from audit.train.checkpoint import TrainingFolder
from audit.train.ledger import Accounting
from audit.train.loop import Trainer
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


def test_a_file_becomes_a_registered_model(
    audit: Callable[..., Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_entropy(monkeypatch)
    home = tmp_path / "home"
    file.write_text(FILE.replace("test: 0.2", "test: 0.8").replace("1e-3", "3e-3"))
    refused = audit("train", file, "--home", home)
    assert refused.code == 2
    assert "audit model allow trainable" in refused.err
    Registry(home).trust.allow_package("trainable")
    told = audit("train", file, "--home", home)
    assert told.code == 0, told.err
    first, privacy, after = told.out.splitlines()
    assert first.startswith("registered private-digits@1: accuracy 0.")
    assert "epsilon" in privacy
    assert "at delta 0.003 (rdp), 6 steps" in privacy
    folder = home / "trainings" / "private-digits"
    assert after == f"next: audit run {folder / 'audit.yaml'} --home {home}"
    assert "6 steps (2 epochs) on 359 rows, batches of about 120" in told.err
    assert "by RDP; sampling rate 0.3343, noise multiplier 1.2, flat clipping at 1" in told.err
    assert "gradients: functorch" in told.err
    assert "step 3/6  loss" in told.err
    assert f"epsilon {Accounting(120 / 359, 1.2, 3e-3, 'rdp').spent(3)[0]:.3f}" in told.err
    assert "caution: delta=0.003 is above 1/n" in told.err
    assert (folder / "privacy.json").exists()
    audited = audit(*after.removeprefix("next: audit ").split())
    assert "pass: privacy.dp_accounting/excess <= 0" in audited.out
    assert "fail: privacy.dp_accounting/violations == 0: 1" in audited.out, "the delta"
    assert audited.code == 1, audited.out


def test_a_mistake_is_told_with_its_line(audit: Callable[..., Any], file: Path) -> None:
    file.write_text(FILE.replace("epochs", "epoch"))
    told = audit("train", file)
    assert told.code == 2
    assert "t.yaml:4:1: epoch: unknown field 'epoch'; did you mean 'epochs'?" in told.err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty: say name, factory, data, epochs, optimiser and dp"),
        ("- a", "expected a mapping with name, factory, data, epochs, optimiser and dp, got a list"),
        ("digits", "expected a mapping with name, factory, data, epochs, optimiser and dp, got text"),
        (FILE[:200], "is no valid YAML"),
        ("name: a\nmodel: b\nchecks: []\n", "t.yaml:3:1: checks: this is a scenario, which `audit run` takes"),
        (FILE.replace("accountant: rdp", "memory: 4"), "dp.memory: unknown field"),
        (FILE.replace("batch: 120", "memory_limit: 4 parsecs"), "'4 parsecs' is no amount of memory: write it as '4 GB'"),
        (FILE.replace("accountant: rdp", "canaries: {inputs: 2, gradients: 2}"), "dp.canaries: say how many canaries, by 'gradients'"),
        (FILE.replace("accountant: rdp", "canaries: 9").replace("batch", "sampler: shuffle\nbatch"), "gradient canaries join by Poisson"),
        (FILE.replace("accountant: rdp", "canaries: {inputs: 9}"), "9 input canaries need as many rows that are neither"),
    ],
)  # fmt: skip
def test_a_file_that_is_none(audit: Callable[..., Any], file: Path, text: str, line: str, tmp_path: Path) -> None:
    Registry(tmp_path / "home").trust.allow_package("trainable")
    file.write_text(text)
    told = audit("train", file, "--home", tmp_path / "home")
    assert told.code == 2
    assert line in told.err
    (said,) = (said for said in told.err.splitlines() if said.startswith("error: "))
    assert "scenario" not in said.replace("this is a scenario", "")


def test_an_interruption_loses_nothing_and_says_how_to_go_on(
    audit: Callable[..., Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Registry(tmp_path / "home").trust.allow_package("trainable")
    usual, moved = Trainer.move, []
    with monkeypatch.context() as patched:

        def stopped(self: Trainer, released: tuple[torch.Tensor, ...]) -> None:
            if len(moved) == 3:
                os.kill(os.getpid(), signal.SIGINT)  # before the fourth step has moved anything
            usual(self, released)
            moved.append(0)

        patched.setattr(Trainer, "move", stopped)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
        told = audit("train", file, "--home", tmp_path / "home")
        signal.signal(signal.SIGINT, before)
    assert told.code == 130
    assert "stopped after step 4: run the same command again to resume" in told.err
    kept = torch.load(tmp_path / "home/trainings/private-digits/checkpoint.pt", weights_only=True)
    assert kept["releases"] == 4
    assert any(bool(w.any()) for w in kept["state"]["module"].values()), "what the steps taught"
    again = audit("train", file, "--home", tmp_path / "home")
    assert again.code == 0
    assert "resumed after step 4" in again.err
    assert "lost" not in again.err


def test_steps_that_a_kill_took_from_the_weights_are_told(
    audit: Callable[..., Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Registry(tmp_path / "home").trust.allow_package("trainable")
    usual = Trainer.move

    def killed_at(step: int) -> Callable[..., None]:
        def killed(self: Trainer, released: tuple[torch.Tensor, ...]) -> None:
            usual(self, released)
            if self.optimiser.state_dict()["state"][0]["step"] == step:
                raise KeyboardInterrupt  # itself, and no signal: nobody could hold it back

        return killed

    for step, said in (
        (4, "stopped after step 3"),
        (99, "4 of these steps came after the last checkpoint: they are spent"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "move", killed_at(step))
            told = audit("train", file, "--home", tmp_path / "home")
        assert said in told.err
        assert (told.code == 130) == (step == 4)


def test_a_budget_that_is_spent_without_a_checkpoint_publishes_nothing(
    audit: Callable[..., Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path / "home")
    registry.trust.allow_package("trainable")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingFolder, "save", killed)  # the only one, after the last step
        assert audit("train", file, "--home", tmp_path / "home").code == 130
    told = audit("train", file, "--home", tmp_path / "home")
    assert told.code == 2
    assert "steps were spent before a checkpoint was written: start anew with --fresh" in told.err
    assert not registry.list()


def test_a_full_disk_is_one_line(audit: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    Registry(tmp_path / "home").trust.allow_package("trainable")
    file.write_text(FILE.replace("Softmax", "perceptron").replace("batch: 120", "batch: 120\ncheckpoint_steps: 2"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        told = audit("train", file, "--home", tmp_path / "home")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.code == 3
    folder = tmp_path / "home" / "trainings" / "private-digits"
    assert told.err.endswith(f"error: {folder / 'checkpoint.pt'}: File too large\n")
    assert audit("train", file, "--home", tmp_path / "home").code == 0, "there is room again"


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
