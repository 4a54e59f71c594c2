"""What it costs to have chosen hyper-parameters among several private trainings and to publish the best one alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from audit.parameters import UserError
from audit.privacy import rdp


def mean_trials(eta: float, gamma: float) -> float:
    """Mean number of trials that the truncated negative binomial distribution asks for.

    Args:
        eta: shape, above −1: 1 is the geometric distribution, 0 the logarithmic.
        gamma: in (0, 1); smaller means more trials.

    Raises:
        UserError: out of range.

    Source: Papernot & Steinke 2022, arXiv:2110.03620, definition 1.
    """
    if not (eta > -1 and math.isfinite(eta) and 0 < gamma < 1):
        raise UserError(f"numbers of trials need eta above -1 and gamma in (0, 1), got eta={eta}, gamma={gamma}")
    if eta == 0:
        return (1 / gamma - 1) / -math.log(gamma)
    return eta * (1 - gamma) / (gamma * -math.expm1(eta * math.log(gamma)))


def random_trials_epsilon(
    stretches: Sequence[rdp.Stretch], delta: float, eta: float, gamma: float, orders: Sequence[float] = rdp.ORDERS
) -> rdp.RdpEpsilon:
    """Epsilon of the best of a random number of trainings, where that number was drawn anew and nothing else is published.

    With one training's RDP ε(λ), that of the best one is ``ε(λ) + (1 + η)(1 − 1/λ̂) ε(λ̂) + (1 + η) log(1/γ) / λ̂ + log E[K] / (λ − 1)``
    for every λ̂ ≥ 1; the smallest over the orders is taken.

    Args:
        stretches: of one training; every trial spends at most as much.
        eta, gamma: of the truncated negative binomial distribution that the number of trials K was drawn from.

    Raises:
        UserError: a stretch, delta, eta or gamma out of range.

    Source: Papernot & Steinke 2022, arXiv:2110.03620, theorem 2.
    """
    mean = mean_trials(eta, gamma)
    one, alphas = rdp.compose(stretches, orders), np.asarray(orders, dtype=np.float64)
    extra = (1 + eta) * ((1 - 1 / alphas) * one - math.log(gamma) / alphas)
    return rdp.epsilon_from_rdp(one + extra.min() + math.log(mean) / (alphas - 1), delta, orders)


def all_trials_epsilon(stretches: Sequence[rdp.Stretch], delta: float, trials: int) -> rdp.RdpEpsilon:
    """Epsilon of a number of trainings that was fixed before: all are counted as if all were published.

    No bound of this kind gives much less: the best of a fixed number of trials can spend nearly what all of them do.

    Source: Papernot & Steinke 2022, arXiv:2110.03620 (why the number of trials is to be drawn at random).
    """
    return rdp.rdp_epsilon([(q, sigma, steps * trials) for q, sigma, steps in stretches], delta)
