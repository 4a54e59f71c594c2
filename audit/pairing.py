"""Comparing a metric with the same metric of a stored run, example by example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from audit.finding import LEVEL, Mean


@dataclass(frozen=True)
class Difference:
    """This run minus the baseline.

    Args:
        value: the difference.
        low, high: its interval at the level asked for.
        n: examples it rests on.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference(Difference):
    """The mean difference over the `n` examples that both have.

    Args:
        differing: examples whose value is not the same in both.
    """

    differing: int


def independent_difference(
    values: tuple[float, float], ours: tuple[float, float], baseline: tuple[float, float], n: int
) -> Difference:
    """Difference of two numbers that were measured apart, from the interval of each, at their level.

    The ends lie from the difference as far as the two half-widths that point there are long together, as the sides of a right angle:
    of two proportions this is Newcombe's interval. Over examples that are the same in both, unpaired, it is too wide rather than too narrow.

    Args:
        values: ours and the baseline's.
        ours, baseline: (low, high) of each.

    Source: Zou & Donner 2008, Statistics in Medicine 27:1693 (MOVER); Newcombe 1998, Statistics in Medicine 17:873, method 10.
    """
    a, b = values
    value = a - b
    low = value - math.hypot(a - ours[0], baseline[1] - b)
    high = value + math.hypot(ours[1] - a, b - baseline[0])
    return Difference(value, low, high, n)


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
