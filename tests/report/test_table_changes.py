"""Adversarial rows of a table: columns by name, categories by value, every column on its own scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from audit.report._evidence import Block, blocks
from audit.report._sample import MAX_FEATURES
from audit.report._table_changes import header
from audit.report._view import RunView

NAN = float("nan")
FIELDS = [
    {"name": "loan <b>", "kind": "number", "units": "k$"},
    {"name": "job", "kind": "category", "categories": ["clerk", "cook", "judge"]},
    {"name": "age", "kind": "number"},
]


def block_of(
    stored: Callable[..., Any], make: Any, x: Any, after: Any, fields: Any = FIELDS, meta: dict[str, Any] | None = None
) -> Block:
    x, after = np.asarray(x, dtype=float), np.asarray(after, dtype=float)
    n = len(x)
    s = stored(f"run-{len(meta or {})}", models={"m": {"spec": {"fields": fields}}})
    known = {"attack": "tabular", "input_kind": "table", "norm": None, "classes": ["deny", "approve"], **(meta or {})}
    ref = s.evidence(
        "a.b", "adversarial", "adversarial", [f"r{i}" for i in range(n)], known, x=x, adversarial=after, label=np.zeros(n, int),
        prediction=np.zeros(n, int), adversarial_prediction=np.ones(n, int), size=np.ones(n), queries=np.full(n, 7),
    )  # fmt: skip
    s.add(make.finding("a.b", "m", make.Exact(value=1), evidence=(ref,), model="m"))
    (block,) = blocks(RunView(s.finish()))
    assert not block.problem
    return block


def test_a_changed_row_reads_from_what_to_what(stored: Callable[..., Any], make: Any) -> None:
    block = block_of(stored, make, [[100, 0, NAN], [100, 1, 30]], [[90, 2, NAN], [60, 1, 31]])
    first, second = block.samples
    assert first.title == "true deny: deny → approve"
    assert [(bar.feature, bar.value, bar.amount) for bar in first.lists[0].bars] == [
        ("job", "clerk → judge", ""),
        ("loan <b>", "100 → 90 k$", "-10"),
    ]
    assert [(bar.left, bar.width) for bar in first.lists[0].bars] == [(50.0, 50.0), (37.5, 12.5)]
    assert [(bar.feature, bar.value, bar.amount) for bar in second.lists[0].bars] == [
        ("loan <b>", "100 → 60 k$", "-40"),
        ("age", "30 → 31", "+1"),
    ]
    assert {bar.width for bar in second.lists[0].bars} == {50.0}, "each column on its own scale"
    assert first.lines == ["2 columns changed", "7 queries"]


def test_the_columns_changed_are_counted_over_all_stored_rows(stored: Callable[..., Any], make: Any) -> None:
    before = [[100, 0, 30]] * 4
    after = [[90, 0, 30], [60, 1, 30], [95, 0, 30], [100, 0, 33]]
    block = block_of(stored, make, before, after)
    assert block.table is not None
    assert block.table.header == header()
    assert list(block.table.rows) == [
        ("loan <b>", "3 of 4", "-5", "-10", "-40"),
        ("job", "1 of 4", "–", "–", "–"),
        ("age", "1 of 4", "+3", "+3", "+3"),
    ]


def test_columns_nobody_names_go_by_position(stored: Callable[..., Any], make: Any) -> None:
    assert block_of(stored, make, [[1, 2]], [[1, 3]]).samples[0].lists[0].bars[0].feature == "position 1"
    named = block_of(stored, make, [[1, 2]], [[1, 3]], meta={"feature_names": ["a", "b"]})
    assert named.samples[0].lists[0].bars[0].feature == "b"


def test_a_row_changed_everywhere_is_cut_and_says_so(stored: Callable[..., Any], make: Any) -> None:
    wide = [{"name": f"c{i}", "kind": "number"} for i in range(MAX_FEATURES + 3)]
    block = block_of(stored, make, np.zeros((1, len(wide))), np.ones((1, len(wide))), wide)
    assert len(block.samples[0].lists[0].bars) == MAX_FEATURES
    assert block.samples[0].lines[0] == f"{len(wide)} columns changed"
