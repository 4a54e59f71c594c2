"""Membership scores against the formulas, and attacks on planted members, on none, and on chance."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from audit import stats
from audit.parameters import UserError
from audit.privacy.membership import (
    auc,
    class_threshold_attack,
    confidence_scores,
    correctness_scores,
    gap_attack,
    loss_scores,
    rate_difference,
    threshold_advantage,
    tpr_at_fpr,
)


def rng(seed=0):
    return np.random.default_rng(seed)


# --- scores


def test_scores_from_logits_and_probabilities_are_the_formulas():
    logits, labels = rng().normal(0, 3, (200, 5)), rng(1).integers(0, 5, 200)
    own = np.arange(200), labels
    log_p, p = log_softmax(logits, axis=1)[own], softmax(logits, axis=1)[own]
    assert loss_scores(labels, logits=logits) == pytest.approx(log_p)
    assert loss_scores(labels, probabilities=softmax(logits, axis=1)) == pytest.approx(log_p)
    assert confidence_scores(labels, logits=logits) == pytest.approx(np.log(p / (1 - p)))
    assert confidence_scores(labels, probabilities=softmax(logits, axis=1)) == pytest.approx(np.log(p / (1 - p)))


def test_margins_are_binary_logits():
    margin, labels = rng().normal(0, 2, 50), rng(1).integers(0, 2, 50)
    two = np.stack([np.zeros(50), margin], axis=1)
    assert loss_scores(labels, logits=margin) == pytest.approx(loss_scores(labels, logits=two))
    assert loss_scores(labels, logits=margin[:, None]) == pytest.approx(loss_scores(labels, logits=two))


def test_confident_answers_stay_apart():
    logits = np.array([[800.0, 0.0], [900.0, 0.0], [-800.0, 0.0]])
    assert confidence_scores([0, 0, 0], logits=logits).tolist() == [800, 900, -800]
    assert loss_scores([0, 0, 0], logits=logits)[2] == -800
    single = np.array([[1.0, 1e-12], [1.0, 1e-9]], dtype=np.float32)  # both round to 1 in the first column
    scores = loss_scores([0, 0], probabilities=single)
    assert scores == pytest.approx([-1e-12, -1e-9], rel=1e-5)
    assert scores[0] > scores[1]


def test_certain_answers_are_finite():
    scores = confidence_scores([0, 1, 0], probabilities=[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    assert np.isfinite(scores).all()
    assert scores[0] > scores[2] > scores[1]


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        ([0], {"logits": [[np.nan, 0.0]]}),
        ([0], {"probabilities": [[-0.1, 1.1]]}),
        ([2], {"probabilities": [[0.5, 0.5]]}),
        ([0, 1], {"probabilities": [[0.5, 0.5]]}),
        ([0], {"probabilities": [[1.0]]}),
    ],
)
def test_bad_answers_are_refused(labels, answers):
    with pytest.raises(UserError):
        loss_scores(labels, **answers)


def test_exactly_one_kind_of_answer():
    with pytest.raises(ValueError, match="either"):
        loss_scores([0], logits=[[1.0, 0.0]], probabilities=[[0.5, 0.5]])
    with pytest.raises(ValueError, match="either"):
        loss_scores([0])


# --- AUC and TPR at FPR


def test_auc_known_values():
    found = auc([0, 4, 6, 7], [1, 2, 3, 5])
    assert (found.value, found.n_members, found.n_non_members) == (11 / 16, 4, 4)
    assert auc(np.full(7, 0.3), np.full(9, 0.3)).value == 0.5


def test_constant_model_shows_nothing():
    labels = np.zeros(30, dtype=int)
    scores = loss_scores(labels, probabilities=np.tile([0.7, 0.2, 0.1], (30, 1)))
    assert auc(scores[:10], scores[10:]).value == 0.5
    assert tpr_at_fpr(scores[:10], scores[10:], 0.1, rng()).value == 0
    assert threshold_advantage(scores[:10], scores[10:], rng()).value == 0


@pytest.mark.parametrize(("fpr", "tpr"), [(0.01, 0.092362), (0.001, 0.018298)])
def test_gaussian_scores_have_the_analytic_tpr(fpr, tpr):
    grid = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    found = tpr_at_fpr(grid + 1, grid, fpr, rng())
    assert found.value == pytest.approx(tpr, abs=2e-4)
    assert auc(grid + 1, grid).value == pytest.approx(0.760250, abs=1e-5)
    low, high = stats.resampled_interval(found.value, found.replicates)
    # the spread that sampling really gives: members' binomial and the threshold's own error
    slope = norm.pdf(norm.isf(fpr) - 1) / norm.pdf(norm.isf(fpr))
    se = np.sqrt(tpr * (1 - tpr) + slope**2 * fpr * (1 - fpr)) / np.sqrt(100_000)
    assert high - low == pytest.approx(2 * 1.96 * se, rel=0.2)


def test_intervals_of_tpr_cover_the_truth():
    generator, truth, hits = rng(5), norm.sf(norm.isf(0.05) - 1), 0
    for _ in range(60):
        found = tpr_at_fpr(generator.normal(1, 1, 300), generator.normal(0, 1, 300), 0.05, generator)
        low, high = stats.resampled_interval(found.value, found.replicates)
        hits += low <= truth <= high
    assert hits >= 51  # 95 % of 60 is 57; below 51 has a chance of 1e-3


def test_threshold_ranks_are_those_of_real_resamples():
    others = rng(3).normal(size=150)
    members = np.linspace(-3, 3, 20_001)  # so many that their own share of the spread vanishes
    fast = tpr_at_fpr(members, others, 0.1, rng()).replicates
    slow = stats.bootstrap_replicates(lambda drawn: stats.tpr_at_fpr(members, drawn, 0.1), [others], 2000, seed=1)
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.quantile(fast, share) == pytest.approx(np.quantile(slow, share), abs=0.015)


def test_nothing_found_still_has_an_interval():
    found = tpr_at_fpr(np.zeros(20), np.arange(1, 101), 0.1, rng())
    assert found.value == 0
    assert stats.resampled_interval(0, found.replicates)[1] > 0.05


def test_both_kinds_of_example_carry_uncertainty():
    def width(n_members, n_non_members):
        found = tpr_at_fpr(rng(1).normal(1, 1, n_members), rng(2).normal(0, 1, n_non_members), 0.1, rng())
        low, high = stats.resampled_interval(found.value, found.replicates)
        return high - low

    assert width(200, 200) > width(20_000, 200) > width(20_000, 20_000)
    assert width(200, 200) > width(200, 20_000) > width(20_000, 20_000)


@pytest.mark.parametrize(("fpr", "enough"), [(0.01, 1000), (0.001, 10_000)])
def test_few_non_members_leave_it_unresolved(fpr, enough):
    members = np.arange(100.0)
    assert tpr_at_fpr(members, np.arange(enough), fpr, rng()).unresolved is None
    short = tpr_at_fpr(members, np.arange(enough - 1), fpr, rng())
    assert f"takes {enough} non-members" in short.unresolved
    assert str(enough - 1) in short.unresolved


def test_replicates_use_the_same_threshold_rule_as_the_value():
    others = np.repeat(np.arange(10.0), 30)  # ties at every threshold
    members = np.repeat(np.arange(10.0), 2000) + 0.5
    found = tpr_at_fpr(members, others, 0.15, rng())
    assert found.value == stats.tpr_at_fpr(members, others, 0.15)
    assert np.median(found.replicates) == pytest.approx(found.value, abs=0.02)


@pytest.mark.parametrize("fpr", [0, 1, -0.1])
def test_fpr_is_a_rate(fpr):
    with pytest.raises(UserError, match="fpr"):
        tpr_at_fpr([1.0], [0.0], fpr, rng())


# --- attacks with a threshold


def test_gap_attack_is_the_accuracy_gap_exactly():
    train, test = rng().random(130) < 0.97, rng(1).random(70) < 0.8
    found = gap_attack(train, test, rng())
    assert found.value == train.mean() - test.mean()
    assert (found.k_members, found.n_members) == (train.sum(), 130)
    assert (found.k_non_members, found.n_non_members, found.n) == (test.sum(), 70, 200)
    low, high = stats.resampled_interval(found.value, found.replicates)
    assert low < found.value < high


def test_gap_attack_without_errors_still_has_an_interval():
    found = gap_attack(np.ones(20), np.ones(20), rng())
    low, high = stats.resampled_interval(found.value, found.replicates)
    assert low < -0.05 < 0.05 < high


def test_labels_only_ranking_is_the_gap_attack():
    labels, predicted = rng().integers(0, 3, 100), rng(1).integers(0, 3, 100)
    scores = correctness_scores(labels, predicted)
    gap = gap_attack(scores[:60], scores[60:], rng()).value
    assert auc(scores[:60], scores[60:]).value == pytest.approx(0.5 + gap / 2)
    with pytest.raises(UserError, match="one length"):
        correctness_scores([0, 1], [0])


def test_intervals_of_a_difference_cover_the_truth():
    generator, hits = rng(7), 0
    for _ in range(100):
        k, m = int(generator.binomial(80, 0.95)), int(generator.binomial(60, 0.7))
        found = rate_difference(k, 80, m, 60, generator)
        low, high = stats.resampled_interval(found.value, found.replicates)
        hits += low <= 0.25 <= high
    assert hits >= 88  # below 88 has a chance of 1e-3


def test_threshold_advantage_of_gaussian_scores():
    members, others = rng(1).normal(2, 1, 4000), rng(2).normal(0, 1, 4000)
    found = threshold_advantage(members, others, rng())
    assert found.value == pytest.approx(2 * norm.cdf(1) - 1, abs=0.04)
    assert (found.n_members, found.n_non_members) == (2000, 2000)
    found = threshold_advantage(np.arange(100, 110), np.arange(10), rng())
    assert (found.k_members, found.n_members, found.k_non_members) == (5, 5, 0)


def test_choosing_a_threshold_shows_no_advantage_where_there_is_none():
    generator = rng(3)
    honest = [
        threshold_advantage(generator.normal(size=40), generator.normal(size=40), generator).value for _ in range(150)
    ]
    assert abs(np.mean(honest)) < 3.5 * np.std(honest) / np.sqrt(150)
    # on the examples that it was chosen on, the same threshold would show a clear one
    fpr, tpr, _ = stats.roc_curve_points(generator.normal(size=40), generator.normal(size=40))
    assert (tpr - fpr).max() > 0.05


def _classes_of_unlike_difficulty(generator, gain, n=3000):
    classes_in, classes_out = generator.integers(0, 6, n), generator.integers(0, 6, n)
    return generator.normal(gain + 3 * classes_in, 1), classes_in, generator.normal(3 * classes_out, 1), classes_out


def test_class_thresholds_find_what_one_threshold_hides():
    members, classes_in, others, classes_out = _classes_of_unlike_difficulty(rng(1), gain=2)
    found = class_threshold_attack(members, classes_in, others, classes_out, rng())
    single = threshold_advantage(members, others, rng())
    assert found.advantage.value == pytest.approx(2 * norm.cdf(1) - 1, abs=0.06)
    assert found.advantage.value > single.value + 0.3
    assert auc(found.member_scores, found.non_member_scores).value > auc(members, others).value + 0.2
    assert found.pooled == ()
    assert sorted(found.thresholds) == list(range(6))
    assert [found.thresholds[c] for c in range(6)] == pytest.approx([1 + 3 * c for c in range(6)], abs=0.8)


def test_class_thresholds_show_nothing_where_there_is_nothing():
    generator = rng(4)
    advantages, aucs = [], []
    for _ in range(60):
        found = class_threshold_attack(*_classes_of_unlike_difficulty(generator, gain=0, n=200), generator)
        advantages.append(found.advantage.value)
        aucs.append(auc(found.member_scores, found.non_member_scores).value)
    assert abs(np.mean(advantages)) < 3.5 * np.std(advantages) / np.sqrt(60)
    assert abs(np.mean(aucs) - 0.5) < 3.5 * np.std(aucs) / np.sqrt(60)


def test_class_thresholds_are_measured_on_rows_they_were_not_chosen_on():
    members, classes_in, others, classes_out = _classes_of_unlike_difficulty(rng(1), gain=1, n=101)
    found = class_threshold_attack(members, classes_in, others, classes_out, rng())
    assert len(found.member_rows) == len(set(found.member_rows.tolist())) == found.advantage.n_members == 51
    shift = np.array([found.thresholds[c] for c in classes_in[found.member_rows]])
    assert found.member_scores == pytest.approx(members[found.member_rows] - shift)
    changed = members.copy()
    changed[found.member_rows] += 100  # the measured half alone
    again = class_threshold_attack(changed, classes_in, others, classes_out, rng())
    assert again.thresholds == found.thresholds
    assert again.advantage.k_members == 51


def test_small_classes_share_a_threshold():
    members, classes_in, others, classes_out = _classes_of_unlike_difficulty(rng(1), gain=1, n=600)
    classes_in = np.where(classes_in == 5, 6, classes_in)  # class 5 has no members, class 6 no non-members
    found = class_threshold_attack(members, classes_in, others, classes_out, rng())
    assert found.pooled == (5, 6)
    assert found.thresholds[5] == found.thresholds[6]


@pytest.mark.parametrize(
    "call",
    [
        lambda: threshold_advantage([1.0], [0.0, 1.0], rng()),
        lambda: threshold_advantage([1.0, np.nan], [0.0, 1.0], rng()),
        lambda: auc([], [1.0]),
        lambda: gap_attack([], [True], rng()),
        lambda: class_threshold_attack([1.0, 2.0], [0], [1.0, 2.0], [0, 0], rng()),
    ],
)
def test_too_little_is_refused(call):
    with pytest.raises(UserError):
        call()


def test_equal_generators_give_equal_numbers():
    members, others = rng(1).normal(1, 1, 200), rng(2).normal(0, 1, 200)
    assert tpr_at_fpr(members, others, 0.1, rng(9)) == tpr_at_fpr(members, others, 0.1, rng(9))
    assert threshold_advantage(members, others, rng(9)) == threshold_advantage(members, others, rng(9))
    assert threshold_advantage(members, others, rng(9)) != threshold_advantage(members, others, rng(10))
