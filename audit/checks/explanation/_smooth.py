"""A network with soft corners: where it has ReLU, its gradient is constant in pieces, and nothing says how a map can be moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SHARPNESS = 5.0
"""Softplus beta, in standard deviations of what enters the layer."""


@contextmanager
def softplus_for_relu() -> Iterator[None]:
    """Inside the block every ReLU that a torch function computes is a softplus, in modules and out of them.

    Its width follows each row's own activations, so that one sharpness suits every layer, and rows do not depend on each other.

    Source: Dombrowski et al. 2019, arXiv:1906.07983, section 3.2.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    relus = {torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, functional.relu, functional.relu_}
    in_place = {torch.relu_, torch.Tensor.relu_, functional.relu_}
    floors = {torch.clamp, torch.Tensor.clamp, torch.clamp_min, torch.Tensor.clamp_min}

    class _Softened(TorchFunctionMode):
        def __torch_function__(
            self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            x = args[0] if args else kwargs.get("input")
            if not (function in relus or (function in floors and _floor_at_zero(args, kwargs))):
                return function(*args, **kwargs)
            soft = _softplus(x)
            # Code that asks for a change in place may go on with the tensor it gave.
            return x.copy_(soft) if function in in_place or kwargs.get("inplace") else soft

    with _Softened():
        yield


def _floor_at_zero(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    high = kwargs.get("max", args[2] if len(args) > 2 else None)
    return isinstance(low, (int, float)) and low == 0 and high is None


def _softplus(x: Any) -> Any:
    import torch

    rows = x.detach().reshape(len(x), -1) if x.dim() > 1 else x.detach().reshape(1, -1)
    spread = rows.std(dim=1, correction=0).clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    beta = (_SHARPNESS / spread).reshape(-1, *[1] * (x.dim() - 1))
    return torch.nn.functional.softplus(x * beta) / beta
