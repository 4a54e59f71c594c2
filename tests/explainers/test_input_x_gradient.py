"""Gradient times input: closed forms, and captum as the reference."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from families import MODELS
from toys import Linear, audited, digits, trained_cnn

from audit.explainers import Attribution
from audit.explainers.input_x_gradient import InputXGradient
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.rng import ExampleRng


def explain(model: AuditedModel, x: torch.Tensor, target: Any = None, **options: Any) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return InputXGradient(**options).run(model, x, target, x[:0], rng)


def test_known_values() -> None:
    product = audited(lambda x: x[:, 0] * x[:, 1], (2,), output="value", kind="number")
    assert explain(product, torch.tensor([[3.0, 2.0]])).values.tolist() == [[6, 6]]
    linear = audited(Linear([3.0, -4.0], 1.0), (2,), kind="number")
    assert explain(linear, torch.tensor([[0.5, 2.0]]), torch.tensor([1])).values.tolist() == [[1.5, -8]]


@pytest.mark.parametrize("family", MODELS)
def test_equals_captum_whatever_the_pass(family: str) -> None:
    model, x, target = MODELS[family]()
    expected = captum.attr.InputXGradient(model.target_score).attribute(
        x.clone().requires_grad_(), additional_forward_args=target
    )
    for internal_batch in (None, 3):
        found = explain(model, x, target, internal_batch=internal_batch)
        torch.testing.assert_close(found.values, expected.detach(), atol=1e-5, rtol=1e-5)
    assert found.space == model.output


def test_internal_batch_bounds_every_pass() -> None:
    sizes: list[int] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x.sum(dim=1)

    explain(audited(forward, (2,), output="value", kind="number"), torch.ones(9, 2), internal_batch=4)
    assert sizes == [4, 4, 1]


def test_black_pixels_get_nothing() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:5])
    assert bool((explain(model, x, model.predict(x)).values[x == 0] == 0).all())


def test_codes_have_no_gradient() -> None:
    model = audited(lambda x: x.float().sum(dim=1), (4,), output="value", kind="text")
    with pytest.raises(UserError, match="a gradient means nothing"):
        explain(model, torch.zeros(1, 4))
