"""Gradient SHAP: closed forms, shap's own explainer as the reference, and its error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from families import MODELS
from torch import Tensor
from toys import Linear, audited

from audit.bridges.shap import library as shap_library
from audit.explainers import Attribution
from audit.explainers._completeness import completeness_gap
from audit.explainers.gradient_shap import GradientShap
from audit.explainers.integrated_gradients import IntegratedGradients
from audit.model import AuditedModel, NonFiniteOutput
from audit.parameters import UserError
from audit.rng import ExampleRng


def streams(ids: Any) -> ExampleRng:
    return ExampleRng(0, "check", ids, "explainer")


def explain(
    model: AuditedModel,
    x: Tensor,
    target: Any = None,
    background: Any = None,
    ids: Any = None,
    **options: Any,
) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    background = torch.zeros_like(x[:1]) if background is None else background
    if "rows" in options:
        options["background"] = options.pop("rows")
    return GradientShap(**options).run(model, x, target, background, streams(ids or [str(i) for i in range(len(x))]))


def expected_gradients(model: AuditedModel, x: Tensor, target: Tensor, background: Tensor) -> Tensor:
    """Integrated gradients from every background row, averaged: what the draws stand for."""
    explainer = IntegratedGradients(steps=256, max_steps=256, baseline="zero")
    shifted = []
    for row in background:
        moved = AuditedModel(
            name="moved", digest="", task=model.task, classes=model.classes, spec=model.spec, output=model.output,
            capabilities=model.capabilities, forward=lambda z, row=row: model._forward(z + row),
        )  # fmt: skip
        shifted.append(explainer.run(moved, x - row, target, x[:0], streams([str(i) for i in range(len(x))])).values)
    return torch.stack(shifted).mean(dim=0)


def test_linear_is_weight_times_distance_from_the_background_mean() -> None:
    model = audited(Linear([1.0, -2.0], 0.5).double(), (2,), kind="number")
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    background = torch.tensor([[0.0, 0.0], [2.0, 4.0]], dtype=torch.float64)
    found = explain(model, x, torch.tensor([1]), background, samples=10)  # each background row five times
    torch.testing.assert_close(found.values, torch.tensor([[2.0, 2.0]], dtype=torch.float64))
    assert float(found.base_value) == pytest.approx(-2.5)
    assert float(found.score) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (lambda x: x[:, 0] * x[:, 1], (3, 2), (3, 3)),
        (lambda x: x.min(dim=1).values, (1, 3), (1, 0)),
        (lambda x: 1 - (1 - x[:, 0]).relu(), (2,), (1,)),
    ],
    ids=["product", "minimum", "saturated"],
)
def test_one_black_baseline_is_integrated_gradients(function: Any, x: Any, expected: Any) -> None:
    model = audited(function, (len(x),), output="value", kind="number")
    found = explain(model, torch.tensor([x], dtype=torch.float64), samples=2000)
    torch.testing.assert_close(found.values, torch.tensor([expected], dtype=torch.float64), atol=2e-3, rtol=0)


@pytest.mark.parametrize("family", MODELS)
def test_draws_come_to_the_mean_of_integrated_gradients(family: str) -> None:
    model, x, target = MODELS[family]()
    expected = expected_gradients(model, x[:3], target[:3], x[3:])
    found = explain(model, x[:3], target[:3], x[3:], samples=1000)
    off = (found.values - expected).abs().flatten(1).amax(dim=1)
    assert bool((off < 2 * found.error + 1e-9).all())
    gap = completeness_gap(found.values, found.score, found.base_value)
    assert float(gap.max()) < 0.02 * float((found.score - found.base_value).abs().max())
    assert found.space == model.output


def test_equals_shaps_explainer_within_both_errors() -> None:
    shap = shap_library()
    model, x, target = MODELS["cnn"]()
    single = copy.deepcopy(model.module).float()
    explainer = shap.GradientExplainer(single, x[3:].float(), batch_size=200)
    theirs = explainer.shap_values(x[:2].float(), nsamples=2000, rseed=0)
    theirs = torch.from_numpy(theirs)[torch.arange(2), ..., target[:2]]
    found = explain(model, x[:2], target[:2], x[3:], samples=2000)
    assert float((found.values - theirs).abs().max()) < 4 * float(found.error.max())


def test_stratified_draws_beat_their_standard_error() -> None:
    model, x, target = MODELS["mlp"]()
    expected = expected_gradients(model, x[:1], target[:1], x[3:])
    copies = x[:1].expand(60, -1)
    found = explain(model, copies, target[:1].expand(60), x[3:], samples=40)
    spread = (found.values - expected).square().mean(dim=0).sqrt().max()
    assert float(spread) < 0.6 * float(found.error.mean())


def test_samples_and_background_change_the_answer() -> None:
    model, x, target = MODELS["cnn"]()
    few, many, one = (
        explain(model, x[:2], target[:2], x[3:], **options)
        for options in ({"samples": 20}, {"samples": 500}, {"samples": 500, "rows": 1})
    )
    assert 4 < float((few.error / many.error).mean()) < 6.5
    assert not torch.allclose(many.base_value, one.base_value)
    assert "1 background rows" in one.method


def test_a_row_has_its_own_draws_whatever_the_pass() -> None:
    model, x, target = MODELS["cnn"]()
    whole = explain(model, x, target, x[:3], samples=9)
    parts = explain(model, x, target, x[:3], samples=9, internal_batch=4)
    alone = explain(model, x[3:4], target[3:4], x[:3], samples=9, ids=["3"])
    torch.testing.assert_close(parts.values, whole.values, atol=1e-9, rtol=0)
    torch.testing.assert_close(alone.values, whole.values[3:4], atol=1e-9, rtol=0)


def test_internal_batch_bounds_every_pass_with_gradients() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.extend([len(x)] * x.requires_grad)
        return x.sum(dim=1)

    explain(audited(forward, (2,), output="value", kind="number"), torch.ones(3, 2), samples=7, internal_batch=4)
    assert max(sizes) == 4
    assert sum(sizes) == 21


def test_mistakes_are_told() -> None:
    model = audited(lambda x: x.log().sum(dim=1), (2,), output="value", kind="number")
    with pytest.raises(NonFiniteOutput):
        explain(model, torch.ones(1, 2))
    with pytest.raises(UserError, match="needs background rows"):
        explain(model, torch.ones(1, 2), background=torch.ones(0, 2))
    text = audited(lambda x: x.float().sum(dim=1), (4,), output="value", kind="text")
    with pytest.raises(UserError, match="a gradient means nothing"):
        explain(text, torch.zeros(1, 4))
