"""Relations between the columns of a table, as a scenario writes them: ``loanprc == loanamt / price``, ``loanamt <= price``.

Read by a parser of its own over Python's grammar: nothing is ever evaluated as code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.LtE: operator.le,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.Gt: operator.gt,
}
_MOST_LETTERS = 400


@dataclass(frozen=True)
class Relation:
    """A comparison of two expressions over columns.

    Args:
        names: columns that it names.
        derives: the column that stands alone left of ``==`` and not on the right: it can be recomputed from the others.
    """

    text: str
    left: ast.expr
    comparison: type[ast.cmpop]
    right: ast.expr
    names: frozenset[str]
    derives: str | None

    def holds(self, column: Callable[[str], Tensor], tolerance: float) -> Tensor:
        """Which rows keep to it, ``(...)`` bool; a row that lacks a value, or in which it divides by zero, does not.

        Args:
            column: name → values ``(...)`` float64.
            tolerance: of ``==``, ``<=`` and ``>=``, relative to the larger side.
        """
        import torch

        like = column(min(self.names))
        left, right = (torch.as_tensor(_value(side, column)).to(like) for side in (self.left, self.right))
        slack = tolerance * torch.maximum(left.abs(), right.abs())
        kept: Tensor
        if self.comparison is ast.Eq:
            kept = (left - right).abs() <= slack
        elif self.comparison is ast.LtE:
            kept = left <= right + slack
        elif self.comparison is ast.GtE:
            kept = left >= right - slack
        else:
            kept = _COMPARISONS[self.comparison](left, right)
        return kept & left.isfinite() & right.isfinite()

    def derived(self, column: Callable[[str], Tensor]) -> Tensor:
        """What `derives` must be, ``(...)`` float64."""
        import torch

        like = column(min(self.names))
        return torch.as_tensor(_value(self.right, column), dtype=like.dtype, device=like.device).expand(like.shape)


def parse_relation(text: str) -> Relation:
    """A relation from its text: columns, numbers, ``+ - * /``, brackets, and a comparison; a comparison inside brackets is 1 or 0.

    A column whose name is no Python name is written in quotes: ``'net worth' >= 0``.

    Raises:
        UserError: it is none, or holds anything else.
    """
    try:
        if len(text) > _MOST_LETTERS:
            raise ValueError
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _malformed(text) from None
    if not isinstance(body, ast.Compare) or len(body.ops) != 1 or type(body.ops[0]) not in _COMPARISONS:
        raise _malformed(text)
    left, right = body.left, body.comparators[0]
    names = frozenset(_names(body, text))
    if not names:
        raise UserError(f"relation '{text}' names no column")
    alone = _column_of(left)
    derives = alone if isinstance(body.ops[0], ast.Eq) and alone and alone not in set(_names(right, text)) else None
    return Relation(text, left, type(body.ops[0]), right, names, derives)


def in_order(relations: Sequence[Relation]) -> list[Relation]:
    """Relations that derive a column, each after those that derive what it reads.

    Raises:
        UserError: a column is derived twice, or from itself by way of others.
    """
    by_column: dict[str, Relation] = {}
    for relation in relations:
        if relation.derives in by_column:
            raise UserError(f"relations derive column '{relation.derives}' twice: leave one of them out")
        if relation.derives is not None:
            by_column[relation.derives] = relation
    done: dict[str, Relation] = {}
    while len(done) < len(by_column):
        ready = [c for c, r in by_column.items() if c not in done and r.names & by_column.keys() <= {c, *done}]
        if not ready:
            raise UserError(f"relations derive '{min(by_column.keys() - done.keys())}' from itself, by way of others")
        done.update((column, by_column[column]) for column in ready)
    return list(done.values())


def _malformed(text: str) -> UserError:
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    return UserError(
        f"relation '{shown}' is none: write one comparison (==, <=, >=, <, >) of columns and numbers joined by + - * /"
    )


def _column_of(node: ast.expr) -> str | None:
    """The column that a node is: a name, or a text in quotes."""
    if isinstance(node, ast.Name):
        return node.id
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _names(node: ast.expr, text: str) -> Iterator[str]:
    """Columns below a node; refuses whatever is no part of a relation."""
    if (name := _column_of(node)) is not None:
        yield name
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield from _names(node.left, text)
        yield from _names(node.right, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from _names(node.operand, text)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        yield from _names(node.left, text)
        yield from _names(node.comparators[0], text)
    else:
        raise _malformed(text)


def _value(node: ast.expr, column: Callable[[str], Tensor]) -> Any:
    """An expression's value: a number, or a tensor as `column` gives it."""
    if (name := _column_of(node)) is not None:
        return column(name)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, column), _value(node.right, column)
        if isinstance(node.op, ast.Div) and not hasattr(right, "dtype") and right == 0:
            return float("nan")
        return _ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, column)
    if isinstance(node, ast.Compare):
        left, right = _value(node.left, column), _value(node.comparators[0], column)
        answer = _COMPARISONS[type(node.ops[0])](left, right)
        # Of a missing value nothing is known: 0 × NaN is NaN.
        return answer * 1.0 + 0.0 * (left + right)
    assert isinstance(node, ast.Constant)
    return node.value
