"""The linear start of a network: what happens up to and with its first layer, which a straight line of inputs passes as a line.

Between a baseline and an input the first layer's answers lie on a straight line, too, so they need not be computed point by point;
and the way back through it, being linear, is gone once for the sum of the points' gradients instead of once for each. The layer at
full resolution is often the dearest of a small network: integrated gradients then cost less than their passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.explainers._linear_graph import nonlinear_steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.model import AuditedModel

_TOLERANCE = 1e-4
"""Largest deviation from a straight line, as a share of the largest number on it."""


_ROWS = 8
"""Inputs and baselines that are fed in name, to see whether the score is that of the first layer's answer alone."""


class _Reached(Exception):
    """The first layer has answered; the rest is not needed."""


@dataclass(frozen=True)
class LinearStart:
    """A model cut behind its first layer.

    Args:
        model: the whole.
        layer: the first layer.
        in_place: whether what follows writes over the layer's answer (a rectifier in place), and so must be given a copy.
    """

    model: AuditedModel
    layer: nn.Module
    in_place: bool

    def enter(self, x: Tensor) -> Tensor:
        """The first layer's answer, ``(N, …)``; the rest of the model is not run."""
        forward = self.layer.forward

        def answer(*args: Any, **kwargs: Any) -> Tensor:
            raise _Reached(forward(*args, **kwargs))

        with _forward(self.layer, answer):
            try:
                self.model._forward(x)
            except _Reached as reached:
                return reached.args[0]  # type: ignore[no-any-return]
        raise RuntimeError("the layer was not reached")

    def score(self, entered: Tensor, target: Tensor, like: Tensor) -> Tensor:
        """The target's score of each row, ``(N,)``, with the first layer's answers given.

        Args:
            like: ``(1, *shape)`` or one for each: inputs fed in name alone.
        """
        import torch

        if torch.is_grad_enabled():
            self.model.rows_backward += len(entered)
        with _forward(self.layer, lambda *_, **__: entered.clone() if self.in_place else entered):
            return self.model.target_score(like.expand(len(entered), *like.shape[1:]), target)


def linear_start(model: AuditedModel, x: Tensor, start: Tensor, target: Tensor) -> LinearStart | None:
    """The model's linear start; None where it has none, or where anything but the first layer looks at the input.

    Tried on the row that differs most from its baseline: the first convolution or linear layer is called once, its answer follows
    the input linearly (by the graph, and by number), and is all that the score depends on (by gradient, and by number).

    Args:
        x, start: ``(N, *shape)`` inputs and the baselines that the lines start from.
    """
    import torch

    if model.module is None or not len(x):
        return None
    most = (x - start).flatten(1).abs().amax(dim=1).argmax()
    one, origin, aim = x[most][None], start[most][None], target[most][None]
    layer = _first_layer(model, one)
    if layer is None:
        return None
    cut = LinearStart(model, layer, in_place=False)
    backward, forward = model.rows_backward, model.rows_forward
    try:
        with torch.no_grad():
            ends, middle = (cut.enter(origin), cut.enter(one)), cut.enter(torch.lerp(origin, one, 0.375))
            straight = _close(torch.lerp(*ends, 0.375), middle) and torch.equal(ends[1], cut.enter(one))
            others = torch.cat([one, x[:_ROWS], start[:_ROWS]])
            same = cut.score(middle.repeat(len(others), *[1] * (middle.ndim - 1)), aim.expand(len(others)), others)
            blind = straight and _close(same, cut.score(middle.clone(), aim, one).expand_as(same))
            version = middle._version
            cut.score(middle, aim, one)
            cut = LinearStart(model, layer, in_place=middle._version > version)
        if not (blind and len(ends[0]) == 1):
            return None
        with torch.enable_grad():
            fed = one.detach().clone().requires_grad_()
            entered = cut.enter(fed)
            if not entered.requires_grad or nonlinear_steps(entered):
                return None
            score = cut.score(entered.detach().requires_grad_(), aim, fed)
            (beside,) = torch.autograd.grad(score.sum(), fed, allow_unused=True)
    finally:
        model.rows_backward, model.rows_forward = backward, forward
    return cut if beside is None else None


def _first_layer(model: AuditedModel, x: Tensor) -> nn.Module | None:
    """The convolution or linear layer that is called first, if it is called once."""
    import torch
    from torch import nn

    called: list[nn.Module] = []

    def note(layer: nn.Module, *_: object) -> None:
        called.append(layer)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    hooks = [
        part.register_forward_hook(note)
        for part in (model.module.modules() if model.module else ())
        if type(part) in kinds
    ]
    try:
        with torch.no_grad():
            model._forward(x)
    finally:
        for hook in hooks:
            hook.remove()
    return called[0] if called and called.count(called[0]) == 1 else None


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


@contextmanager
def _forward(layer: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    """Another forward of a layer, its own given back at the end."""
    before = layer.__dict__.get("forward")
    layer.__dict__["forward"] = forward
    try:
        yield
    finally:
        del layer.__dict__["forward"]
        if before is not None:
            layer.__dict__["forward"] = before
