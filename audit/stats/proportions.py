"""Rates: exact intervals, exact tests, and the number of trials that decides."""

from __future__ import annotations

from typing import Any, Literal

from audit.stats.conventions import LARGEST_N, Alternative, check_finite, is_greater, tail_probability


def clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval for a rate from `k` of `n` trials; (0, 1) when n = 0.

    Source: Clopper & Pearson 1934, Biometrika 26:404-413.
    """
    from scipy.special import betainccinv, betaincinv

    tail = tail_probability(level)
    _check_count(k, n)
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betainccinv(k + 1, n - k, tail)) if k < n else 1.0
    return low, high


def binomial_p_value(k: int, n: int, p0: float, alternative: Alternative) -> float:
    """P(X >= k) for "greater", P(X <= k) for "less", with X ~ Binomial(n, p0): the tail that Clopper-Pearson inverts.

    A p0 outside [0, 1] is refuted (0) or met (1) by any rate. Without trials nothing is shown: 1.
    """
    greater = is_greater(alternative)
    _check_count(k, n)
    check_finite(p0)
    if n == 0:
        return 1.0
    if not 0 <= p0 <= 1:
        return 0.0 if (p0 < 0) == greater else 1.0
    return float(_binomial_tail(k, n, p0, greater))


def mcnemar_exact(b: int, c: int, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> float:
    """Exact test of paired outcomes: `b` pairs where only the first succeeds, `c` where only the second does.

    "greater" asks whether the first succeeds more often. Without discordant pairs the answer is 1.
    Source: McNemar 1947, Psychometrika 12:153-157.
    """
    if alternative == "two-sided":
        return min(1.0, 2 * binomial_p_value(max(b, c), b + c, 0.5, "greater"))
    return binomial_p_value(b, b + c, 0.5, alternative)


def n_to_resolve_proportion(k: int, n: int, threshold: float, level: float = 0.95) -> int | None:
    """Smallest number of trials at which Clopper-Pearson, at the rate k / n, excludes `threshold`.

    Successes are whole: the rate times the trials is rounded towards the threshold. A few trials more can undo it by
    that rounding; the answer says how much data it takes, not that any larger number does.

    Returns:
        None where the rate equals the threshold, no trial was made, or `LARGEST_N` trials do not suffice.
    """
    import numpy as np

    tail = tail_probability(level)
    _check_count(k, n)
    check_finite(threshold)
    if n == 0 or k / n == threshold:
        return None
    if not 0 <= threshold <= 1:
        return 1
    greater = k / n > threshold
    # Successes that are not rounded decide earlier than whole ones: they say where to begin looking.
    low, high = -(-n // (k if greater else n - k)), LARGEST_N
    if _binomial_tail(k / n * high, high, threshold, greater) > tail:
        return None
    while low < high:
        middle = (low + high) // 2
        if _binomial_tail(k / n * middle, middle, threshold, greater) <= tail:
            high = middle
        else:
            low = middle + 1
    step = 256
    while low <= LARGEST_N:
        trials = np.arange(low, min(low + step, LARGEST_N + 1), dtype=np.int64)
        successes = k * trials // n if greater else -(-k * trials // n)
        found = np.flatnonzero(_binomial_tail(successes, trials, threshold, greater) <= tail)
        if found.size:
            return int(trials[found[0]])
        low, step = low + step, min(2 * step, 2**16)
    return None


def _check_count(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials cannot be")


def _binomial_tail(k: Any, n: Any, p0: float, greater: bool) -> Any:
    """P(X >= k) or P(X <= k) for 0 <= p0 <= 1, elementwise; k may be real, as in the beta distribution's own terms."""
    import numpy as np
    from scipy.special import betainc, betaincc

    if greater:
        return np.where(np.equal(k, 0), 1.0, betainc(np.maximum(k, 1e-300), n - k + 1, p0))
    return np.where(np.equal(k, n), 1.0, betaincc(k + 1, np.maximum(n - k, 1e-300), p0))
