"""Layer-wise relevance propagation: by hand, captum where it is right, conservation, and refusals."""

from __future__ import annotations

import copy
from typing import Any

import captum.attr
import pytest
import torch
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule
from families import MODELS, cnn
from torch import Tensor, nn
from toys import audited

from audit.explainers import Attribution
from audit.explainers.input_x_gradient import InputXGradient
from audit.explainers.lrp import Lrp
from audit.model import AuditedModel, NonFiniteOutput
from audit.parameters import NotApplicable, UserError
from audit.rng import ExampleRng


def streams(x: Tensor) -> ExampleRng:
    return ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")


def explain(model: AuditedModel, x: Tensor, target: Any = None, **options: Any) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    return Lrp(**options).run(model, x, target, x[:0], streams(x))


class Flattened(nn.Module):
    """A sequence that flattens by a function: captum's has no rule for the module."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for layer in module if not isinstance(layer, nn.Flatten))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


def captums(module: nn.Module, x: Tensor, target: Tensor, rule: Any) -> Tensor:
    module = Flattened(copy.deepcopy(module))
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.rule = rule()
    return captum.attr.LRP(module).attribute(x.clone().requires_grad_(), target=target).detach()


def unbiased(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.zeros_(layer.bias)
    return module


def two_units() -> AuditedModel:
    """Units (x + 2y) and (x − y + 1), rectified, then 2a + b."""
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1), nn.Flatten(0)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 2.0], [1.0, -1.0]]))
        module[0].bias.copy_(torch.tensor([0.0, 1.0]))
        module[2].weight.copy_(torch.tensor([[2.0, 1.0]]))
        module[2].bias.zero_()
    return audited(module, (2,), output="value", kind="number")


def test_by_hand() -> None:
    """At (3, 1): a = 5, b = 3, score 13. a's 10 goes as 3 : 2, b's 3 as 3 : −1 : 1, of which the bias keeps 1."""
    found = explain(two_units(), torch.tensor([[3.0, 1.0]], dtype=torch.float64), epsilon=1e-12)
    torch.testing.assert_close(found.values, torch.tensor([[6.0 + 3, 4.0 - 1]], dtype=torch.float64))
    assert found.score.tolist() == [13]
    assert found.base_value.tolist() == [0]
    assert float(found.error) == pytest.approx(1)


def test_epsilon_swallows() -> None:
    """Every unit's share is divided by its answer plus epsilon: 13/14 of all, then 5/6 and 3/4."""
    found = explain(two_units(), torch.tensor([[3.0, 1.0]], dtype=torch.float64), epsilon=1.0)
    a, b = 10 * 13 / 14 / 6, 3 * 13 / 14 / 4
    torch.testing.assert_close(found.values, torch.tensor([[3 * a + 3 * b, 2 * a - b]], dtype=torch.float64))


def test_gamma_by_hand() -> None:
    """At (3, 1) with gamma 1: a's 10 as 6 : 4; b's 3, of 6 − 1 + 1, as 6 : −1 : 1."""
    found = explain(
        two_units(), torch.tensor([[3.0, 1.0]], dtype=torch.float64), rule="gamma", gamma=1.0, epsilon=1e-12
    )
    torch.testing.assert_close(found.values, torch.tensor([[6.0 + 3, 4.0 - 0.5]], dtype=torch.float64))


@pytest.mark.parametrize("family", ["cnn", "mlp"])
@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"epsilon": 1e-9}, EpsilonRule),
        ({"epsilon": 0.3}, lambda: EpsilonRule(0.3)),
        ({"rule": "gamma", "gamma": 0.5, "epsilon": 1e-9}, lambda: GammaRule(0.5)),
    ],
    ids=["epsilon", "large epsilon", "gamma"],
)
def test_equals_captum(family: str, options: Any, rule: Any) -> None:
    model, x, target = MODELS[family]()
    assert model.module is not None
    found = explain(model, x, target, **options)
    torch.testing.assert_close(found.values, captums(model.module, x, target, rule), atol=1e-5, rtol=1e-5)
    assert found.space == "logit"


def test_without_biases_relevance_is_conserved() -> None:
    torch.manual_seed(0)
    model = audited(unbiased(cnn()).double(), (1, 8, 8), 4)
    x, target = torch.randn(5, 1, 8, 8).double(), torch.arange(5) % 4
    found = explain(model, x, target, epsilon=1e-12)
    assert float(found.error.max()) < 1e-9
    swallowed = explain(model, x, target, epsilon=0.05)
    assert float(swallowed.error.min()) > 1e-4


def test_rectified_layers_are_gradient_times_input() -> None:
    model, x, target = MODELS["residual"]()
    expected = InputXGradient().run(model, x, target, x[:0], streams(x)).values
    torch.testing.assert_close(explain(model, x, target, epsilon=1e-12).values, expected)


def test_shortcuts_and_scales_share_relevance() -> None:
    """Where captum's gives each branch the whole relevance, and a scale a part of it."""

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = (nn.Linear(3, 3, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            start = nn.functional.relu(self.first(x / 10))
            return self.head(start + nn.functional.relu(self.second(start)))

    torch.manual_seed(0)
    module = Shortcut().double()
    x = torch.randn(4, 3).double()
    found = explain(audited(module, (3,), 3, kind="number"), x, epsilon=1e-12)
    assert float(found.error.max()) < 1e-9
    theirs = (
        captum.attr.LRP(copy.deepcopy(_with_modules(module))).attribute(x.clone().requires_grad_(), target=0).detach()
    )
    assert float((theirs.sum(dim=1) / found.score - 1).abs()[:2].min()) > 0.5


def _with_modules(module: Any) -> nn.Module:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = module.first, module.second, module.head
            self.one, self.two = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            start = self.one(self.first(x / 10))
            return self.head(start + self.two(self.second(start)))

    return Plain()


def test_a_margin_speaks_for_the_target() -> None:
    model, x, _ = MODELS["margin"]()
    one, other = (explain(model, x, torch.full((len(x),), aim)).values for aim in (0, 1))
    torch.testing.assert_close(one, -other)
    assert float(other.abs().max()) > 0.01


@pytest.mark.parametrize(
    ("family", "step"),
    [("lstm", "MkldnnRnnLayer|Mul"), ("transformer", "NativeLayerNorm"), ("probability", "Softmax")],
)
def test_networks_without_a_rule_are_refused(family: str, step: str) -> None:
    with pytest.raises(NotApplicable, match=rf"lrp has no rule for .*({step}).* use integrated_gradients") as refusal:
        explain(*MODELS[family]())
    assert "\n" not in str(refusal.value)


def test_a_sigmoid_is_refused() -> None:
    model = audited(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid(), nn.Flatten(0)), (2,), output="value", kind="number")
    with pytest.raises(NotApplicable, match="no rule for Sigmoid"):
        explain(model, torch.ones(1, 2))


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model, x, target = MODELS["cnn"]()
    whole, alone = explain(model, x, target), explain(model, x[2:3], target[2:3])
    torch.testing.assert_close(alone.values, whole.values[2:3])
    torch.testing.assert_close(explain(model, x, target, internal_batch=3).values, whole.values)


def test_passes_are_bounded() -> None:
    sizes: list[int] = []
    model = audited(lambda x: sizes.append(len(x)) or x.sum(dim=1), (2,), output="value", kind="number")
    explain(model, torch.rand(10, 2), internal_batch=4)
    assert sizes == [4, 4, 2]


def test_mistakes_are_told() -> None:
    with pytest.raises(NonFiniteOutput):
        explain(audited(lambda x: (x * float("nan")).sum(dim=1), (1,), output="value", kind="number"), torch.ones(1, 1))
    text = audited(lambda x: x.float().sum(dim=1), (4,), output="value", kind="text")
    with pytest.raises(UserError, match="a gradient means nothing"):
        explain(text, torch.zeros(1, 4))
