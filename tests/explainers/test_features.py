"""What counts as one feature: every unit, words of many scripts, and the way there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import digits

from audit.explainers._features import Features, Unit, features_of
from audit.model import Field, InputSpec
from audit.parameters import UserError
from audit.text import encode


def spec(kind: str, shape: tuple[int, ...], columns: int = 0) -> InputSpec:
    if columns:
        return InputSpec(fields=tuple(Field(name=f"c{j}", kind=kind) for j in range(columns)))
    return InputSpec(fields=(Field(name="x", kind=kind, shape=shape),))


def of(kind: str, shape: tuple[int, ...], unit: Unit = "auto", size: int | None = None, rows: int = 2) -> Features:
    return features_of(torch.rand(rows, *shape), spec(kind, shape), unit, size)


def test_pixels_go_in_all_channels() -> None:
    found = of("image", (3, 2, 2))
    assert found.number[0].tolist() == [[[0, 1], [2, 3]]] * 3
    assert (found.unit, found.count.tolist()) == ("pixel", [4, 4])


def test_patches_at_the_edge_are_smaller() -> None:
    found = of("image", (1, 3, 5), "patch", 2)
    assert found.number[0, 0].tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert found.count.tolist() == [6, 6]


def test_windows_go_in_all_channels() -> None:
    assert of("series", (2, 5), "window", 2).number[1].tolist() == [[0, 0, 1, 1, 2]] * 2
    assert of("series", (5,), "window", 3).number[1].tolist() == [0, 0, 0, 1, 1]


def test_elements() -> None:
    found = of("series", (2, 3))
    assert found.number[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.unit == "value"
    columns = features_of(torch.rand(2, 4), spec("number", (), columns=4))
    assert (columns.number[1].tolist(), columns.unit) == ([0, 1, 2, 3], "column")
    assert of("image", (2, 2, 2), "element").most == 8


def words(*texts: str, length: int = 24) -> list[list[str]]:
    x = torch.from_numpy(encode(list(texts), length))
    found = features_of(x, spec("text", (length,)))
    return [
        [
            "".join(chr(c) for c in row[number == word])
            for word in range(int(count))
        ]
        for row, number, count in zip(x.numpy(), found.number.numpy(), found.count, strict=True)
    ]  # fmt: skip


def test_words() -> None:
    assert words("two words", " a\tb\nc  d ", "", "   ") == [["two", "words"], list("abcd"), [], []]
    assert words("don't stop-gap, 3.5!") == [["don't", "stop-gap,", "3.5!"]]
    assert words("narrow\u00a0no\u2003break\u3000wide") == [["narrow", "no", "break", "wide"]]


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert words("東京 is 大きい", "GPU性能x", "한국어 말", "日\U00020000") == [
        ["東", "京", "is", "大", "き", "い"],
        ["GPU", "性", "能", "x"],
        ["한국어", "말"],
        ["日", "\U00020000"],
    ]


def test_padding_belongs_to_no_word() -> None:
    x = torch.from_numpy(encode(["ab", "abcdef"], 6))
    found = features_of(x, spec("text", (6,)))
    assert found.number.tolist() == [[0, 0, -1, -1, -1, -1], [0] * 6]
    kept = found.elements(torch.tensor([[False], [False]]), torch.arange(2))
    assert kept.tolist() == [[False, False, True, True, True, True], [False] * 6]


def test_rows_of_different_counts() -> None:
    x = torch.from_numpy(encode(["a b c", "d"], 6))
    found = features_of(x, spec("text", (6,)))
    assert (found.most, found.known().tolist()) == (3, [[True, True, True], [True, False, False]])
    assert found.total(torch.ones(2, 6)).tolist() == [[1, 1, 1], [1, 0, 0]]
    part = found[1:]
    assert (part.most, part.count.tolist()) == (1, [1])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_what_is_spread_comes_back(height: int, width: int, size: int, channels: int) -> None:
    found = of("image", (channels, height, width), "patch", size)
    values = torch.randn(2, found.most, dtype=torch.float64)
    spread = found.spread(values)
    assert spread.shape == (2, channels, height, width)
    torch.testing.assert_close(found.total(spread), values)
    for feature in range(found.most):
        assert len(torch.unique(spread[0][found.number[0] == feature])) == 1
        there = torch.zeros(1, found.most, dtype=torch.bool)
        there[0, feature] = True
        assert torch.equal(found.elements(there, torch.tensor([1]))[0], found.number[1] == feature)


def segments(images: Any, most: int, channels: int = 1) -> Features:
    return features_of(images, spec("image", tuple(images.shape[1:])), "segment", most)


@pytest.mark.parametrize("most", [1, 4, 9, 16, 40, 64])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_segments_are_at_most_as_many_and_numbered_from_zero(most: int, channels: int) -> None:
    images = torch.from_numpy(digits().test.x[:4]).expand(4, channels, 8, 8)
    found = segments(images, most)
    assert found.unit == "segment"
    assert found.number.shape == images.shape
    for number, count in zip(found.number, found.count, strict=True):
        assert 1 <= int(count) <= most
        assert number.unique().tolist() == list(range(int(count)))
        assert bool((number == number[:1]).all())
    if most == 9:
        assert int(found.count.min()) >= 3


def test_segments_follow_what_is_to_be_seen() -> None:
    """A bright square on the left, dark beside it: no segment holds both."""
    image = torch.zeros(1, 1, 24, 24)
    image[:, :, 5:19, 3:13] = 1.0
    found = segments(image, 16)
    for segment in range(found.most):
        inside = image[0][found.number[0] == segment]
        assert float(inside.mean().round(decimals=1)) in (0.0, 1.0)
    colours = torch.zeros(1, 3, 24, 24)
    colours[:, 0, :, :12], colours[:, 1, :, 12:] = 0.5, 0.5  # as bright, of another hue
    number = segments(colours, 8).number[0, 0]
    assert not set(number[:, :12].unique().tolist()) & set(number[:, 12:].unique().tolist())


def test_segments_do_not_depend_on_units_neighbours_or_time() -> None:
    images = torch.from_numpy(digits().test.x[:4])
    found = segments(images, 9)
    assert torch.equal(found.number, segments(images, 9).number)
    assert torch.equal(found.number, segments(images * 255 - 1000, 9).number)
    assert torch.equal(found.number[2:3], segments(images[2:3], 9).number)
    assert torch.equal(found.number[:, 0], segments(images[:, 0], 9).number)  # without a channel axis
    state = np.random.get_state()[1].tolist()
    segments(torch.full((1, 1, 8, 8), 3.0), 9)  # nothing to be seen
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.parametrize(
    ("kind", "shape", "unit", "size", "message"),
    [
        ("image", (1, 4, 4), "word", None, "'word' needs a text, the input is an image"),
        ("series", (1, 4), "patch", 2, "'patch' needs an image"),
        ("series", (1, 4), "segment", 2, "'segment' needs an image"),
        ("image", (1, 4, 4), "window", 2, "'window' needs a series"),
        ("image", (1, 4, 4), "patch", None, "'patch' needs a size"),
        ("image", (1, 4, 4), "segment", None, "'segment' needs a size"),
    ],
)
def test_units_that_do_not_fit(kind: str, shape: tuple[int, ...], unit: Unit, size: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        of(kind, shape, unit, size)
