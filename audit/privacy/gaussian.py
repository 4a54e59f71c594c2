"""The Gaussian mechanism's exact privacy curve, and the central-limit accountant built on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import log_ndtr

from audit.parameters import UserError
from audit.privacy.rdp import Stretch, check_delta, check_stretch

CLT_CAUTION = (
    "the central-limit (GDP) accountant is an approximation that errs both ways: it can state less privacy loss than "
    "there is, so it never decides a gate"
)


@dataclass(frozen=True)
class CltEpsilon:
    """A central-limit approximation of epsilon: for a reader's orientation, never a headline."""

    epsilon: float
    mu: float
    """Gaussian-DP parameter of the whole training, in the limit of many steps with a small sampling rate."""
    caution: str = CLT_CAUTION


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The smallest delta at which a Gaussian mechanism of sensitivity over noise `mu` is (epsilon, delta)-private; exact.

    Raises:
        UserError: epsilon or mu is negative or NaN.

    Source: Balle & Wang 2018, arXiv:1805.06530, theorem 8; Dong, Roth & Su 2022, arXiv:1905.02383, corollary 2.13.
    """
    if not epsilon >= 0:
        raise UserError(f"epsilon={epsilon} must be 0 or more")
    _check_mu(mu)
    if mu == 0 or epsilon == math.inf:
        return 0.0
    if mu == math.inf:
        return 1.0
    # exp(epsilon) overflows and the two terms cancel: both are kept as logarithms
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return max(0.0, math.exp(first) * -math.expm1(second - first))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest epsilon at which a Gaussian mechanism of sensitivity over noise `mu` is (epsilon, delta)-private; exact.

    T full-batch steps of noise multiplier sigma have ``mu = sqrt(T) / sigma``.

    Raises:
        UserError: mu is negative or NaN, or delta outside (0, 1).

    Source: Balle & Wang 2018, arXiv:1805.06530, theorem 8.
    """
    _check_mu(mu)
    check_delta(delta)
    if mu == math.inf:
        return math.inf
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # Chernoff: there the first term alone is below delta
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12, rtol=1e-13))


def clt_mu(stretches: Iterable[Stretch]) -> float:
    """Gaussian-DP parameter that Poisson-subsampled training tends to, ``sqrt(sum T q² (exp(1/sigma²) - 1))``.

    Raises:
        UserError: a stretch out of range.

    Source: Bu, Dong, Long & Su 2020, arXiv:1911.11607; Dong, Roth & Su 2022, arXiv:1905.02383, section 5.
    """
    total = 0.0
    for q, sigma, steps in stretches:
        check_stretch((q, sigma, steps))
        if q == 0 or steps == 0:
            continue
        if sigma == 0 or sigma**-2 > 700:  # exp would overflow
            return math.inf
        total += steps * q * q * math.expm1(sigma**-2)
    return math.sqrt(total)


def clt_epsilon(stretches: Iterable[Stretch], delta: float) -> CltEpsilon:
    """Central-limit approximation of epsilon; see `CltEpsilon` for why no gate rests on it.

    Raises:
        UserError: a stretch or delta out of range.
    """
    mu = clt_mu(stretches)
    return CltEpsilon(gaussian_epsilon(mu, delta), mu)


def full_batch_mu(stretches: Iterable[Stretch]) -> float | None:
    """Exact Gaussian-DP parameter of training whose every step saw every example; None where sampling was partial.

    Raises:
        UserError: a stretch out of range.
    """
    total = 0.0
    for q, sigma, steps in stretches:
        check_stretch((q, sigma, steps))
        if q == 0 or steps == 0:
            continue
        if q != 1:
            return None
        if sigma == 0:
            return math.inf
        total += steps / sigma**2
    return math.sqrt(total)


def fixed_order(stretches: Iterable[Stretch], one_order: bool = False) -> list[Stretch]:
    """Training on shuffled batches as one example sees it: a full-batch step, (1, sigma, 1), each time that it can take part.

    With ``floor(1/q)`` batches an epoch, T steps from an epoch's start hold an example at most ``ceil(T / floor(1/q))``
    times, one time more where the stretch starts inside an epoch. The order of the batches may be known: nothing is claimed
    of sampling, so each time counts as a whole Gaussian mechanism, and a random order is no worse (joint convexity). That
    is an upper bound for any shuffling. Neighbours differ by one example replaced by one without gradient ("zero-out"),
    which leaves the other examples' batches alone.

    Args:
        one_order: stretches of equal q and sigma went on in the order that the first of them began, as one stretch would have.

    Raises:
        UserError: a stretch out of range.

    Source: Chua et al. 2024, arXiv:2403.17673 (batches in a fixed order).
    """
    runs: list[Stretch] = []
    for q, sigma, steps in stretches:
        check_stretch((q, sigma, steps))
        if q == 0 or steps == 0:
            continue
        if one_order and runs and runs[-1][:2] == (q, sigma):
            steps += runs.pop()[2]
        runs.append((q, sigma, steps))
    return [
        (1.0, sigma, math.ceil(steps / max(1, math.floor(1 / q + 1e-9))) + (place > 0))
        for place, (q, sigma, steps) in enumerate(runs)
    ]


def mu_within(epsilon: float, delta: float) -> float:
    """The largest Gaussian-DP parameter that is (epsilon, delta)-private; exact, the inverse of `gaussian_epsilon`.

    Raises:
        UserError: epsilon is not positive and finite, or delta outside (0, 1).
    """
    check_delta(delta)
    if not 0 < epsilon < math.inf:
        raise UserError(f"epsilon={epsilon} must be positive and finite")
    high = 1.0
    while gaussian_delta(epsilon, high) < delta:
        high *= 2
    return float(brentq(lambda mu: gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12, rtol=1e-13))


def _check_mu(mu: float) -> None:
    if not mu >= 0:
        raise UserError(f"mu={mu} must be 0 or more")
