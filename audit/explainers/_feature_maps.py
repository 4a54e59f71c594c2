"""The maps of a convolutional layer: which layer, what it answers, and how its places lie over the input."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from audit.explainers._features import Features
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.model import AuditedModel


def map_layer(model: AuditedModel, x: Tensor, explainer: str) -> str:
    """The last layer that answers with maps: behind the last convolution, the last module whose maps are as large as its own.

    That is the rectifier of a plain network and the last stage of a residual one, as the method's authors have it; an average or
    dense layer behind them answers with something smaller.

    Args:
        x: ``(N, *shape)`` inputs; the first is tried.

    Raises:
        NotApplicable: there is no convolution with more than one place; the message names the layers that there are.
    """
    import torch
    from torch import nn

    module, answers = _module(model, explainer), list[tuple[str, bool, tuple[int, ...]]]()

    def note(name: str, layer: nn.Module, answer: object) -> None:
        if isinstance(answer, torch.Tensor):
            answers.append((name, isinstance(layer, nn.modules.conv._ConvNd), tuple(answer.shape)))

    with ExitStack() as hooks:
        for name, part in module.named_modules():
            if name:
                handle = part.register_forward_hook(lambda layer, _, answer, name=name: note(name, layer, answer))
                hooks.callback(handle.remove)
        with torch.no_grad():
            model._forward(x[:1].clone())
    convolutions = [i for i, (_, convolves, shape) in enumerate(answers) if convolves and _has_places(shape)]
    if not convolutions:
        names = [f"{name} ({type(module.get_submodule(name)).__name__})" for name, *_ in answers[:5]]
        raise NotApplicable(
            f"{explainer} needs a convolution's maps, and model '{model.name}' has none; its layers: {', '.join(names) or 'none'}"
        )
    last = convolutions[-1]
    same = [name for name, _, shape in answers[last:] if shape == answers[last][2]]
    return same[-1]


def maps_and_gradients(
    model: AuditedModel, layer: str, x: Tensor, target: Tensor, explainer: str
) -> tuple[Tensor, Tensor]:
    """What the layer answers, and the gradient of the target's score by it, ``(N, K, *places)`` each; the layer's last answer where
    it is called more than once.

    What follows gets a copy, so that an activation in place does not change what is looked at.

    Raises:
        UserError: there is no such layer, or it answers with something else than maps.
    """
    import torch

    parts = dict(_module(model, explainer).named_modules())
    if layer not in parts or not layer:
        known = [name for name in parts if name]
        raise UserError(f"{explainer}: model '{model.name}' has no layer '{layer}'; there are {', '.join(known[:20])}")
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, answer: object) -> object:
        if not isinstance(answer, torch.Tensor) or not _has_places(tuple(answer.shape)):
            what = f"of shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
            raise UserError(
                f"{explainer}: layer '{layer}' of model '{model.name}' answers {what}, not maps (N, K, places)"
            )
        seen.append(answer if answer.requires_grad else answer.requires_grad_())
        return answer.clone()

    handle = parts[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            score = model.target_score(x.detach().clone().requires_grad_(), target)
    finally:
        handle.remove()
    if not seen:
        raise UserError(f"{explainer}: layer '{layer}' of model '{model.name}' is not called")
    maps = seen[-1]
    if not score.requires_grad:
        return maps.detach(), torch.zeros_like(maps)
    (slopes,) = torch.autograd.grad(score.sum(), maps, allow_unused=True)
    return maps.detach(), torch.zeros_like(maps) if slopes is None else slopes


def class_activation(
    model: AuditedModel, layer: str, x: Tensor, target: Tensor, explainer: str, upsampling: str
) -> Tensor:
    """Grad-CAM over the input's places, ``(N, *places)``, at least 0: the layer's maps weighted by their mean gradients, rectified.

    Raises:
        UserError: as `maps_and_gradients`; or the maps have more axes than the input has places along.
    """
    from torch.nn.functional import interpolate

    maps, slopes = maps_and_gradients(model, layer, x, target, explainer)
    axes = maps.ndim - 2
    if axes > x.ndim - 1:
        raise UserError(
            f"{explainer}: layer '{layer}' of model '{model.name}' has maps of {axes} axes, its inputs are {tuple(x.shape[1:])}"
        )
    weights = slopes.mean(dim=tuple(range(2, maps.ndim)), keepdim=True)
    weighted = (weights * maps).sum(dim=1, keepdim=True).relu()
    size = tuple(x.shape[-axes:])
    mode = {"nearest": "nearest", "linear": {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]}[upsampling]
    return interpolate(weighted, size=size, mode=mode)[:, 0]


def places(x: Tensor, axes: int) -> Features:
    """The places of the last `axes` axes as features, each across the axes before (channels)."""
    import math

    import torch

    size = x.shape[-axes:]
    count = math.prod(size)
    number = torch.arange(count, device=x.device).reshape(size).expand(x.shape)
    unit = "pixel" if axes == 2 else "step" if axes == 1 else "place"
    return Features(number, torch.full((len(x),), count, device=x.device), unit)


def _module(model: AuditedModel, explainer: str) -> nn.Module:
    if model.module is None:
        raise NotApplicable(f"{explainer} needs a torch module with layers, and model '{model.name}' has none")
    return model.module


def _has_places(shape: tuple[int, ...]) -> bool:
    """Whether an answer ``(N, K, *places)`` has more than one place."""
    import math

    return 3 <= len(shape) <= 5 and math.prod(shape[2:]) > 1
