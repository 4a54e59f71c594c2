"""Points and weights of an integral over 0..1."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
