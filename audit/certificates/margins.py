"""How far the label's score stays above every other within a region: the number that certifies a prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audit.certificates._coefficients import Coefficients
from audit.certificates._layers import Layer
from audit.certificates._region import Region
from audit.certificates._rounding import DTYPE
from audit.certificates.crown import CrownBounds
from audit.certificates.interval import IntervalBounds

_ELEMENTS = 2**21
"""Elements of all layers together that are bounded at a time."""


def lower_margins(bounds: IntervalBounds, y: Tensor) -> Tensor:
    """Lower bound of the label's logit minus each other one, ``(B, C)``, infinite at the label itself.

    Each difference is carried back as one linear function, so that what two logits share cancels. A network with one output is a
    margin that is positive for class 1.

    Args:
        y: ``(B,)`` int64 labels.
    """
    last = len(bounds.layers) - 1
    shape = bounds.layers[last].shape
    size = bounds.layers[last].size
    if size == 1:
        sign = (2 * y - 1).to(DTYPE).reshape(-1, *[1] * len(shape))
        found = bounds.lower(last, Coefficients(sign, shape, torch.arange(len(y), device=y.device)))
        return torch.full((len(y), 2), torch.inf, dtype=DTYPE, device=y.device).scatter(
            1, 1 - y[:, None], found[:, None]
        )
    identity = torch.eye(size, dtype=DTYPE, device=y.device)
    margins = torch.full((len(y) * size,), torch.inf, dtype=DTYPE, device=y.device)
    others = torch.ones((len(y), size), dtype=torch.bool, device=y.device).scatter(1, y[:, None], False)
    for pairs in bounds.in_chunks(others.flatten().nonzero().flatten()):
        rows, other = pairs // size, pairs % size
        margins[pairs] = bounds.lower(last, Coefficients(identity[y[rows]] - identity[other], shape, rows))
    return margins.reshape(len(y), size)


def certified_margins(
    layers: Sequence[Layer],
    x: Tensor,
    y: Tensor,
    norm: str,
    eps: float,
    bounds: tuple[float, float] | None,
    *,
    crown: bool,
) -> dict[str, Tensor]:
    """The smallest margin of each row by method, ``(B,)``; above 0 no input in the region is classified otherwise.

    CROWN's is the larger of its own and the interval's, and only rows that intervals do not certify are asked for it.

    Args:
        x: ``(B, *shape)`` inputs.
        y: ``(B,)`` int64 labels.
        norm, eps, bounds: as in `Region`.
    """
    with torch.no_grad():
        ibp = lower_margins(IntervalBounds(layers, Region(x, norm, eps, bounds)), y).amin(dim=1)
        if not crown:
            return {"ibp": ibp}
        left = (ibp <= 0).nonzero().flatten()
        best = ibp.clone()
        if len(left):
            tighter = lower_margins(CrownBounds(layers, Region(x[left], norm, eps, bounds)), y[left]).amin(dim=1)
            best[left] = torch.maximum(ibp[left], tighter)
        return {"ibp": ibp, "crown": best}


def contain(layers: Sequence[Layer], x: Tensor, scores: Tensor) -> Tensor:
    """Whether the bounds at the inputs themselves hold what the model answers, ``(B,)`` bool: they do, or the layers are not the model."""
    with torch.no_grad():
        answer = IntervalBounds(layers, Region(x, "linf", 0.0, None)).intervals[-1]
    scores = scores.to(DTYPE).reshape(answer.low.shape)
    return ((scores >= answer.low) & (scores <= answer.high)).flatten(1).all(dim=1)


def rows_at_once(layers: Sequence[Layer]) -> int:
    """How many rows to bound in one go, for memory not to grow with the data."""
    return max(1, _ELEMENTS // sum(layer.size for layer in layers))
