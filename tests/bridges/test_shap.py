"""Kernel SHAP of a game through shap: closed forms, and nothing left behind."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from audit.bridges.shap import kernel_shapley

WEIGHTS = np.random.default_rng(0).normal(size=2**6)


def game(coalitions: Any) -> Any:
    """Six players, interactions of every order."""
    return WEIGHTS[np.asarray(coalitions).astype(int) @ (2 ** np.arange(6))]


def shapley_by_definition() -> list[float]:
    values = []
    for player in range(6):
        others, total = [p for p in range(6) if p != player], 0.0
        for size in range(6):
            for chosen in itertools.combinations(others, size):
                without = sum(2**p for p in chosen)
                weight = math.factorial(size) * math.factorial(5 - size) / math.factorial(6)
                total += weight * float(WEIGHTS[without + 2**player] - WEIGHTS[without])
        values.append(total)
    return values


def test_every_coalition_is_exact() -> None:
    np.testing.assert_allclose(kernel_shapley(game, 6, coalitions=62, seed=0), shapley_by_definition(), atol=1e-9)


def test_some_coalitions_add_up_and_depend_on_the_seed() -> None:
    first, again, other = (kernel_shapley(game, 6, coalitions=24, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert float(first.sum()) == pytest.approx(float(WEIGHTS[-1] - WEIGHTS[0]))
    assert 0 < np.abs(first - shapley_by_definition()).max() < 1


def test_no_feature_is_dropped() -> None:
    """shap keeps ten of them unless told otherwise."""
    weights = np.arange(1.0, 13.0)
    found = kernel_shapley(lambda coalitions: coalitions @ weights, 12, coalitions=300, seed=0)
    np.testing.assert_allclose(found, weights, atol=1e-6)


def test_a_lone_player_takes_all() -> None:
    assert kernel_shapley(lambda coalitions: coalitions[:, 0] * 8.0, 1, coalitions=2, seed=0).tolist() == [8.0]


def test_the_generator_is_given_back_after_success_and_failure() -> None:
    before = np.random.get_state()[1].tolist()
    kernel_shapley(game, 6, coalitions=24, seed=1)
    assert np.random.get_state()[1].tolist() == before

    def broken(coalitions: Any) -> Any:
        raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="broken on purpose"):
        kernel_shapley(broken, 6, coalitions=24, seed=1)
    assert np.random.get_state()[1].tolist() == before
