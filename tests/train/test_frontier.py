"""The table of utility against privacy: its numbers, what is trained again and what is not, and what choosing by it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.engine import run
from audit.parameters import UserError
from audit.privacy.accounting import read_training_record
from audit.privacy.blind_control import BlindAuc
from audit.privacy.frontier_table import CSV, JSON, Frontier, read_frontier
from audit.privacy.rdp import rdp_epsilon
from audit.registry.store import Registry
from audit.scenario import parse
from audit.train import frontier as whole
from audit.train.frontier import Watcher, sweep
from audit.train.training_file import TrainingFile, bind_training

FILE = """\
name: soft
factory: trainable:Softmax
data: {source: sklearn.digits, split: {test: 0.2}, members: 400, limit: 150}
epochs: 16
batch: 400
optimiser: {adam: {lr: 0.05}}
seed: 3
dp: {epsilon: 5, delta: 1e-4, accountant: rdp, gradients: functorch}
"""
"""Each step takes every row, for which the accountants have a formula and no series to sum."""


def file(*changes: tuple[str, str]) -> TrainingFile:
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return bind_training(parse(text, "t.yaml"))


class Diary(Watcher):
    """What happened to which model."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def training(self, name: str) -> None:
        self.lines.append(f"train {name}")

    def auditing(self, name: str) -> None:
        self.lines.append(f"audit {name}")

    def kept(self, point: Any) -> None:
        self.lines.append(f"kept {point.name}")

    def finished(self, point: Any) -> None:
        self.lines.append(f"finished {point.name}")


def swept(home: Path, *epsilons: float, of: TrainingFile | None = None, attacks: tuple[str, ...] = ("loss",)) -> Any:
    """The frontier, and what happened."""
    diary, registry = Diary(), Registry(home)
    registry.trust.allow_package("trainable")
    return sweep(of or file(), registry, home / "f", epsilons, attacks, watcher=diary), diary.lines


@pytest.fixture(scope="module", autouse=True)
def _without_blind_control() -> Iterator[None]:
    """It takes most of an audit's time, and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        even = BlindAuc(0.5, 100, 100, ("boosted trees", "boosted trees"))
        patch.setattr("audit.privacy.blind_control.blind_auc", lambda *rows, **options: even)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frontier")


@pytest.fixture(scope="module")
def found(home: Path) -> Frontier:
    frontier, lines = swept(home, 8, 1)
    assert [line for line in lines if line.startswith("train")] == [
        "train soft-eps-1",
        "train soft-eps-8",
        "train soft-plain",
    ]
    assert isinstance(frontier, Frontier)
    return frontier


def test_each_model_is_registered_with_its_own_ledger(home: Path, found: Frontier) -> None:
    registry = Registry(home)
    assert [point.name for point in found.points] == ["soft-eps-1", "soft-eps-8", "soft-plain"]
    for point, folder in zip(found.points, ("eps-1", "eps-8", "plain"), strict=True):
        card = registry.get(point.model)
        assert card.digest == point.digest
        assert (card.ledger is None) == (point.epsilon is None)
        if point.epsilon is not None:
            assert point.spent is not None
            assert 0.9 * point.epsilon < point.spent <= point.epsilon
            record = read_training_record(home / "f" / folder / "privacy.json")
            assert record.claim is not None
            assert (record.claim.epsilon, record.steps) == (point.spent, point.steps)
    one, eight = (point.noise_multiplier for point in found.points[:2])
    assert one is not None
    assert eight is not None
    assert one > eight


def test_numbers_are_those_of_an_audit(home: Path, found: Frontier) -> None:
    point = found.points[1]
    text = f"name: again\nmodel: {point.model}\ndata: {{source: sklearn.digits, split: {{test: 0.2}}, members: 400, limit: 150}}\nchecks:\n  - performance.classification\n  - privacy.membership_inference: {{attacks: [loss]}}\n"
    again = {f.id.split("/")[1]: f for f in run(parse(text), home=home, explore=True).findings if f.metric}
    for number in point.numbers:
        finding = again[number.key]
        assert finding.estimate is not None
        assert (number.value, (number.low, number.high), number.n) == (
            finding.estimate.value,
            finding.interval,
            finding.estimate.n,
        )
    accuracy, plain = (p.number("accuracy") for p in (found.points[0], found.points[2]))
    assert accuracy is not None
    assert plain is not None
    assert accuracy.n == 150
    assert plain.value > 0.8
    assert accuracy.high is not None
    assert plain.low is not None
    assert accuracy.high < plain.low, "epsilon 1 costs accuracy"
    assert Path(home / "runs" / point.run / "manifest.json").exists()


def test_few_non_members_decide_nothing(found: Frontier) -> None:
    low = found.points[2].number("tpr_at_fpr", "loss", "0.01")
    assert low is not None
    assert low.status == "inconclusive"
    assert "takes 1000 non-members" in low.note
    auc = found.points[2].number("auc", "loss")
    assert auc is not None
    assert (auc.status, auc.note) == ("info", "")


def test_choosing_costs_what_all_trainings_spend_together(found: Frontier) -> None:
    history = [stretch for point in found.points for stretch in point.history]
    assert [(round(q, 4), steps) for q, _, steps in history] == [(1.0, 16)] * 2
    assert found.together == rdp_epsilon(history, 1e-4).epsilon
    spent = [point.spent for point in found.points if point.spent is not None]
    assert max(spent) < found.together < sum(spent)
    assert f"up to epsilon {found.together:.3g} at delta 0.0001" in found.price
    assert found.model_copy(update={"together": None}).price == ""


def test_files(home: Path, found: Frontier) -> None:
    assert read_frontier(home / "f") == found
    assert found.finished
    head, *rows = (home / "f" / CSV).read_text().splitlines()
    assert head.startswith(
        "model,epsilon,spent,delta,noise_multiplier,steps,accuracy,accuracy low,accuracy high,auc[attack=loss]"
    )
    assert [row.split(",")[0] for row in rows] == ["soft-eps-1@1", "soft-eps-8@1", "soft-plain@1"]
    assert rows[2].split(",")[1:6] == [""] * 5


def test_nothing_is_trained_twice(home: Path, found: Frontier) -> None:
    again, lines = swept(home, 1, 8)
    assert again == found
    assert lines == ["kept soft-eps-1", "kept soft-eps-8", "kept soft-plain"]
    wider, lines = swept(home, 1, 2)
    assert lines == [
        "kept soft-eps-1",
        "train soft-eps-2",
        "audit soft-eps-2",
        "finished soft-eps-2",
        "kept soft-plain",
    ]
    assert wider.together < found.together
    other, lines = swept(home, 1, attacks=("label_gap",))
    assert lines == [f"{what} soft-{name}" for name in ("eps-1", "plain") for what in ("audit", "finished")]
    assert other.points[0].model == found.points[0].model
    assert {number.attack for number in other.points[0].numbers} == {None, "label_gap"}


def test_a_model_that_changed_is_trained_again(home: Path, found: Frontier) -> None:
    longer, lines = swept(home, 1, of=file(("epochs: 16", "epochs: 17")))
    assert [line for line in lines if line.startswith("train")] == ["train soft-eps-1", "train soft-plain"]
    Registry(home).remove(longer.points[1].model)
    _, lines = swept(home, 1, of=file(("epochs: 16", "epochs: 17")))
    assert [line for line in lines if line.startswith("train")] == ["train soft-plain"]
    _, lines = swept(home, 1, of=file(("epochs: 16", "epochs: 17\ncheckpoint_steps: 7")))
    assert lines == ["kept soft-eps-1", "kept soft-plain"]


def test_a_sweep_that_breaks_off_keeps_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audited = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        audited.append(args)
        if len(audited) == 2:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(whole, "run", broken)
        with pytest.raises(KeyboardInterrupt):
            swept(tmp_path, 2)
    half = read_frontier(tmp_path / "f")
    assert [(point.name, bool(point.numbers)) for point in half.points] == [("soft-eps-2", True), ("soft-plain", False)]
    assert not half.finished
    frontier, lines = swept(tmp_path, 2)
    assert lines == ["kept soft-eps-2", "audit soft-plain", "finished soft-plain"]
    assert frontier.finished


@pytest.mark.parametrize(
    ("epsilons", "changes", "attacks", "said"),
    [
        ((1.0,), [("dp: {epsilon: 5, delta: 1e-4, accountant: rdp, gradients: functorch}", "dp: off")], ("loss",), "'dp: off' names no delta"),
        ((), [], ("loss",), "epsilons must be positive numbers such as 1,2,4,8, got none"),
        ((1.0, -1.0), [], ("loss",), "epsilons must be positive numbers such as 1,2,4,8, got -1, 1"),
        ((float("inf"),), [], ("loss",), "got inf"),
        ((1.0,), [], ("los",), "attacks\\[0\\]: input should be 'loss', 'class_threshold'"),
        ((1.0,), [(", split: {test: 0.2}, members: 400", "")], ("loss",), "names no rows to train on"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_trained(
    tmp_path: Path, epsilons: Any, changes: Any, attacks: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        swept(tmp_path, *epsilons, of=file(*changes), attacks=attacks)
    assert not (tmp_path / "f").exists()


def test_an_audit_that_breaks_is_told_and_the_model_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.privacy.membership.auc", lambda *scores: 1 / 0)
    with pytest.raises(
        UserError, match=r"the audit of soft-eps-2@1 broke off in privacy\.membership_inference: .*division"
    ):
        swept(tmp_path, 2)
    monkeypatch.undo()
    _, lines = swept(tmp_path, 2)
    assert lines[0] == "audit soft-eps-2"


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / JSON).write_text(json.dumps({"name": "x"}))
    with pytest.raises(UserError, match=r"frontier\.json is damaged"):
        swept(tmp_path, 2)
    with pytest.raises(UserError, match="cannot be read"):
        read_frontier(tmp_path)


def test_a_regression_has_no_membership_attack(tmp_path: Path) -> None:
    text = """\
name: line
factory: torch.nn:Linear
kwargs: {in_features: 10, out_features: 1}
data: {source: sklearn.diabetes, split: {test: 0.3}}
steps: 3
batch: 309
optimiser: {sgd: {lr: 0.1}}
loss: mse
dp: {epsilon: 2, delta: 1e-3, accountant: rdp, gradients: functorch}
"""
    Registry(tmp_path).trust.allow_package("torch")
    found, _ = swept(tmp_path, 2, of=bind_training(parse(text, "t.yaml")))
    assert (found.utility, found.attacks) == ("rmse", ())
    assert [[number.metric for number in point.numbers] for point in found.points] == [["rmse"], ["rmse"]]
