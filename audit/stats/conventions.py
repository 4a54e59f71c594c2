"""What all of `audit.stats` shares: the level of an interval, the side of a test."""

from __future__ import annotations

import math
from typing import Literal

Alternative = Literal["greater", "less"]
"""The side on which a one-sided test looks: the true value is greater, or less, than the threshold."""

LARGEST_N = 10**9
"""Sample sizes beyond this count as out of reach."""


def tail_probability(level: float) -> float:
    """(1 - level) / 2, what a two-sided interval leaves on either side."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, got {level}")
    return (1 - level) / 2


def is_greater(alternative: str) -> bool:
    """Whether the test looks upwards; refuses a word that is neither side."""
    if alternative not in ("greater", "less"):
        raise ValueError(f"the alternative is 'greater' or 'less', got {alternative!r}")
    return alternative == "greater"


def check_finite(*values: float) -> None:
    """Refuse NaN and infinity, which would compare as false and slip through a verdict."""
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"needs finite numbers, got {values}")


def largest_count(share: float, n: int) -> int:
    """Largest k with k / n <= share, compared as rates: .29 * 100 is below 29 in floats, 29 / 100 is .29."""
    k = round(share * n)
    return k if k / n <= share else k - 1
