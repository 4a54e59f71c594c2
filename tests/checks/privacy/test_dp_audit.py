"""Canaries of trainings that keep their claim, and of those that do not, through the check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Linear, audited, batch, context, data

from audit.checks.privacy.dp_audit import DpAudit
from audit.engine import run
from audit.finding import Bound, Measurement, part_name
from audit.model import AuditedModel, Capability
from audit.parameters import UserError
from audit.privacy.empirical_epsilon import one_run_epsilon
from audit.scenario import parse

DATA = data(batch(np.zeros((2, 2), np.float32), np.array([0, 1])), kind="series")


def model() -> AuditedModel:
    return audited(Linear([1.0, 1.0], 0.0), (2,), kind="series")


def ledger(shift: float, m: int = 1000, epsilon: float = 2.0, **canaries: Any) -> dict[str, Any]:
    """A record whose canaries score N(shift, 1) where they were in, else N(0, 1)."""
    rng = np.random.default_rng(0)
    included = rng.random(m) < 0.5
    scores = rng.normal(size=m) + shift * included
    return {
        "stretches": [{"sampling_rate": 0.01, "sigma": 1.0, "steps": 1000}], "dataset_size": 60_000, "sampler": "poisson",
        "noise": "entropy", "claim": {"epsilon": epsilon, "delta": 1e-5},
        "canaries": {"kind": "gradient", "included": included.tolist(), "scores": scores.tolist(), **canaries},
    }  # fmt: skip


def measure(
    tmp_path: Path, told: Any = None, audited_model: AuditedModel | None = None, **parameters: Any
) -> dict[str, Measurement]:
    check = DpAudit(record=told, **parameters)
    return {part_name(m.metric, m.dims): m for m in check.run(audited_model or model(), DATA, context(tmp_path))}


def bound(found: dict[str, Measurement], name: str = "epsilon_lower_bound") -> Bound:
    estimate = found[name].estimate
    assert isinstance(estimate, Bound)
    return estimate


def verdict(tmp_path: Path, told: dict[str, Any]) -> tuple[str, str]:
    (tmp_path / "privacy.json").write_text(json.dumps(told))
    text = (
        "name: dp\nmodel: toy\ndata: {source: given}\nchecks:\n"
        '  - privacy.dp_audit: {record: privacy.json}\n    require: {excess: "<= 0"}\n'
    )
    report = run(parse(text, base=tmp_path), home=tmp_path, models={"toy": model()}, data=DATA)
    (finding,) = (f for f in report.findings if f.gated)
    return str(finding.status), finding.message


def test_canaries_that_are_told_apart_refute_the_claim(tmp_path: Path) -> None:
    status, message = verdict(tmp_path, ledger(shift=20))
    assert status == "fail", message


def test_canaries_that_nobody_can_tell_do_not_falsify(tmp_path: Path) -> None:
    status, message = verdict(tmp_path, ledger(shift=0.2))
    assert status == "pass"
    assert "does not falsify" in message


@pytest.mark.parametrize(("m", "epsilon"), [(30, 4.0), (1000, 8.0)])
def test_too_few_canaries_decide_nothing(tmp_path: Path, m: int, epsilon: float) -> None:
    told = ledger(shift=0.2, m=m, epsilon=epsilon)
    status, message = verdict(tmp_path, told)
    assert status == "inconclusive"
    assert "could have shown at most" in message
    found = measure(tmp_path, told)
    assert f"the claim of {epsilon:g} could not have been falsified" in found["excess"].cautions[0]
    assert found["ceiling"].estimate.interval()[0] < epsilon


def test_canaries_that_few_steps_saw_do_not_hide_a_training_without_noise(tmp_path: Path) -> None:
    told = ledger(shift=20, m=400, epsilon=3.8)
    for i in range(0, 400, 20):
        told["canaries"]["scores"][i] = 10.0
    assert bound(measure(tmp_path, told), "excess").value > 0
    assert bound(measure(tmp_path, told, guesses=(0.1, 0.4, 1.0)), "excess").value < 0, (
        "all of them, or too few, are not enough"
    )


def test_the_bound_is_the_theorem_at_a_corrected_level(tmp_path: Path) -> None:
    found = measure(tmp_path, ledger(shift=20), guesses=(0.1, 1.0))
    level = 1 - 0.05 / 2
    wanted = {share: one_run_epsilon(1000, int(1000 * share), int(1000 * share), 1e-5, level) for share in (0.1, 1.0)}
    for share, epsilon in wanted.items():
        one = bound(found, f"epsilon_lower_bound[guesses={share:g}]")
        assert one.value == pytest.approx(epsilon)
        assert one.level == pytest.approx(level)
    assert bound(found).value == found["ceiling"].estimate.value == pytest.approx(max(wanted.values()))
    assert bound(found).level == 0.95
    assert bound(found, "excess").value == pytest.approx(max(wanted.values()) - 2)
    assert "1000 of 1000 guesses" in found["excess"].cautions[0]


def test_choosing_on_one_half_leaves_the_other_to_measure(tmp_path: Path) -> None:
    found = measure(tmp_path, ledger(shift=20), choose="half")
    assert bound(found).n == 500
    assert bound(found).value == pytest.approx(one_run_epsilon(500, 500, 500, 1e-5))
    assert not [name for name in found if "guesses" in name]


def test_a_higher_level_shows_less(tmp_path: Path) -> None:
    told = ledger(shift=3)
    assert bound(measure(tmp_path, told, level=0.99)).value < bound(measure(tmp_path, told)).value


def test_who_sees_what(tmp_path: Path) -> None:
    assert measure(tmp_path, ledger(2))["excess"].threat_model.access == "white_box"  # type: ignore[union-attr]
    assert measure(tmp_path, ledger(2, kind="input"))["excess"].threat_model.access == "black_box_scores"  # type: ignore[union-attr]


def test_the_models_own_ledger_is_taken(tmp_path: Path) -> None:
    known = model()
    known.ledger = json.dumps(ledger(shift=20))
    assert bound(measure(tmp_path, None, known)).value > 4


def test_the_scenario_may_bring_the_claim(tmp_path: Path) -> None:
    found = measure(tmp_path, ledger(shift=20), claim={"epsilon": 1.0, "delta": 1e-6})
    assert bound(found, "excess").value == pytest.approx(bound(found).value - 1)
    assert bound(found).value != bound(measure(tmp_path, ledger(shift=20))).value  # another delta


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_many_trainings(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(3, 1, 2000), rng.normal(0, 1, 2000)
    path = tmp_path / f"runs{suffix}"
    if suffix == ".npz":
        np.savez(path, inside=inside, outside=outside)
    else:
        path.write_text(json.dumps({"inside": inside.tolist(), "outside": outside.tolist()}))
    claim = {"epsilon": 2.0, "delta": 1e-5}
    found = measure(tmp_path, runs=str(path), claim=claim)
    assert 2 < bound(found).value < bound(found, "epsilon_lower_bound[method=gaussian]").value
    # the exact epsilon of mu = 3 at this delta, which a bound must not exceed
    assert bound(found, "epsilon_lower_bound[method=gaussian]").value < 16.6
    assert bound(found).n == 2000
    declared = measure(tmp_path, runs=str(path), claim=claim, threshold=1.5)
    assert bound(declared).n == 4000
    assert "score 1.5 or more" in declared["excess"].cautions[0]


def runs_file(folder: Path, text: str) -> str:
    (folder / "runs.json").write_text(text)
    return str(folder / "runs.json")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"inside": [1, 2]}', "'outside' is missing"),
        ("[1", "expected 'inside' and 'outside'"),
        ('{"inside": ["a"], "outside": [1]}', "hold numbers"),
        ('{"inside": [[1]], "outside": [1]}', "one score for each"),
        ('{"inside": [1], "outside": [1, 2]}', "too few"),
        ('{"inside": [1, NaN], "outside": [1, 2]}', "not finite"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted) as caught:
        measure(tmp_path, runs=runs_file(tmp_path, text), claim={"epsilon": 1, "delta": 1e-5})
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    told = ledger(1)
    del told["canaries"]
    with pytest.raises(UserError, match="no canaries"):
        measure(tmp_path, told)
    with pytest.raises(UserError, match="no privacy ledger"):
        measure(tmp_path)
    with pytest.raises(UserError, match="npz or"):
        measure(tmp_path, runs="runs.txt", claim={"epsilon": 1, "delta": 1e-5})
    with pytest.raises(UserError, match="cannot be read"):
        measure(tmp_path, runs="runs.npz", claim={"epsilon": 1, "delta": 1e-5})


def remembering(x: Any, labels: Any) -> AuditedModel:
    """A model that is sure of the rows it was given, and says nothing of others."""
    known = torch.from_numpy(x)

    def forward(rows: Tensor) -> Tensor:
        nearest = torch.cdist(rows, known, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        sure = 10.0 * (nearest.values < 1e-4)
        return sure[:, None] * nn.functional.one_hot(torch.from_numpy(labels)[nearest.indices], 2)

    return audited(forward, (2,), kind="series", gradients=False)


@pytest.mark.parametrize("remembers", [True, False])
def test_examples_that_the_model_remembers(tmp_path: Path, remembers: bool) -> None:
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(600, 2)).astype(np.float32), rng.integers(0, 2, 600)
    included = rng.random(600) < 0.5
    np.savez(tmp_path / "canaries.npz", x=x, labels=labels, included=included)
    trained_on = included if remembers else rng.random(600) < 0.5
    found = measure(
        tmp_path, None, remembering(x[trained_on], labels[trained_on]), examples=str(tmp_path / "canaries.npz"),
        claim={"epsilon": 1.0, "delta": 1e-5},
    )  # fmt: skip
    assert (bound(found, "excess").value > 3) == remembers
    assert bound(found, "excess").n == 600
    assert found["excess"].threat_model.access == "black_box_scores"  # type: ignore[union-attr]
    assert Capability.PROBABILITIES in DpAudit(examples="canaries.npz").requirements()


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"x": [[1.0]]}, "rows of shape"),
        ({"labels": [0.5]}, "class indices"),
        ({"included": [1]}, "true or false"),
        ({"included": [True, False]}, "rows of shape"),
    ],
)
def test_bad_examples_are_one_line(tmp_path: Path, change: dict[str, Any], wanted: str) -> None:
    told = {"x": [[1.0, 2.0]], "labels": [0], "included": [True], **change}
    (tmp_path / "canaries.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=wanted) as caught:
        measure(tmp_path, examples=str(tmp_path / "canaries.json"), claim={"epsilon": 1, "delta": 1e-5})
    assert "\n" not in str(caught.value)


def test_one_audit_at_a_time() -> None:
    with pytest.raises(ValueError, match="not both"):
        DpAudit(runs="a.npz", examples="b.npz")
