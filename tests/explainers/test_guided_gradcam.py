"""Guided Grad-CAM: captum as the reference, rectifiers however they are called, and why it is not to be trusted."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import captum.attr
import pytest
import torch
from families import MODELS
from torch import Tensor, nn
from torch.nn import functional
from toys import audited

from audit.explainers import Attribution
from audit.explainers.guided_gradcam import GuidedGradcam
from audit.model import AuditedModel
from audit.parameters import NotApplicable, UserError
from audit.rng import ExampleRng


def explain(model: AuditedModel, x: Tensor, target: Any, **options: Any) -> Attribution:
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return GuidedGradcam(**options).run(model, x, target, x[:0], rng)


def captums(module: nn.Module, layer: str, x: Tensor, target: Tensor, mode: str) -> Tensor:
    module = copy.deepcopy(module)
    explainer = captum.attr.GuidedGradCam(module, module.get_submodule(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.attribute(x.clone().requires_grad_(), target=target, interpolate_mode=mode).detach()


@pytest.mark.parametrize(("upsampling", "mode"), [("linear", "bilinear"), ("nearest", "nearest")])
@pytest.mark.parametrize(("family", "layer"), [("cnn", None), ("cnn", "3"), ("cnn", "0")])
def test_equals_captum(family: str, layer: str | None, upsampling: Any, mode: str) -> None:
    model, x, target = MODELS[family]()
    assert model.module is not None
    found = explain(model, x, target, layer=layer, upsampling=upsampling, internal_batch=3)
    expected = captums(model.module, layer or "4", x, target, mode)
    torch.testing.assert_close(found.values, expected, atol=1e-12, rtol=1e-5)
    assert float(found.values.abs().max()) > 1e-6
    assert found.method == f"layer {layer or '4'}"


class Called(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.second = how, nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)
        self.one, self.two, self.in_place, self.head = nn.ReLU(), nn.ReLU(), nn.ReLU(inplace=True), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, two = {
            "modules": (self.one, self.two), "reused": (self.one,) * 2, "in place": (self.in_place,) * 2,
            "function": (functional.relu, torch.relu),
        }[self.how]  # fmt: skip
        return self.head(two(self.second(one(self.first(x)))).flatten(1))


@pytest.mark.parametrize("how", ["reused", "in place", "function"])
def test_rectifiers_however_called(how: str) -> None:
    """captum guides modules alone, each once."""
    torch.manual_seed(0)
    apart = Called("modules").double().eval()
    module = copy.deepcopy(apart)
    module.how = how
    x, target = torch.randn(4, 2, 8, 8).double(), torch.arange(4) % 3
    expected = captums(apart, "second", x, target, "bilinear")
    found = explain(audited(module, (2, 8, 8), 3), x, target, layer="second")
    torch.testing.assert_close(found.values, expected)


def test_networks_without_rectifiers_or_maps_are_refused() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(NotApplicable, match=r"needs rectifiers.*use gradcam"):
        explain(audited(module, (1, 4, 4), 2), torch.randn(2, 1, 4, 4), torch.zeros(2).long())
    with pytest.raises(NotApplicable, match="guided_gradcam needs a convolution's maps"):
        explain(*MODELS["mlp"]())
    with pytest.raises(UserError, match="a gradient means nothing"):
        explain(audited(module, (4,), 2, kind="text"), torch.zeros(1, 4), torch.zeros(1).long())


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model, x, target = MODELS["residual"]()
    whole, alone = explain(model, x, target), explain(model, x[2:3], target[2:3])
    torch.testing.assert_close(alone.values, whole.values[2:3])
    assert explain(model, x[:0], target[:0]).values.shape == (0, 2, 8, 8)
