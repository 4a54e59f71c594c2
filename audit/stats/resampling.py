"""The bootstrap, for statistics without a formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from audit.stats.conventions import Alternative, check_finite, is_greater, largest_count, tail_probability

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


def bootstrap_replicates(
    statistic: Callable[..., Any],
    arrays: Sequence[ArrayLike],
    n_replicates: int = 2000,
    *,
    seed: int,
    strata: ArrayLike | None = None,
    vectorized: bool = False,
) -> NDArray[np.float64]:
    """Recompute a statistic on rows drawn with replacement, the same rows of every array (pairs stay pairs).

    Args:
        statistic: takes as many arrays as given, each (n, ...), and returns a number. When `vectorized` it takes
            (R, n, ...) and returns (R,); the replicates are the same either way.
        arrays: one or more with n rows each.
        n_replicates: length of the result.
        seed: equal seeds give equal replicates.
        strata: (n,) labels; the rows of a stratum are redrawn among themselves, so its size never changes.
        vectorized: whether `statistic` handles many resamples at once.

    Raises:
        ValueError: no rows, unequal numbers of rows, or a result of the wrong shape.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap.
    """
    import numpy as np

    data = [np.asarray(array) for array in arrays]
    lengths = {len(array) if array.ndim else 0 for array in data}
    if strata is not None:
        lengths.add(len(np.asarray(strata)))
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"resampling needs arrays with one and the same number of rows, got {sorted(lengths)}")
    (n,) = lengths
    groups = np.zeros(n, dtype=np.intp) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    size_here, start_here = np.repeat(sizes, sizes), np.repeat(np.cumsum(sizes) - sizes, sizes)

    rng = np.random.default_rng(seed)
    replicates = np.empty(n_replicates)
    chunk = max(1, 2**20 // max(array.size for array in data))  # memory stays flat as n grows
    for first in range(0, n_replicates, chunk):
        count = min(chunk, n_replicates - first)
        # uniform numbers, not bounded integers: their stream does not depend on the chunk
        rows = order[start_here + (rng.random((count, n)) * size_here).astype(np.intp)]
        if vectorized:
            result = np.asarray(statistic(*(array[rows] for array in data)), dtype=np.float64)
            if result.shape != (count,):
                raise ValueError(f"a vectorized statistic must return shape {(count,)}, got {result.shape}")
            replicates[first : first + count] = result
        else:
            for i, drawn in enumerate(rows):
                replicates[first + i] = statistic(*(array[drawn] for array in data))
    return replicates


def resampled_interval(value: float, replicates: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval, widened to hold `value` where the replicates are biased away from it.

    Percentile, because it needs nothing but the replicates and never leaves the statistic's range. Its ends are order
    statistics, floor((R + 1) (1 - level) / 2) from either end, which is what `resampled_p_value` counts. It has no
    width where resampling changes nothing (0 of n successes): for rates and AUCs use the exact and score intervals.

    Raises:
        ValueError: a replicate is NaN or infinite, or there are too few for the level.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    import numpy as np

    tail = tail_probability(level)
    check_finite(value)
    ordered = np.sort(_replicates(replicates))
    rank = largest_count(tail, ordered.size + 1)
    if rank < 1:
        raise ValueError(
            f"{ordered.size} replicates cannot give a {level:.4g} interval: use {math.ceil(1 / tail)} or more"
        )
    return min(float(ordered[rank - 1]), value), max(float(ordered[-rank]), value)


def resampled_p_value(value: float, replicates: ArrayLike, threshold: float, alternative: Alternative) -> float:
    """Share of replicates that do not exceed the threshold, (1 + count) / (1 + R): never 0.

    At least 1/2 where `value` itself does not exceed it.
    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 4.2.
    """
    sign = 1 if is_greater(alternative) else -1
    check_finite(value, threshold)
    sample = _replicates(replicates)
    p_value = (1 + int((sign * sample <= sign * threshold).sum())) / (1 + sample.size)
    return p_value if sign * value > sign * threshold else max(p_value, 0.5)


def _replicates(replicates: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    sample = np.asarray(replicates, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError("replicates must be a non-empty list of finite numbers: the statistic failed on a resample")
    return sample
