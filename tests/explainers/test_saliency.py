"""Saliency: closed forms and torch's own gradient as the reference."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from families import MODELS
from torch import Tensor
from toys import Linear, audited, digits, trained_cnn

from audit.explainers import Attribution
from audit.explainers.saliency import Saliency
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import UserError
from audit.rng import ExampleRng


def explain(model: AuditedModel, x: Tensor, target: Tensor | None = None, **options: Any) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return Saliency(**options).run(model, x, target, x[:0], rng)


def test_known_values() -> None:
    product = audited(lambda x: x[:, 0] * x[:, 1], (2,), output="value", kind="number")
    at = torch.tensor([[3.0, 2.0]], dtype=torch.float64)
    assert explain(product, at).values.tolist() == [[2, 3]]
    saturated = audited(lambda x: 1 - (1 - x[:, 0]).relu(), (1,), output="value", kind="number")
    assert explain(saturated, torch.tensor([[2.0]])).values.tolist() == [[0]]


def test_linear_is_the_weight_and_absolute_drops_its_sign() -> None:
    model = audited(Linear([3.0, -4.0], 1.0), (2,), kind="number")
    x = torch.tensor([[0.5, 2.0]])
    assert explain(model, x, torch.tensor([1]), absolute=False).values.tolist() == [[3, -4]]
    assert explain(model, x, torch.tensor([1])).values.tolist() == [[3, 4]]


def test_margin_speaks_for_the_target() -> None:
    model = audited(lambda x: x @ torch.tensor([2.0, -1.0]), (2,), 2, output="margin", kind="number")
    found = explain(model, torch.ones(2, 2), torch.tensor([1, 0]), absolute=False)
    assert found.values.tolist() == [[2, -1], [-2, 1]]


def test_equals_the_gradient_whatever_the_pass() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:20])
    target = model.predict(x)
    point = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(trained_cnn()(point).gather(1, target[:, None]).sum(), point)
    for internal_batch in (None, 7):
        found = explain(model, x, target, absolute=False, internal_batch=internal_batch)
        torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)
    assert found.space == "logit"
    assert found.base_value is None


@pytest.mark.parametrize("family", MODELS)
def test_equals_captum_on_every_family(family: str) -> None:
    model, x, target = MODELS[family]()
    expected = captum.attr.Saliency(model.target_score).attribute(
        x.clone().requires_grad_(), additional_forward_args=target
    )
    torch.testing.assert_close(explain(model, x, target).values, expected.detach(), atol=1e-9, rtol=1e-5)


def test_internal_batch_bounds_every_pass() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.sum(dim=1)

    explain(audited(forward, (2,), output="value", kind="number"), torch.ones(9, 2), internal_batch=4)
    assert sizes == [4, 4, 1]


def test_codes_have_no_gradient() -> None:
    model = AuditedModel(
        name="table", digest="", task="regression", classes=(), output="value",
        spec=InputSpec(fields=(Field(name="job", kind="category", categories=("a", "b")),)),
        capabilities=implied("value", gradients=True, layers=False), forward=lambda x: x.sum(dim=1),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"job.*use shap_values"):
        explain(model, torch.zeros(1, 1))
