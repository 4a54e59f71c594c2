"""What choosing hyper-parameters costs: the distribution of trials, and the theorem at every pair of orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import gammaln

from audit.parameters import UserError
from audit.privacy import rdp
from audit.privacy.tuning import all_trials_epsilon, mean_trials, random_trials_epsilon

TRAINING = [(0.01, 1.0, 1000)]


@pytest.mark.parametrize(("eta", "gamma"), [(1, 0.1), (0, 0.05), (0.5, 0.1), (-0.5, 0.05), (2, 0.2)])
def test_the_mean_is_that_of_the_distribution(eta: float, gamma: float) -> None:
    k = np.arange(1, 5000, dtype=float)
    # rising factorial of eta over k!, up to its sign; its limit for eta = 0
    rising = 1 / k if eta == 0 else np.exp(gammaln(k + eta) - gammaln(k + 1))
    weights = rising * (1 - gamma) ** k
    assert mean_trials(eta, gamma) == pytest.approx((k * weights).sum() / weights.sum(), rel=1e-9)


def test_a_geometric_number_of_trials() -> None:
    assert mean_trials(1, 0.1) == pytest.approx(10)


def test_the_theorem_at_every_pair_of_orders() -> None:
    orders = (2.0, 4.0, 8.0, 16.0)
    one = rdp.compose(TRAINING, orders)
    eta, gamma, delta = 1.0, 0.1, 1e-5
    found = []
    for a, at_a in zip(orders, one, strict=True):
        for b, at_b in zip(orders, one, strict=True):
            tuned = at_a + (1 + eta) * (1 - 1 / b) * at_b + (1 + eta) * math.log(1 / gamma) / b + math.log(10) / (a - 1)
            found.append(tuned + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1))
    assert random_trials_epsilon(TRAINING, delta, eta, gamma, orders).epsilon == pytest.approx(min(found))


def test_more_trials_cost_more_and_always_something() -> None:
    one = rdp.rdp_epsilon(TRAINING, 1e-5).epsilon
    costs = [random_trials_epsilon(TRAINING, 1e-5, 0, gamma).epsilon for gamma in (0.5, 0.1, 0.01, 0.001)]
    assert costs == sorted(costs)
    assert one < costs[0]
    assert all_trials_epsilon(TRAINING, 1e-5, 1).epsilon == one
    assert all_trials_epsilon(TRAINING, 1e-5, 3).epsilon == rdp.rdp_epsilon(TRAINING * 3, 1e-5).epsilon


@pytest.mark.parametrize(("eta", "gamma"), [(-1, 0.5), (1, 0), (1, 1), (math.inf, 0.5), (1, math.nan)])
def test_distributions_that_are_none(eta: float, gamma: float) -> None:
    with pytest.raises(UserError, match="eta above -1"):
        mean_trials(eta, gamma)
