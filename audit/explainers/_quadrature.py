"""Integrals over a straight line: points and weights, and as many of them as completeness asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal

from audit.explainers._completeness import TOLERANCE, completeness_gap, relative_gap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Method = Literal["gausslegendre", "riemann_middle"]


@cache
def quadrature(method: Method, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points in 0..1 and their weights, which add up to 1."""
    import numpy as np
    from scipy.special import roots_legendre

    if method == "riemann_middle":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    points, weights = roots_legendre(steps)
    return (1 + points) / 2, weights / 2


def until_complete(
    integrate: Callable[[Tensor, int], Tensor], score: Tensor, base: Tensor, steps: int, max_steps: int
) -> tuple[Tensor, Tensor, int]:
    """Attributions with as many points as completeness asks for: rows that miss it are done again with twice the points.

    Args:
        integrate: positions of rows ``(K,)`` and points → their values ``(K, …)`` float64.
        score, base: ``(N,)`` scores of inputs and of their baselines, N at least 1.
        steps, max_steps: points at first, and at most.

    Returns:
        values ``(N, …)``, the gap ``(N,)`` that is left, and the most points taken.
    """
    import torch

    active = torch.arange(len(score), device=score.device)
    values = integrate(active, steps)
    gap = completeness_gap(values, score, base)
    while steps < max_steps:
        active = active[~(relative_gap(gap[active], score[active], base[active]) <= TOLERANCE)]  # NaN is incomplete
        if not len(active):
            break
        steps = min(2 * steps, max_steps)
        values[active] = integrate(active, steps)
        gap[active] = completeness_gap(values[active], score[active], base[active])
    return values, gap, steps
