"""What a recording suffers: noise, another gain, clipping, a gap. Relative to each row's own level; the severities are policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.rng import ExampleRng

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "noise": ("white_noise",),
    "level": ("gain", "clipping"),
    "gaps": ("dropout",),
}
_CONSTANTS: Mapping[str, tuple[float, ...]] = {
    "white_noise": (30, 20, 10, 5, 0),
    "gain": (2, 4, 6, 9, 12),
    "clipping": (0.8, 0.6, 0.4, 0.3, 0.2),
    "dropout": (0.05, 0.1, 0.2, 0.3, 0.4),
}
"""Decibels of signal over noise; decibels louder or softer; share of the peak left; share of the time that is silent."""


def corrupt(x: Tensor, name: str, severity: int, rng: ExampleRng) -> Tensor:
    """One corruption of series ``(N, …, T)`` whose silence is 0.

    Args:
        name: one of `FAMILIES`.
        severity: 1 to 5.
    """
    import torch

    c = _CONSTANTS[name][severity - 1]
    row = (-1, *[1] * (x.dim() - 1))
    if name == "white_noise":
        level = x.flatten(1).square().mean(dim=1).sqrt().reshape(row)
        return x + level * 10 ** (-c / 20) * rng.normal(tuple(x.shape[1:])).to(x)
    if name == "gain":
        return x * 10 ** (c / 20 * (2 * rng.integers(2).to(x) - 1)).reshape(row)
    if name == "clipping":
        peak = c * x.flatten(1).abs().amax(dim=1).reshape(row)
        return torch.maximum(torch.minimum(x, peak), -peak)
    length = x.shape[-1]
    silent = round(c * length)
    start = (rng.uniform(()).to(x.device) * (length - silent + 1)).floor().reshape(row)
    at = torch.arange(length, device=x.device)
    return x.masked_fill((at >= start) & (at < start + silent), 0.0)
