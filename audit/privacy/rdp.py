"""Rényi differential privacy of the Poisson-subsampled Gaussian mechanism, written from the paper.

It is the project's own second opinion on the accountant that a training run used, so it shares no code with it. Every
number speaks of add-or-remove-one neighbours and of independent (Poisson) sampling; it is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, gammasgn, log_ndtr, logsumexp

from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Stretch = tuple[float, float, int]
"""Sampling rate q in [0, 1], noise multiplier sigma >= 0, steps >= 0, all constant for that long."""

ORDERS: tuple[float, ...] = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64))
"""Rényi orders that Opacus minimises over by default: 1.1 … 10.9, 12 … 63."""

_ROUNDING = 1e-12  # below this a fractional order's log A is rounding noise
_MAX_TERMS = 2**17


@dataclass(frozen=True)
class RdpEpsilon:
    """An epsilon that follows from RDP."""

    epsilon: float
    """At least 0; infinite where there is no noise."""
    order: float
    """The order that gave it; NaN where none gave a finite one."""
    at_edge: bool
    """Whether that was the smallest or largest order tried, so that further orders might give less."""


def check_stretch(stretch: Stretch) -> None:
    """Refuse a stretch that no training can have.

    Raises:
        UserError: q outside [0, 1], sigma or steps negative or not finite.
    """
    q, sigma, steps = stretch
    if not 0 <= q <= 1:
        raise UserError(f"sampling rate q={q} must lie in [0, 1]: it is the chance of one example to be in one batch")
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise UserError(f"noise multiplier sigma={sigma} must be 0 or more and finite")
    if steps < 0 or steps != int(steps):
        raise UserError(f"steps={steps} must be a whole number, 0 or more")


def check_delta(delta: float) -> None:
    """Refuse a delta outside (0, 1).

    Raises:
        UserError: delta is no probability that a Gaussian mechanism can have.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta={delta} must lie strictly between 0 and 1, well below 1 / number of examples")


def sampled_gaussian_rdp(q: float, sigma: float, orders: Sequence[float] = ORDERS) -> NDArray[np.float64]:
    """RDP of one step at each order, ``(len(orders),)``; infinite where there is no noise.

    Args:
        q: chance of one example to be in the batch.
        sigma: standard deviation of the noise over the clipping norm.
        orders: each greater than 1.

    Raises:
        UserError: q, sigma or an order out of range.

    Source: Mironov, Talwar & Zhang 2019, arXiv:1908.10530, section 3.3.
    """
    check_stretch((q, sigma, 0))
    if not orders or not all(order > 1 for order in orders):
        raise UserError(f"Rényi orders must be greater than 1, got {list(orders)[:5]}")
    alphas = np.asarray(orders, dtype=np.float64)
    if q == 0:
        return np.zeros_like(alphas)
    if sigma == 0:
        return np.full_like(alphas, np.inf)
    if q == 1:
        return alphas / (2 * sigma**2)
    return np.array([_log_a(q, sigma, float(order)) / (order - 1) if order < np.inf else np.inf for order in orders])


def compose(stretches: Iterable[Stretch], orders: Sequence[float] = ORDERS) -> NDArray[np.float64]:
    """RDP of stretches run one after another: the sum at each order.

    Raises:
        UserError: a stretch or an order out of range.
    """
    total = np.zeros(len(orders))
    for q, sigma, steps in stretches:
        check_stretch((q, sigma, steps))
        if steps:
            total += steps * sampled_gaussian_rdp(q, sigma, orders)
    return total


def epsilon_from_rdp(rdp: NDArray[np.float64], delta: float, orders: Sequence[float] = ORDERS) -> RdpEpsilon:
    """The smallest epsilon over the orders at which `rdp` gives (epsilon, delta)-differential privacy.

    Raises:
        UserError: delta outside (0, 1).

    Source: Balle et al. 2020, arXiv:1905.09982, theorem 21 (also Canonne, Kamath & Steinke 2020, arXiv:2004.00010,
        proposition 12).
    """
    check_delta(delta)
    if len(rdp) != len(orders):
        raise ValueError(f"{len(rdp)} RDP values for {len(orders)} orders")
    if not np.any(rdp):
        return RdpEpsilon(0.0, math.nan, False)  # nothing was released
    alphas = np.asarray(orders, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # an infinite order
        epsilons = rdp + np.log1p(-1 / alphas) - (math.log(delta) + np.log(alphas)) / (alphas - 1)
    epsilons[np.isnan(epsilons)] = np.inf
    best = int(np.argmin(epsilons))
    if not math.isfinite(epsilons[best]):
        return RdpEpsilon(math.inf, math.nan, False)
    return RdpEpsilon(max(0.0, float(epsilons[best])), float(alphas[best]), best in (0, len(alphas) - 1))


def rdp_epsilon(stretches: Iterable[Stretch], delta: float, orders: Sequence[float] = ORDERS) -> RdpEpsilon:
    """Epsilon at `delta` of stretches run one after another; an upper bound.

    Raises:
        UserError: a stretch, delta or an order out of range.
    """
    return epsilon_from_rdp(compose(stretches, orders), delta, orders)


def _log_a(q: float, sigma: float, alpha: float) -> float:
    """Logarithm of E over z ~ N(0, sigma²) of ((1 - q) + q exp((2z - 1) / (2 sigma²)))^alpha, for 0 < q < 1."""
    if alpha == math.floor(alpha):
        return _log_a_integer(q, sigma, int(alpha))
    log_a = _log_a_fractional(q, sigma, alpha)
    if log_a > _ROUNDING:
        return log_a
    # log A is convex in alpha and 0 at alpha = 1: the chord between whole orders bounds it from above
    low = math.floor(alpha)
    left = _log_a_integer(q, sigma, low) if low > 1 else 0.0
    return left + (alpha - low) * (_log_a_integer(q, sigma, low + 1) - left)


def _log_a_integer(q: float, sigma: float, alpha: int) -> float:
    """A - 1 as a sum of positive terms (the binomial weights sum to 1), so that a tiny q loses no digit."""
    i = np.arange(2, alpha + 1, dtype=np.float64)
    exponent = i * (i - 1) / (2 * sigma**2)
    log_expm1 = exponent + np.log(-np.expm1(-exponent))
    log_weight = _log_binomial(alpha, i) + i * math.log(q) + (alpha - i) * math.log1p(-q)
    return float(np.logaddexp(0.0, logsumexp(log_weight + log_expm1)))


def _log_a_fractional(q: float, sigma: float, alpha: float) -> float:
    """The two series of section 3.3, summed in log space with their signs.

    Past i = alpha the terms alternate and shrink, so the first one left out bounds what is missing; it is added.
    """
    z0 = sigma**2 * (math.log1p(-q) - math.log(q)) + 0.5
    log_q, log_p = math.log(q), math.log1p(-q)
    parts: list[NDArray[np.float64]] = []
    signs: list[NDArray[np.float64]] = []
    start, stop = 0, 64 + 2 * math.ceil(alpha)
    while True:
        i = np.arange(start, stop, dtype=np.float64)
        j = alpha - i
        log_binomial = _log_binomial(alpha, i)
        below = i * log_q + j * log_p + i * (i - 1) / (2 * sigma**2) + log_ndtr((z0 - i) / sigma)
        above = j * log_q + i * log_p + j * (j - 1) / (2 * sigma**2) + log_ndtr((j - z0) / sigma)
        parts.append(log_binomial + np.logaddexp(below, above))
        signs.append(gammasgn(j + 1))
        terms, sign = np.concatenate(parts), np.concatenate(signs)
        log_sum = float(logsumexp(terms[:-1], b=sign[:-1]))
        last = float(terms[-1])
        if last < log_sum - 36 or stop >= _MAX_TERMS:  # exp(-36): below double precision
            return float(np.logaddexp(log_sum, last))
        start, stop = stop, 2 * stop


def _log_binomial(alpha: float, i: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the absolute generalised binomial coefficient alpha over i."""
    return np.asarray(gammaln(alpha + 1) - gammaln(i + 1) - gammaln(alpha - i + 1), dtype=np.float64)
