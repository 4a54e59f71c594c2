"""Evidence of every kind as blocks of a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from audit.report._evidence import Block, blocks
from audit.report._view import RunView


@pytest.fixture
def block_of(stored: Callable[..., Any], make: Any) -> Callable[..., Block]:
    """Stores one series and gives its block."""

    def build(kind: str, ids: list[str], meta: dict[str, Any], **fields: Any) -> Block:
        s = stored(f"run-{kind}")
        ref = s.evidence("a.b", kind, kind, ids, meta, **fields)
        s.add(make.finding("a.b", "m", make.Exact(value=1), evidence=(ref, ref)))
        (block,) = blocks(RunView(s.finish()))
        assert not block.problem
        return block

    return build


TABLE = {"input_kind": "table", "classes": ["no", "yes"], "feature_names": ["age", "debt", "income"]}


def test_attributions_of_a_table_are_bars(block_of: Callable[..., Block]) -> None:
    values = np.array([[0.1, -0.4, 0.0], [0.2, -0.1, 0.05]])
    block = block_of(
        "attributions", ["a", "b"], {"explainer": "shap_values", "parameters": {"background": 20}, **TABLE},
        x=np.array([[30.0, 5.0, np.nan], [40.0, 2.0, 1.0]]), values=values,
        target=np.array([1, 1]), prediction=np.array([1, 0]), label=np.array([1, 1]),
    )  # fmt: skip
    assert (block.title, block.facts) == ("shap_values", ["background 20"])
    assert len(block.charts) == 1
    first = block.samples[0]
    assert first.title == "true yes, predicted no"  # wrong predictions come first
    assert first.right is False
    assert [(bar.feature, bar.value, bar.amount) for bar in first.lists[0].bars] == [
        ("age", "40", "+0.2"),
        ("debt", "2", "-0.1"),
        ("income", "1", "+0.05"),
    ]
    second = block.samples[1]
    assert [bar.feature for bar in second.lists[0].bars] == ["debt", "age"]  # what contributes nothing is left out
    assert (second.lists[0].bars[0].left, second.lists[0].bars[0].width, second.lists[0].bars[0].positive) == (
        0.0,
        50.0,
        False,
    )
    assert (second.lists[0].bars[1].left, second.lists[0].bars[1].width) == (50.0, 12.5)


def test_attributions_of_a_regression_have_no_right_and_wrong(block_of: Callable[..., Block]) -> None:
    block = block_of(
        "attributions", ["a"], {"explainer": "shap_values", "parameters": {}, **TABLE, "classes": []},
        x=np.ones((1, 3)), values=np.ones((1, 3)), target=np.array([0]), prediction=np.array([2.5]), label=np.array([2.25]),
    )  # fmt: skip
    assert (block.samples[0].title, block.samples[0].right) == ("true 2.25, predicted 2.5", None)


def test_adversarial_rows_of_a_table_show_what_changed(block_of: Callable[..., Block]) -> None:
    x = np.array([[30.0, 5.0, 1.0]])
    block = block_of(
        "adversarial", ["a"], {"attack": "art.hop_skip_jump", "norm": "l2", "eps": 0.5, "units": "", **TABLE},
        x=x, adversarial=x + np.array([[0.0, -0.5, 0.0]]), label=np.array([0]), prediction=np.array([0]),
        adversarial_prediction=np.array([1]), size=np.array([0.5]), queries=np.array([1200]),
    )  # fmt: skip
    (sample,) = block.samples
    assert sample.title == "true no: no → yes"
    assert [(bar.feature, bar.value, bar.amount) for bar in sample.lists[0].bars] == [("debt", "5 → 4.5", "-0.5")]
    assert sample.lines == ["1 column changed", "size 0.5 (l2)", "1,200 queries"]


def test_adversarial_images_show_original_change_and_result(rich: Any) -> None:
    block = next(b for b in blocks(RunView(rich)) if b.path.endswith("pgd"))
    assert block.shown == "12 of 40 shown, those that fool the model first; 26 of the 40 stored ones fool the model"
    assert all(sample.right is False for sample in block.samples)
    assert [p.label for p in block.samples[0].pictures] == ["original: 1", "change, × 4", "attacked: 6"]
    assert all(p.alt for sample in block.samples for p in sample.pictures)


def test_up_to_a_third_of_the_maps_are_wrong_predictions(rich: Any) -> None:
    block = next(b for b in blocks(RunView(rich)) if b.path.endswith("integrated_gradients"))
    assert [sample.right for sample in block.samples] == [False] * 4 + [True] * 8


@pytest.mark.parametrize(("n_classes", "matrix"), [(10, True), (21, False)])
def test_large_confusion_matrices_become_lists(
    stored: Callable[..., Any], make: Any, n_classes: int, matrix: bool
) -> None:
    s = stored()
    ref = make.confusion(s, n_classes)
    s.add(make.finding("performance.classification", "accuracy", make.Exact(value=1), evidence=(ref,)))
    (block,) = blocks(RunView(s.finish()))
    assert (block.matrix is not None) == matrix
    if block.matrix:
        assert block.matrix.rows[0][1][:2] == [("50", 50 / 53, True), ("3", 3 / 53, False)]
    else:
        assert block.table is not None
        assert len(block.table.rows) == 20
        assert block.table.rows[0] == ("0", "1", "3")


def test_confusions_of_counts_without_a_sign_are_listed(block_of: Callable[..., Block]) -> None:
    counts = np.eye(25, dtype=np.uint8)[None]
    counts[0, 3, 7], counts[0, 4, 1] = 2, 9
    block = block_of("confusion_matrix", ["all"], {"classes": [f"c{i}" for i in range(25)]}, counts=counts)
    assert block.table is not None
    assert block.table.rows == [("c4", "c1", "9"), ("c3", "c7", "2")]


def test_absent_classes_of_a_large_matrix_are_left_out(block_of: Callable[..., Block]) -> None:
    counts = np.zeros((1, 1000, 1000), dtype=np.int64)
    counts[0, 3, 3], counts[0, 3, 700] = 5, 1
    block = block_of("confusion_matrix", ["all"], {"classes": [f"c{i}" for i in range(1000)]}, counts=counts)
    assert block.matrix is not None
    assert block.matrix.classes == ("c3", "c700")
    assert block.matrix.rows[1][1] == [("0", 0.0, False), ("0", 0.0, True)]  # no row of that class: no share


def test_curves_carry_their_numbers(block_of: Callable[..., Block]) -> None:
    meta = {"title": "t", "x_label": "eps", "y_label": "accuracy", "x_scale": "log", "y_scale": "linear"}
    block = block_of(
        "curve", ["0", "1", "2"], meta, x=np.array([1.0, 0.0, 0.1]), y=np.array([0.1, 0.9, 0.5]),
        low=np.array([0.05, np.nan, 0.4]), high=np.array([0.2, np.nan, 0.6]),
    )  # fmt: skip
    assert block.table is not None
    assert block.table.header == ("eps", "accuracy", "interval")
    assert list(block.table.rows) == [("0", "0.9", "– to –"), ("0.1", "0.5", "0.4 to 0.6"), ("1", "0.1", "0.05 to 0.2")]
    (chart,) = block.charts
    assert "mathdefault" not in chart
    assert 'aria-label="t: accuracy over eps"' in chart
    assert "DejaVu" not in chart


def test_charts_take_names_as_they_are(block_of: Callable[..., Block]) -> None:
    meta = {"title": "<b>$x$</b>", "x_label": "漢 & co", "y_label": "$y$"}
    block = block_of(
        "curve", ["0", "1"], meta, x=np.array([1.0, 2.0]), y=np.array([3.0, 4.0]), series=np.array(["<i>", "$a_b$"])
    )
    chart = block.charts[0]
    assert "<b>" not in chart
    assert "<i>" not in chart
    for text in ("$y$", "$a_b$", "漢 &amp; co", "&lt;i&gt;"):
        assert text in chart


def test_tables_are_capped_and_say_so(block_of: Callable[..., Block]) -> None:
    block = block_of(
        "table",
        [str(i) for i in range(100)],
        {},
        value=np.arange(100) / 3,
        flag=np.arange(100) > 50,
        wide=np.zeros((100, 2)),
    )
    assert block.table is not None
    assert block.table.header == ("row", "flag", "value")
    assert block.table.rows[1] == ("1", "no", "0.3333")
    assert len(block.table.rows) == 30
    assert block.table.note.startswith("30 of 100 rows are shown")
    assert "wide" in block.table.note


def test_an_unknown_kind_is_shown_as_a_table(block_of: Callable[..., Block]) -> None:
    block = block_of("frequencies", ["a"], {}, count=np.array([12345]))
    assert block.kind == "frequencies"
    assert block.table is not None
    assert block.table.rows == [("a", "12,345")]


def test_evidence_is_shown_once_however_many_findings_name_it(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    ref = make.confusion(s)
    s.add(
        *(make.finding("performance.classification", f"m{i}", make.Exact(value=1), evidence=(ref,)) for i in range(3))
    )
    assert len(blocks(RunView(s.finish()))) == 1
