"""Grad-CAM: by hand, captum as the reference, the layer it finds, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import captum.attr
import pytest
import torch
from families import MODELS
from torch import Tensor, nn
from toys import audited, digits, trained_cnn

from audit.explainers import Attribution
from audit.explainers.gradcam import Gradcam
from audit.model import AuditedModel
from audit.parameters import NotApplicable, UserError
from audit.rng import ExampleRng


def explain(model: AuditedModel, x: Tensor, target: Any = None, **options: Any) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return Gradcam(**options).run(model, x, target, x[:0], rng)


def captums(module: nn.Module, layer: nn.Module, x: Tensor, target: Tensor, mode: str) -> Tensor:
    coarse = captum.attr.LayerGradCam(module, layer).attribute(x, target=target, relu_attributions=True)
    return captum.attr.LayerAttribution.interpolate(coarse, tuple(x.shape[2:]), mode).detach().expand_as(x)


def test_by_hand() -> None:
    """Two maps, the input and twice its negative; the score is 3 times the first's sum plus the second's: weights 3 and 1."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 1, bias=False), nn.Flatten(0))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
        module[2].weight.copy_(torch.tensor([[3.0] * 4 + [1.0] * 4]))
    found = explain(audited(module, (1, 2, 2), output="value"), torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]]))
    assert found.values.tolist() == [[[[1.0, 0.0], [2.0, 0.0]]]]
    assert found.base_value is None
    assert found.method == "layer 0"


@pytest.mark.parametrize(("upsampling", "mode"), [("linear", "bilinear"), ("nearest", "nearest")])
def test_equals_captum(upsampling: Any, mode: str) -> None:
    model, x, target = MODELS["cnn"]()
    module: Any = model.module
    found = explain(model, x, target, upsampling=upsampling)
    assert found.method == "layer 4"
    torch.testing.assert_close(found.values, captums(module, module[4], x, target, mode), atol=1e-9, rtol=1e-5)


def test_equals_captum_on_digits_and_takes_another_layer() -> None:
    module = trained_cnn()
    model = audited(module, (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:20])
    target = model.predict(x)
    for options, layer in (
        ({}, "net.3"),
        ({"layer": "net.0"}, "net.0"),
        ({"layer": "net.4", "internal_batch": 7}, "net.4"),
    ):
        found = explain(model, x, target, **options)
        expected = captums(module, module.get_submodule(layer), x, target, "bilinear")
        torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)
        assert found.method == f"layer {layer}"


def test_a_residual_network_is_looked_at_behind_its_last_stage() -> None:
    model, x, target = MODELS["residual"]()
    found = explain(model, x, target)
    assert found.method == "layer in_place"
    both = found.values
    torch.testing.assert_close(both[:, 0], both[:, 1])  # a place's value is spread over the channels
    module: Any = model.module
    expected = captums(module, module.in_place, x, target, "bilinear")
    torch.testing.assert_close(both.sum(dim=1, keepdim=True).expand_as(x), expected, atol=1e-8, rtol=1e-5)
    assert found.features is not None
    torch.testing.assert_close(found.features.total(both).reshape(-1, 8, 8), expected[:, 0], atol=1e-8, rtol=1e-5)


def test_an_activation_in_place_changes_nothing() -> None:
    """captum, asked for the convolution before it, looks at the rectified maps: issue 156."""
    apart, x, target = MODELS["cnn"]()
    module: Any = copy.deepcopy(apart.module)
    module[4] = nn.ReLU(inplace=True)
    in_place = audited(module, (1, 8, 8), 4)
    for layer in ("3", "4"):
        expected = explain(apart, x, target, layer=layer).values
        torch.testing.assert_close(explain(in_place, x, target, layer=layer).values, expected)


def test_a_series_has_steps() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2)
    ).double()
    x = torch.randn(3, 2, 10).double()
    found = explain(audited(module, (2, 10), 2, kind="series"), x, torch.tensor([0, 1, 0]), upsampling="nearest")
    expected = captums(module, module[1], x, torch.tensor([0, 1, 0]), "nearest")
    torch.testing.assert_close(found.values * 2, expected)
    assert found.features is not None
    assert found.features.unit == "step"


@pytest.mark.parametrize(("family", "layer"), [("mlp", r"0 \(Linear\)"), ("lstm", r"head \(Linear\)")])
def test_networks_without_maps_are_refused_and_their_layers_named(family: str, layer: str) -> None:
    model, x, target = MODELS[family]()
    with pytest.raises(NotApplicable, match=f"gradcam needs a convolution's maps.*{layer}") as refusal:
        explain(model, x, target)
    assert "\n" not in str(refusal.value)


def test_layers_that_do_not_fit_are_told() -> None:
    model, x, target = MODELS["cnn"]()
    for layer, message in (
        ("conv9", r"no layer 'conv9'; there are 0, 1"),
        ("6", r"layer '6' of model 'toy' answers of shape \(7, 8\), not maps"),
    ):
        with pytest.raises(UserError, match=message):
            explain(model, x, target, layer=layer)
    lstm, rows, aims = MODELS["lstm"]()
    with pytest.raises(UserError, match="answers tuple, not maps"):
        explain(lstm, rows, aims, layer="lstm")
    with pytest.raises(NotApplicable, match="needs a torch module"):
        explain(audited(lambda z: z.sum(dim=1), (2,), output="value", kind="number"), torch.ones(1, 2))


def test_a_score_that_does_not_depend_on_the_maps_has_an_empty_map() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.conv(x)
            return x.flatten(1).sum(dim=1)

    assert not bool(explain(audited(Beside(), (1, 4, 4), output="value"), torch.ones(1, 1, 4, 4)).values.any())


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model, x, target = MODELS["residual"]()
    whole, alone = explain(model, x, target), explain(model, x[2:3], target[2:3])
    torch.testing.assert_close(alone.values, whole.values[2:3])
    assert explain(model, x[:0], target[:0]).values.shape == (0, 2, 8, 8)
