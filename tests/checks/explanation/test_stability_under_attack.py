"""Stability through the check's own run and the engine: a net's saliency is moved, a linear model's gradient is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from toys import Linear, audited, batch, context, data, digits, trained_cnn

from audit.attacks._ball import Ball
from audit.checks.explanation._map_attack import Answers, by_gradient, by_search, corners, first_features, mass_left
from audit.checks.explanation._smooth import softplus_for_relu
from audit.checks.explanation.stability_under_attack import StabilityUnderAttack
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel
from audit.parameters import NotApplicable, UserError
from audit.rng import ExampleRng
from audit.run_folder import Evidence
from audit.scenario import parse


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def linear() -> tuple[AuditedModel, AuditData]:
    model = audited(Linear([3.0, -2.0, 1.0, 0.5], 0.0), (4,), 2, kind="number", bounds=(-5.0, 5.0))
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    rows = data(batch(x, np.zeros(40, dtype=np.int64)), bounds=(-5.0, 5.0), kind="number")
    return model, rows


def measure(
    check: StabilityUnderAttack, model: AuditedModel, rows: AuditData, tmp_path: Path
) -> dict[str, Measurement]:
    return {m.metric: m for m in check.run(model, rows, context(tmp_path))}


def stored(measurement: Measurement, name: str, tmp_path: Path) -> Evidence:
    ref = next(ref for ref in measurement.evidence if ref.path.endswith(name))
    return Evidence(tmp_path / "run-0" / ref.path)


# --- planted -----------------------------------------------------------------------------------------------------

SCENARIO = (
    "name: maps\nmodel: toy\ndata: {{source: given}}\nseed: 3\nchecks:\n"
    "  - explanation.stability_under_attack: {{explainer: saliency, eps: {eps}, samples: 24, steps: 12, top: 0.2}}\n"
    '    require: {{top_k_intersection: ">= 0.7", top_changed: "<= 0.2"}}\n'
)


def test_the_saliency_of_a_net_is_moved(tmp_path: Path) -> None:
    report = run(parse(SCENARIO.format(eps=2.0)), home=tmp_path, models={"toy": cnn()}, data=digits())
    assert [f.status for f in report.findings if f.gated] == ["fail"] * 2, [f.message for f in report.findings]
    by_metric = {f.metric: f for f in report.findings}
    assert by_metric["top_k_intersection"].threat_model is not None
    assert by_metric["top_k_intersection"].threat_model.access == "white_box"
    attacked, noise = by_metric["top_k_intersection"].interval, by_metric["top_k_under_noise"].interval
    assert attacked is not None
    assert noise is not None
    assert (attacked[1] or 0) < (noise[0] or 0)


def test_the_gradient_of_a_linear_model_is_not(tmp_path: Path) -> None:
    model, rows = linear()
    report = run(parse(SCENARIO.format(eps=0.5)), home=tmp_path, models={"toy": model}, data=rows)
    assert [f.status for f in report.findings if f.gated] == ["pass"] * 2, [f.message for f in report.findings]


def test_every_row_keeps_its_answer_and_stays_within_eps(tmp_path: Path) -> None:
    model, rows = cnn(), digits()
    for norm, eps in (("linf", 1.0), ("l2", 4.0)):
        check = StabilityUnderAttack(explainer="saliency", eps=eps, norm=norm, samples=24, keep=24, steps=12)
        (tmp_path / norm).mkdir()
        found = measure(check, model, rows, tmp_path / norm)
        before, after = (
            Evidence(tmp_path / norm / "run-0" / ref.path)
            for ref in found["top_k_intersection"].evidence
            if ref.kind == "attributions"
        )
        assert before.ids == after.ids
        moved = after.column("x") - before.column("x")
        length = np.abs(moved).max(axis=(1, 2, 3)) if norm == "linf" else np.linalg.norm(moved.reshape(24, -1), axis=1)
        assert length.max() <= eps * (1 + 1e-5)
        assert length.max() > 0.5 * eps
        assert after.column("x").min() >= 0
        assert after.column("x").max() <= 16
        answers = [model.predict(torch.from_numpy(np.array(part.column("x")))).tolist() for part in (before, after)]
        assert answers[0] == answers[1] == before.column("prediction").tolist()
        for part in (before, after):
            sure = model.confidence_of(model.scores(torch.from_numpy(np.array(part.column("x")))))
            assert sure is not None
            np.testing.assert_allclose(part.column("confidence"), sure.numpy(), atol=1e-6)
        threat = found["rank_correlation"].threat_model
        assert threat is not None
        assert threat.realised == pytest.approx(length.max(), rel=1e-5)
        np.testing.assert_allclose(
            after.column("quality_top_k_intersection").mean(), found["top_k_intersection"].estimate.value
        )


def test_integrated_gradients_are_moved_less_than_saliency(tmp_path: Path) -> None:
    """They average along a path (Dombrowski et al. find the same order); the attack on them is no weaker than noise."""
    options: dict[str, Any] = {"eps": 1.0, "samples": 16, "steps": 12, "restarts": 1, "noise_draws": 2}
    integrated = {"integrated_gradients": {"steps": 16, "max_steps": 16}}
    path = measure(StabilityUnderAttack(explainer=integrated, **options), cnn(), digits(), tmp_path)
    gradient = measure(StabilityUnderAttack(explainer="saliency", **options), cnn(), digits(), tmp_path)
    assert path["top_k_intersection"].estimate.value > gradient["top_k_intersection"].estimate.value
    assert path["top_k_intersection"].estimate.value < path["top_k_under_noise"].estimate.value
    assert not any("too weak" in said for said in path["rank_correlation"].cautions)


def test_more_eps_moves_further(tmp_path: Path) -> None:
    kept = [
        measure(
            StabilityUnderAttack(explainer="saliency", eps=eps, samples=16, steps=10, restarts=1, noise_draws=1),
            cnn(), digits(), tmp_path,
        )["top_k_intersection"].estimate.value
        for eps in (0.05, 0.5, 3.0)
    ]  # fmt: skip
    assert kept[0] > kept[1] > kept[2]


# --- by search, for what has no gradient -------------------------------------------------------------------------


def test_search_moves_a_net_too_but_less(tmp_path: Path) -> None:
    options: dict[str, Any] = {"explainer": "saliency", "eps": 1.0, "samples": 16, "noise_draws": 3}
    searched = measure(StabilityUnderAttack(method="search", rounds=40, **options), cnn(), digits(), tmp_path)
    assert searched["top_k_intersection"].threat_model is not None
    assert searched["top_k_intersection"].threat_model.access == "black_box_scores"
    by_gradient = measure(StabilityUnderAttack(method="gradient", **options), cnn(), digits(), tmp_path)
    few = measure(StabilityUnderAttack(method="search", rounds=2, **options), cnn(), digits(), tmp_path)
    values = [found["top_k_intersection"].estimate.value for found in (by_gradient, searched, few)]
    assert values[0] < values[1] < values[2]
    assert values[1] < searched["top_k_under_noise"].estimate.value


def test_a_black_box_is_searched(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((200, 6))
    labels = (x[:, 0] * x[:, 1] > 0.25).astype(np.int64)
    fitted = LogisticRegression().fit(x, labels)
    model = audited(
        lambda z: torch.as_tensor(fitted.predict_proba(z.numpy())), (6,), 2, output="probability", kind="number",
        gradients=False, bounds=(0.0, 1.0),
    )  # fmt: skip
    rows = data(batch(x[:20], labels[:20]), batch(x[20:], labels[20:]), kind="number", bounds=(0.0, 1.0))
    check = StabilityUnderAttack(
        explainer={"permutation_shap": {"permutations": 2}}, background=4, eps=0.2, rounds=6, top=0.34, noise_draws=1
    )
    found = measure(check, model, rows, tmp_path)
    assert found["rank_correlation"].estimate.value < 1
    assert found["top_k_intersection"].estimate.n == 20


def test_a_piecewise_constant_gradient_falls_back_on_search() -> None:
    """Where autograd sees no second derivative at all, the gradient attack stays where it is."""
    model = audited(lambda z: torch.stack([0 * z[:, 0], z.abs().sum(dim=1)], dim=1), (3,), 2, kind="number")
    x = torch.tensor([[0.5, 0.2, 0.1]])
    ball = Ball.around(x, "linf", 0.05, (-1.0, 1.0))
    answers = Answers(model, model.predict(x), 0.0)
    first = torch.tensor([[True, False, False]])
    moved = by_gradient(answers, ball, x, torch.ones(1, dtype=torch.int64), first, "gradient", x, 3)
    assert torch.equal(moved, x)


# --- parts, by hand ----------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """ReLU in four spellings."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.module = kind, nn.ReLU(inplace=kind == "in place")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 2 * x
        if self.kind in ("module", "in place"):
            return self.module(x)
        if self.kind == "method":
            return x.clamp(min=0)
        if self.kind == "method in place":
            x.relu_()
            return x
        return torch.relu(x)


@pytest.mark.parametrize("kind", ["module", "in place", "method", "method in place", "function"])
def test_relu_is_softened_and_given_back(kind: str) -> None:
    net = Functional(kind)
    x = torch.tensor([[-1.0, 0.1, 3.0]], requires_grad=True)
    plain = net(x).detach()
    with softplus_for_relu():
        soft = net(x)
        (slope,) = torch.autograd.grad(soft.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x)
    assert (soft > plain).all()
    torch.testing.assert_close(soft.detach(), plain, atol=0.5, rtol=0)
    assert bool((bend != 0).any())
    assert torch.equal(net(x), plain)


def test_other_floors_stay() -> None:
    with softplus_for_relu():
        assert torch.tensor([-2.0, 2.0]).clamp(min=-1).tolist() == [-1, 2]
        assert torch.tensor([-2.0, 2.0]).clamp(0, 1).tolist() == [0, 1]


def test_the_attack_reaches_the_corner_that_a_quadratic_asks_for() -> None:
    """f = Σ a x²/2 has the gradient a x: the mass on the first element is least where it shrinks and the other grows."""
    a = torch.tensor([3.0, 2.0])
    model = audited(lambda z: torch.stack([0 * z[:, 0] - 9, (a * z**2).sum(dim=1) / 2], dim=1), (2,), 2, kind="number")
    x = torch.tensor([[1.0, 1.0]])
    ball = Ball.around(x, "linf", 0.25, (-5.0, 5.0))
    answers, first = Answers(model, model.predict(x), 0.0), torch.tensor([[True, False]])
    target = torch.ones(1, dtype=torch.int64)
    moved = by_gradient(answers, ball, x, target, first, "gradient", x, 10)
    torch.testing.assert_close(moved, torch.tensor([[0.75, 1.25]]))
    assert mass_left(a * moved, first).item() == pytest.approx(2.25 / 4.75)
    searched = by_search(answers, ball, first, lambda z: a * z.abs(), 60, ExampleRng(0, "", ["a"], ""))
    torch.testing.assert_close(searched, torch.tensor([[0.75, 1.25]]))


def test_a_row_on_the_edge_steps_back_to_its_answer() -> None:
    """The class changes where a + c falls below .95. The map knows a and b alone, so only stepping back raises c; then a is free."""
    weights = torch.tensor([3.0, 1.0, 0.0])
    model = audited(
        lambda z: torch.stack([0.95 - z[:, 0] - z[:, 2], (weights * z**2).sum(dim=1) / 2000], dim=1),
        (3,),
        2,
        kind="number",
    )
    x = torch.tensor([[1.0, 1.0, 0.0]])
    answers, first = Answers(model, model.predict(x), 0.0), torch.tensor([[True, False, False]])
    ball = Ball.around(x, "linf", 0.25, (-5.0, 5.0))
    moved = by_gradient(answers, ball, x, torch.ones(1, dtype=torch.int64), first, "gradient", x, 20)
    assert bool(answers.same(moved).all())
    assert moved[0, 0] < 0.85
    assert moved[0, 2] > 0.1


def test_noise_is_of_the_length_of_eps() -> None:
    x = torch.full((30, 5), 0.5)
    rng = ExampleRng(0, "", [str(i) for i in range(30)], "")
    linf, l2 = (corners(Ball.around(x, norm, 0.25, (0.0, 1.0)), rng) - x for norm in ("linf", "l2"))
    torch.testing.assert_close(linf.abs(), torch.full((30, 5), 0.25))
    torch.testing.assert_close(l2.norm(dim=1), torch.full((30,), 0.25))
    assert first_features(torch.tensor([[1.0, 3, 2, 0]]), 0.5).tolist() == [[False, True, True, False]]
    assert first_features(torch.tensor([[1.0, 3, 2, 0]]), 0.01).sum() == 1


# --- regressions, parameters, mistakes ---------------------------------------------------------------------------


def test_the_value_of_a_regression_stays_within_the_tolerance(tmp_path: Path) -> None:
    a = torch.tensor([3.0, 2.0, 1.0, 0.5])
    model = audited(lambda z: (a * z**2).sum(dim=1), (4,), output="value", kind="number", bounds=(-3.0, 3.0))
    x = np.random.default_rng(0).uniform(-2, 2, (30, 4)).astype(np.float32)
    rows = data(batch(x, np.zeros(30)), kind="number", bounds=(-3.0, 3.0))
    kept = []
    for tolerance in (0.02, 1.0):
        check = StabilityUnderAttack(explainer="saliency", eps=0.5, tolerance=tolerance, keep=30, top=0.5)
        folder = tmp_path / str(tolerance)
        folder.mkdir()
        found = measure(check, model, rows, folder)
        before, after = (
            torch.from_numpy(np.array(Evidence(folder / "run-0" / ref.path).column("x")))
            for ref in found["rank_correlation"].evidence
            if ref.kind == "attributions"
        )
        values = model.predict(before)
        assert ((model.predict(after) - values).abs() <= tolerance * values.std(correction=0) + 1e-5).all()
        kept.append(found["top_k_intersection"].estimate.value)
    assert kept[1] < kept[0] <= 1


@pytest.mark.parametrize("changed", [{"top": 0.5}, {"restarts": 3}, {"steps": 2}, {"noise_draws": 4}, {"norm": "l2"}])
def test_parameters_change_the_result(changed: dict[str, Any], tmp_path: Path) -> None:
    base: dict[str, Any] = {
        "explainer": "saliency",
        "eps": 1.0,
        "samples": 12,
        "steps": 5,
        "restarts": 1,
        "noise_draws": 1,
    }
    first = measure(StabilityUnderAttack(**base), cnn(), digits(), tmp_path)
    other = measure(StabilityUnderAttack(**{**base, **changed}), cnn(), digits(), tmp_path)
    assert any(other[name].estimate != m.estimate for name, m in first.items())
    if "restarts" in changed:
        assert other["top_k_intersection"].estimate.value <= first["top_k_intersection"].estimate.value


def test_runs_repeat(tmp_path: Path) -> None:
    check = StabilityUnderAttack(explainer="saliency", eps=1.0, samples=8, steps=4)
    first, second = (measure(check, cnn(), digits(), tmp_path) for _ in range(2))
    assert {k: m.estimate for k, m in first.items()} == {k: m.estimate for k, m in second.items()}


def test_noise_that_changes_every_answer_is_said(tmp_path: Path) -> None:
    model = audited(
        lambda z: torch.stack([z[:, 0] * 0, (z[:, 0] - 1) ** 2 * -1 + 1e-6], dim=1),
        (1,),
        2,
        kind="number",
        bounds=(0.0, 2.0),
    )
    rows = data(batch(np.ones((8, 1), dtype=np.float32), np.ones(8, dtype=np.int64)), kind="number", bounds=(0.0, 2.0))
    found = measure(StabilityUnderAttack(explainer="saliency", eps=0.5, steps=2), model, rows, tmp_path)
    assert any("changes the answer of 8 of 8 rows" in said for said in found["rank_correlation"].cautions)
    assert "top_k_under_noise" not in found
    assert found["top_k_intersection"].estimate.value == 1


def test_what_cannot_be_attacked(tmp_path: Path) -> None:
    text = audited(lambda z: z, (8,), 2, kind="text", gradients=False)
    with pytest.raises(NotApplicable, match="needs numbers"):
        measure(StabilityUnderAttack(explainer="shap_values", eps=1), text, digits(), tmp_path)
    unbounded = audited(trained_cnn(), (1, 8, 8), 10)
    with pytest.raises(UserError, match="no bounds"):
        measure(StabilityUnderAttack(explainer="saliency", eps=1), unbounded, digits(), tmp_path)
    narrow = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 1.0))
    with pytest.raises(UserError, match="outside the bounds"):
        measure(StabilityUnderAttack(explainer="saliency", eps=1), narrow, digits(), tmp_path)


def test_keeping_no_maps(tmp_path: Path) -> None:
    check = StabilityUnderAttack(explainer="saliency", eps=1.0, samples=4, steps=2, keep=0)
    found = measure(check, cnn(), digits(), tmp_path)
    assert {ref.kind for ref in found["rank_correlation"].evidence} == {"outcomes"}
    assert Gate.parse(">= 0").holds_for(*found["top_changed"].estimate.interval())
