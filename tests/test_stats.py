"""Intervals, tests and resampling against closed forms, published values, scipy and scikit-learn, and simulation."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import bdtr, ndtr, ndtri

from audit import stats

reproducibly = settings(deadline=None, database=None, derandomize=True, max_examples=100)
SIDES = ("greater", "less")


def counts(largest: int = 400):
    return st.integers(1, largest).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def excludes(interval: tuple[float, float], threshold: float, side: str) -> bool:
    return threshold < interval[0] if side == "greater" else threshold > interval[1]


def test_importing_costs_no_heavy_package():
    code = "import sys, audit.stats; print([m for m in ('numpy', 'scipy', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# --- proportions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 100, 0, 0.036217), (5, 10, 0.187086, 0.812914), (95, 100, 0.887165, 0.983568)],
)
def test_clopper_pearson_known_values(k, n, low, high):
    assert stats.clopper_pearson(k, n) == pytest.approx((low, high), abs=1e-5)


def test_clopper_pearson_gives_the_known_bounds_that_rest_on_it():
    def lower(k, n, level=0.95):
        return stats.clopper_pearson(k, n, level)[0]

    def upper(k, n):
        return stats.clopper_pearson(k, n)[1]

    assert math.log(lower(1000, 1000) / upper(0, 1000)) == pytest.approx(5.60059, abs=1e-5)
    assert math.log((lower(500, 1000) - 1e-5) / upper(10, 1000)) == pytest.approx(3.24200, abs=1e-5)
    # randomised smoothing puts all of alpha = .001 on the lower side: a two-sided 99.8 % interval
    assert 0.25 * ndtri(lower(100, 100, 0.998)) == pytest.approx(0.375119, abs=1e-6)
    assert 0.5 * ndtri(lower(99000, 100000, 0.998)) == pytest.approx(1.145000, abs=1e-6)


def test_clopper_pearson_without_trials_says_nothing():
    assert stats.clopper_pearson(0, 0) == (0.0, 1.0)
    assert [stats.binomial_p_value(0, 0, 0.5, side) for side in SIDES] == [1.0, 1.0]
    assert stats.binomial_p_value(0, 0, -0.1, "greater") == 1.0


@reproducibly
@given(counts(), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.999]))
def test_proportions_agree_with_scipy(trials, p0, level):
    from scipy.stats import binomtest

    k, n = trials
    reference = binomtest(k, n).proportion_ci(level, method="exact")
    assert stats.clopper_pearson(k, n, level) == pytest.approx((reference.low, reference.high), rel=1e-9, abs=1e-12)
    for side in SIDES:
        expected = binomtest(k, n, p0, alternative=side).pvalue
        assert stats.binomial_p_value(k, n, p0, side) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@reproducibly
@given(counts(), st.floats(-0.2, 1.2), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from(SIDES))
def test_binomial_p_value_decides_as_clopper_pearson(trials, p0, level, side):
    p_value = stats.binomial_p_value(*trials, p0, side)
    assume(abs(p_value - (1 - level) / 2) > 1e-9)
    assert (p_value <= (1 - level) / 2) == excludes(stats.clopper_pearson(*trials, level), p0, side)


def test_binomial_p_value_at_the_ends_of_the_range():
    assert stats.binomial_p_value(0, 10, 0.0, "greater") == 1.0
    assert stats.binomial_p_value(1, 10, 0.0, "greater") == 0.0
    assert stats.binomial_p_value(10, 10, 1.0, "less") == 1.0
    assert stats.binomial_p_value(9, 10, 1.0, "less") == 0.0
    assert stats.binomial_p_value(0, 10, -0.1, "greater") == 0.0
    assert stats.binomial_p_value(10, 10, 1.1, "greater") == 1.0


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.97])
def test_clopper_pearson_covers_at_least_its_level(p):
    from scipy.stats import binom

    n = 40
    covered = [low <= p <= high for low, high in (stats.clopper_pearson(k, n) for k in range(n + 1))]
    assert binom.pmf(np.arange(n + 1), n, p)[covered].sum() >= 0.95


def test_mcnemar_known_value():
    assert stats.mcnemar_exact(10, 2) == pytest.approx(0.038574, abs=1e-6)
    assert stats.mcnemar_exact(2, 10) == stats.mcnemar_exact(10, 2)
    assert stats.mcnemar_exact(0, 0) == 1.0


@reproducibly
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_scipy(b, c):
    from scipy.stats import binomtest

    assume(b + c > 0)
    for alternative in ("two-sided", *SIDES):
        expected = binomtest(b, b + c, 0.5, alternative=alternative).pvalue
        assert stats.mcnemar_exact(b, c, alternative) == pytest.approx(expected, rel=1e-9)


# --- means -------------------------------------------------------------------------------------------------------


@reproducibly
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(-1e3, 1e3))
def test_means_agree_with_scipy(values, threshold):
    from scipy.stats import ttest_1samp

    assume(np.std(values) > 1e-6)
    mean, se, n = stats.mean_and_se(values)
    for side in SIDES:
        expected = ttest_1samp(values, threshold, alternative=side).pvalue
        assert stats.t_p_value(mean, se, n, threshold, side) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    reference = ttest_1samp(values, threshold).confidence_interval(0.95)
    assert stats.t_interval(mean, se, n) == pytest.approx((reference.low, reference.high), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(("n", "level"), [(2, 0.95), (3, 0.999), (30, 0.9), (100_000, 0.999999)])
def test_t_quantile_agrees_with_scipy(n, level):
    from scipy.stats import t

    assert stats.t_interval(0.0, 1.0, n, level)[1] == pytest.approx(t.ppf((1 + level) / 2, n - 1), rel=1e-8)


@reproducibly
@given(
    st.floats(-5, 5),
    st.sampled_from([0.0, 0.01, 1.0]),
    st.integers(1, 20),
    st.floats(-5, 5),
    st.sampled_from([0.8, 0.95, 0.999]),
    st.sampled_from(SIDES),
)
def test_t_p_value_decides_as_t_interval(value, se, n, threshold, level, side):
    p_value = stats.t_p_value(value, se, n, threshold, side)
    assume(abs(p_value - (1 - level) / 2) > 1e-9)
    assert (p_value <= (1 - level) / 2) == excludes(stats.t_interval(value, se, n, level), threshold, side)


def test_a_single_value_bounds_nothing():
    assert stats.mean_and_se([0.3]) == (0.3, 0.0, 1)
    assert stats.t_interval(0.3, 0.0, 1) == (-math.inf, math.inf)
    assert stats.t_p_value(0.3, 0.0, 1, -100.0, "greater") == 1.0


def test_equal_values_bound_only_when_there_are_enough_of_them():
    assert stats.mean_and_se([0.1] * 7) == (0.1, 0.0, 7)  # the plain formula leaves rounding noise in se
    assert stats.t_interval(0.1, 0.0, 5) == (-math.inf, math.inf)  # 1 - 2^-4 = 93.75 %
    assert stats.t_interval(0.1, 0.0, 6) == (0.1, 0.1)  # 1 - 2^-5 = 96.875 %
    assert stats.t_interval(0.1, 0.0, 6, 0.99) == (-math.inf, math.inf)
    assert stats.t_p_value(0.1, 0.0, 6, 0.0, "greater") == 2**-6
    assert stats.t_p_value(0.1, 0.0, 6, 0.0, "less") == 1.0
    assert stats.t_p_value(0.1, 0.0, 6, 0.1, "greater") == 1.0  # equality is no excess
    assert stats.t_p_value(0.1, 0.0, 5000, 0.0, "greater") == 0.0  # no overflow


def test_paired_difference_is_that_of_the_pairs():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, 50)
    a, b = shared + 1 + rng.normal(0, 0.1, 50), shared
    mean, se, n = stats.paired_mean_difference(a, b)
    assert (mean, n) == (pytest.approx((a - b).mean()), 50)
    assert se == pytest.approx((a - b).std(ddof=1) / math.sqrt(50))
    assert stats.paired_mean_difference([True, False], [False, False]) == (0.5, 0.5, 2)


# --- resampling --------------------------------------------------------------------------------------------------


def test_bootstrap_of_a_mean_has_the_spread_of_the_mean():
    values = np.random.default_rng(0).normal(3, 2, 400)
    replicates = stats.bootstrap_replicates(lambda v: v.mean(axis=-1), [values], seed=1, vectorized=True)
    assert replicates.shape == (2000,)
    assert replicates.mean() == pytest.approx(values.mean(), abs=0.01)
    assert replicates.std() == pytest.approx(values.std() / 20, rel=0.05)
    low, high = stats.resampled_interval(values.mean(), replicates)
    assert (low, high) == pytest.approx(stats.t_interval(*stats.mean_and_se(values)), abs=0.02)


def test_bootstrap_is_the_same_vectorized_chunked_or_one_by_one():
    values = np.random.default_rng(0).normal(size=(3000, 2))  # 2000 replicates take several chunks
    weights = np.arange(3000.0)
    labels = np.arange(3000) % 7
    for strata in (None, labels):
        together = stats.bootstrap_replicates(
            lambda v, w: (v[..., 0] * w).mean(axis=-1), [values, weights], 400, seed=3, strata=strata, vectorized=True
        )
        apart = stats.bootstrap_replicates(
            lambda v, w: (v[:, 0] * w).mean(), [values, weights], 400, seed=3, strata=strata
        )
        assert np.array_equal(together, apart)
        fewer = stats.bootstrap_replicates(
            lambda v, w: (v[:, 0] * w).mean(), [values, weights], 10, seed=3, strata=strata
        )
        assert np.array_equal(fewer, apart[:10])
    other = stats.bootstrap_replicates(lambda v, w: (v[:, 0] * w).mean(), [values, weights], 10, seed=4, strata=labels)
    assert not np.isin(other, apart).any()


def test_bootstrap_keeps_pairs_together():
    a = np.arange(50)
    assert stats.bootstrap_replicates(lambda x, y: float((y == 2 * x).all()), [a, 2 * a], 50, seed=0).all()


def test_bootstrap_draws_with_replacement_and_reaches_every_row():
    drawn = []
    stats.bootstrap_replicates(lambda x: drawn.append(x) or 0.0, [np.arange(8)], 500, seed=0)
    assert {len(rows) for rows in drawn} == {8}
    assert np.bincount(np.concatenate(drawn), minlength=8) / 4000 == pytest.approx(1 / 8, abs=0.02)
    assert min(len(set(rows)) for rows in drawn) < 8


def test_strata_keep_their_sizes():
    labels = np.array(["b", "a", "b", "c", "a", "b"])
    seen = []
    stats.bootstrap_replicates(lambda x: seen.append(sorted(x)) or 0.0, [labels], 40, seed=0, strata=labels)
    assert all(rows == ["a", "a", "b", "b", "b", "c"] for rows in seen)
    free = []
    stats.bootstrap_replicates(lambda x: free.append(sorted(x)) or 0.0, [labels], 40, seed=0)
    assert any(rows != ["a", "a", "b", "b", "b", "c"] for rows in free)


def test_bootstrap_refuses_what_it_cannot_resample():
    with pytest.raises(ValueError, match="same number of rows"):
        stats.bootstrap_replicates(lambda a, b: 0.0, [np.zeros(3), np.zeros(4)], seed=0)
    with pytest.raises(ValueError, match="same number of rows"):
        stats.bootstrap_replicates(lambda a: 0.0, [np.zeros(0)], seed=0)
    with pytest.raises(ValueError, match="same number of rows"):
        stats.bootstrap_replicates(lambda a: 0.0, [np.zeros(3)], seed=0, strata=[0, 1])
    with pytest.raises(ValueError, match="must return shape"):
        stats.bootstrap_replicates(lambda a: a.mean(), [np.zeros(3)], seed=0, vectorized=True)


def test_resampled_interval_takes_order_statistics():
    replicates = np.random.default_rng(0).permutation(np.arange(1.0, 2000.0))  # 1 … 1999
    assert stats.resampled_interval(1000.0, replicates) == (50.0, 1950.0)
    assert stats.resampled_interval(1000.0, replicates, 0.5) == (500.0, 1500.0)
    assert stats.resampled_interval(1000.0, list(replicates), 0.99) == (10.0, 1990.0)


def test_resampled_interval_holds_the_value_even_where_resampling_is_biased():
    replicates = np.linspace(0.2, 0.3, 1999)
    assert stats.resampled_interval(0.1, replicates)[0] == 0.1
    assert stats.resampled_interval(0.4, replicates)[1] == 0.4
    assert stats.resampled_p_value(0.1, replicates, 0.15, "greater") == 0.5
    assert stats.resampled_p_value(0.4, replicates, 0.35, "less") == 0.5


def test_resampled_p_value_counts_and_is_never_zero():
    replicates = np.arange(1.0, 100.0)
    assert stats.resampled_p_value(50.0, replicates, 0.0, "greater") == 0.01
    assert stats.resampled_p_value(50.0, replicates, 4.0, "greater") == 0.05  # a replicate on the threshold counts
    assert stats.resampled_p_value(50.0, replicates, 96.0, "less") == 0.05


@reproducibly
@given(
    st.lists(st.integers(0, 30), min_size=40, max_size=300),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    st.sampled_from(SIDES),
)
def test_resampled_p_value_decides_exactly_as_its_interval(replicates, value, threshold, level, side):
    interval = stats.resampled_interval(value, replicates, level)
    p_value = stats.resampled_p_value(value, replicates, threshold, side)
    assert (p_value <= (1 - level) / 2) == excludes(interval, threshold, side)


def test_failed_or_too_few_replicates_are_refused():
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="failed on a resample"):
            stats.resampled_interval(0.5, [0.1] * 99 + [bad])
        with pytest.raises(ValueError, match="failed on a resample"):
            stats.resampled_p_value(0.5, [0.1] * 99 + [bad], 0.2, "greater")
    with pytest.raises(ValueError, match="use 40 or more"):
        stats.resampled_interval(0.5, [0.1, 0.9] * 15)
    with pytest.raises(ValueError, match="finite"):
        stats.resampled_interval(math.nan, [0.1] * 100)


# --- ranking -----------------------------------------------------------------------------------------------------

scores = st.lists(st.integers(-6, 6), min_size=1, max_size=40)


def test_auc_known_values():
    assert stats.auc([0, 4, 6, 7], [1, 2, 3, 5]) == 11 / 16
    assert stats.auc([0.1] * 7, [0.1] * 3) == 0.5
    assert stats.auc([2, 3], [0, 1]) == 1.0
    assert stats.auc([-math.inf], [math.inf]) == 0.0


def test_two_gaussians_one_apart_have_the_analytic_curve():
    quantiles = ndtri((np.arange(1_000_000) + 0.5) / 1_000_000)
    assert stats.auc(quantiles + 1, quantiles) == pytest.approx(ndtr(1 / math.sqrt(2)), abs=1e-5)
    assert stats.auc(quantiles + 1, quantiles) == pytest.approx(0.760250, abs=1e-5)
    assert stats.tpr_at_fpr(quantiles + 1, quantiles, 0.01) == pytest.approx(0.092362, abs=1e-5)
    assert stats.tpr_at_fpr(quantiles + 1, quantiles, 0.001) == pytest.approx(0.018298, abs=1e-5)


@reproducibly
@given(scores, scores)
def test_ranking_agrees_with_scikit_learn(pos, neg):
    from sklearn.metrics import roc_auc_score, roc_curve

    labels, both = [1] * len(pos) + [0] * len(neg), pos + neg
    assert stats.auc(pos, neg) == pytest.approx(roc_auc_score(labels, both), abs=1e-12)
    for ours, reference in zip(
        stats.roc_curve_points(pos, neg), roc_curve(labels, both, drop_intermediate=False), strict=True
    ):
        assert np.array_equal(ours, reference)


@reproducibly
@given(scores, scores)
def test_auc_is_antisymmetric_and_depends_on_ranks_only(pos, neg):
    assert stats.auc(pos, neg) + stats.auc(neg, pos) == pytest.approx(1.0, abs=1e-15)
    assert stats.auc(np.exp(pos), np.exp(neg)) == stats.auc(pos, neg)
    fpr, tpr, _ = stats.roc_curve_points(pos, neg)
    assert np.trapezoid(tpr, fpr) == pytest.approx(stats.auc(pos, neg), abs=1e-12)


@reproducibly
@given(scores, scores, st.floats(0, 1))
def test_tpr_at_fpr_is_the_best_point_of_the_curve_within_the_fpr(pos, neg, allowed):
    fpr, tpr, _ = stats.roc_curve_points(pos, neg)
    for limit in (allowed, 0.0, 1.0, *fpr):  # at each realised rate exactly, too
        assert stats.tpr_at_fpr(pos, neg, limit) == tpr[fpr <= limit].max()


def test_tpr_at_fpr_is_conservative_with_ties():
    assert stats.tpr_at_fpr([1.0] * 10, [1.0] * 10, 0.5) == 0.0
    assert stats.tpr_at_fpr([1.0, 2.0], [0.0, 1.0, 1.0, 1.0], 0.25) == 0.5
    assert stats.tpr_at_fpr(np.arange(100) + 0.5, np.arange(100), 0.29) == 0.3  # .29 * 100 < 29 in floats


def test_auc_interval_agrees_with_a_published_example():
    # Two phases of a single-case design, by R's SingleCaseES (root finding to 1e-4): 0.59734, 0.98602
    value = stats.auc([28, 25, 24, 27, 30, 30, 29], [20, 20, 26, 25, 22, 23])
    assert value == 38.5 / 42
    assert stats.auc_interval(value, 7, 6) == pytest.approx((0.59734, 0.98602), abs=5e-5)


@reproducibly
@given(st.floats(0, 1), st.integers(1, 300), st.integers(1, 300), st.sampled_from([0.8, 0.95, 0.999]))
def test_auc_interval_ends_solve_the_score_equation(value, n_pos, n_neg, level):
    low, high = stats.auc_interval(value, n_pos, n_neg, level)
    assert 0 <= low <= value <= high <= 1
    assert stats.auc_interval(1 - value, n_neg, n_pos, level) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    tail = (1 - level) / 2
    if 1e-6 < value < 1 - 1e-6:
        assert stats.auc_p_value(value, n_pos, n_neg, low, "greater") == pytest.approx(tail, rel=1e-6)
        assert stats.auc_p_value(value, n_pos, n_neg, high, "less") == pytest.approx(tail, rel=1e-6)


@reproducibly
@given(
    st.tuples(st.integers(0, 400), st.integers(1, 20), st.integers(1, 20)),
    st.floats(-0.1, 1.1),
    st.sampled_from([0.8, 0.95]),
    st.sampled_from(SIDES),
)
def test_auc_p_value_decides_as_auc_interval(sample, threshold, level, side):
    u, n_pos, n_neg = sample
    value = min(1.0, u / (2 * n_pos * n_neg))
    p_value = stats.auc_p_value(value, n_pos, n_neg, threshold, side)
    assume(abs(p_value - (1 - level) / 2) > 1e-9)
    assert (p_value <= (1 - level) / 2) == excludes(stats.auc_interval(value, n_pos, n_neg, level), threshold, side)


@pytest.mark.parametrize(("n_pos", "n_neg"), [(5, 9), (40, 10), (100, 100)])
def test_auc_p_value_has_the_exact_null_variance_of_mann_whitney(n_pos, n_neg):
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    pos, neg = rng.normal(0.3, 1, n_pos), rng.normal(0, 1, n_neg)
    reference = mannwhitneyu(pos, neg, alternative="greater", method="asymptotic", use_continuity=False).pvalue
    assert stats.auc_p_value(stats.auc(pos, neg), n_pos, n_neg, 0.5, "greater") == pytest.approx(reference, rel=1e-9)


def test_auc_interval_keeps_its_width_at_the_ends():
    low, high = stats.auc_interval(1.0, 20, 20)
    assert high == 1.0
    assert 0.8 < low < 0.95
    assert stats.auc_interval(0.0, 20, 20) == pytest.approx((0.0, 1 - low))
    assert stats.auc_interval(1.0, 200, 200)[0] > low
    assert (
        stats.auc_p_value(1.0, 20, 20, low + 0.01, "greater") > 0.025 > stats.auc_p_value(1.0, 20, 20, 0.5, "greater")
    )


@pytest.mark.parametrize("n", [(25, 25), (20, 80)])
@pytest.mark.parametrize("true_auc", [0.5, 0.8, 0.95])
def test_auc_interval_covers_about_its_level(true_auc, n):
    n_pos, n_neg = n
    rng = np.random.default_rng(7)
    trials = 1500
    covered = 0
    for _ in range(trials):
        value = stats.auc(rng.normal(math.sqrt(2) * ndtri(true_auc), 1, n_pos), rng.normal(0, 1, n_neg))
        low, high = stats.auc_interval(value, n_pos, n_neg)
        covered += low <= true_auc <= high
    assert 0.935 <= covered / trials <= 0.99  # three binomial errors below 95 %; Newcombe leans wide near 1


def test_auc_interval_covers_unequal_spread_at_equal_sizes():
    rng = np.random.default_rng(7)
    trials, true_auc = 1500, 0.8
    covered = 0
    for _ in range(trials):
        value = stats.auc(rng.normal(math.sqrt(5) * ndtri(true_auc), 2, 50), rng.normal(0, 1, 50))
        low, high = stats.auc_interval(value, 50, 50)
        covered += low <= true_auc <= high
    assert covered / trials >= 0.92


def test_delong_agrees_with_its_definition_over_all_pairs():
    rng = np.random.default_rng(0)
    pos, neg = rng.integers(0, 9, 30) + 1.0, rng.integers(0, 9, 50) * 1.0  # ties
    kernel = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
    variance = kernel.mean(axis=1).var(ddof=1) / 30 + kernel.mean(axis=0).var(ddof=1) / 50
    assert stats.delong_se(pos, neg) == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_delong_is_the_spread_of_the_auc():
    rng = np.random.default_rng(3)
    draws = [(rng.normal(1, 2, 60), rng.normal(0, 1, 40)) for _ in range(1500)]
    spread = np.std([stats.auc(*draw) for draw in draws])
    assert np.mean([stats.delong_se(*draw) for draw in draws]) == pytest.approx(spread, rel=0.06)


# --- several gates, and how much data a gate needs ---------------------------------------------------------------


def test_holm_steps_down_in_the_order_given():
    # Holm's procedure by hand: .01 * 4, .02 * 3, max(.06, .03 * 2), .5 * 1
    assert stats.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert stats.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert stats.holm([0.7, 0.6]) == [1.0, 1.0]
    assert stats.holm([]) == []


@reproducibly
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    adjusted = stats.holm(p_values)
    assume(min(abs(p - alpha) for p in adjusted) > 1e-12)
    rejected: set[int] = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > alpha / (len(p_values) - step):
            break
        rejected.add(i)
    assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected


def decided(k: int, n: int, threshold: float, trials: int, level: float = 0.95) -> bool:
    """Whether Clopper-Pearson of `trials` at the rate k / n, in whole successes, excludes the threshold."""
    above = k / n > threshold
    successes = k * trials // n if above else -(-k * trials // n)
    p_value = stats.binomial_p_value(successes, trials, threshold, "greater" if above else "less")
    return p_value <= (1 - level) / 2


@reproducibly
@given(counts(30), st.floats(0, 1), st.sampled_from([0.8, 0.95]))
def test_n_to_resolve_is_the_first_that_decides(trials, threshold, level):
    k, n = trials
    assume(abs(k / n - threshold) > 0.05)
    needed = stats.n_to_resolve_proportion(k, n, threshold, level)
    assert needed is not None
    assert decided(k, n, threshold, needed, level)
    assert not any(decided(k, n, threshold, fewer, level) for fewer in range(1, needed))
    low, high = stats.clopper_pearson(k, n, level)
    if low < threshold < high:
        assert needed > n


def test_n_to_resolve_looks_at_every_size():
    k, n, threshold = 5, 1652, 0.003279  # a rare event: the first that decides lies far beyond the first looked at
    trials = np.arange(1, 250_000)
    first = trials[bdtr(-(-k * trials // n), trials, threshold) <= 0.025][0]
    assert stats.n_to_resolve_proportion(k, n, threshold) == first


def test_n_to_resolve_known_cases():
    # all successes: .9^n <= .025 first at n = 36
    assert stats.n_to_resolve_proportion(10, 10, 0.9) == 36
    assert stats.n_to_resolve_proportion(0, 10, 0.1) == 36
    assert stats.n_to_resolve_proportion(95, 100, 0.95) is None
    assert stats.n_to_resolve_proportion(0, 0, 0.5) is None
    assert stats.n_to_resolve_proportion(500_001, 1_000_000, 0.5) is None  # nearly 10^12
    far = stats.n_to_resolve_proportion(500, 1000, 0.4999)
    assert far == pytest.approx(0.25 * (ndtri(0.975) / 1e-4) ** 2, rel=1e-3)
    assert stats.n_to_resolve_proportion(17, 20, -0.1) == 1


def test_n_to_resolve_by_scaling():
    assert stats.n_to_resolve_by_scaling(0.2, 0.1, 50) == 200
    assert stats.n_to_resolve_by_scaling(0.3, 0.2, 10) == 23
    assert stats.n_to_resolve_by_scaling(0.2, 0.0, 50) is None
    assert stats.n_to_resolve_by_scaling(math.inf, 0.1, 50) is None
    assert stats.n_to_resolve_by_scaling(1.0, 1e-6, 50) is None
    mean, se = 0.1, 1.0
    for n in (100, stats.n_to_resolve_by_scaling(1.959964, mean, 1)):
        low, _ = stats.t_interval(mean, se / math.sqrt(n), n)
        assert (low > -0.001) == (n > 100)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.clopper_pearson(3, 2), "3 successes in 2 trials"),
        (lambda: stats.clopper_pearson(-1, 2), "-1 successes"),
        (lambda: stats.clopper_pearson(1, 2, 95), "between 0 and 1"),
        (lambda: stats.binomial_p_value(1, 2, math.nan, "greater"), "finite"),
        (lambda: stats.binomial_p_value(1, 2, 0.5, "two-sided"), "'greater' or 'less'"),
        (lambda: stats.t_interval(math.nan, 1.0, 9), "finite"),
        (lambda: stats.t_interval(0.0, math.nan, 9), "standard error"),
        (lambda: stats.t_p_value(0.0, -1.0, 9, 0.0, "less"), "standard error"),
        (lambda: stats.mean_and_se([]), "non-empty"),
        (lambda: stats.mean_and_se([1.0, math.nan]), "finite"),
        (lambda: stats.paired_mean_difference([1.0, 2.0], [1.0]), "equal lengths"),
        (lambda: stats.auc([], [1.0]), "empty"),
        (lambda: stats.auc([1.0], [math.nan]), "NaN"),
        (lambda: stats.auc_interval(1.2, 5, 5), "lies in"),
        (lambda: stats.auc_p_value(0.5, 0, 5, 0.5, "less"), "both classes"),
        (lambda: stats.delong_se([1.0], [0.0, 0.5]), "two of each class"),
        (lambda: stats.tpr_at_fpr([1.0], [0.0], 1.5), "fpr must"),
        (lambda: stats.holm([0.5, math.nan]), "p-values"),
        (lambda: stats.n_to_resolve_proportion(3, 2, 0.5), "3 successes"),
        (lambda: stats.n_to_resolve_by_scaling(math.nan, 0.1, 5), "negative"),
    ],
)
def test_what_is_no_sample_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
