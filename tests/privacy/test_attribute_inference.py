"""Attribute inference by hand: Bayes' rule, bins, learners that never see what they impute, and gains with their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_people import JOBS, people
from planted_tables import table_model

from audit.datasets._arrays import from_arrays
from audit.model import Field
from audit.parameters import UserError
from audit.privacy.attribute_inference import (
    accuracy_gain,
    guesses,
    impute,
    log_likelihood,
    log_marginal,
    posterior,
    r2_gain,
)
from audit.stats import resampled_interval

JOB = Field(name="job", kind="category", categories=JOBS)
NUMBER = Field(name="a", kind="number")


def test_categories_are_guessed_by_their_codes() -> None:
    found = guesses(JOB, np.array([3.0, 0.0]), bins=4, points=3)
    assert found.names == JOBS
    assert found.tried.tolist() == [[0], [1], [2], [3]]
    assert found.of(np.array([2.0, 0.0])).tolist() == [2, 0]


def test_bins_hold_equally_many_rows_and_are_tried_at_quantiles() -> None:
    found = guesses(NUMBER, np.arange(12.0), bins=3, points=2)
    assert found.names == ("0 to 3", "4 to 7", "8 to 11")
    assert found.of(np.array([-5.0, 3.0, 3.5, 7.0, 99.0])).tolist() == [0, 0, 1, 1, 2]
    assert found.tried.tolist() == [[0, 2], [4, 6], [8, 10]]
    assert found.centres is not None
    assert found.centres.tolist() == [1.5, 5.5, 9.5]


def test_a_number_of_few_values_has_each_for_a_guess() -> None:
    found = guesses(NUMBER, np.array([0.0, 1.0, 1.0, 0.0, 5.0]), bins=4, points=3)
    assert (found.names, found.tried.tolist()) == (("0", "1", "5"), [[0], [1], [5]])


def test_a_skewed_number_leaves_no_bin_empty() -> None:
    found = guesses(NUMBER, np.array([0.0] * 90 + list(range(1, 11))), bins=4, points=3)
    assert found.names == ("0", "1 to 10")
    with pytest.raises(UserError, match="one value only"):
        guesses(NUMBER, np.zeros(5), bins=4, points=3)


def test_bayes_by_hand() -> None:
    prior, likelihood = np.log([[0.5, 0.25, 0.25]]), np.log([[0.1, 0.8, 0.2]])
    assert posterior(prior, likelihood)[0] == pytest.approx(np.array([0.05, 0.2, 0.05]) / 0.3)
    assert np.exp(log_marginal(np.array([0, 0, 2]), 3))[0] == pytest.approx(np.array([2.5, 0.5, 1.5]) / 4.5)


# --- what the model says ---------------------------------------------------------------------------------------------


def job_speaks(x: torch.Tensor) -> torch.Tensor:
    """P(yes) is .1, .3, .5, .7 by job."""
    yes = 0.1 + 0.2 * x[:, 3]
    return torch.stack([1 - yes, yes], dim=1)


def test_likelihood_is_the_models_probability_of_the_label() -> None:
    data = people()
    model = table_model(job_speaks, data.spec, classes=data.classes)
    found = guesses(data.spec.fields[3], data.test.x[:, 3], 4, 3)
    likely = np.exp(log_likelihood(model, data.test, 3, found, data.test))
    yes = np.array([0.1, 0.3, 0.5, 0.7])
    assert likely == pytest.approx(np.where(data.test.labels[:, None] == 1, yes, 1 - yes))


def test_likelihood_of_labels_is_how_often_each_was_right() -> None:
    data = people()
    model = table_model(lambda x: (x[:, 3] >= 2).double(), data.spec, classes=data.classes, output="label")
    found = guesses(data.spec.fields[3], data.test.x[:, 3], 4, 3)
    likely = np.exp(log_likelihood(model, data.test, 3, found, data.test))
    said, true = data.test.x[:, 3] >= 2, data.test.labels
    share = (1 + (said & (true == 1)).sum()) / (2 + said.sum())
    row = int(np.flatnonzero(true == 1)[0])
    assert likely[row, 2:] == pytest.approx([share, share])


def test_likelihood_of_values_is_gaussian_and_averages_over_a_bin() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    data = from_arrays(x, x[:, 0] + rng.choice([-0.5, 0.5], 40), feature_names=["a", "b"], task="regression")
    model = table_model(lambda x: x[:, 0], data.spec)
    found = guesses(data.spec.fields[0], data.test.x[:, 0], bins=2, points=2)
    likely = np.exp(log_likelihood(model, data.test, 0, found, data.test))
    wanted = np.exp(-0.5 * ((found.tried[None] - data.test.labels[:, None, None]) / 0.5) ** 2).mean(axis=2)
    assert likely == pytest.approx(wanted)


# --- what is known without it ----------------------------------------------------------------------------------------


def imputed(truth_from: str, n: int = 150) -> tuple[float, float]:
    """Mean probability of the truth, of held-out rows and of members."""
    rng = np.random.default_rng(1)
    x, members = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    if truth_from == "column":
        truth, inside = (x[:, 0] > 0).astype(int), (members[:, 0] > 0).astype(int)
    else:
        truth, inside = rng.integers(0, 2, (2, n))
    found = impute(x, truth, members, 2, categorical=np.zeros(2, bool), population=None, rng=rng)
    rows = np.arange(n)
    return float(np.exp(found.test[rows, truth]).mean()), float(np.exp(found.members[rows, inside]).mean())


def test_imputation_learns_what_can_be_learnt() -> None:
    assert min(imputed("column")) > 0.85


def test_imputation_never_sees_the_row_it_imputes() -> None:
    assert max(imputed("chance")) < 0.6


def test_further_rows_and_columns_of_codes_are_learned_from() -> None:
    rng = np.random.default_rng(2)
    code = rng.integers(0, 6, 430).astype(float)
    truth = np.array([0, 1, 1, 0, 2, 2])[code.astype(int)]
    x = code[:, None]
    few = impute(x[:30], truth[:30], x[30:], 3, categorical=np.ones(1, bool), population=None, rng=rng)
    more = impute(
        x[:30], truth[:30], x[230:], 3, categorical=np.ones(1, bool), population=(x[30:230], truth[30:230]), rng=rng
    )
    assert (more.members.argmax(axis=1) == truth[230:]).all()
    assert np.exp(more.members).max(axis=1).mean() > np.exp(few.members).max(axis=1).mean()
    with pytest.raises(UserError, match="30 rows that are no members"):
        impute(x[:29], truth[:29], x[30:], 3, categorical=np.ones(1, bool), population=None, rng=rng)


# --- gains -----------------------------------------------------------------------------------------------------------


def test_a_gain_is_what_is_won_less_what_is_lost() -> None:
    right, before = np.array([1, 1, 1, 0, 0], bool), np.array([0, 0, 1, 1, 0], bool)
    assert accuracy_gain(right, before, np.random.default_rng(0)).value == pytest.approx(0.2)


def test_a_gain_of_nothing_has_an_interval() -> None:
    equal = np.ones(100, bool)
    gain = accuracy_gain(equal, equal, np.random.default_rng(0))
    low, high = resampled_interval(gain.value, gain.replicates)
    assert gain.value == 0
    assert -0.04 < low < 0 < high < 0.04
    with pytest.raises(UserError, match="one row or more each"):
        accuracy_gain(equal, equal[:5], np.random.default_rng(0))


def test_gain_intervals_cover() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        draws = rng.random(60)
        gain = accuracy_gain(draws < 0.12, (draws > 0.12) & (draws < 0.17), rng)  # truly 0.12 - 0.05
        low, high = resampled_interval(gain.value, gain.replicates)
        held += low <= 0.07 <= high
    assert held >= 0.92 * 300


def test_gains_of_independent_rows_differ() -> None:
    rng = np.random.default_rng(0)
    ones, none = np.ones(50, bool), np.zeros(50, bool)
    apart = accuracy_gain(ones, none, rng).over(accuracy_gain(ones[:20], ones[:20], rng))
    assert (apart.value, apart.n) == (1.0, 20)


def test_r2_gain_by_hand() -> None:
    truth = np.array([0.0, 1, 2, 3])
    assert r2_gain(truth, truth, np.full(4, 1.5), seed=0).value == pytest.approx(1.0)
    assert r2_gain(truth, np.full(4, 1.5), truth, seed=0).value == pytest.approx(-1.0)
    with pytest.raises(UserError, match="all equal"):
        r2_gain(np.ones(3), np.ones(3), np.ones(3), seed=0)
