"""Lower bounds on epsilon: known values, coverage by simulation, and what no number of guesses can show."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from audit.parameters import UserError
from audit.privacy.empirical_epsilon import (
    audit_many_runs,
    audit_one_run,
    audit_one_run_by_halves,
    epsilon_from_rates,
    gaussian_epsilon_from_rates,
    guess,
    mu_from_rates,
    multi_run_ceiling,
    one_run_ceiling,
    one_run_epsilon,
    one_run_p_value,
)


def test_known_values_of_many_runs() -> None:
    assert epsilon_from_rates(1000, 1000, 0, 1000, 0) == pytest.approx(5.60059, abs=1e-5)
    assert epsilon_from_rates(500, 1000, 10, 1000, 1e-5) == pytest.approx(3.24200, abs=1e-5)
    assert mu_from_rates(500, 1000, 10, 1000) == pytest.approx(2.01099, abs=1e-5)
    assert gaussian_epsilon_from_rates(500, 1000, 10, 1000, 1e-5) == pytest.approx(10.06496, abs=1e-4)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "epsilon"),
    [(1000, 100, 100, 0, 3.492965), (1000, 500, 400, 1e-5, 1.197969), (1000, 1000, 500, 1e-5, 0)],
)
def test_known_values_of_one_run(m: int, r: int, v: int, delta: float, epsilon: float) -> None:
    assert one_run_epsilon(m, r, v, delta) == pytest.approx(epsilon, abs=1e-5)


def test_without_delta_the_p_value_is_a_binomial_tail() -> None:
    assert one_run_p_value(80, 50, 40, 1.0, 0) == pytest.approx(binom.sf(39, 50, 1 / (1 + math.exp(-1))))
    assert one_run_p_value(80, 50, 0, 1.0, 0.1) == 1


def test_delta_costs_as_the_theorem_says() -> None:
    m, r, v, epsilon, delta = 60, 20, 18, 1.0, 1e-4
    q = 1 / (1 + math.exp(-epsilon))
    tail = binom.sf(v - 1, r, q)
    worst = max((binom.sf(v - i - 1, r, q) - tail) / i for i in range(1, v + 1))
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(tail + 2 * m * delta * worst)


def test_the_bound_holds_for_randomised_response() -> None:
    """Each canary's coin is told truthfully with probability e^eps / (1 + e^eps): exactly eps-private, and the worst there is."""
    epsilon, m, trials = 1.5, 200, 2000
    right = np.random.default_rng(0).binomial(m, 1 / (1 + math.exp(-epsilon)), trials)
    found = {int(v): one_run_epsilon(m, m, int(v), 0) for v in np.unique(right)}
    bounds = np.array([found[int(v)] for v in right])
    assert (bounds > epsilon).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert (bounds > epsilon).mean() > 0.02, "a bound that never errs is looser than it need be"
    assert np.median(bounds) > 0.75 * epsilon


def test_many_runs_hold_for_randomised_response() -> None:
    epsilon, n, trials = 1.0, 300, 2000
    truth = 1 / (1 + math.exp(-epsilon))
    rng = np.random.default_rng(1)
    tp, fp = rng.binomial(n, truth, trials), rng.binomial(n, 1 - truth, trials)
    bounds = np.array([epsilon_from_rates(int(a), n, int(b), n, 0) for a, b in zip(tp, fp, strict=True)])
    assert (bounds > epsilon).mean() <= 0.05


def test_ceilings() -> None:
    assert multi_run_ceiling(1000, 1000, 0) == pytest.approx(5.60059, abs=1e-5)
    without = one_run_ceiling(1000, 0)
    assert without == pytest.approx(one_run_epsilon(1000, 1000, 1000, 0))
    q = 0.05 ** (1 / 1000)
    assert without == pytest.approx(math.log(q / (1 - q)), abs=1e-6)
    assert one_run_ceiling(1000, 1e-5) < without
    assert one_run_ceiling(1000, 1e-5) >= one_run_epsilon(1000, 1000, 1000, 1e-5)
    assert one_run_ceiling(100, 0) < without


def test_more_right_guesses_never_show_less() -> None:
    found = [one_run_epsilon(400, 200, v, 1e-5) for v in range(100, 201, 10)]
    assert found == sorted(found)
    assert found[0] == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((10, 11, 5, 1.0, 0.0), "counts"),
        ((10, 5, 6, 1.0, 0.0), "counts"),
        ((10, 5, 4, -1.0, 0.0), "epsilon"),
        ((10, 5, 4, 1.0, 1.0), "delta"),
        ((10, 5, 4, 1.0, math.nan), "delta"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[int, int, int, float, float], why: str) -> None:
    with pytest.raises(UserError, match=why):
        one_run_p_value(*arguments)


def test_the_opposite_test_counts_too() -> None:
    """A test that never says "in" wrongly, and one that never misses, are the same test of the opposite."""
    assert epsilon_from_rates(990, 1000, 500, 1000, 1e-5) == pytest.approx(3.24200, abs=1e-5)


def test_guesses_are_made_where_scores_are_clearest() -> None:
    places, said = guess([0.0, 0.2, 0.1, 5.0, 9.0, 5.2], 2)
    assert places.tolist() == [4, 0]
    assert said.tolist() == [True, False]
    assert guess([1.0, 1.0, 1.0], 3)[1].tolist() == [False] * 3


@pytest.mark.parametrize("halved", [False, True])
def test_an_audit_of_one_training_holds_for_a_gaussian_mechanism(halved: bool) -> None:
    """Independent Gaussian canaries of mu = 1: epsilon 4.377178 at delta 1e-5, refuted in at most one of twenty audits."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        included = rng.random(400) < 0.5
        scores = rng.normal(size=400) + included
        if halved:
            found.append(audit_one_run_by_halves(included, scores, 1e-5, (0.1, 0.4), rng).epsilon)
        else:
            found.append(max(one.epsilon for one in audit_one_run(included, scores, 1e-5, (0.1, 0.4))))
    assert max(found) < 4.377178
    assert np.median(found) > 0.3


def test_the_best_of_several_numbers_of_guesses_is_corrected() -> None:
    """Scores that tell nothing: the largest of five bounds is above 0 in at most one of twenty audits."""
    rng = np.random.default_rng(3)
    trials, wrong = 300, 0
    for _ in range(trials):
        tried = audit_one_run(rng.random(60) < 0.5, rng.normal(size=60), 0, (0.1, 0.3, 0.5, 0.8, 1.0))
        wrong += max(one.epsilon for one in tried) > 0
    assert wrong / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_what_chose_the_number_of_guesses_does_not_measure_it() -> None:
    """The first half tells everything and the second nothing."""

    class Unshuffled(np.random.Generator):
        def permutation(self, x: int) -> np.ndarray:  # type: ignore[override,type-arg]
            return np.arange(x)

    truth = np.arange(400) % 2 == 0
    scores = np.where(np.arange(400) < 200, 10 * truth, 10 * (np.arange(400) % 4 < 2))
    found = audit_one_run_by_halves(truth, scores, 0, (0.1, 1.0), Unshuffled(np.random.PCG64(0)))
    assert (found.canaries, found.guesses, found.right, found.epsilon) == (200, 200, 100, 0)


def test_canaries_of_no_fair_coin_are_refused() -> None:
    with pytest.raises(UserError, match="fair coin"):
        audit_one_run([True] * 100, np.ones(100), 0, (1.0,))
    with pytest.raises(UserError, match="finite"):
        audit_one_run([True, False], [1.0, math.nan], 0, (1.0,))
    with pytest.raises(UserError, match="one score each"):
        audit_one_run([True, False], [1.0], 0, (1.0,))


def test_a_threshold_comes_from_other_trainings_than_the_rates() -> None:
    rng = np.random.default_rng(4)
    over = [
        audit_many_runs(rng.normal(size=40), rng.normal(size=40), 1e-9, rng=np.random.default_rng(i)).epsilon > 0
        for i in range(200)
    ]
    assert np.mean(over) <= 0.05
    found = audit_many_runs(np.full(2000, 2.0), np.zeros(2000), 1e-9, rng=rng)
    assert 0 < found.threshold < 2
    assert found.epsilon == found.ceiling == pytest.approx(5.60059, abs=1e-5)
    with pytest.raises(UserError, match="too few"):
        audit_many_runs([1.0], [0.0, 1.0], 1e-9, rng=rng)
