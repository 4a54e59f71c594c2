"""Texts shaded by what their pieces contribute: sums by feature, signs without colour, nothing of the text lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from audit.parameters import UserError
from audit.report._text_map import LONGEST, NUMBERED, Token, shaded, words_of
from audit.text import encode


def pieces(text: str, worth: dict[str, float], length: int = 40) -> tuple[tuple[Token, ...], float]:
    """A text whose words are worth something, spread over their characters as explainers do."""
    x = encode([text], max(length, len(text)))[0]
    values, feature, at = np.zeros(len(x)), np.full(len(x), -1), 0
    for number, word in enumerate(text.split(" ")):
        place = slice(at, at + len(word))
        values[place], feature[place] = worth.get(word, 0.0) / max(1, len(word)), number
        at += len(word) + 1
    return shaded(x, values, feature)


def test_a_piece_holds_the_sum_of_its_characters() -> None:
    tokens, limit = pieces("a great film, not bad", {"great": 2.0, "not": 0.5, "bad": -1.0})
    assert "".join(token.text for token in tokens) == "a great film, not bad"
    assert limit == pytest.approx(2.0)
    marked = [(token.text, token.share, token.amount, token.numbered) for token in tokens if token.marked]
    assert marked == [("great", 1.0, "+2", True), ("not", 0.25, "+0.5", True), ("bad", -0.5, "−1", True)]


def test_a_token_may_be_half_a_word_and_come_twice() -> None:
    x = encode(["unhappy un"], 12)[0]
    feature = np.array([0, 0, 1, 1, 1, 1, 1, -1, 0, 0, -1, -1])
    values = np.where(feature == 0, 0.25, np.where(feature == 1, -0.4, 9.0))
    tokens, limit = shaded(x, values, feature)
    assert [(token.text, round(token.value, 9)) for token in tokens] == [("un", 1), ("happy", -2), (" ", 0), ("un", 1)]
    assert limit == pytest.approx(2.0), "what belongs to no feature has no say"


def test_without_features_runs_between_spaces_are_pieces() -> None:
    x = encode(["ab cd"], 8)[0]
    tokens, _ = shaded(x, np.array([1.0, 1, 0, -3, -3, 0, 0, 0]), None)
    assert [(token.text, token.value) for token in tokens] == [("ab", 2), (" ", 0), ("cd", -6)]


def test_only_the_weightiest_carry_their_number() -> None:
    words = [f"w{i:02d}" for i in range(30)]
    tokens, _ = pieces(" ".join(words), {word: 1 + i / 100 for i, word in enumerate(words)})
    numbered = [token.text for token in tokens if token.numbered]
    assert numbered == words[-NUMBERED:]
    (long, *_), _ = pieces("x" * (LONGEST + 1) + " y", {"x" * (LONGEST + 1): 1.0}, 60)
    assert (long.marked, long.numbered) == (True, False)


def test_a_text_without_contributions_has_no_marks() -> None:
    tokens, limit = pieces("nothing here", {})
    assert limit == 0
    assert not any(token.marked for token in tokens)
    assert shaded(np.zeros(4, dtype=np.int32), np.zeros(4), None) == ((), 0.0)


def test_long_texts_keep_what_is_around_the_marks() -> None:
    text = "so " * 300 + "good " + "so " * 300 + "bad " + "so " * 300
    tokens, _ = pieces(text, {"good": 1.0, "bad": -1.0}, 3000)
    said = "".join(token.text for token in tokens)
    assert len(said) < 500
    assert [token.text for token in tokens if token.marked] == ["good", "bad"]
    assert said.count("characters …]") == 3
    assert "so good so" in said


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="no text"):
        shaded(np.array([0, 65]), np.zeros(2), None)


def test_the_weightiest_words_come_once() -> None:
    tokens, _ = pieces("bad bad good", {"bad": -2.0, "good": 1.0})
    found: list[Any] = [(token.text, token.value) for token in words_of(tokens, 5)]
    assert found == [("bad", pytest.approx(-2)), ("good", pytest.approx(1))]
