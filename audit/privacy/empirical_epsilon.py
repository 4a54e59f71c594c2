"""Lower bounds on epsilon from guesses about membership: what a training run shows of its own privacy loss.

Guesses come from thresholds declared before, or chosen on other canaries than those they are counted on: a threshold chosen on
the same ones over-states epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from audit.parameters import UserError
from audit.privacy.gaussian import gaussian_epsilon
from audit.stats import binomial_p_value, clopper_pearson

COIN_LEVEL = 1e-6
"""Policy: how unlikely a share of included canaries must be before they count as not chosen by a fair coin."""


def epsilon_from_rates(
    true_positives: int, inside: int, false_positives: int, outside: int, delta: float, level: float = 0.95
) -> float:
    """Epsilon that many trainings refute: the largest of which the rates of a membership test leave no doubt.

    Of an (epsilon, delta)-private training TPR ≤ e^epsilon · FPR + delta for every test, and so for the test that says the
    opposite: TNR ≤ e^epsilon · FNR + delta. TPR counts as the lower end and FPR as the upper end of its Clopper–Pearson interval,
    each at `level`, so that together both hold with that confidence; the opposite test rests on the same two ends.

    Args:
        true_positives: trainings with the canary that the test says have it, of `inside`.
        false_positives: trainings without it that the test says have it, of `outside`.

    Returns:
        0 where nothing is refuted.

    Raises:
        UserError: delta outside [0, 1).

    Source: Jagielski et al. 2020, arXiv:2006.07709; Nasr et al. 2021, arXiv:2101.04535.
    """
    _check_delta(delta)
    tpr, fpr = _pessimistic(true_positives, inside, false_positives, outside, level)
    ratios = ((tpr - delta) / fpr, (1 - fpr - delta) / (1 - tpr))
    return max(0.0, math.log(max(*ratios, 1.0)))


def mu_from_rates(true_positives: int, inside: int, false_positives: int, outside: int, level: float = 0.95) -> float:
    """As `epsilon_from_rates`, of a training that is taken to be Gaussian-private: the mu that its rates refute.

    The trade-off curve of a Gaussian mechanism is one line in probits: mu ≥ Φ⁻¹(TPR) − Φ⁻¹(FPR). It bounds more tightly than a
    single (epsilon, delta), and only where the mechanism is Gaussian, as a step of DP-SGD is.

    Source: Nasr et al. 2023, arXiv:2302.07956; Dong, Roth & Su 2022, arXiv:1905.02383.
    """
    from scipy.special import ndtri

    tpr, fpr = _pessimistic(true_positives, inside, false_positives, outside, level)
    return max(0.0, float(ndtri(tpr) - ndtri(fpr))) if tpr > 0 and fpr < 1 else 0.0


def gaussian_epsilon_from_rates(
    true_positives: int, inside: int, false_positives: int, outside: int, delta: float, level: float = 0.95
) -> float:
    """`mu_from_rates` as an epsilon at `delta`.

    Raises:
        UserError: delta outside (0, 1).
    """
    return gaussian_epsilon(mu_from_rates(true_positives, inside, false_positives, outside, level), delta)


def one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Probability, at most, of so many right guesses in one training that is (epsilon, delta)-private.

    Args:
        canaries: m, each in the training by a fair coin of its own.
        guesses: r of them that a guess was made about, in or out; the rest were abstained from.
        right: v of the guesses.

    Raises:
        UserError: counts that do not fit, a negative epsilon, delta outside [0, 1).

    Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846, theorem 5.2: with β the tail of Binomial(r, 1 / (1 + e^−epsilon)),
    β + 2 m δ max over i of (P(V ≥ v − i) − β) / i.
    """
    from scipy.stats import binom

    if not 0 <= right <= guesses <= canaries or canaries < 1:
        raise UserError(
            f"{right} right of {guesses} guesses about {canaries} canaries: counts must not rise in that order"
        )
    if not epsilon >= 0:
        raise UserError(f"epsilon={epsilon} must be 0 or more")
    _check_delta(delta)
    q = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, q))
    if delta == 0 or right == 0:
        return min(1.0, tail)
    i = np.arange(1, right + 1)
    # Summed from the smallest term: the difference of two tails would cancel.
    more = np.cumsum(binom.pmf(right - i, guesses, q))
    return min(1.0, tail + 2 * canaries * delta * float((more / i).max()))


def one_run_epsilon(canaries: int, guesses: int, right: int, delta: float, level: float = 0.95) -> float:
    """Epsilon that one training refutes at `level` (one-sided): any smaller one makes its guesses too good.

    Returns:
        0 where nothing is refuted.

    Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846.
    """
    from scipy.optimize import brentq

    alpha = 1 - level

    def above(epsilon: float) -> float:
        return one_run_p_value(canaries, guesses, right, epsilon, delta) - alpha

    if above(0.0) >= 0:
        return 0.0
    high = 1.0
    while above(high) < 0:
        high *= 2
    return float(brentq(above, 0.0, high, xtol=1e-10))


def one_run_ceiling(canaries: int, delta: float, level: float = 0.95) -> float:
    """The largest epsilon that one training with so many canaries can refute: every guess is right, of as many as serve best.

    A claim above it cannot be falsified by this audit.
    """
    counts = {canaries}
    r = canaries
    while r > 1:
        r = max(1, int(r * 0.9))
        counts.add(r)
    return max(one_run_epsilon(canaries, r, r, delta, level) for r in counts)


def multi_run_ceiling(inside: int, outside: int, delta: float, level: float = 0.95) -> float:
    """The largest epsilon that so many trainings with and without the canary can refute."""
    return epsilon_from_rates(inside, inside, 0, outside, delta, level)


@dataclass(frozen=True)
class Guesses:
    """One declared number of guesses about the canaries of one training, and what it shows."""

    share: float
    """Of the canaries; the others were abstained from."""
    canaries: int
    guesses: int
    right: int
    level: float
    """Confidence of `epsilon`, corrected for the other numbers of guesses that were declared."""
    epsilon: float
    """Refuted at `level`."""
    ceiling: float
    """What it would be if every guess were right."""


def guess(scores: ArrayLike, count: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The canaries that a guess is made about, and whether it says "in".

    Scores are cut in two where the groups are tightest (Otsu 1979, doi:10.1109/TSMC.1979.4310076); guessed are those that lie
    furthest from the cut. It looks at scores alone, never at who is in, so no confidence is spent on it.

    Args:
        scores: ``(m,)``, higher says "in".
        count: of guesses, 1 to m.

    Returns:
        Positions ``(count,)`` and guesses ``(count,)``.
    """
    values = np.asarray(scores, dtype=np.float64)
    distance = values - _cut(values)
    furthest = np.argsort(-np.abs(distance), kind="stable")[:count]
    return furthest, distance[furthest] > 0


def _cut(scores: NDArray[np.float64]) -> float:
    """Where two groups of least variance part, half-way between them; the only score where there is but one."""
    ordered = np.sort(scores)
    if ordered[0] == ordered[-1]:
        return float(ordered[0])
    ordered = ordered - ordered.mean()
    below = np.cumsum(ordered)[:-1]
    n, k = len(ordered), np.arange(1, len(ordered))
    between = np.where(np.diff(ordered) > 0, below**2 / (k * (n - k)), -1.0)  # equal scores are not parted
    place = int(between.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2 + scores.mean())


def audit_one_run(
    included: ArrayLike, scores: ArrayLike, delta: float, shares: Sequence[float], level: float = 0.95
) -> list[Guesses]:
    """Epsilon that the canaries of one training refute, for each of several numbers of guesses declared before.

    The largest `Guesses.epsilon` holds at `level`: each is computed at ``1 − (1 − level) / len(shares)`` (Bonferroni).

    Args:
        included: ``(m,)`` whether each canary was in, by a fair coin of its own.
        scores: ``(m,)``, higher says "in".
        shares: of the canaries that are guessed about, in (0, 1].

    Raises:
        UserError: lengths differ, a score is not finite, or the canaries were not chosen by fair coins.

    Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846, algorithm 1 and theorem 5.2.
    """
    truth, values = _canaries(included, scores)
    corrected = 1 - (1 - level) / len(shares)
    return [_guessed(truth, values, len(truth), delta, share, corrected) for share in shares]


def audit_one_run_by_halves(
    included: ArrayLike,
    scores: ArrayLike,
    delta: float,
    shares: Sequence[float],
    rng: np.random.Generator,
    level: float = 0.95,
) -> Guesses:
    """As `audit_one_run`, with the number of guesses chosen on one half of the canaries and measured, at `level`, on the other.

    Half the canaries bear half the evidence: the ceiling falls by log 2.
    """
    truth, values = _canaries(included, scores)
    order = rng.permutation(len(truth))
    half = len(order) // 2
    if half < 1:
        raise UserError("one canary cannot be halved: choose the number of guesses before, by 'guesses'")
    first, second = order[:half], order[half:]
    tried = [_guessed(truth[first], values[first], half, delta, share, level) for share in shares]
    best = max(tried, key=lambda one: one.epsilon)
    return _guessed(truth[second], values[second], len(second), delta, best.share, level)


def _guessed(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], canaries: int, delta: float, share: float, level: float
) -> Guesses:
    count = max(1, round(share * canaries))
    places, said = guess(scores, count)
    right = int((truth[places] == said).sum())
    return Guesses(
        share, canaries, count, right, level,
        epsilon=one_run_epsilon(canaries, count, right, delta, level),
        ceiling=one_run_epsilon(canaries, count, count, delta, level),
    )  # fmt: skip


def _canaries(included: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, values = np.asarray(included, dtype=bool), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape or not len(truth):
        raise UserError(f"canaries need one score each, got {truth.shape} and {values.shape}")
    if not np.isfinite(values).all():
        raise UserError("a canary's score is not finite")
    n, k = len(truth), int(truth.sum())
    if 2 * min(binomial_p_value(k, n, 0.5, "greater"), binomial_p_value(k, n, 0.5, "less")) < COIN_LEVEL:
        raise UserError(
            f"{k} of {n} canaries were in: not by a fair coin each, which the audit of one training rests on"
        )
    return truth, values


@dataclass(frozen=True)
class ManyRuns:
    """What trainings with a canary and trainings without it show."""

    threshold: float
    """The test says "in" from this score on."""
    true_positives: int
    inside: int
    false_positives: int
    outside: int
    epsilon: float
    """By Clopper–Pearson intervals: of any mechanism."""
    gaussian_epsilon: float
    """Of a mechanism that is Gaussian."""
    ceiling: float
    gaussian_ceiling: float


def audit_many_runs(
    inside: ArrayLike,
    outside: ArrayLike,
    delta: float,
    *,
    threshold: float | None = None,
    rng: np.random.Generator,
    level: float = 0.95,
) -> ManyRuns:
    """Epsilon that a canary's scores refute over many trainings with it and without it.

    Args:
        inside, outside: ``(n,)``, a score for each training; higher says "in".
        threshold: declared before; None chooses it on one half of the trainings and measures on the other.

    Raises:
        UserError: fewer than two trainings on a side to halve, or a score is not finite.

    Source: Jagielski et al. 2020, arXiv:2006.07709; Nasr et al. 2023, arXiv:2302.07956.
    """
    with_it, without = (np.asarray(s, dtype=np.float64).ravel() for s in (inside, outside))
    for side, scores in (("with", with_it), ("without", without)):
        if len(scores) < (2 if threshold is None else 1):
            raise UserError(
                f"{len(scores)} trainings {side} the canary are too few: a threshold needs two halves of them"
            )
        if not np.isfinite(scores).all():
            raise UserError(f"a score of a training {side} the canary is not finite")
    if threshold is None:
        with_it, without = rng.permutation(with_it), rng.permutation(without)
        a, b = len(with_it) // 2, len(without) // 2
        threshold = _best_threshold(with_it[:a], without[:b], delta, level)
        with_it, without = with_it[a:], without[b:]
    counts = (int((with_it >= threshold).sum()), len(with_it), int((without >= threshold).sum()), len(without))
    perfect = (len(with_it), len(with_it), 0, len(without))
    return ManyRuns(
        threshold, *counts,
        epsilon=epsilon_from_rates(*counts, delta, level),
        gaussian_epsilon=gaussian_epsilon_from_rates(*counts, delta, level),
        ceiling=epsilon_from_rates(*perfect, delta, level),
        gaussian_ceiling=gaussian_epsilon_from_rates(*perfect, delta, level),
    )  # fmt: skip


def _best_threshold(inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float, level: float) -> float:
    """The score from which on "in" refutes the largest epsilon, half-way to the next score below."""
    from scipy.special import betaincinv

    scores = np.unique(np.concatenate([inside, outside]))
    tail = (1 - level) / 2
    n, m = len(inside), len(outside)
    tp = n - np.searchsorted(np.sort(inside), scores, "left")
    fp = m - np.searchsorted(np.sort(outside), scores, "left")
    tpr = np.where(tp > 0, betaincinv(np.maximum(tp, 1), n - tp + 1, tail), 0.0)  # Clopper–Pearson, of all at once
    fpr = np.where(fp < m, betaincinv(fp + 1, np.maximum(m - fp, 1), 1 - tail), 1.0)
    best = int(np.maximum((tpr - delta) / fpr, (1 - fpr - delta) / (1 - tpr)).argmax())
    return float(scores[best] if best == 0 else (scores[best - 1] + scores[best]) / 2)


def _pessimistic(
    true_positives: int, inside: int, false_positives: int, outside: int, level: float
) -> tuple[float, float]:
    """Lower end of TPR, upper end of FPR."""
    return clopper_pearson(true_positives, inside, level)[0], clopper_pearson(false_positives, outside, level)[1]


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise UserError(f"delta={delta} must lie in [0, 1)")
