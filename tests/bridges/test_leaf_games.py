"""Interventional values a leaf at a time, against every coalition, on random trees."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from audit.bridges import leaf_games
from audit.bridges.leaf_games import leaf_shapley, leaves

FEATURES = 4
Trees = list[dict[str, Any]]


def grown(rng: np.random.Generator, depth: int) -> dict[str, Any]:
    """A random tree of at most so many levels; features come back along a path, thresholds are met exactly."""
    if depth == 0 or rng.random() < 0.15:
        return {"value": rng.normal(size=2)}
    return {
        "feature": int(rng.integers(FEATURES)), "threshold": float(rng.integers(-2, 3)), "missing": bool(rng.random() < 0.5),
        "left": grown(rng, depth - 1), "right": grown(rng, depth - 1),
    }  # fmt: skip


def arrays(trees: Trees) -> list[Any]:
    """Trees as shap holds them: one row each, filled up."""
    rows: list[list[list[Any]]] = []
    for tree in trees:
        nodes: list[list[Any]] = []

        def add(part: dict[str, Any], nodes: list[list[Any]] = nodes) -> int:
            own = len(nodes)
            nodes.append([-1, -1, -1, 0, 0.0, part.get("value", np.zeros(2))])
            if "left" in part:
                left, right = add(part["left"]), add(part["right"])
                nodes[own][:5] = [left, right, left if part["missing"] else right, part["feature"], part["threshold"]]
            return own

        add(tree)
        rows.append(nodes)
    most = max(map(len, rows))
    filled = [nodes + [[-1, -1, -1, 0, 0.0, np.zeros(2)]] * (most - len(nodes)) for nodes in rows]
    return [np.array([[node[k] for node in nodes] for nodes in filled]) for k in range(6)]


def answer(trees: Trees, x: Any) -> Any:
    total = np.zeros(2)
    for tree in trees:
        node = tree
        while "left" in node:
            value = x[node["feature"]]
            left = node["missing"] if np.isnan(value) else value <= node["threshold"]
            node = node["left" if left else "right"]
        total = total + node["value"]
    return total


def by_definition(trees: Trees, x: Any, background: Any) -> Any:
    def worth(members: set[int]) -> Any:
        there = np.array([f in members for f in range(FEATURES)])
        return np.mean([answer(trees, np.where(there, x, other)) for other in background], axis=0)

    values = np.zeros((FEATURES, 2))
    for f in range(FEATURES):
        others = [g for g in range(FEATURES) if g != f]
        for size in range(FEATURES):
            for chosen in itertools.combinations(others, size):
                weight = 1 / (FEATURES * math.comb(FEATURES - 1, size))
                values[f] += weight * (worth({*chosen, f}) - worth(set(chosen)))
    return values


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("entries", [1 << 21, 20], ids=["at once", "in parts"])
def test_random_trees_by_definition(monkeypatch: pytest.MonkeyPatch, seed: int, entries: int) -> None:
    monkeypatch.setattr(leaf_games, "_ENTRIES", entries)
    rng = np.random.default_rng(seed)
    trees = [grown(rng, depth) for depth in (0, 1, 3, 6)]
    x, background = (rng.integers(-2, 3, size=(n, FEATURES)).astype(float) for n in (4, 7))
    x[rng.random(x.shape) < 0.2] = np.nan
    background[rng.random(background.shape) < 0.2] = np.nan
    values, base = leaf_shapley(leaves(*arrays(trees)), x, background)
    for row, found in zip(x, values, strict=True):
        np.testing.assert_allclose(found, by_definition(trees, row, background), atol=1e-12)
        np.testing.assert_allclose(found.sum(axis=0) + base, answer(trees, row), atol=1e-12)


def chain(depth: int) -> dict[str, Any]:
    """A path with a feature of its own at each level: worth 1 to rows above 0 in all of them."""
    node: dict[str, Any] = {"value": np.ones(2)}
    for feature in range(depth):
        node = {"feature": feature, "threshold": 0.0, "missing": False, "left": {"value": np.zeros(2)}, "right": node}
    return node


def test_a_conjunction_of_many_is_shared_evenly() -> None:
    values, base = leaf_shapley(leaves(*arrays([chain(40)])), np.ones((1, 40)), -np.ones((2, 40)))
    np.testing.assert_allclose(values, 1 / 40)
    np.testing.assert_allclose(base, 0)


def test_a_path_that_no_pattern_holds_is_told() -> None:
    with pytest.raises(OverflowError, match="a path of 63 features"):
        leaves(*arrays([chain(63)]))
