"""Tests of batch sizes: exact under the null, and able to see what they are there to see."""

import numpy as np
import pytest
from scipy.stats import binom

from audit.privacy.sampling import compare_batches, exact_two_sided


@pytest.mark.parametrize(("n", "p"), [(20, 0.3), (50, 0.02), (7, 0.5)])
def test_two_sided_p_values_are_never_too_small(n, p):
    outcomes = np.arange(n + 1)
    p_values = np.array([exact_two_sided(int(k), n, p) for k in outcomes])
    for level in (0.01, 0.05, 0.2):
        assert binom.pmf(outcomes[p_values <= level], n, p).sum() <= level + 1e-12


def test_poisson_batches_pass():
    rng = np.random.default_rng(0)
    rate, spread = [], []
    for _ in range(200):
        test = compare_batches(rng.binomial(1437, 1 / 23, 230), 1437, 1 / 23)
        rate.append(test.rate_p)
        spread.append(test.spread_p)
    assert np.mean(np.array(rate) < 0.05) < 0.1
    assert np.mean(np.array(spread) < 0.05) < 0.1


def test_shuffled_batches_hit_the_total_and_betray_themselves_by_their_regularity():
    test = compare_batches([64] * 22 + [29], 1437, 1 / 23)
    assert test.rate_p == pytest.approx(1.0)
    assert test.spread_p < 1e-3
    assert test.usual_share > 0.9 > 0.6 > test.usual_chance >= 0.5


def test_wandering_rate_betrays_itself_too():
    rng = np.random.default_rng(1)
    sizes = np.concatenate([rng.binomial(2000, 0.02, 100), rng.binomial(2000, 0.08, 100)])
    test = compare_batches(sizes, 2000, 0.05)
    assert test.spread_p < 1e-6


def test_higher_rate_than_accounted_is_seen():
    rng = np.random.default_rng(2)
    test = compare_batches(rng.binomial(2000, 0.055, 200), 2000, 0.05)
    assert test.rate_p < 1e-4
    assert test.realised_rate == pytest.approx(0.055, rel=0.02)


def test_full_batches():
    assert compare_batches([10, 10, 10], 10, 1.0).rate_p == 1
    assert compare_batches([10, 9, 10], 10, 1.0).rate_p == 0


@pytest.mark.parametrize("sizes", [[], [11], [-1]])
def test_impossible_batches_are_refused(sizes):
    with pytest.raises(ValueError, match="batch sizes"):
        compare_batches(sizes, 10, 0.5)
