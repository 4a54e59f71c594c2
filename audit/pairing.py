"""Comparing a metric with the same metric of a stored run, example by example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from audit.finding import LEVEL, Mean


@dataclass(frozen=True)
class PairedDifference:
    """This run minus the baseline over the examples both have.

    Args:
        value: mean difference.
        low, high: its interval at the level asked for.
        n: examples in both.
        differing: examples whose value is not the same in both.
    """

    value: float
    low: float
    high: float
    n: int
    differing: int


def paired_difference(
    ours: Mapping[str, float], baseline: Mapping[str, float], level: float = LEVEL
) -> PairedDifference | None:
    """Difference over the examples with the same row id; None where there is none.

    Outcomes of 0 and 1: each direction of disagreement is a binomial share of n, and the two Clopper–Pearson intervals, each at
    half the error, bound their difference: exact and conservative, also where no pair differs. Other values: Student's t on the
    differences, no narrower than the rule of three allows where none differs.
    """
    import numpy as np

    from audit.stats import clopper_pearson, paired_mean_difference

    shared = [row for row in ours if row in baseline]
    if not shared:
        return None
    a = np.array([ours[row] for row in shared], dtype=float)
    b = np.array([baseline[row] for row in shared], dtype=float)
    n, differing = len(shared), int((a != b).sum())
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        better, worse = int((a > b).sum()), int((a < b).sum())
        split = 1 - (1 - level) / 2
        better_low, better_high = clopper_pearson(better, n, split)
        worse_low, worse_high = clopper_pearson(worse, n, split)
        return PairedDifference((better - worse) / n, better_low - worse_high, better_high - worse_low, n, differing)
    mean, se, _ = paired_mean_difference(a, b)
    if not differing:
        spread = float(np.ptp(np.concatenate([a, b]))) * 3 / n
        return PairedDifference(0.0, -spread, spread, n, 0)
    low, high = Mean(value=mean, se=se, n=n).interval(level)
    return PairedDifference(mean, low, high, n, differing)
