"""LiRA and RMIA: closed forms, planted pairs with the best power there is, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from audit.parameters import UserError
from audit.privacy.membership import auc
from audit.privacy.reference_attacks import lira_offline, lira_online, rmia_offline, within_resolution


def world(shadows: int, n: int = 2000, gap: float = 1.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Confidences of examples that are easy or hard by themselves: N(difficulty + gap, 1) where seen, else N(difficulty, 1)."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 3, n)
    inside = np.argsort(rng.random((shadows, n)), axis=0) < shadows // 2  # each example in half of the shadows
    member = rng.random(n) < 0.5
    shadow = difficulty + gap * inside + rng.normal(size=(shadows, n))
    target = difficulty + gap * member + rng.normal(size=n)
    return target, shadow, inside, member


def found(scores: np.ndarray, member: np.ndarray) -> float:
    return auc(scores[member], scores[~member]).value


def test_online_is_the_likelihood_ratio_of_two_normals() -> None:
    shadow = np.array([[0.0], [2.0], [4.0], [8.0]])
    inside = np.array([[False], [False], [True], [True]])
    score = lira_online([3.0], shadow, inside, pooled=False)
    wanted = norm.logpdf(3, 6, np.sqrt(8)) - norm.logpdf(3, 1, np.sqrt(2))
    assert score == pytest.approx(wanted)


def test_offline_ranks_as_the_one_sided_test() -> None:
    shadow = np.array([[0.0, 1.0], [2.0, 5.0]])
    score = lira_offline([3.0, 4.0], shadow, np.zeros((2, 2), dtype=bool), pooled=False)
    assert score == pytest.approx([(3 - 1) / np.sqrt(2), (4 - 3) / np.sqrt(8)])
    assert not np.isinf(lira_offline([1e6], [[0.0], [1.0]], np.zeros((2, 1), dtype=bool))).any()


def test_certain_answers_do_not_drown_the_others() -> None:
    own, others = within_resolution([2.0, 708.0], [[-3.0, -707.0], [1.0, 708.4]])
    assert own.tolist() == [2, 4]
    assert others.tolist() == [[-3, -4], [1, 4]]
    assert within_resolution([700.0], [[-700.0]])[0].tolist() == [1]
    logits = [500.0, -20.0]  # of a network, whose logits are known however sure it is
    assert within_resolution(logits, [[3.0, 4.0]])[0].tolist() == logits


def test_with_many_shadows_the_best_power_is_reached() -> None:
    target, shadow, inside, member = world(200)
    best = norm.cdf(1 / np.sqrt(2))  # of N(1, 1) against N(0, 1)
    assert found(lira_online(target, shadow, inside), member) == pytest.approx(best, abs=0.02)
    assert found(lira_offline(target, shadow, inside), member) == pytest.approx(best, abs=0.03)
    assert found(target, member) < 0.65, "the loss alone is blinded by easy and hard examples"


def test_pooling_wins_where_shadows_are_few() -> None:
    target, shadow, inside, member = world(4, n=4000)
    pooled, alone = (found(lira_online(target, shadow, inside, pooled=p), member) for p in (True, False))
    assert pooled > alone + 0.03
    assert np.array_equal(lira_online(target, shadow, inside), lira_online(target, shadow, inside, pooled=True))
    few, many = world(4), world(64)
    assert np.array_equal(lira_offline(*many[:3]), lira_offline(*many[:3], pooled=False))
    assert not np.array_equal(lira_offline(*few[:3]), lira_offline(*few[:3], pooled=False))


def test_nothing_learnt_is_nothing_found() -> None:
    target, shadow, inside, member = world(16, gap=0.0)
    for score in (lira_online, lira_offline):
        assert found(score(target, shadow, inside), member) == pytest.approx(0.5, abs=0.04)


def test_rmia_by_hand() -> None:
    a = 0.5
    marginal = [(1.5 * p + 0.5) / 2 for p in (0.2, 0.4)]
    bars = sorted(z / ((1.5 * m + 0.5) / 2) for z, m in ((0.3, 0.3), (0.9, 0.5), (0.05, 0.1)))
    ratio = [0.9 / marginal[0], 0.5 / marginal[1]]
    wanted = [sum(r / 1.5 >= bar for bar in bars) / 3 for r in ratio]
    got = rmia_offline([0.9, 0.5], [[0.2, 0.4]], [[False, False]], [0.3, 0.9, 0.05], [[0.3, 0.5, 0.1]], gamma=1.5, a=a)
    assert got == pytest.approx(wanted)


def test_rmia_leaves_out_models_that_saw_the_example() -> None:
    population = ([0.5], [[0.5], [0.5]])
    seen = rmia_offline([0.9], [[0.99], [0.2]], [[True], [False]], *population)
    both = rmia_offline([0.9], [[0.99], [0.2]], [[False], [False]], *population)
    assert seen >= both
    assert seen == rmia_offline([0.9], [[0.2]], [[False]], [0.5], [[0.5]])


def test_rmia_finds_members_with_one_reference_model() -> None:
    target, shadow, inside, member = world(1, n=3000, gap=2.0)
    inside = np.zeros_like(inside)
    probability = 1 / (1 + np.exp(-target)), 1 / (1 + np.exp(-shadow))
    z_target, z_shadow, _, _ = world(1, n=3000, gap=0.0, seed=9)
    population = 1 / (1 + np.exp(-z_target)), 1 / (1 + np.exp(-z_shadow))
    score = rmia_offline(probability[0], probability[1], inside, *population)
    assert found(score, member) > found(target, member) + 0.05


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: lira_online([1.0], [[1.0]], [[True]]), "shadows that were trained on it"),
        (lambda: lira_offline([1.0], [[1.0]], [[True]]), "not trained on it"),
        (lambda: lira_online([1.0, 2.0], [[1.0]], [[True]]), "expected"),
        (lambda: lira_offline([np.nan], [[1.0]], [[False]]), "finite"),
        (lambda: rmia_offline([0.5], [[0.5]], [[False]], [], [[]]), "population"),
        (lambda: rmia_offline([1.5], [[0.5]], [[False]], [0.5], [[0.5]]), "probabilities"),
        (lambda: rmia_offline([0.5], [[0.5]], [[False]], [0.5], [[0.5]], gamma=0.5), "gamma"),
        (lambda: rmia_offline([0.5], [[0.5]], [[True]], [0.5], [[0.5]]), "not trained on it"),
    ],
)
def test_refusals(call: object, why: str) -> None:
    with pytest.raises(UserError, match=why):
        call()  # type: ignore[operator]
