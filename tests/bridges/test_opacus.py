"""Opacus behind its bridge: known values, certified errors, and what happens where its arithmetic ends."""

import math
import random
import warnings

import numpy as np
import pytest
import torch

from audit.bridges import opacus as bridge
from audit.bridges.opacus import noise_multiplier, prv_epsilon, rdp_reference
from audit.parameters import UserError
from audit.privacy.gaussian import full_batch_mu, gaussian_epsilon
from audit.privacy.rdp import ORDERS, rdp_epsilon, sampled_gaussian_rdp

KNOWN = [  # sigma, q, steps, RDP, PRV at delta 1e-5
    (1.5, 0.04, 2250, 7.32911117, 6.779132),
    (1.3, 1 / 240, 3600, 0.942200, 0.863046),
    (4, 0.01, 10000, 1.035490, 0.956936),
    (0.8, 0.01, 1000, 3.695429, 3.151263),
    (1, 1, 1, 4.728507, 4.387414),
]


@pytest.mark.parametrize(("sigma", "q", "steps", "rdp", "prv"), KNOWN)
def test_known_epsilons(sigma, q, steps, rdp, prv):
    found = prv_epsilon([(q, sigma, steps)], 1e-5)
    assert found.accountant == "prv"
    assert found.epsilon == pytest.approx(prv, abs=1e-3)
    assert found.lower <= found.estimate <= found.epsilon
    assert rdp_reference([(q, sigma, steps)], 1e-5) == pytest.approx(rdp, abs=1e-4)
    assert found.epsilon <= rdp + found.eps_error


def test_epsilon_is_that_of_opacus_own_accountant():
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(1.5, 0.04, 300), (1.1, 0.02, 200)]
    own = prv_epsilon([(0.04, 1.5, 300), (0.02, 1.1, 200)], 1e-5, eps_error=0.05)
    assert own.epsilon == pytest.approx(accountant.get_epsilon(1e-5, eps_error=0.05), abs=1e-9)


@pytest.mark.parametrize(
    "stretches", [[(1, 1, 1)], [(1, 10, 100)], [(1, 5, 100)], [(1, 2, 3), (1, 4, 8)], [(1, 30, 1)]]
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_exact_lies_between_the_ends_and_prv_below_rdp(stretches, delta):
    exact = gaussian_epsilon(full_batch_mu(stretches), delta)
    found = prv_epsilon(stretches, delta)
    assert found.fallback is None
    assert found.lower <= exact <= found.epsilon <= rdp_epsilon(stretches, delta).epsilon + found.eps_error


@pytest.mark.parametrize(
    "stretches",
    [[(0.3, 0.9, 20)], [(0.001, 0.6, 500)], [(0.05, 2.5, 400)], [(0.9, 1.2, 5)], [(0.02, 1.0, 50), (0.2, 2.0, 10)]],
)
def test_prv_never_exceeds_rdp_by_more_than_its_error(stretches):
    found = prv_epsilon(stretches, 1e-6)
    assert found.accountant == "prv"
    assert found.lower < found.epsilon <= rdp_epsilon(stretches, 1e-6).epsilon + found.eps_error


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 0.5), (0.04, 1.5), (0.3, 2.0), (0.7, 0.8), (1.0, 1.0), (1e-3, 30.0)])
def test_own_rdp_equals_opacus_at_every_default_order(q, sigma):
    from opacus.accountants.analysis.rdp import compute_rdp

    reference = compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=ORDERS)
    assert sampled_gaussian_rdp(q, sigma) == pytest.approx(reference, rel=1e-6, abs=1e-12)


def test_default_orders_are_opacus_own():
    from opacus.accountants import RDPAccountant

    assert list(ORDERS) == RDPAccountant.DEFAULT_ALPHAS


def test_errors_allowed_for_change_the_result():
    stretches = [(0.04, 1.5, 100)]
    coarse, fine = prv_epsilon(stretches, 1e-5, eps_error=0.1), prv_epsilon(stretches, 1e-5, eps_error=0.02)
    assert coarse.epsilon - coarse.lower > 4 * (fine.epsilon - fine.lower)
    assert coarse.lower < fine.estimate < coarse.epsilon
    assert prv_epsilon(stretches, 1e-5, eps_error=0.1, delta_error=1e-6).epsilon > coarse.epsilon


def test_orders_change_the_reference():
    assert rdp_reference([(0.04, 1.5, 100)], 1e-5, orders=[2.0, 3.0]) > rdp_reference([(0.04, 1.5, 100)], 1e-5)


def test_nothing_released_and_nothing_hidden():
    assert prv_epsilon([], 1e-5).epsilon == prv_epsilon([(0, 1, 9), (0.5, 0, 0)], 1e-5).epsilon == 0
    assert prv_epsilon([(0.5, 0, 1)], 1e-5).epsilon == math.inf
    assert rdp_reference([], 1e-5) == 0
    assert rdp_reference([(0.5, 0, 1)], 1e-5) == math.inf


def test_equal_stretches_are_one():
    assert prv_epsilon([(0.04, 1.5, 60), (0.04, 1.5, 40)], 1e-5) == prv_epsilon([(0.04, 1.5, 100)], 1e-5)


@pytest.mark.parametrize(
    ("stretches", "delta", "why"),
    [
        ([(0.01, 0.1, 1000)], 1e-5, "mesh points"),  # memory
        ([(0.01, 4, 10000)], 1e-11, "too small for double precision"),
        ([(0.04, 1.5, 250)], 0.9999, "Cannot compute epsilon"),  # Opacus raises
    ],
)
def test_falls_back_to_rdp_and_says_so(stretches, delta, why):
    found = prv_epsilon(stretches, delta)
    assert found.accountant == "rdp"
    assert why in found.fallback
    assert "RDP accountant stands in" in found.fallback
    assert (found.lower, found.estimate) == (0, None)
    assert found.epsilon == rdp_reference(stretches, delta)


def test_an_integral_that_does_not_converge_is_a_failure(monkeypatch):
    from opacus.accountants.analysis.prv import TruncatedPrivacyRandomVariable
    from scipy.integrate import IntegrationWarning

    def mean(self):
        warnings.warn("The integral is probably divergent", IntegrationWarning, stacklevel=1)
        return 0.0

    monkeypatch.setattr(TruncatedPrivacyRandomVariable, "mean", mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a caller may have set it
        assert "probably divergent" in prv_epsilon([(0.04, 1.5, 100)], 1e-5).fallback


def test_rounding_is_allowed_for_where_delta_is_small():
    found = prv_epsilon([(1, 10, 100)], 1e-9)
    assert found.accountant == "prv"
    assert found.delta_error > 1e-12


@pytest.mark.parametrize(("accountant", "sigma"), [("rdp", 1.416), ("prv", 1.34765625), ("gdp", 1.3232421875)])
def test_known_noise_multipliers(accountant, sigma):
    found = noise_multiplier(8, 1e-5, 0.04, epochs=90, accountant=accountant)
    assert found.sigma == pytest.approx(sigma, abs=1e-4)
    assert (found.accountant, found.fallback) == (accountant, None)


def test_noise_multiplier_by_steps_meets_the_budget():
    found = noise_multiplier(2, 1e-5, 0.01, steps=200, accountant="rdp")
    assert 2 - 0.01 <= rdp_reference([(0.01, found.sigma, 200)], 1e-5) <= 2
    assert noise_multiplier(2, 1e-5, 0.01, steps=400, accountant="rdp").sigma > found.sigma


def test_noise_multiplier_falls_back_before_it_runs_out_of_memory():
    found = noise_multiplier(5000, 1e-5, 0.01, steps=500)
    assert found.accountant == "rdp"
    assert "mesh points" in found.fallback


def test_noise_multiplier_where_an_example_is_hardly_ever_drawn():
    found = noise_multiplier(8, 1e-3, 1e-5, steps=10)
    assert found.accountant == "rdp"
    assert "hardly ever drawn" in found.fallback


@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon": 0, "steps": 1}, {"epsilon": 1}, {"epsilon": 1, "steps": 1, "epochs": 1}, {"epsilon": 1, "steps": 0},
        {"epsilon": 1, "steps": 1, "delta": 0}, {"epsilon": 1, "steps": 1, "sampling_rate": 0},
        {"epsilon": 1e-9, "steps": 10**6, "delta": 1e-12, "accountant": "rdp"},
    ],
)  # fmt: skip
def test_bad_budgets_are_refused(arguments):
    with pytest.raises(UserError):
        noise_multiplier(**{"delta": 1e-5, "sampling_rate": 0.1, **arguments})


@pytest.mark.parametrize(
    ("stretches", "options"),
    [
        ([(1.5, 1, 1)], {}), ([(0.5, -1, 1)], {}), ([(0.5, 1, -1)], {}), ([(0.5, 1, 1)], {"delta": 1.0}),
        ([(0.5, 1, 1)], {"eps_error": 0.0}), ([(0.5, 1, 1)], {"delta_error": 1e-5}),
    ],
)  # fmt: skip
def test_bad_values_are_refused(stretches, options):
    with pytest.raises(UserError):
        prv_epsilon(stretches, **{"delta": 1e-5, **options})


def test_global_state_is_left_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), np.geterr()
    filters = list(warnings.filters)
    prv_epsilon([(0.04, 1.5, 100)], 1e-5)
    rdp_reference([(0.04, 1.5, 100)], 1e-5)
    noise_multiplier(8, 1e-5, 0.04, epochs=90, accountant="gdp")
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), np.geterr()
    assert after == before
    assert warnings.filters == filters


def test_importing_the_bridge_imports_no_opacus():
    import subprocess
    import sys

    code = (
        "import sys, audit.bridges.opacus; print(any(m in sys.modules for m in ('opacus', 'torch', 'scipy', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    assert bridge.LARGEST_DOMAIN == 2**23
