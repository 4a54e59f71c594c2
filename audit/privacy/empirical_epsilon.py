"""Lower bounds on epsilon from guesses about membership: what a training run shows of its own privacy loss.

Guesses come from thresholds declared before, or chosen on other canaries than those they are counted on: a threshold chosen on
the same ones over-states epsilon.
"""

from __future__ import annotations

import math

from audit.parameters import UserError
from audit.privacy.gaussian import gaussian_epsilon
from audit.stats import clopper_pearson


def epsilon_from_rates(
    true_positives: int, inside: int, false_positives: int, outside: int, delta: float, level: float = 0.95
) -> float:
    """Epsilon that many trainings refute: the largest of which the rates of a membership test leave no doubt.

    Of an (epsilon, delta)-private training TPR ≤ e^epsilon · FPR + delta for every test. TPR counts as the lower end and FPR as the
    upper end of its Clopper–Pearson interval, each at `level`, so that together both hold with that confidence.

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
    excess = tpr - delta
    return max(0.0, math.log(excess / fpr)) if excess > 0 else 0.0


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
    import numpy as np
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


def _pessimistic(
    true_positives: int, inside: int, false_positives: int, outside: int, level: float
) -> tuple[float, float]:
    """Lower end of TPR, upper end of FPR."""
    return clopper_pearson(true_positives, inside, level)[0], clopper_pearson(false_positives, outside, level)[1]


def _check_delta(delta: float) -> None:
    if not 0 <= delta < 1:
        raise UserError(f"delta={delta} must lie in [0, 1)")
