"""A small model that people can read, fitted to the answers of one that they cannot.

Source: trees: Craven & Shavlik 1996, "Extracting tree-structured representations of trained networks" (NeurIPS 8); explainable boosting
machine: Lou et al. 2013, doi 10.1145/2487575.2487579, as in InterpretML, arXiv:1909.09223.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from audit.global_explanations._encoding import EncodedColumn, encode
from audit.numbers import show
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import InputSpec


_ROUNDS = 1000
"""Of boosting: a model's answers have no noise, so that stopping when nothing improves would hardly ever come."""


@dataclass(frozen=True)
class Rule:
    """A leaf of a surrogate tree.

    Args:
        conditions: in words, one for each column; empty for a tree without a split.
        answer: class, or value of a regression, that the tree gives there.
        leaf: its number, as `SurrogateTree.leaves` gives it.
    """

    conditions: tuple[str, ...]
    answer: float
    leaf: int

    @property
    def text(self) -> str:
        """``income ≤ 3.2 and job is cook``."""
        return " and ".join(self.conditions) or "always"


class SurrogateTree:
    """A decision tree of limited depth; categories are asked about one value at a time, missing values go where the split says.

    Args:
        x: ``(N, F)`` rows.
        answers: ``(N,)`` int64 classes or float64 values that the model gives them.
        depth: most questions until an answer.
        least: fewest rows behind an answer.
    """

    def __init__(self, x: Tensor, answers: Tensor, spec: InputSpec, *, depth: int, least: int, seed: int) -> None:
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        self._spec, self._classes = spec, not answers.is_floating_point()
        rows, self._columns = encode(x, spec)
        self._lacking = {self._columns[i].name for i in rows.isnan().any(dim=0).nonzero().flatten().tolist()}
        kind = DecisionTreeClassifier if self._classes else DecisionTreeRegressor
        self._tree = kind(max_depth=depth, min_samples_leaf=min(least, len(x)), random_state=seed)
        self._tree.fit(rows.numpy(), answers.cpu().numpy())

    def predict(self, x: Tensor) -> Tensor:
        """Classes ``(N,)`` int64 or values float64."""
        return torch.from_numpy(self._tree.predict(encode(x, self._spec)[0].numpy()))

    def leaves(self, x: Tensor) -> Tensor:
        """Which leaf each row falls into, ``(N,)`` int64."""
        return torch.from_numpy(self._tree.apply(encode(x, self._spec)[0].numpy()))

    def rules(self) -> list[Rule]:
        """Every leaf as a rule, from left to right."""
        return list(self._below(0, {}))

    def _below(self, node: int, path: Mapping[EncodedColumn, _Span]) -> Iterator[Rule]:
        tree = self._tree.tree_
        if tree.children_left[node] < 0:
            conditions = (span.words(column, column.name in self._lacking) for column, span in path.items())
            yield Rule(tuple(conditions), self._answer(tree.value[node][0]), node)
            return
        column = self._columns[tree.feature[node]]
        span, at = path.get(column, _Span()), float(tree.threshold[node])
        missing_left = bool(tree.missing_go_to_left[node])
        yield from self._below(tree.children_left[node], {**path, column: span.below(at, missing_left)})
        yield from self._below(tree.children_right[node], {**path, column: span.above(at, not missing_left)})

    def _answer(self, value: Any) -> float:
        return float(self._tree.classes_[value.argmax()]) if self._classes else float(value[0])


@dataclass(frozen=True)
class _Span:
    """Values of a column that a path lets through."""

    low: float = -math.inf
    high: float = math.inf
    missing: bool = True

    def below(self, at: float, missing: bool) -> _Span:
        return _Span(self.low, min(self.high, at), self.missing and missing)

    def above(self, at: float, missing: bool) -> _Span:
        return _Span(max(self.low, at), self.high, self.missing and missing)

    def words(self, column: EncodedColumn, missing_seen: bool) -> str:
        if column.category is not None:
            return f"{column.name} {'is' if self.low > -math.inf else 'is not'} {column.category}"
        if self.low == -math.inf:
            text = f"{column.name} ≤ {show(self.high)}"
        elif self.high == math.inf:
            text = f"{column.name} > {show(self.low)}"
        else:
            text = f"{show(self.low)} < {column.name} ≤ {show(self.high)}"
        return f"{text} or missing" if self.missing and missing_seen else text


class BoostingSurrogate:
    """An explainable boosting machine: a sum of one curve per column and of `interactions` pairs of columns.

    Args:
        x: ``(N, F)`` rows.
        answers: ``(N,)`` int64 classes or float64 values that the model gives them.
        interactions: pairs of columns that act together; none of a model with more than two classes.

    Raises:
        UserError: InterpretML is not installed, or all answers are the same class.
    """

    def __init__(self, x: Tensor, answers: Tensor, spec: InputSpec, *, interactions: int, seed: int) -> None:
        try:
            from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor
        except ImportError as error:
            raise UserError(
                "surrogate kind 'ebm' needs the package interpret-core: pip install 'assay[ebm]', or take kind tree"
            ) from error
        self._classes = not answers.is_floating_point()
        values = answers.unique()  # type: ignore[no-untyped-call]
        if self._classes and len(values) < 2:
            raise UserError("the model gives every row the same class: there is nothing for a surrogate to learn")
        kind = ExplainableBoostingClassifier if self._classes else ExplainableBoostingRegressor
        self._machine = kind(
            feature_names=[field.name for field in spec.fields],
            feature_types=["nominal" if field.kind == "category" else "continuous" for field in spec.fields],
            interactions=0 if self._classes and len(values) > 2 else interactions,
            outer_bags=4,
            learning_rate=0.05,
            max_rounds=_ROUNDS,
            max_interaction_bins=16,
            n_jobs=1,
            random_state=seed,
        )
        self._machine.fit(x.double().cpu().numpy(), answers.cpu().numpy())

    def predict(self, x: Tensor) -> Tensor:
        """Classes ``(N,)`` int64 or values float64."""
        return torch.from_numpy(self._machine.predict(x.double().cpu().numpy()))

    def importances(self) -> dict[str, float]:
        """Term → mean absolute contribution to the score (log-odds of a class), the largest first."""
        found = zip(self._machine.term_names_, self._machine.term_importances(), strict=True)
        return dict(sorted(((str(name), float(size)) for name, size in found), key=lambda term: -term[1]))
