"""Completeness through the check's own run: the policy, planted pairs, and explainers that only claim to add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from toys import audited, batch, context, data, digits, trained_cnn
from tweets import trained, tweet_data

from audit import names
from audit.checks.explanation.completeness import Completeness
from audit.data import AuditData
from audit.explainers import Attribution, Explainer
from audit.explainers._completeness import TOLERANCE, relative_gap
from audit.explainers.integrated_gradients import IntegratedGradients
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Capability
from audit.run_folder import Evidence


class Half(Explainer):
    """Integrated gradients, half of them lost."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = True
    lies: bool = False

    def run(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Attribution:
        found = IntegratedGradients().run(model, x, target, background, rng)
        values = found.values / 2
        assert found.base_value is not None
        score = values.flatten(1).sum(dim=1) + found.base_value if self.lies else found.score
        return Attribution(values, target, found.space, base_value=found.base_value, score=score)


class Silent(Explainer):
    """Claims to add up, and says nothing of what to."""

    needs: ClassVar[frozenset[Capability]] = frozenset()
    complete: ClassVar[bool] = True

    def run(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Attribution:
        return Attribution(torch.zeros_like(x), target, model.output)


class _Entry:
    def __init__(self, found: type[Explainer]) -> None:
        self._found = found

    def load(self) -> type[Explainer]:
        return self._found


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"half": _Entry(Half), "silent": _Entry(Silent)}
    monkeypatch.setattr(names, "_installed", lambda group: entries if group == "explainers" else {})


def measure(check: Completeness, model: AuditedModel, rows: AuditData, tmp_path: Path) -> dict[str, Measurement]:
    return {m.metric: m for m in check.run(model, rows, context(tmp_path))}


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def test_integrated_gradients_of_a_trained_net_are_complete(tmp_path: Path) -> None:
    found = measure(Completeness(samples=96), cnn(), digits(), tmp_path)
    assert (found["complete"].estimate.k, found["complete"].estimate.n) == (96, 96)  # type: ignore[union-attr]
    assert Gate.parse(">= 0.95").holds_for(*found["complete"].estimate.interval())
    assert found["max_relative_gap"].estimate.value <= TOLERANCE
    assert 0 < found["mean_relative_gap"].estimate.value < found["max_relative_gap"].estimate.value


def test_too_few_steps_are_not(tmp_path: Path) -> None:
    check = Completeness(explainer={"integrated_gradients": {"steps": 1, "max_steps": 1}}, samples=64)
    found = measure(check, cnn(), digits(), tmp_path)
    assert Gate.parse(">= 0.95").misses(*found["complete"].estimate.interval())
    assert found["max_relative_gap"].estimate.value > 0.1


@pytest.mark.parametrize("lies", [False, True])
def test_half_an_attribution_is_incomplete_whatever_it_says_of_the_score(lies: bool, tmp_path: Path) -> None:
    found = measure(Completeness(explainer={"half": {"lies": lies}}, samples=32), cnn(), digits(), tmp_path)
    assert found["complete"].estimate.k == 0  # type: ignore[union-attr]
    assert found["mean_relative_gap"].estimate.value == pytest.approx(0.5, abs=0.02)


def test_the_gap_by_hand(tmp_path: Path) -> None:
    """x³ from 0 in one step of Gauss–Legendre: 3 (x/2)² · x, three quarters of x³."""
    model = audited(lambda x: x[:, 0] ** 3, (1,), output="value", kind="number")
    rows = data(batch(np.array([[1.0], [2.0], [-2.0]], dtype=np.float32), np.zeros(3)), kind="number")
    one_step = {"integrated_gradients": {"steps": 1, "max_steps": 1, "baseline": "zero"}}
    found = measure(Completeness(explainer=one_step), model, rows, tmp_path)
    assert found["mean_relative_gap"].estimate.value == pytest.approx(0.25, abs=1e-6)
    two_steps = {"integrated_gradients": {"steps": 2, "max_steps": 2, "baseline": "zero"}}
    found = measure(Completeness(explainer=two_steps), model, rows, tmp_path)
    assert found["max_relative_gap"].estimate.value < 1e-6
    assert found["complete"].estimate.value == 1


@pytest.mark.parametrize(
    ("score", "base", "gap", "complete"),
    [
        (10.0, 10.0, 0.9e-3, True),  # 1e-4 of the score
        (10.0, 10.0, 1.1e-3, False),
        (0.2, 0.2, 0.9e-4, True),  # a score counts as 1 at least
        (0.2, 0.2, 1.1e-4, False),
        (10.0, 2.0, 0.079, True),  # 1 % of the difference
        (10.0, 2.0, 0.081, False),
    ],
)
def test_the_policy_by_hand(score: float, base: float, gap: float, complete: bool) -> None:
    assert bool(relative_gap(*(torch.tensor([v]).double() for v in (gap, score, base))) <= TOLERANCE) is complete


@given(
    st.floats(-1e6, 1e6).filter(lambda v: abs(v) > 1e-3 or v == 0),
    st.floats(-1e6, 1e6),
    st.floats(0, 1e5),
)
def test_the_policy(score: float, base: float, gap: float) -> None:
    allowed = max(1e-4 * max(1, abs(score)), 0.01 * abs(score - base))
    relative = relative_gap(*(torch.tensor([v], dtype=torch.float64) for v in (gap, score, base)))
    if abs(gap - allowed) > 1e-9 * max(1.0, allowed):
        assert bool(relative <= TOLERANCE) == (gap <= allowed)


def test_shap_values_of_a_black_box_are_complete(tmp_path: Path) -> None:
    model = audited(lambda x: x[:, 0] * x[:, 1], (2,), output="value", kind="number", gradients=False)
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    check = Completeness(explainer="shap_values", samples=10)
    found = measure(check, model, data(batch(x, np.zeros(20)), kind="number"), tmp_path)
    assert found["complete"].estimate.k == 10  # type: ignore[union-attr]
    assert check.requirements() == frozenset()
    assert Completeness().requirements() == {Capability.GRADIENTS}


def test_texts_over_their_embeddings(tmp_path: Path) -> None:
    for steps, fewest, most in ((32, 24, 24), (1, 0, 4)):  # one point is enough for a few rows, by luck
        options = {"steps": steps, "max_steps": 1024 if fewest else 1}
        check = Completeness(explainer={"layer_integrated_gradients": options}, samples=24, keep=2)
        found = measure(check, trained(), tweet_data(60), tmp_path)
        assert found["complete"].estimate.n == 24  # type: ignore[union-attr]
        assert fewest <= found["complete"].estimate.k <= most  # type: ignore[union-attr]
        assert check.requirements() == {Capability.EMBEDDINGS}


def test_what_is_stored(tmp_path: Path) -> None:
    check = Completeness(samples=6, keep=2, target="label", background=3)
    found = measure(check, cnn(), digits(), tmp_path)
    kinds = {ref.kind: ref for ref in found["complete"].evidence}
    whole = Evidence(tmp_path / "run-0" / kinds["outcomes"].path)
    assert whole.column("value").tolist() == [1.0] * 6
    maps = Evidence(tmp_path / "run-0" / kinds["attributions"].path)
    assert len(maps) == 2
    assert maps.column("target").tolist() == maps.column("label").tolist()
    gaps = Evidence(tmp_path / "run-0" / found["mean_relative_gap"].evidence[0].path)
    assert gaps.column("value").mean() == pytest.approx(found["mean_relative_gap"].estimate.value)
    assert whole.ids == gaps.ids


def test_the_background_is_what_shap_values_start_from(tmp_path: Path) -> None:
    model = audited(lambda x: x[:, 0], (1,), output="value", kind="number", gradients=False)
    test, members = (batch(np.arange(8.0, dtype=np.float32)[:, None] + start, np.zeros(8)) for start in (0, 100))
    bases = []
    for run, background in enumerate((1, 8)):
        check = Completeness(explainer="shap_values", samples=1, background=background)
        found = list(check.run(model, data(test, members, kind="number"), context(tmp_path)))
        ref = next(ref for ref in found[0].evidence if ref.kind == "attributions")
        bases.append(float(Evidence(tmp_path / f"run-{run}" / ref.path).column("base_value")[0]))
    assert bases[0] in range(100, 108)
    assert bases[1] == 103.5


def test_explainers_that_do_not_add_up_are_refused_when_the_scenario_is_read() -> None:
    with pytest.raises(ValidationError, match="'saliency' is not meant to add up"):
        Completeness(explainer="saliency")


def test_an_explainer_that_gives_nothing_to_add_up_to_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives no base value"):
        measure(Completeness(explainer="silent", samples=4), cnn(), digits(), tmp_path)
