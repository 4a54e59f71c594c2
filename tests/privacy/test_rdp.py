"""The project's own RDP accountant against known values, closed forms and plain numerical integration."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from audit.parameters import UserError
from audit.privacy import rdp
from audit.privacy.rdp import ORDERS, compose, epsilon_from_rdp, rdp_epsilon, sampled_gaussian_rdp

KNOWN = [  # sigma, q, steps, delta, epsilon on Opacus's default orders
    (1.5, 0.04, 2250, 1e-5, 7.32911117),
    (1.3, 1 / 240, 3600, 1e-5, 0.942200),
    (4, 0.01, 10000, 1e-5, 1.035490),
    (0.8, 0.01, 1000, 1e-5, 3.695429),
    (1, 1, 1, 1e-5, 4.728507),
]


@pytest.mark.parametrize(("sigma", "q", "steps", "delta", "epsilon"), KNOWN)
def test_known_epsilons(sigma, q, steps, delta, epsilon):
    assert rdp_epsilon([(q, sigma, steps)], delta).epsilon == pytest.approx(epsilon, abs=1e-4)


def _log_moment_by_integration(q, sigma, alpha):
    """log E[(mixture density / noise density)^alpha] under the noise, without any series."""

    def integrand(z):
        log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
        return math.exp(alpha * log_ratio - z * z / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    kink = sigma**2 * math.log(1 / q - 1) + 0.5
    points = sorted({-12 * sigma, 0.0, kink, alpha, alpha + 12 * sigma, kink + 12 * sigma})
    return math.log(sum(quad(integrand, a, b, limit=400, epsabs=0, epsrel=1e-11)[0] for a, b in pairwise(points)))


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2, 2.5, 6.3, 10.9, 20])
@pytest.mark.parametrize(("q", "sigma"), [(0.04, 1.5), (0.3, 0.8), (0.5, 3.0), (0.01, 0.7)])
def test_one_step_equals_numerical_integration(q, sigma, alpha):
    own = sampled_gaussian_rdp(q, sigma, [alpha])[0] * (alpha - 1)
    assert own == pytest.approx(_log_moment_by_integration(q, sigma, alpha), rel=1e-6, abs=1e-9)


def test_extremes_of_sampling_and_noise():
    orders = [1.5, 2, 32]
    assert sampled_gaussian_rdp(0, 0, orders).tolist() == [0, 0, 0]
    assert sampled_gaussian_rdp(0.1, 0, orders).tolist() == [math.inf] * 3
    assert sampled_gaussian_rdp(1, 2.0, orders) == pytest.approx([a / 8 for a in orders])
    assert sampled_gaussian_rdp(0.1, 1.0, [2, math.inf])[1] == math.inf
    assert rdp_epsilon([(0, 1, 100)], 1e-5).epsilon == 0
    assert rdp_epsilon([], 1e-5).epsilon == 0
    assert rdp_epsilon([(0.1, 0, 1)], 1e-5).epsilon == math.inf
    assert rdp_epsilon([(0.1, 0, 0)], 1e-5).epsilon == 0


@pytest.mark.parametrize("q", [1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 20.0])
def test_order_two_in_closed_form_however_small_q(q, sigma):
    assert sampled_gaussian_rdp(q, sigma, [2])[0] == pytest.approx(math.log1p(q * q * math.expm1(sigma**-2)), rel=1e-10)


def test_fractional_orders_never_fall_below_the_truth_where_rounding_would_eat_them():
    q, sigma, alpha = 1e-8, 1.0, 1.5
    truth = alpha / 2 * q * q * math.expm1(sigma**-2)  # leading term; the next is smaller by a factor q
    own = sampled_gaussian_rdp(q, sigma, [alpha])[0]
    assert truth <= own <= 3 * truth


def test_fractional_orders_join_the_whole_ones():
    for q, sigma in [(0.04, 1.5), (0.5, 0.6), (0.2, 30.0)]:
        below, at, above = sampled_gaussian_rdp(q, sigma, [3 - 1e-7, 3, 3 + 1e-7])
        assert below == pytest.approx(at, rel=1e-5)
        assert above == pytest.approx(at, rel=1e-5)


@pytest.mark.parametrize("alpha", [1.1, 2.1])  # the first term left out is negative, positive
def test_a_series_cut_short_errs_upwards(alpha, monkeypatch):
    full = sampled_gaussian_rdp(0.5, 30.0, [alpha])[0]
    monkeypatch.setattr(rdp, "_MAX_TERMS", 64)
    assert full <= sampled_gaussian_rdp(0.5, 30.0, [alpha])[0] < 1.5 * full


def test_rdp_grows_with_order_and_rate_and_falls_with_noise():
    curve = sampled_gaussian_rdp(0.05, 1.1)
    assert (np.diff(curve) > 0).all()
    assert (sampled_gaussian_rdp(0.06, 1.1) > curve).all()
    assert (sampled_gaussian_rdp(0.05, 1.2) < curve).all()


def test_high_orders_stay_finite_and_below_the_full_batch():
    orders = [200, 1000]
    assert (sampled_gaussian_rdp(0.01, 2.0, orders) < sampled_gaussian_rdp(1, 2.0, orders)).all()
    assert np.isfinite(sampled_gaussian_rdp(0.01, 0.1, orders)).all()


def test_stretches_add_up():
    whole = compose([(0.04, 1.5, 300), (0.01, 0.9, 200)])
    assert whole == pytest.approx(300 * sampled_gaussian_rdp(0.04, 1.5) + 200 * sampled_gaussian_rdp(0.01, 0.9))
    assert whole == pytest.approx(compose([(0.01, 0.9, 150), (0.04, 1.5, 300), (0.01, 0.9, 50)]))
    mixed = rdp_epsilon([(0.04, 1.5, 300), (0.01, 0.9, 200)], 1e-5).epsilon
    assert rdp_epsilon([(0.04, 1.5, 300)], 1e-5).epsilon < mixed


def test_the_order_that_won_and_whether_it_was_the_last_one_tried():
    inner = rdp_epsilon([(0.04, 1.5, 2250)], 1e-5)
    assert inner.order == pytest.approx(3.9)
    assert not inner.at_edge
    edge = rdp_epsilon([(1e-4, 4, 10)], 1e-5)
    assert (edge.order, edge.at_edge) == (63, True)
    assert rdp_epsilon([(1e-4, 4, 10)], 1e-5, [*ORDERS, 128, 1024]).epsilon < edge.epsilon / 2


def test_epsilon_is_never_negative():
    assert epsilon_from_rdp(np.array([1e-9]), 0.9, [2]).epsilon == 0


@pytest.mark.parametrize(
    ("stretch", "delta", "says"),
    [
        ((1.2, 1, 1), 1e-5, "q=1.2"),
        ((-0.1, 1, 1), 1e-5, "q=-0.1"),
        ((math.nan, 1, 1), 1e-5, "q=nan"),
        ((0.1, -1, 1), 1e-5, "sigma=-1"),
        ((0.1, math.inf, 1), 1e-5, "sigma=inf"),
        ((0.1, 1, -3), 1e-5, "steps=-3"),
        ((0.1, 1, 2.5), 1e-5, "steps=2.5"),
        ((0.1, 1, 1), 0, "delta=0"),
        ((0.1, 1, 1), 1, "delta=1"),
    ],
)
def test_bad_values_are_named(stretch, delta, says):
    with pytest.raises(UserError, match=says):
        rdp_epsilon([stretch], delta)


def test_orders_must_exceed_one():
    with pytest.raises(UserError, match="greater than 1"):
        sampled_gaussian_rdp(0.1, 1, [1, 2])
