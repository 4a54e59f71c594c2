"""Texts side by side: what differs is marked, what cannot be seen is named, long texts are shown around the changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from audit.report._evidence import Block, blocks
from audit.report._text_changes import CONTEXT, MAX_CHANGES, Passage, Piece, passages, strangers
from audit.report._view import RunView
from audit.report.html import Html
from audit.text import encode

LABELS = ("original", "attacked")


def marked(passage: Passage) -> list[str]:
    return [piece.text for piece in passage.pieces if piece.marked]


def whole(passage: Passage) -> str:
    return "".join(piece.text for piece in passage.pieces)


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        ("a superb film", "a spuerb film", ["p"], ["p"]),
        ("a superb film", "a suprb film", ["e"], []),
        ("a superb film", "a sup erb film", [], ["␣"]),
        ("a superb film", "a SUPERB film", ["superb"], ["SUPERB"]),
        ("a superb film", "a film", ["superb␣"], []),
        ("a superb film", "a superb superb film", [], ["superb␣"]),
        ("same", "same", [], []),
        ("", "x", [], ["x"]),
    ],
)
def test_what_differs_is_marked(old: str, new: str, before: list[str], after: list[str]) -> None:
    first, second = passages(old, new, LABELS)
    assert (marked(first), marked(second)) == (before, after)
    assert (first.label, second.label) == LABELS
    for passage, text in ((first, old), (second, new)):
        assert whole(passage).replace("␣", " ") == text


def test_look_alikes_and_invisible_characters_are_named() -> None:
    old, new = passages("supernatural", "sup\u0435r\u200bnatural", LABELS)
    assert marked(new) == ["\u0435", "[U+200B]"]
    assert strangers(new) == ["\u0435 U+0435 CYRILLIC SMALL LETTER IE", "U+200B ZERO WIDTH SPACE"]
    assert marked(old) == ["e"]
    assert strangers(old) == []


def test_a_long_text_is_shown_around_its_changes() -> None:
    words = [f"word{i}" for i in range(2000)]
    changed = list(words)
    changed[1000] = "wrod1000"
    old, new = passages(" ".join(words), " ".join(changed), LABELS)
    for passage in (old, new):
        shown = whole(passage)
        assert len(shown) < 3 * CONTEXT
        assert "word999" in shown
        assert shown.startswith(" … ")
        assert shown.endswith(" … ")
    many = passages(" ".join(words), " ".join(words).upper(), LABELS)
    assert len(marked(many[0])) == MAX_CHANGES


def test_control_characters_are_taken_out() -> None:
    _, new = passages("ab", "a\u202eb\x07", LABELS)
    assert "\u202e" not in whole(new)
    assert "\x07" not in whole(new)


META = {
    "attack": "character_edits",
    "norm": None,
    "eps": None,
    "units": "characters",
    "classes": ["bad", "good"],
    "input_kind": "text",
}


def stored_texts(old: list[str], new: list[str]) -> dict[str, Any]:
    n = len(old)
    return {
        "x": encode(old, 80), "adversarial": encode(new, 80), "label": np.ones(n, int), "prediction": np.ones(n, int),
        "adversarial_prediction": np.zeros(n, int), "size": np.ones(n), "queries": np.full(n, 31),
    }  # fmt: skip


@pytest.fixture
def block_of(stored: Callable[..., Any], make: Any) -> Callable[[dict[str, Any]], Block]:
    """Adversarial texts of a run as the report's block."""

    def block(fields: dict[str, Any]) -> Block:
        s = stored()
        ref = s.evidence("robustness.evasion", "adversarial-character_edits", "adversarial", ["a"], META, **fields)
        s.add(make.finding("robustness.evasion", "robust_accuracy", make.Exact(value=1), evidence=(ref,)))
        return blocks(RunView(s.finish()))[0]

    return block


def test_adversarial_texts_stand_side_by_side(block_of: Callable[..., Block]) -> None:
    block = block_of(stored_texts(["a <b>superb</b> film"], ["a <b>sup\u0435rb</b> film"]))
    (sample,) = block.samples
    assert sample.title == "true good: good → bad"
    assert [p.label for p in sample.passages] == ["original: good", "attacked: bad"]
    assert sample.passages[1].pieces[1] == Piece("\u0435", True, "\u0435 U+0435 CYRILLIC SMALL LETTER IE")
    assert sample.lines[1:] == ["size 1 characters", "31 queries"]
    assert not sample.lists


def test_the_page_marks_them_and_escapes_the_rest(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    ref = s.evidence(
        "robustness.evasion", "adversarial-character_edits", "adversarial", ["a"], META,
        **stored_texts(["a <b>superb</b> film"], ["a <b>sup\u0435rb</b> film"]),
    )  # fmt: skip
    s.add(make.finding("robustness.evasion", "robust_accuracy", make.Exact(value=1), evidence=(ref,)))
    run = s.finish()
    page = Html().render(run)
    assert "<dd>a &lt;b&gt;sup<mark" in page
    assert 'title="\u0435 U+0435 CYRILLIC SMALL LETTER IE">\u0435</mark>rb&lt;/b&gt; film</dd>' in page
    assert len(blocks(RunView(run))) == 1


def test_a_row_that_is_no_text_costs_its_block_alone(block_of: Callable[..., Block]) -> None:
    broken = stored_texts(["abc"], ["abd"])
    broken["adversarial"][0, 1] = 0
    block = block_of(broken)
    assert "is no text" in block.problem
