"""Explaining leaves model, inputs, hooks, training flag and the global generators as they were, also after an exception."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import audited

from audit.explainers import Explainer
from audit.explainers.deep_lift import DeepLift
from audit.explainers.exact_shap import ExactShap
from audit.explainers.gradcam import Gradcam
from audit.explainers.gradient_shap import GradientShap
from audit.explainers.guided_gradcam import GuidedGradcam
from audit.explainers.input_x_gradient import InputXGradient
from audit.explainers.integrated_gradients import IntegratedGradients
from audit.explainers.kernel_shap import KernelShap
from audit.explainers.lrp import Lrp
from audit.explainers.occlusion import Occlusion
from audit.explainers.permutation_shap import PermutationShap
from audit.explainers.saliency import Saliency
from audit.explainers.shap_values import ShapValues
from audit.explainers.smoothgrad import Smoothgrad
from audit.model import AuditedModel
from audit.rng import ExampleRng

EXPLAINERS = [
    Saliency(),
    InputXGradient(),
    IntegratedGradients(steps=3, max_steps=6, baseline="zero"),
    Smoothgrad(samples=3),
    GradientShap(samples=3),
    Lrp(),
    ShapValues(permutations=2),
    ExactShap(unit="element"),
    KernelShap(coalitions=48),
    PermutationShap(permutations=2),
    Occlusion(),
]

ONE_PASS = (Saliency, InputXGradient, Lrp)
"""Explainers that ask the model once."""
OF_LAYERS = [
    DeepLift(baseline="zero"),
    Gradcam(),
    Gradcam(layer="conv"),
    GuidedGradcam(),
    IntegratedGradients(baseline="zero"),
    Lrp(),
]
"""Explainers that look at layers, or change what they do on the way back."""


class Restless(nn.Module):
    """Draws from the global generators on every pass, and fails when told to, after some passes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 2)
        self.passes, self.fail_after = 0, -1

    def forward(self, x: Tensor) -> Tensor:
        if self.passes == self.fail_after:
            raise RuntimeError("broken on purpose")
        self.passes += 1
        return self.linear(x) + 0.01 * torch.randn(len(x), 2) + 0.01 * np.random.rand() + 0.01 * random.random()


def state(module: nn.Module, x: Tensor) -> list[Any]:
    hooks = [
        len(getattr(part, table))
        for part in module.modules()
        for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ]
    parameters = [(p.requires_grad, p.grad, p.detach().tolist()) for p in module.parameters()]
    generators = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    return [hooks, parameters, [part.training for part in module.modules()], generators, x.tolist(), x.requires_grad]


def setting() -> tuple[Restless, AuditedModel, Tensor]:
    module = Restless()
    return module, audited(module, (12,), 2, kind="number"), torch.randn(5, 12)


def run(explainer: Explainer, model: AuditedModel, x: Tensor) -> Tensor:
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return explainer.run(model, x, torch.ones(len(x), dtype=torch.int64), torch.zeros(2, 12), rng).values


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'method', '')}")
def test_nothing_is_left_behind(explainer: Explainer) -> None:
    module, model, x = setting()
    before = state(module, x)
    values = run(explainer, model, x)
    assert state(module, x) == before
    assert not values.requires_grad


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'method', '')}")
@pytest.mark.parametrize("fail_after", [0, 1])
def test_nothing_is_left_behind_by_an_exception(explainer: Explainer, fail_after: int) -> None:
    module, model, x = setting()
    module.fail_after = 0 if isinstance(explainer, ONE_PASS) else fail_after
    before = state(module, x)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        run(explainer, model, x)
    assert state(module, x) == before


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'method', '')}")
def test_a_stochastic_model_is_explained_the_same_twice(explainer: Explainer) -> None:
    _, model, x = setting()
    first = run(explainer, model, x)
    torch.rand(3)
    assert torch.equal(first, run(explainer, model, x))


@pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'method', '')}")
def test_inputs_that_require_gradients_keep_them_to_themselves(explainer: Explainer) -> None:
    model = audited(nn.Linear(12, 2), (12,), 2, kind="number")
    x = torch.randn(5, 12, requires_grad=True)
    values = run(explainer, model, x)
    assert x.requires_grad
    assert x.grad is None
    assert not values.requires_grad


class Maps(nn.Module):
    """A convolution, rectified in place, that fails when told to, after some passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Linear(8, 2)
        self.conv.register_forward_hook(lambda *_: None)
        self.passes, self.fail_after = 0, -1

    def forward(self, x: Tensor) -> Tensor:
        answer = self.relu(self.conv(x))
        if self.passes == self.fail_after:
            raise RuntimeError("broken on purpose")
        self.passes += 1
        return self.head(answer.flatten(1))


@pytest.mark.parametrize("explainer", OF_LAYERS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'layer', '')}")
@pytest.mark.parametrize("fail_after", [-1, 0, 1])
def test_layers_are_left_as_they_were(explainer: Explainer, fail_after: int) -> None:
    module = Maps()
    model, x = audited(module, (1, 4, 4), 2), torch.randn(3, 1, 4, 4)
    module.requires_grad_(True)
    module.fail_after = 0 if isinstance(explainer, ONE_PASS) and fail_after == 1 else fail_after
    before, own = state(module, x), {name: set(vars(part)) for name, part in module.named_modules()}
    rng = ExampleRng(0, "check", ["0", "1", "2"], "explainer")
    aims = torch.ones(3, dtype=torch.int64)
    if module.fail_after >= 0 and not (fail_after == 1 and getattr(explainer, "layer", None)):
        with pytest.raises(RuntimeError, match="broken on purpose"):
            explainer.run(model, x, aims, x[:1], rng)
    else:
        assert not explainer.run(model, x, aims, x[:1], rng).values.requires_grad
    assert state(module, x) == before
    assert {name: set(vars(part)) for name, part in module.named_modules()} == own
