"""The blind control sees planted shifts between members and non-members, and sees nothing where there is none."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from audit import stats
from audit.parameters import UserError
from audit.privacy import blind_control
from audit.privacy.blind_control import BlindAuc, blind_auc


def rng(seed=0):
    return np.random.default_rng(seed)


def test_same_distribution_passes():
    digits = rng(1).permutation(load_digits().data)[:900]
    found = blind_auc(digits[:600], digits[600:], rng())
    low, high = found.interval()
    assert low < 0.5 < high
    assert found.interval() == stats.auc_interval(found.value, 300, 150)
    assert found.interval(0.99)[0] < low


def test_false_alarms_are_no_more_frequent_than_promised():
    generator, alarms = rng(4), 0
    for _ in range(10):
        found = blind_auc(generator.normal(size=(60, 3)), generator.normal(size=(60, 3)), generator)
        low, high = found.interval()
        alarms += not low <= 0.5 <= high
    assert alarms <= 3  # 4 of 10 at 5 % has a chance of 1e-3


@pytest.mark.parametrize(
    ("shift", "learner"),
    [
        (lambda x: x + 0.5, "logistic regression"),
        (lambda x: 1.8 * x, "boosted trees"),  # same means: no linear rule sees it
    ],
)
def test_planted_shift_is_seen(shift, learner):
    found = blind_auc(rng(1).normal(size=(250, 8)), shift(rng(2).normal(size=(250, 8))), rng())
    assert found.interval()[0] > 0.5
    assert learner in found.learners


def test_digits_in_file_order_are_no_random_split():
    digits = load_digits().data  # later rows were written by other people
    assert blind_auc(digits[:600], digits[-600:], rng()).interval()[0] > 0.5


def test_wide_inputs_brightness_is_seen_and_chance_is_not():
    images = rng(1).normal(size=(240, 3, 8, 8))
    brighter = images[120:] + 0.15
    assert blind_auc(images[:120], brighter, rng()).interval()[0] > 0.5
    low, high = blind_auc(images[:120], images[120:], rng()).interval()
    assert low < 0.5 < high


def test_missing_numbers_can_be_the_shift():
    members, others = rng(1).normal(size=(200, 4)), rng(2).normal(size=(200, 4))
    members[:80, 2] = np.nan
    members[:, 2], others[:, 2] = np.where(np.isnan(members[:, 2]), np.nan, 1.0), 1.0  # nothing but its absence tells
    others[:, 3] = members[:, 3] = np.nan  # a column without any number
    assert blind_auc(members, others, rng()).interval()[0] > 0.5


def test_what_could_have_been_seen_is_told():
    few = blind_auc(rng(1).normal(size=(40, 2)), rng(2).normal(size=(40, 2)), rng())
    many = BlindAuc(0.5, 200, 200, few.learners)
    assert (few.n_members, few.n_non_members) == (20, 20)
    assert 0.5 < many.detectable < few.detectable < 0.75
    assert stats.auc_interval(few.detectable, 20, 20)[0] > 0.5
    assert stats.auc_interval(few.detectable - 1e-3, 20, 20)[0] <= 0.5


def test_more_rows_than_asked_for_are_drawn_from():
    found = blind_auc(rng(1).normal(size=(200, 2)), rng(2).normal(size=(80, 2)), rng(), max_rows=100)
    assert (found.n_members, found.n_non_members) == (50, 40)


def test_equal_generators_give_equal_numbers():
    members, others = rng(1).normal(size=(60, 2)), rng(2).normal(size=(60, 2))
    assert blind_auc(members, others, rng(3)) == blind_auc(members, others, rng(3))


@pytest.mark.parametrize(
    ("members", "others", "says"),
    [
        (np.zeros((19, 2)), np.zeros((30, 2)), "needs 20"),
        (np.zeros((30, 2)), np.zeros((30, 3)), "2 numbers each"),
        (np.full((30, 2), np.inf), np.zeros((30, 2)), "infinity"),
    ],
)
def test_bad_inputs_are_refused(members, others, says):
    with pytest.raises(UserError, match=says):
        blind_auc(members, others, rng())


def test_each_half_ranks_by_what_the_other_was_trained_on(monkeypatch):
    trained = []

    def train(inside, outside, seed):
        trained.append({*inside[:, 0], *outside[:, 0]})
        return "logistic regression", None

    def score(model, rows):
        assert not trained[-1] & set(rows[:, 0])
        return rows[:, 0]

    monkeypatch.setattr(blind_control, "_train", train)
    monkeypatch.setattr(blind_control, "_score", score)
    blind_auc(np.arange(41.0)[:, None], 100 + np.arange(30.0)[:, None], rng())
    assert not trained[0] & trained[1]
    assert trained[0] | trained[1] == {*np.arange(41.0), *(100 + np.arange(30.0))}


def test_identical_inputs_are_exactly_chance():
    assert blind_auc(np.ones((40, 3)), np.ones((40, 3)), rng()).value == 0.5
