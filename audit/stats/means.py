"""Means: Student's t, pairs, and the sample size that decides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from audit.stats.conventions import LARGEST_N, Alternative, check_finite, is_greater, tail_probability

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def mean_and_se(values: ArrayLike) -> tuple[float, float, int]:
    """Mean, standard error and n of a sample, for `t_interval`.

    Equal values give exactly se = 0, not rounding noise; so does a single value, which shows no spread.

    Raises:
        ValueError: the sample is empty or holds NaN or infinity.
    """
    import numpy as np

    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"a mean needs a non-empty list of finite numbers, got shape {sample.shape}")
    if (sample == sample[0]).all():
        return float(sample[0]), 0.0, sample.size
    return float(sample.mean()), float(sample.std(ddof=1) / math.sqrt(sample.size)), sample.size


def paired_mean_difference(a: ArrayLike, b: ArrayLike) -> tuple[float, float, int]:
    """Mean of a - b over pairs, its standard error and the number of pairs."""
    import numpy as np

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal lengths, got {first.shape} and {second.shape}")
    return mean_and_se(first - second)


def t_interval(value: float, se: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval for a mean of `n` values; unbounded for n < 2.

    With se = 0 all n values were equal and t has no scale. The order-statistic interval [min, max] takes over, which
    holds the centre of a symmetric distribution with probability 1 - 2^(1-n): the single value where that reaches
    `level` (95 %: n >= 6), else unbounded. Values that rarely differ break the symmetry: count those as a rate.

    Source: Student 1908; Thompson 1936, Annals of Mathematical Statistics 7:122-128, for se = 0.
    """
    from scipy.special import stdtrit

    tail = tail_probability(level)
    _check_mean(value, se)
    if n < 2 or (se == 0 and _all_on_one_side(n) > tail):
        return -math.inf, math.inf
    if se == 0:
        return value, value
    half_width = -float(stdtrit(n - 1, tail)) * se
    return value - half_width, value + half_width


def t_p_value(value: float, se: float, n: int, threshold: float, alternative: Alternative) -> float:
    """One-sided t-test of a mean against `threshold`, the partner of `t_interval`; 1 for n < 2.

    With se = 0: the sign test, 2^-n where the values lie beyond the threshold, else 1.
    """
    from scipy.special import stdtr

    sign = 1 if is_greater(alternative) else -1
    _check_mean(value, se)
    check_finite(threshold)
    if n < 2:
        return 1.0
    excess = sign * (value - threshold)
    if se == 0:
        return _all_on_one_side(n) if excess > 0 else 1.0
    return float(stdtr(n - 1, -excess / se))


def n_to_resolve_by_scaling(half_width: float, distance: float, n: int) -> int | None:
    """Sample size at which an interval that shrinks as 1 / sqrt(n) no longer reaches `distance` from its value.

    Returns:
        None where the distance is 0, the interval unbounded, or more than `LARGEST_N` would be needed.
    """
    if n < 1 or half_width < 0 or distance < 0 or math.isnan(half_width) or math.isnan(distance):
        raise ValueError(f"needs n >= 1 and no negative lengths, got {half_width=}, {distance=}, {n=}")
    if distance == 0 or math.isinf(half_width):
        return None
    ratio = half_width / distance
    needed = n * ratio * ratio
    return max(1, math.ceil(needed)) if needed <= LARGEST_N else None


def _check_mean(value: float, se: float) -> None:
    check_finite(value)
    if not se >= 0:
        raise ValueError(f"a standard error is 0 or more, got {se}")


def _all_on_one_side(n: int) -> float:
    """Chance that n draws all fall beyond the centre of their distribution on one given side."""
    return float(2.0**-n)
