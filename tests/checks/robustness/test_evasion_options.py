"""Sequences, caps, averaged answers, signal-to-noise bounds and attacks bound by constraints: each option changes the result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from measuring import digit_model, measured, some_digits, value
from pydantic import ValidationError
from torch import Tensor
from toys import Linear, audited, batch, data, trained_cnn

from audit.attacks import Attack, Candidates
from audit.checks.robustness import _attack_list, _controls
from audit.checks.robustness.evasion import Evasion
from audit.engine import run
from audit.finding import Access, ThreatModel, part_name
from audit.model import AuditedModel, Capability
from audit.parameters import UserError
from audit.rng import ExampleRng
from audit.scenario import parse

# --- sequences ---------------------------------------------------------------------------------------------------


def test_a_sequence_comes_to_the_same_worst_case_on_what_was_left(tmp_path: Path) -> None:
    attacks = [{"pgd": {"steps": 2, "random_start": False}}, "pgd", {"pgd": {"loss": "margin"}}]
    apart = measured(Evasion(eps=1.2, attacks=attacks), digit_model(), some_digits(100), tmp_path)
    after = measured(Evasion(eps=1.2, attacks=attacks, sequential=True), digit_model(), some_digits(100), tmp_path)
    assert value(after["robust_accuracy"])[0] == value(apart["robust_accuracy"])[0]
    first, second, third = (value(after[f"robust_accuracy[after={name}]"])[0] for name in ("pgd", "pgd#2", "pgd#3"))
    assert first >= second >= third == value(after["robust_accuracy"])[0]
    assert first == value(apart["robust_accuracy[attack=pgd]"])[0]
    assert "robust_accuracy[attack=pgd]" not in after, "a cumulative figure does not pass for one attack's own"
    clean, left = value(after["clean_accuracy"])[0], after["queries[after=pgd#2]"].estimate.n
    assert left == first < clean, "the second attack saw the survivors only"


class InStages(Attack):
    """Finds the first rows in its first stage, further ones in its second, as if a black-box attack had."""

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    needs: ClassVar[frozenset[Capability]] = frozenset()
    second: int
    first: int = 3

    def stages(self, classes: int) -> tuple[str, ...]:
        return ("pgd", "art.square_attack")

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        far = (y[:, None, None, None] == 0).to(x) * 16 - x  # never asked about: `moved` decides
        moved, stage = x.clone(), torch.full((len(x),), -1)
        number = torch.arange(len(x))
        for i, rows in enumerate((number < self.first, (number >= self.first) & (number < self.first + self.second))):
            moved[rows] = x[rows] + far[rows]
            stage[rows] = i
        one = torch.ones(len(x), dtype=torch.int64)
        return Candidates(moved, one, one, stage=stage)


def test_stages_are_told_cumulatively_and_black_box_luck_is_weighed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = digit_model()
    monkeypatch.setattr(_controls.Controls, "full_range", lambda self, attacks, rng: None)
    for second, void in ((2, False), (20, True)):
        plant = InStages(second=second)
        monkeypatch.setattr(_attack_list, "build", lambda spec, plant=plant: ("ensemble", plant))
        monkeypatch.setattr(_controls, "_black_box_stage", _black_box_stage)
        found = measured(Evasion(eps=16), honest, some_digits(60), tmp_path)
        after = [value(found[f"robust_accuracy[after={s},attack=ensemble]"])[0] for s in ("pgd", "art.square_attack")]
        clean = value(found["clean_accuracy"])[0]
        assert clean - 3 <= after[0] < clean
        assert after[1] <= after[0]
        assert after[1] == value(found["robust_accuracy[attack=ensemble]"])[0]
        said = found["robust_accuracy"].voids.get("robust_accuracy", "")
        assert ("black-box attacks fooled" in said) == void


def _black_box_stage(stage: str) -> Attack | None:
    """The second stage; run again, it finds nothing."""
    return None if stage == "pgd" else InStages(second=0, first=0)


# --- what goes wrong in the middle -------------------------------------------------------------------------------


def test_a_model_that_breaks_down_in_the_middle_keeps_what_was_measured(tmp_path: Path) -> None:
    def run_with(forward: Any, timeout: str = "") -> Any:
        text = f"""
name: r
model: toy
data: {{source: given}}
threads: 1
checks:
  - robustness.evasion: {{attacks: [pgd: {{steps: 3}}, pgd: {{steps: 50, step_size: 0.01, restarts: 4}}], eps: 0.5}}
    require: {{robust_accuracy: ">= 0.1", "robust_accuracy[attack=pgd]": ">= 0.5"}}
    {timeout}
"""
        report = run(parse(text), home=tmp_path, models={"toy": digit_model(forward)}, data=some_digits(60))
        return report, {part_name(f.metric or "", f.dims): f for f in report.findings}

    calls = [0]

    def breaks(x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > 20:
            raise ValueError("the card fell off the bus")
        return trained_cnn()(x)

    report, found = run_with(breaks)
    assert found["robust_accuracy[attack=pgd]"].status == "pass"
    assert found["robust_accuracy"].status == "error"
    assert "the card fell off the bus" in found["robust_accuracy"].message
    assert report.exit_code == 3

    def slow(x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > 10:
            time.sleep(0.5)
        return trained_cnn()(x)

    calls[0] = 0
    report, found = run_with(slow, "timeout: 3")
    assert found["robust_accuracy[attack=pgd]"].status == "pass"
    assert found["robust_accuracy"].status == "error"
    assert "time budget" in found["robust_accuracy"].message


# --- the cap on queries ------------------------------------------------------------------------------------------


def test_what_takes_more_queries_than_allowed_does_not_count(tmp_path: Path) -> None:
    attacks = ["pgd", {"art.basic_iterative_method": {"max_iter": 10, "rows_per_call": 100}}]
    free = measured(Evasion(eps=1.2, attacks=attacks), digit_model(), some_digits(100), tmp_path)
    capped = measured(Evasion(eps=1.2, attacks=attacks, queries=3), digit_model(), some_digits(100), tmp_path)
    assert value(free["robust_accuracy[attack=pgd]"])[0] < value(capped["robust_accuracy[attack=pgd]"])[0]
    assert capped["queries[attack=pgd]"].estimate.value <= 3, "an attack of ours stops at the cap"
    one = "robust_accuracy[attack=art.basic_iterative_method]"
    assert value(free[one])[0] < value(capped[one])[0] == value(capped["clean_accuracy"])[0]
    assert any("more queries" in caution for caution in capped[one].cautions)
    threat = capped["robust_accuracy"].threat_model
    assert threat is not None
    assert threat.queries == 3


# --- averaged answers --------------------------------------------------------------------------------------------


def noisy(x: Tensor) -> Tensor:
    return trained_cnn()(x + 2 * torch.randn_like(x))


def test_a_randomised_model_is_void_without_averaging_and_measured_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = some_digits(60)
    attacks = [{"pgd": {"steps": 10}}]
    once = measured(Evasion(eps=1.5, attacks=attacks), digit_model(noisy), rows, tmp_path)
    assert "randomised" in once["robust_accuracy"].voids["robust_accuracy"]
    assert "eot" in once["robust_accuracy"].voids["robust_accuracy"]
    model = digit_model(noisy)
    before = model.rows_forward
    averaged = measured(Evasion(eps=1.5, attacks=attacks, eot=8), model, rows, tmp_path)
    assert averaged["robust_accuracy"].voids == {}
    assert any("mean of 8 answers" in caution for caution in averaged["robust_accuracy"].cautions)
    assert value(averaged["robust_accuracy"])[0] < value(averaged["clean_accuracy"])[0] - 10
    assert averaged["queries[attack=pgd]"].estimate.value % 8 == pytest.approx(0, abs=8)
    assert model.rows_forward - before > 8 * 60
    still = measured(Evasion(eps=1.5, attacks=attacks, eot=2), digit_model(), rows, tmp_path)
    assert any("not randomised" in caution for caution in still["robust_accuracy"].cautions)


def test_labels_are_averaged_by_vote(tmp_path: Path) -> None:
    from audit.checks.robustness._averaged import Averaged

    answers = iter([torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([2, 0])])
    model = audited(lambda x: next(answers).double(), (2,), 3, output="label", gradients=False)
    votes = Averaged.of(model, 3)
    assert votes.predict(torch.zeros(2, 2)).tolist() == [2, 1]
    assert model.rows_forward == votes.rows_forward == 6


# --- signal-to-noise ratio ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_each_series_is_attacked_by_its_own_loudness(norm: str, tmp_path: Path) -> None:
    """Two rows of one shape, one ten times as loud: at a ratio between their distances only the one near the line falls."""
    w = np.array([0.6, 0.8])
    x = np.array([[1.0, 1.0], [10.0, 10.0], [0.1, 0.1], [2.0, -1.0]], dtype=np.float32)
    margin = x @ w
    labels = (margin > 0).astype(np.int64)
    model = audited(Linear(w.tolist(), 0.0), (2,), bounds=(-20.0, 20.0), kind="series")
    rows = data(batch(x, labels), bounds=(-20.0, 20.0), kind="series")
    size = np.linalg.norm(x, axis=1) / (2**0.5 if norm == "linf" else 1)
    distance = np.abs(margin) / (np.abs(w).sum() if norm == "linf" else 1)
    for ratio in (0.5, 3.0, 8.0, 20.0):
        robust = int((distance > size * 10 ** (-ratio / 20)).sum())
        found = measured(Evasion(snr_db=ratio, norm=norm), model, rows, tmp_path)
        assert value(found["robust_accuracy"])[0] == robust
        threat = found["robust_accuracy"].threat_model
        assert threat is not None
        assert f"at least {ratio:g} dB" in threat.constraints
        assert threat.eps == pytest.approx(size.max() * 10 ** (-ratio / 20), rel=0.012)


def test_a_silent_row_may_not_be_changed_at_all(tmp_path: Path) -> None:
    model = audited(Linear([1.0, 1.0], 0.5), (2,), bounds=(-20.0, 20.0), kind="series")
    rows = data(batch(np.array([[0.0, 0.0], [0.1, 0.0]], dtype=np.float32), np.ones(2, dtype=np.int64)))
    found = measured(Evasion(snr_db=-40, norm="l2"), model, rows, tmp_path)
    assert value(found["robust_accuracy"])[0] == 1


def test_a_signal_to_noise_ratio_is_for_series(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="snr_db is for a series"):
        measured(Evasion(snr_db=20, norm="l2"), digit_model(), some_digits(100), tmp_path)
    with pytest.raises(ValidationError, match="l2 or linf"):
        Evasion(snr_db=20, norm="l1")


# --- a loss of one's own -----------------------------------------------------------------------------------------


def test_a_loss_by_entry_point_is_what_the_attack_climbs(tmp_path: Path) -> None:
    from audit.run_folder import Run

    def predictions(loss: str) -> list[int]:
        folder = tmp_path / loss
        folder.mkdir()
        found = measured(Evasion(eps=4, attacks=[{"pgd": {"loss": loss}}]), digit_model(), some_digits(100), folder)
        (ref,) = [ref for ref in found["robust_accuracy"].evidence if ref.kind == "adversarial"]
        (run,) = folder.iterdir()
        return [int(p) for p in Run(run).evidence(ref).column("adversarial_prediction")]

    own, usual = predictions("assay_toy.towards_zero"), predictions("ce")
    assert np.mean(np.array(own) == 0) > 0.6 > 0.3 > np.mean(np.array(usual) == 0)
    with pytest.raises(ValidationError, match=r"no loss 'hinge'; known: assay_toy.towards_zero, ce, margin"):
        Evasion(eps=4, attacks=[{"pgd": {"loss": "hinge"}}])


# --- constraints instead of a norm -------------------------------------------------------------------------------


class FirstColumn(Attack):
    """May set the first column to what it likes; claims the second, too, where `honest` is off."""

    access: ClassVar[Access] = "black_box_labels"
    norms: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    honest: bool = True

    def constraints(self) -> str:
        return "the first column alone"

    def permits(self, model: AuditedModel, x: Tensor, candidates: Tensor) -> Tensor:
        same: Tensor = (candidates[:, 1] == x[:, 1]) | x[:, 1].isnan()
        return same

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        moved = x.clone()
        moved[:, 0] = -moved[:, 0]
        if not self.honest:
            moved[:, 1] = -moved[:, 1]
        one = torch.ones(len(x), dtype=torch.int64)
        return Candidates(moved, one, one)


@pytest.mark.parametrize("honest", [True, False])
def test_constraints_take_the_place_of_a_norm(honest: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attack_list, "build", lambda spec: ("first", FirstColumn(honest=honest)))
    x = np.array([[1.0, np.nan], [2.0, 0.5], [-1.0, 0.5]])
    rows = data(batch(x, np.array([1, 1, 0])), kind="series")

    def forward(x: Tensor) -> Tensor:
        return torch.stack([-x[:, 0], x[:, 0]], dim=1)

    found = measured(Evasion(attacks=["first"]), audited(forward, (2,)), rows, tmp_path)
    assert value(found["attack_success"])[0] == (3 if honest else 1), "what breaks the constraints does not count"
    threat = found["attack_success[attack=first]"].threat_model
    assert threat is not None
    assert (threat.norm, threat.eps, threat.constraints) == (None, None, "the first column alone")
    assert (threat.realised, threat.units) == (1, "elements of the input")
    for name in ("robust_accuracy", "attack_success[class=1]"):
        whole = found[name].threat_model
        assert whole is not None
        assert (whole.access, whole.constraints) == ("black_box_labels", "the first column alone")
        assert found[name].evidence


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"eps": 1, "snr_db": 3}, "give one of them"),
        ({}, "'eps' is missing"),
        ({"eps": 1, "queries": 0}, "queries"),
        ({"eps": 1, "eot": 0}, "eot"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Evasion(**parameters)


def test_constraint_bound_attacks_take_no_eps_and_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    build = _attack_list.build
    monkeypatch.setattr(_attack_list, "build", lambda spec: ("f", FirstColumn()) if spec == "f" else build(spec))
    with pytest.raises(ValidationError, match="leave eps"):
        Evasion(attacks=["f"], eps=1)
    with pytest.raises(ValidationError, match="bound by the first column alone, not by a norm"):
        Evasion(attacks=["pgd", "f"], eps=1)


def test_a_cap_below_one_averaged_answer_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than one averaged answer"):
        Evasion(eps=1, queries=3, eot=4)
