"""A surrogate tree's rules say what the tree does; a boosting machine is a sum."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audit.global_explanations._encoding import encode, standardise
from audit.global_explanations.surrogate import BoostingSurrogate, SurrogateTree
from audit.model import Field, InputSpec
from audit.parameters import UserError

SPEC = InputSpec(
    fields=(
        Field(name="age", kind="number"),
        Field(name="job", kind="category", categories=("clerk", "smith", "cook")),
        Field(name="debt", kind="number"),
    )
)


def rows(n: int = 300) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(
        np.stack([rng.uniform(20, 60, n), rng.integers(0, 3, n).astype(float), rng.uniform(0, 9, n)], axis=1)
    )


def rule(x: Tensor) -> Tensor:
    return ((x[:, 1] == 2) & (x[:, 0] > 40)).long()


def tree(x: Tensor, answers: Tensor, **options: Any) -> SurrogateTree:
    return SurrogateTree(x, answers, SPEC, **{"depth": 3, "least": 1, "seed": 0, **options})


def test_rules_are_those_that_the_answers_follow() -> None:
    x = rows()
    fitted = tree(x, rule(x))
    assert torch.equal(fitted.predict(x), rule(x))
    rules = fitted.rules()
    assert len(rules) == 3
    (yes,) = [found for found in rules if found.answer == 1]
    assert {condition.rsplit(" ", 1)[0] for condition in yes.conditions} == {"age >", "job is"}


def test_every_row_fulfils_the_rule_of_its_leaf() -> None:
    x = rows()
    fitted = tree(x, torch.from_numpy(np.random.default_rng(1).normal(size=300)), depth=6)
    rules, leaves = {found.leaf: found for found in fitted.rules()}, fitted.leaves(x)
    for row, leaf, value in zip(x, leaves.tolist(), fitted.predict(x).tolist(), strict=True):
        found = rules[leaf]
        assert found.answer == pytest.approx(value)
        for condition in found.conditions:
            assert holds(condition, dict(zip(("age", "job", "debt"), row.tolist(), strict=True))), (condition, row)


def holds(condition: str, row: dict[str, float]) -> bool:
    words = condition.split()
    if "is" in words:
        named = SPEC.fields[1].categories[int(row["job"])] == words[-1]
        return named != ("not" in words)
    if words.count("≤") + words.count("<") == 2:
        return float(words[0]) - 1e-2 < row[words[2]] <= float(words[4]) + 1e-2
    low, high = (float(words[2]), np.inf) if words[1] == ">" else (-np.inf, float(words[2]))
    return low - 1e-2 < row[words[0]] <= high + 1e-2


def test_missing_values_go_where_the_rule_says() -> None:
    x = rows()
    x[:60, 0] = torch.nan
    answers = (x[:, 0].nan_to_num(99.0) > 40).long()
    fitted = tree(x, answers, depth=1)
    assert torch.equal(fitted.predict(x), answers)
    texts = [found.text for found in fitted.rules()]
    assert ["missing" in text for text in texts] == [False, True]


def test_depth_and_least_limit_the_rules() -> None:
    x = rows()
    assert len(tree(x, rule(x), depth=1).rules()) == 2
    coarse = tree(x, rule(x), depth=8, least=60)
    assert min(coarse.leaves(x).bincount()[[found.leaf for found in coarse.rules()]]) >= 60
    one = tree(x, torch.zeros(300, dtype=torch.int64))
    assert [found.text for found in one.rules()] == ["always"]


def test_columns_are_encoded_and_standardised() -> None:
    x = rows(50)
    x[0, 2] = torch.nan
    encoded, columns = encode(x, SPEC)
    assert [(c.name, c.category) for c in columns] == [("age", None), ("job", "clerk"), ("job", "smith"), ("job", "cook"), ("debt", None)]  # fmt: skip
    assert encoded[:, 1:4].sum(dim=1).tolist() == [1.0] * 50
    scaled = standardise(encoded, encoded)
    assert not scaled.isnan().any()
    np.testing.assert_allclose(scaled.mean(dim=0), np.zeros(5), atol=1e-12)
    np.testing.assert_allclose(scaled[:, 0].std(correction=0), 1)
    assert standardise(torch.full((2, 1), 7.0), torch.full((3, 1), 5.0)).tolist() == [[2.0], [2.0]]


def test_a_boosting_machine_is_a_sum_of_curves() -> None:
    x = rows(150)
    values = x[:, 0] / 10 + (x[:, 1] == 1) * 3.0
    fitted = BoostingSurrogate(x, values, SPEC, interactions=0, seed=0)
    assert float((fitted.predict(x) - values).abs().mean()) < 0.3
    assert list(fitted.importances())[-1] == "debt"
    paired = BoostingSurrogate(x, values + 2 * (x[:, 0] > 40) * (x[:, 2] > 4), SPEC, interactions=1, seed=0)
    assert any("&" in term for term in paired.importances())


def test_a_boosting_machine_needs_something_to_learn_and_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(30)
    with pytest.raises(UserError, match="same class"):
        BoostingSurrogate(x, torch.zeros(30, dtype=torch.int64), SPEC, interactions=0, seed=0)
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("interpret"):
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="interpret-core: pip install"):
        BoostingSurrogate(x, rule(x), SPEC, interactions=0, seed=0)
