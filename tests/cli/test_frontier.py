"""``audit frontier`` as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.privacy.blind_control import BlindAuc
from audit.privacy.frontier_table import read_frontier
from audit.registry.store import Registry

FILE = """\
name: soft
factory: trainable:Softmax
data: {source: sklearn.digits, split: {test: 0.2}, members: 300, limit: 100}
epochs: 8
batch: 300
optimiser: {adam: {lr: 0.05}}
seed: 3
dp: {epsilon: 5, delta: 1e-4, accountant: rdp, gradients: functorch}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    even = BlindAuc(0.5, 100, 100, ("boosted trees", "boosted trees"))  # the control takes most of an audit's time
    monkeypatch.setattr("audit.privacy.blind_control.blind_auc", lambda *rows, **options: even)
    Registry(tmp_path / "home").trust.allow_package("trainable")
    path = tmp_path / "t.yaml"
    path.write_text(FILE)
    return path


def test_a_table_a_page_and_what_choosing_costs(audit: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    told = audit("frontier", file, "--epsilons", "4, 1", "--attack", "loss", "--home", tmp_path / "home")
    assert told.code == 0, told.err
    folder = tmp_path / "home" / "trainings" / "soft-frontier"
    found = read_frontier(folder)
    lines = told.out.splitlines()
    assert lines[1].split() == [
        "model",
        "epsilon",
        "spent",
        "accuracy",
        "AUC,",
        "loss",
        "found",
        "at",
        "1",
        "%",
        "FPR,",
        "loss",
    ]
    for line, point in zip(lines[2:5], found.points, strict=True):
        accuracy = point.number("accuracy")
        assert accuracy is not None
        spent = "none" if point.spent is None else f"{point.spent:.3f}"
        assert line.split()[:3] == [point.model, spent, f"{accuracy.value:.3f}"]
        assert "*" in line
    assert "* an FPR of 0.01 takes 1000 non-members to see (10 / FPR), there are 100" in told.out
    assert found.price in told.out
    assert "soft-eps-1@1" in (folder / "frontier.html").read_text()
    assert f"next: audit run {folder / 'eps-1' / 'audit.yaml'}" in told.out
    assert (folder / "eps-1" / "audit.yaml").exists()
    assert "training soft-plain" in told.err
    again = audit("frontier", file, "-e", "1,4", "-a", "loss", "--home", tmp_path / "home", "--lang", "zh")
    assert "soft-plain@1: trained and audited before, unchanged" in again.err
    assert "training" not in again.err
    assert again.out == told.out, "what is printed stays English"
    page = (folder / "frontier.html").read_text()
    assert '<html lang="zh-CN">' in page
    assert "无隐私保护的模型和攻击所得的数值直接来自这些样本" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epsilons", "1;2"), "--epsilons 1;2: write numbers with commas between them"),
        (("--epsilons", ","), "epsilons must be positive numbers"),
        (("--lang", "fr"), "there is no language 'fr'"),
        (("--attack", "los"), "input should be 'loss', 'class_threshold'"),
        (("--attack", "lira", "--shadows", "3"), "shadows"),
        (("--attack", "rmia", "--references", "9"), "--references"),
    ],
)
def test_mistakes_are_one_line(
    audit: Callable[..., Any], file: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    told = audit("frontier", file, *words, "--home", tmp_path / "home")
    assert told.code == 2
    assert said in told.err
    assert "Traceback" not in told.err
