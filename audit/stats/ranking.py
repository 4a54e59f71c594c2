"""Ranking scores: AUC, its intervals, and the ROC curve. A higher score speaks for the positive class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from audit.stats.conventions import Alternative, check_finite, is_greater, largest_count, tail_probability

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


def auc(scores_pos: ArrayLike, scores_neg: ArrayLike) -> float:
    """Probability that a positive outscores a negative, ties counting half (Mann-Whitney U / (n_pos n_neg)).

    Sorted in O(n log n) and counted in integers, so a constant score gives exactly 0.5.
    """
    pos, neg = _scores(scores_pos), _scores(scores_neg)
    twice_u = int(neg.searchsorted(pos, "left").sum()) + int(neg.searchsorted(pos, "right").sum())
    return twice_u / (2 * pos.size * neg.size)


def auc_interval(value: float, n_pos: int, n_neg: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of an AUC: all theta that `auc_p_value` does not reject; it has width at 0 and 1 too.

    Supposes that both classes scatter alike, as a summary without the scores must. Simulated coverage at 95 % with the
    smaller class scattered twice as wide: 94 % at equal sizes, 89 to 93 % at 30 against 100; too wide the other way.

    Source: Newcombe 2006, Statistics in Medicine 25:559-573, method 5.
    """
    from scipy.special import ndtri

    _check_auc(value, n_pos, n_neg)
    z = -float(ndtri(tail_probability(level)))

    def lower(observed: float) -> float:
        inside, outside = observed, 0.0
        for _ in range(100):  # halves [0, observed] to the last bit
            theta = (inside + outside) / 2
            if observed - theta <= z * _auc_sd(theta, n_pos, n_neg):
                inside = theta
            else:
                outside = theta
        return inside

    return lower(value), 1 - lower(1 - value)  # the variance is symmetric in theta and 1 - theta


def auc_p_value(value: float, n_pos: int, n_neg: int, threshold: float, alternative: Alternative) -> float:
    """One-sided score test of an AUC, with Newcombe's variance at the threshold; partner of `auc_interval`."""
    from scipy.special import ndtr

    sign = 1 if is_greater(alternative) else -1
    _check_auc(value, n_pos, n_neg)
    check_finite(threshold)
    excess = sign * (value - threshold)
    if not 0 < threshold < 1:  # the end of the range leaves no room for chance
        return 0.0 if excess > 0 else 1.0
    return float(ndtr(-excess / _auc_sd(threshold, n_pos, n_neg)))


def delong_se(scores_pos: ArrayLike, scores_neg: ArrayLike) -> float:
    """Standard error of the AUC, free of distributional assumptions but 0 at an AUC of 0 or 1.

    Raises:
        ValueError: fewer than two positives or negatives.

    Source: DeLong et al. 1988, Biometrics 44:837-845; ranks as in Sun & Xu 2014, doi 10.1109/LSP.2014.2337313.
    """
    pos, neg = _scores(scores_pos), _scores(scores_neg)
    if min(pos.size, neg.size) < 2:
        raise ValueError(f"DeLong's error needs two of each class, got {pos.size} positives and {neg.size} negatives")
    below = (neg.searchsorted(pos, "left") + neg.searchsorted(pos, "right")) / (2 * neg.size)
    above = 1 - (pos.searchsorted(neg, "left") + pos.searchsorted(neg, "right")) / (2 * pos.size)
    return math.sqrt(float(below.var(ddof=1)) / pos.size + float(above.var(ddof=1)) / neg.size)


def tpr_at_fpr(scores_pos: ArrayLike, scores_neg: ArrayLike, fpr: float) -> float:
    """Share of positives above the lowest threshold at which at most `fpr` of the negatives are above it.

    Negatives tied at the threshold stay below it together with the positives tied there, so the realised FPR is never
    above `fpr`.
    """
    pos, neg = _scores(scores_pos), _scores(scores_neg)
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr must lie in [0, 1], got {fpr}")
    allowed = largest_count(fpr, neg.size)
    if allowed == neg.size:
        return 1.0
    threshold = neg[neg.size - 1 - allowed]
    return (pos.size - int(pos.searchsorted(threshold, "right"))) / pos.size


def roc_curve_points(
    scores_pos: ArrayLike, scores_neg: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """FPR, TPR and threshold (positive where score >= threshold) from (0, 0) at infinity to (1, 1), one per score."""
    import numpy as np

    pos, neg = _scores(scores_pos), _scores(scores_neg)
    thresholds = np.unique(np.concatenate([pos, neg]))[::-1]
    fpr = (neg.size - neg.searchsorted(thresholds, "left")) / neg.size
    tpr = (pos.size - pos.searchsorted(thresholds, "left")) / pos.size
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr]), np.concatenate([[np.inf], thresholds])


def _check_auc(value: float, n_pos: int, n_neg: int) -> None:
    if not 0 <= value <= 1 or n_pos < 1 or n_neg < 1:
        raise ValueError(f"an AUC lies in [0, 1] and needs both classes, got {value} of {n_pos} and {n_neg}")


def _auc_sd(theta: float, n_pos: int, n_neg: int) -> float:
    """Hanley & McNeil's standard deviation with both class sizes averaged in its numerator (exact at theta = 1/2)."""
    extra = (n_pos + n_neg) / 2 - 1
    shape = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return math.sqrt(theta * (1 - theta) * shape / (n_pos * n_neg))


def _scores(scores: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    values = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if values.size == 0 or np.isnan(values).any():
        raise ValueError("scores must not be empty or hold NaN")
    return values
