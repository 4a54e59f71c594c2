"""Texts as code points: nothing is lost, what is no text is refused; words, look-alikes, distances."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from toys import audited

from audit.model import Field
from audit.parameters import UserError
from audit.text import (
    CONFUSABLES,
    HOMOGLYPHS,
    INVISIBLE,
    NEIGHBOURS,
    decode,
    decode_all,
    encode,
    levenshtein,
    skeleton,
    wellformed,
    words,
)

PROPER = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(PROPER, min_size=1, max_size=5))
def test_every_text_comes_back(texts: list[str]) -> None:
    codes = encode(texts, 20)
    assert codes.dtype == np.int32
    assert wellformed(codes).all()
    assert decode_all(codes) == texts
    assert decode_all(torch.from_numpy(codes)) == texts
    assert [decode(row) for row in codes] == texts


def test_normal_forms_stay_apart() -> None:
    one, two = decode_all(encode(["é", "e\u0301"], 4))
    assert (len(one), len(two)) == (1, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\0b", "zero character"),
        ("a\ud83d", "half of a surrogate pair at character 1"),
        ("12345", "has 5 characters, more than the 4"),
    ],
)
def test_what_cannot_be_a_text_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=f"text 1 .*{said}"):
        encode(["fine", text], 4)


@pytest.mark.parametrize("codes", [[97, 0, 98], [0xD800, 0, 0], [0x110000, 0, 0], [-1, 0, 0], [97.5, 0, 0]])
def test_rows_that_are_no_text_are_refused(codes: list[float]) -> None:
    with pytest.raises(UserError, match="row 1 is no text"):
        decode_all(np.array([[97, 98, 0], codes]))


def test_words_of_any_script() -> None:
    text = "Don't stop: cafe\u0301, naïve—фильм 'quoted' हिन्दी 3D"
    assert [text[a:b] for a, b in words(text)] == [
        "Don't", "stop", "cafe\u0301", "naïve", "фильм", "quoted", "हिन्दी", "3D",
    ]  # fmt: skip


def test_look_alikes_are_one_character_each_and_in_one_group() -> None:
    members = "".join(CONFUSABLES)
    assert len(set(members)) == len(members)
    for group in CONFUSABLES:
        assert group[0].isascii()
        for one in group:
            assert set(HOMOGLYPHS[one]) == set(group) - {one}
            assert unicodedata.normalize("NFC", one) == one  # what comes out survives normalisation
    assert skeleton("ѕuре\u200brЬ") == "superЬ"
    assert skeleton("plain text") == "plain text"
    assert all(unicodedata.category(c) == "Cf" for c in INVISIBLE)


def test_neighbours_touch_each_other() -> None:
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert set(NEIGHBOURS["5"]) == set("46")
    assert set(NEIGHBOURS["P"]) == set("OL")
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


def reference(a: str, b: str) -> int:
    """The textbook recursion."""
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
    return table[len(a), len(b)]


@settings(max_examples=80, deadline=None)
@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_levenshtein_is_the_textbooks(a: str, b: str) -> None:
    assert levenshtein(a, b) == reference(a, b)


def test_a_text_field_has_a_length() -> None:
    for shape in ((), (3, 4), (0,)):
        with pytest.raises(ValidationError, match="needs a shape"):
            Field(name="said", kind="text", shape=shape)
    assert audited(lambda x: x, (5,), kind="text").input_dtype == torch.int32
    assert audited(lambda x: x, (5,), kind="series").input_dtype == torch.float32
