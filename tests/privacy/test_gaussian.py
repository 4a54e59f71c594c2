"""The exact Gaussian curve, the central-limit accountant and the bound for shuffled batches."""

import math

import pytest
from scipy.stats import norm

from audit.parameters import UserError
from audit.privacy.gaussian import (
    clt_epsilon,
    clt_mu,
    fixed_order,
    full_batch_mu,
    gaussian_delta,
    gaussian_epsilon,
    mu_within,
)


@pytest.mark.parametrize(("mu", "epsilon"), [(0.5, 1.993091), (1, 4.377178), (2, 9.997256), (2.01099, 10.06496)])
def test_known_epsilons(mu, epsilon):
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(epsilon, abs=1e-4 if mu == 2.01099 else 1e-6)


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1, 7, 100])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.3])
def test_epsilon_inverts_delta(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    if epsilon == 0:
        assert gaussian_delta(0, mu) <= delta
    else:
        assert gaussian_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)


def test_delta_in_closed_form():
    assert gaussian_delta(0, 1) == pytest.approx(2 * norm.cdf(0.5) - 1)  # total variation
    assert gaussian_delta(1, 2) == pytest.approx(norm.cdf(0.5) - math.e * norm.cdf(-1.5))


def test_extremes():
    assert gaussian_epsilon(0, 1e-5) == 0
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert gaussian_epsilon(1e-9, 1e-5) == 0
    assert gaussian_epsilon(1000, 1e-5) == pytest.approx(500_000 + 1000 * norm.isf(1e-5), rel=1e-5)
    assert gaussian_delta(2000.0, 1.0) == 0  # exp(2000) overflows, delta does not
    assert gaussian_delta(math.inf, 1) == 0
    assert gaussian_delta(3, math.inf) == 1


@pytest.mark.parametrize("call", [lambda: gaussian_epsilon(-1, 1e-5), lambda: gaussian_epsilon(1, 0), lambda: gaussian_delta(-1, 1), lambda: gaussian_delta(1, math.nan)])  # fmt: skip
def test_bad_values_are_refused(call):
    with pytest.raises(UserError):
        call()


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "epsilon"),
    [
        (1.5, 0.04, 2250, 6.601567),
        (1.3, 1 / 240, 3600, 0.823696),
        (4, 0.01, 10000, 0.942440),
        (0.8, 0.01, 1000, 2.509518),
    ],
)
def test_central_limit_known_epsilons(sigma, q, steps, epsilon):
    assert clt_epsilon([(q, sigma, steps)], 1e-5).epsilon == pytest.approx(epsilon, abs=1e-4)


def test_central_limit_errs_both_ways():
    above = clt_epsilon([(1, 1, 1)], 1e-5)
    assert above.epsilon == pytest.approx(6.007, abs=1e-3)
    assert above.epsilon > gaussian_epsilon(1, 1e-5) + 1
    below = clt_epsilon([(0.01, 0.8, 1000)], 1e-5)
    assert below.epsilon < 3.13  # the lower end of numerical composition
    assert "errs both ways" in above.caution


def test_central_limit_composes_and_survives_tiny_noise():
    assert clt_mu([(0.1, 1, 50), (0.1, 1, 50)]) == pytest.approx(clt_mu([(0.1, 1, 100)]))
    assert clt_mu([(0.1, 1e-3, 1)]) == clt_mu([(0.1, 0, 1)]) == math.inf
    assert clt_mu([(0, 0, 10), (0.5, 0, 0)]) == 0


def test_full_batches_compose_exactly():
    assert full_batch_mu([(1, 2, 16), (1, 1, 5)]) == pytest.approx(3)
    assert full_batch_mu([(1, 0, 1)]) == math.inf
    assert full_batch_mu([(1, 1, 1), (0.5, 1, 1)]) is None
    assert full_batch_mu([(1, 1, 1), (0, 1, 9)]) == 1


@pytest.mark.parametrize(
    ("stretches", "participations"),
    [
        ([(1 / 23, 1.0, 23)], 1),
        ([(1 / 23, 1.0, 24)], 2),
        ([(64 / 1437, 1.0, 44)], 2),  # 22 whole batches an epoch
        ([(0.04, 1.0, 2250)], 90),
        ([(1.0, 1.0, 7)], 7),
        ([(0.25, 1.0, 2), (0.25, 1.0, 2)], 3),  # the second starts inside an epoch: once, and once again after its end
        ([(0.0, 1.0, 5)], 0),
    ],
)
def test_shuffled_batches_count_participations(stretches, participations):
    seen = fixed_order(stretches)
    assert sum(times for _, _, times in seen) == participations
    assert all((q, sigma) == (1.0, 1.0) for q, sigma, _ in seen)


def test_an_order_that_goes_on_holds_each_example_once_an_epoch():
    parts = [(0.25, 1.0, 2), (0.25, 1.0, 3), (0.25, 2.0, 1), (0.25, 1.0, 1)]
    assert fixed_order(parts, one_order=True) == [(1.0, 1.0, 2), (1.0, 2.0, 2), (1.0, 1.0, 2)]
    assert fixed_order(parts) == [(1.0, 1.0, 1), (1.0, 1.0, 2), (1.0, 2.0, 2), (1.0, 1.0, 2)]


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (4.377178, 1e-5), (50, 1e-9)])
def test_mu_is_the_inverse_of_epsilon(epsilon, delta):
    assert gaussian_epsilon(mu_within(epsilon, delta), delta) == pytest.approx(epsilon, rel=1e-9)


def test_known_mu_of_an_epsilon():
    assert mu_within(4.377178, 1e-5) == pytest.approx(1, abs=1e-6)
    with pytest.raises(UserError, match="positive"):
        mu_within(0, 1e-5)
