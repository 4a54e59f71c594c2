"""Ranks, the skew-normal and its tail, against formulas and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.special import log_ndtr
from scipy.stats import skewnorm

from audit.parameters import UserError
from audit.privacy.exposure import (
    SkewNormal,
    Space,
    exposure,
    exposure_floor,
    extrapolate,
    fit_skew_normal,
    rank,
)

DIGITS = tuple("0123456789")


def test_known_values() -> None:
    assert exposure(1, 10**6) == pytest.approx(19.931569, abs=1e-6)
    assert exposure(10**6, 10**6) == 0
    assert exposure_floor(0, 2000) == pytest.approx(-math.log2(1 - 0.05 ** (1 / 2000)))
    for wrong in (0, 11):
        with pytest.raises(UserError):
            exposure(wrong, 10)


def test_ties_count_half() -> None:
    assert rank(2.0, [1, 3, 4]) == 2
    assert rank(2.0, [2, 2, 5]) == 2
    assert rank(1.0, np.ones(99)) == 50.5  # a model that tells nothing apart exposes one bit


def test_a_random_secret_is_seldom_exposed() -> None:
    bits = np.random.default_rng(0).normal(size=1000)
    found = np.array([exposure(rank(bits[i], np.delete(bits, i)), 1000) for i in range(1000)])
    assert found.mean() == pytest.approx(1 / math.log(2), abs=0.02)
    for x in (1, 3, 6):
        assert (found > x).mean() == pytest.approx(2.0**-x, abs=2e-3)


def test_a_space_is_all_and_no_more() -> None:
    space = Space((("a",), ("0", "1"), ("x", "y", "z")))
    assert space.size == 6
    assert list(space.all()) == ["".join(p) for p in itertools.product("a", "01", "xyz")]
    assert sorted(space.sample(6, np.random.default_rng(0))) == sorted(space.all())
    large = Space((DIGITS,) * 16)
    drawn = large.sample(3000, np.random.default_rng(0))
    assert len(set(drawn)) == 3000
    assert np.bincount([int(c) for s in drawn for c in s], minlength=10) == pytest.approx(4800, rel=0.05)
    with pytest.raises(UserError, match="no 7 different"):
        space.sample(7, np.random.default_rng(0))


@pytest.mark.parametrize("shape", [-4.0, -0.5, 0.0, 1.0, 6.0])
def test_the_distribution_function_is_scipys_where_that_is_sure(shape: float) -> None:
    x = skewnorm.ppf([1e-4, 1e-2, 0.1, 0.5, 0.9], shape, 3, 2)
    assert SkewNormal(3, 2, shape).log_cdf(x) == pytest.approx(np.log([1e-4, 1e-2, 0.1, 0.5, 0.9]), abs=1e-6)


def test_the_far_tail() -> None:
    assert SkewNormal(0, 1, 0).log_cdf([-40.0, -10.0]) == pytest.approx(log_ndtr([-40.0, -10.0]), rel=1e-12)
    assert SkewNormal(0, 1, -1).log_cdf([-30.0]) == pytest.approx(log_ndtr([-30.0]) + math.log(2), rel=1e-9)
    # shape 1: F = Φ(z)², exactly
    assert SkewNormal(0, 1, 1).log_cdf([-30.0, -6.0]) == pytest.approx(2 * log_ndtr([-30.0, -6.0]), rel=1e-9)


@pytest.mark.parametrize("shape", [-5.0, 0.0, 3.0])
def test_the_fit_is_scipys(shape: float) -> None:
    x = skewnorm.rvs(shape, 40, 5, size=4000, random_state=1)
    found, (a, loc, scale) = fit_skew_normal(x), skewnorm.fit(x)
    mine = skewnorm.logpdf(x, found.shape, found.location, found.scale).mean()
    assert mine == pytest.approx(skewnorm.logpdf(x, a, loc, scale).mean(), abs=1e-3)
    if shape:
        assert (found.location, found.scale, found.shape) == pytest.approx((40, 5, shape), rel=0.1)


def test_a_sample_of_one_value_has_no_fit() -> None:
    with pytest.raises(UserError, match="three different"):
        fit_skew_normal(np.ones(50))


def test_extrapolation_finds_the_tail_of_what_it_was_drawn_from() -> None:
    truth = SkewNormal(50, 6, 2)
    sample = skewnorm.rvs(2, 50, 6, size=600, random_state=0)
    canaries = np.array([40.0, 45.0, 55.0, -500.0])
    found = extrapolate(canaries, sample, 10**9, np.random.default_rng(0))
    wanted = np.minimum(-truth.log_cdf(canaries) / math.log(2), math.log2(10**9))  # rank 1 of all is the most there is
    low, high = np.quantile(found.replicates, [0.025, 0.975], axis=1)
    assert ((low <= wanted) & (wanted <= high)).all()
    assert ((low <= found.values) & (found.values <= high)).all()
    assert found.p_value > 0.05


def test_two_heaps_are_no_skew_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.privacy.exposure.REPLICATES", 1)
    rng = np.random.default_rng(0)
    sample = np.r_[rng.normal(0, 1, 300), rng.normal(20, 1, 300)]
    assert extrapolate([0.0], sample, 10**9, rng).p_value < 1e-6
