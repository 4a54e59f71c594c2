"""A model whose layers are initialised anew, from the top down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.model import AuditedModel


@dataclass(frozen=True)
class Layer:
    """Modules that are initialised together.

    Args:
        name: of the first one, as the model's `named_modules` has it; the model's own parameters are ``(model)``.
        modules: names of all: a module with parameters, and those below it that it uses without calling them.
    """

    name: str
    modules: tuple[str, ...]


def layers_from_top(model: AuditedModel, x: Tensor) -> tuple[Layer, ...]:
    """The modules that hold parameters, in the reverse order of their first call on `x` ``(N, *shape)``: the output layer first.

    Order of registration would do for most, and be wrong without a word for the rest. A module that is never called (its weights
    are used by the one above it, as in attention) goes with the nearest module around it that is.
    """
    module = model.module
    assert module is not None
    holders = [name for name, part in module.named_modules() if next(part.parameters(recurse=False), None) is not None]
    called = _call_order(model, x)
    members: dict[str, list[str]] = {}
    for name in holders:
        members.setdefault(_nearest(name, called), []).append(name)
    order = sorted(members, key=lambda name: called.get(name, -1), reverse=True)
    return tuple(Layer(name or "(model)", tuple(members[name])) for name in order)


def _call_order(model: AuditedModel, x: Tensor) -> dict[str, int]:
    """Name of each module → when it was first called; a copy is hooked, never the model's own module."""
    import copy

    import torch

    found: dict[str, int] = {}
    clone = copy.deepcopy(model.module)
    assert clone is not None
    names = {part: name for name, part in clone.named_modules()}

    def note(part: nn.Module, _: object) -> None:
        found.setdefault(names[part], len(found))

    for part in names:
        part.register_forward_pre_hook(note)
    with torch.no_grad():
        model.with_module(clone).scores(x[:1])
    return found


def _nearest(name: str, called: dict[str, int]) -> str:
    """The module itself where it was called, else the nearest one around it that was; the whole model at last."""
    while name and name not in called:
        name = name.rpartition(".")[0]
    return name


def randomised(model: AuditedModel, layers: tuple[Layer, ...], x: Tensor, seed: int) -> AuditedModel:
    """A copy of the model with the parameters of some layers drawn anew; its own module stays as it is.

    A module that knows how to initialise itself does so; parameters that this leaves as they were (it knows not, or a
    parametrisation stands between) are shuffled, which keeps their scale. Batch normalisation learns its statistics again from
    `x`: with those of other activations, or none, signals would vanish or explode on the way.

    Args:
        x: ``(M, *shape)`` rows for the statistics.

    Source: Adebayo et al. 2018, arXiv:1810.03292, section 4.1.
    """
    import copy

    import torch

    from audit.bridges.global_generators import seeded

    clone = copy.deepcopy(model.module)
    assert clone is not None
    chosen = [clone.get_submodule(name) for layer in layers for name in layer.modules]
    with seeded(seed), torch.no_grad():
        for part in chosen:
            _initialise(part)
    other = model.with_module(clone)
    _learn_statistics(other, chosen, x)
    return other


def _initialise(module: nn.Module) -> None:
    import torch

    before = [parameter.clone() for parameter in module.parameters(recurse=False)]
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    for parameter, old in zip(module.parameters(recurse=False), before, strict=True):
        if torch.equal(parameter, old):
            parameter.copy_(old.flatten()[torch.randperm(old.numel())].reshape(old.shape))


def _learn_statistics(model: AuditedModel, modules: list[nn.Module], x: Tensor) -> None:
    """Running mean and variance of batch normalisations among `modules`, from one pass over `x`; from one row, none can be had."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [part for part in modules if isinstance(part, _BatchNorm) and part.track_running_stats]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # the plain mean over passes, not a moving one
        part.train(len(x) > 1)
    try:
        if norms and len(x) > 1:
            with torch.no_grad():
                model.scores(x[: model.micro_batch])
    finally:
        for part, momentum in zip(norms, momenta, strict=True):
            part.momentum = momentum
            part.eval()
