"""What the two ways by Opacus's hooks share: putting the hooks on, one backward pass through them, taking them off."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from audit.train.clipping import Clipping
from audit.train.gradients import GradientMode, Loss

_HARMLESS = (
    "Full backward hook is firing",  # of a first layer: nothing asks for the gradient of the data
    "In CPU autocast, but the target dtype",  # Opacus takes whole numbers going into a layer for mixed precision
    "In CUDA autocast, but the target dtype",
    "There is a performance drop",  # of attention inside a layer of one's own; `choose` times it
)
_ON_PARAMETERS = ("grad_sample", "_current_grad_sample", "_norm_sample")
_ON_MODULES = ("activations", "max_batch_len")


@contextmanager
def quiet() -> Iterator[None]:
    """No word of what is expected of a pass through the hooks."""
    with warnings.catch_warnings():
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        yield


class Hooked(GradientMode):
    """Opacus's hooks: they sleep between calls and are gone after `close`."""

    def __init__(self, module: nn.Module, loss: Loss, clipping: Clipping) -> None:
        super().__init__(module, loss, clipping)
        self._hooks: Any = None
        # A layer's hook runs when anything below its output is asked for. Asking for its smallest parameter alone spares the
        # gradients of the large ones, which nobody wants summed over the batch unclipped.
        own = ([p for p in layer.parameters(recurse=False) if p.requires_grad] for layer in module.modules())
        self._asked = list(dict.fromkeys(min(some, key=Tensor.numel) for some in own if some))

    @abstractmethod
    def _attach(self) -> Any:
        """Put the hooks on."""

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Losses ``(N,)`` of a pass forward and back, after which every parameter carries what the hooks found."""
        try:
            if self._hooks is None:
                self._hooks = self._attach()
            self._hooks.enable_hooks()
            for parameter in self.parameters:
                parameter.grad_sample, parameter._forward_counter = None, 0  # type: ignore[attr-defined]
            with quiet():
                losses = self.loss(self.module(x), y)
                torch.autograd.grad(losses.sum(), self._asked, retain_graph=self._again, allow_unused=True)
            self._hooks.disable_hooks()
            return losses
        except BaseException:
            self.close()  # what a broken pass left on the module would be taken for the next one's
            raise

    _again = False
    """Whether a second backward pass follows."""

    def _found(self, attribute: str) -> list[Tensor | None]:
        """What the hooks left on each parameter, taken off it; None where the parameter took no part."""
        found = [getattr(parameter, attribute, None) for parameter in self.parameters]
        self._sweep()
        return found

    def _sweep(self) -> None:
        for parameter in self.parameters:
            for name in _ON_PARAMETERS:
                parameter.__dict__.pop(name, None)
        for module in self.module.modules():
            for name in _ON_MODULES:
                module.__dict__.pop(name, None)

    def close(self) -> None:
        """Take the hooks off."""
        if self._hooks is not None:
            self._hooks.cleanup()
            self._hooks = None
        self._sweep()
