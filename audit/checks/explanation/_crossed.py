"""The mean of numbers that share both a row and a draw: every row under every random initialisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from audit.finding import Mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def crossed_mean(values: NDArray[np.float64]) -> Mean:
    """Mean over rows and draws, with an interval over both.

    Rows under one draw share it, so that N times M numbers know less than as many independent ones. With both effects random
    the variance of the mean is (MS_rows + MS_draws − MS_rest) / (N M), on Satterthwaite's degrees of freedom; the standard error
    is given such that Student's t over N rows has the interval's width. A single draw shows no spread between draws: the interval
    is over rows alone.

    Args:
        values: ``(N, M)``.

    Source: Searle, Casella & McCulloch 1992, Variance Components, section 4.3; Satterthwaite 1946, doi 10.2307/3002019.
    """
    import numpy as np
    from scipy.special import stdtrit

    from audit.stats import mean_and_se

    n, m = values.shape
    by_row = values.mean(axis=1)
    value, se, _ = mean_and_se(by_row)
    if n < 2 or m < 2 or (values == values[0, 0]).all():
        return Mean(value=value, se=se, n=n)
    by_draw = values.mean(axis=0)
    rest = values - by_row[:, None] - by_draw + value
    squares = np.array([m * by_row.var(ddof=1), n * by_draw.var(ddof=1), (rest**2).sum() / ((n - 1) * (m - 1))])
    freedom = np.array([n - 1, m - 1, (n - 1) * (m - 1)])
    # Never below what either effect shows alone: the estimate of a variance by differences can be.
    variance = max(squares[0], squares[1], squares[0] + squares[1] - squares[2])
    if variance == 0:
        return Mean(value=value, se=0.0, n=n)
    degrees = max(1.0, variance**2 / float((squares**2 / freedom).sum()))
    widened = stdtrit(degrees, 0.975) / stdtrit(n - 1, 0.975)
    return Mean(value=value, se=float(math.sqrt(variance / (n * m)) * max(1.0, widened)), n=n)


def draws_decide(values: NDArray[np.float64]) -> bool:
    """Whether draws scatter the mean more than rows do, so that more rows would hardly narrow its interval.

    Args:
        values: ``(N, M)``.
    """
    n, m = values.shape
    if min(n, m) < 2:
        return False
    return bool(values.mean(axis=0).var(ddof=1) / m > values.mean(axis=1).var(ddof=1) / n)
