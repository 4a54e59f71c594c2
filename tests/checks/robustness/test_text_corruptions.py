"""Chance errors in texts: five severities, each family what it says, no example dependent on another."""

from __future__ import annotations

import pytest
import torch

from audit.checks.robustness._text_corruptions import FAMILIES, MARKS, MISREAD, SHARES, corrupt
from audit.rng import ExampleRng
from audit.text import NEIGHBOURS, decode_all, encode, levenshtein

TEXTS = [
    "The service was slow, and the soup (tomato) arrived cold; still, we would come again.",
    "Очень хороший фильм, смотрел два раза!",
    "Short",
    "",
    "No room at all" * 8,
]
LENGTH = 112


def codes(texts: list[str] = TEXTS) -> torch.Tensor:
    return torch.from_numpy(encode(texts, LENGTH))


def rng(n: int = len(TEXTS), seed: int = 0) -> ExampleRng:
    return ExampleRng(seed, "robustness.corruptions", [str(i) for i in range(n)], "corrupt")


@pytest.mark.parametrize("family", FAMILIES)
def test_severity_grows(family: str) -> None:
    text = [TEXTS[0] * 12] * 8
    x = torch.from_numpy(encode(text, 1200))
    sizes = []
    for severity in range(1, 6):
        found = decode_all(corrupt(x, family, severity, rng(8)))
        sizes.append(sum(levenshtein(text[0], other) for other in found))
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < sizes[4] / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_stay_texts_and_do_not_depend_on_each_other(family: str) -> None:
    together = corrupt(codes(), family, 5, rng())
    assert together.dtype == torch.int32
    assert together.shape == (len(TEXTS), LENGTH)
    decode_all(together)  # refuses what is no text
    for i in range(len(TEXTS)):
        alone = corrupt(codes()[i : i + 1], family, 5, rng().take([i]))
        assert torch.equal(alone[0], together[i])


def test_a_full_row_is_not_lengthened_and_loses_nothing_at_its_end() -> None:
    full = codes()[4:]
    assert bool((full != 0).all())
    changed = decode_all(corrupt(full, "spaces", 5, rng(1)))[0]
    assert changed.replace(" ", "") == TEXTS[4].replace(" ", "")


def test_typos_are_the_four_slips_of_the_keyboard() -> None:
    seen = set()
    for seed in range(200):
        (found,) = decode_all(corrupt(codes(["cable"]), "typos", 5, rng(1, seed)))
        if levenshtein("cable", found) == 1 and len(found) == 5:
            old, new = next((a, b) for a, b in zip("cable", found, strict=True) if a != b)
            assert new in NEIGHBOURS[old]
            seen.add("neighbour")
        elif found in {"able", "cble", "cale", "cabe", "cabl"}:
            seen.add("missed")
        elif found in {"ccable", "caable", "cabble", "cablle", "cablee"}:
            seen.add("twice")
        elif found in {"acble", "cbale", "calbe", "cabel"}:
            seen.add("swapped")
        elif found != "cable":
            assert levenshtein("cable", found) > 1
    assert seen == {"neighbour", "missed", "twice", "swapped"}


def test_spaces_move_and_nothing_else_changes() -> None:
    found = decode_all(corrupt(codes(), "spaces", 5, rng()))
    assert [text.replace(" ", "") for text in found] == [text.replace(" ", "") for text in TEXTS]
    assert len(found[0].split()) != len(TEXTS[0].split()) or found[0] != TEXTS[0]


def test_case_turns_whole_words_of_any_script() -> None:
    found = decode_all(corrupt(codes(), "case", 5, rng()))
    assert found == [text.swapcase() for text in TEXTS]
    some = decode_all(corrupt(codes(), "case", 3, rng()))[0]
    pairs = list(zip(some.split(), TEXTS[0].split(), strict=True))
    assert all(a in (b, b.swapcase()) for a, b in pairs)
    assert {a == b for a, b in pairs} == {True, False}


def test_scanners_mistake_what_looks_alike() -> None:
    found = decode_all(corrupt(codes(), "ocr", 5, rng()))
    pairs = [(a, b) for a, b in zip(found[0], TEXTS[0], strict=True) if a != b]
    assert pairs
    assert all(any(a in group and b in group for group in MISREAD) for a, b in pairs)


def test_all_marks_are_lost_at_the_end() -> None:
    assert SHARES["punctuation"][-1] == 1
    found = decode_all(corrupt(codes(), "punctuation", 5, rng()))
    assert found == ["".join(c for c in text if c not in MARKS) for text in TEXTS]
