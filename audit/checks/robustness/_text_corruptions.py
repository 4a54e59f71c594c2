"""Texts as hurried fingers, bad spacing, caps lock and scanners leave them: no adversary, chance alone.

Source: Belinkov & Bisk 2018, arXiv:1711.02173 (swaps, neighbouring keys); Rychalska et al. 2019, "Models in the wild" (spaces,
punctuation); Moradi & Samwald 2021, arXiv:2108.12237 (deletions, repetitions, case).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from audit.text import NEIGHBOURS, PAD

if TYPE_CHECKING:
    from torch import Tensor

    from audit.rng import ExampleRng

FAMILIES: tuple[str, ...] = ("typos", "spaces", "case", "ocr", "punctuation")
"""Slips of the keyboard; words run together or torn apart; the wrong case; what a scanner misreads; marks lost."""
SHARES = {
    "typos": (0.02, 0.05, 0.1, 0.15, 0.2),
    "spaces": (0.05, 0.1, 0.2, 0.3, 0.4),
    "case": (0.1, 0.25, 0.5, 0.75, 1.0),
    "ocr": (0.02, 0.05, 0.1, 0.15, 0.2),
    "punctuation": (0.2, 0.4, 0.6, 0.8, 1.0),
}
"""Of the characters (words, spaces, marks) that a family can change, the share that it does, per severity (policy)."""
MARKS = ".,;:!?'\"’“”()-"
MISREAD = (
    "0oOQD", "1lI|i", "5sS", "8B", "2zZ", "ce", "uv", "nh", "gq", "6b", "ft", "mn", "CG", "EF", "PR", "VY", "HN", "UV", "TI"
)  # fmt: skip
"""Characters that a scanner takes for each other."""
_PLANE = 0x10000
"""Characters of the basic plane are classified; those beyond are left as they are."""


def corrupt(codes: Tensor, family: str, severity: int, rng: ExampleRng) -> Tensor:
    """Texts with chance errors, ``(N, L)`` int32; a text that has no room left is not lengthened.

    Args:
        codes: code points ``(N, L)`` int32, as in `audit.text`.
        family: one of `FAMILIES`.
        severity: 1 to 5.
        rng: one stream per text.
    """
    length = codes.shape[1]
    chance, choice = (rng.uniform((length,)).to(codes.device) for _ in range(2))
    change = {"typos": typos, "spaces": _spaces, "case": _case, "ocr": _ocr, "punctuation": _punctuation}[family]
    return change(codes, chance < SHARES[family][severity - 1], choice)


def typos(codes: Tensor, chosen: Tensor, choice: Tensor) -> Tensor:
    """One of four slips at every chosen letter or digit: two keys swapped, one missed, one hit twice, or its neighbour hit.

    Args:
        codes: ``(N, L)`` int32.
        chosen: ``(N, L)`` bool, where a slip happens; of two in a row the second does not.
        choice: ``(N, L)`` in 0..1: which slip.
    """
    import torch

    typed = _is("word", codes)
    chosen = chosen & typed
    chosen = chosen & ~_before(chosen)
    slip, which = (4 * choice).long().clamp_max(3), (4 * choice) % 1
    swapped = chosen & (slip == 0) & _after(typed)
    out = torch.where(swapped, _after(codes), torch.where(_before(swapped), _before(codes), codes))
    out = out.masked_fill(chosen & (slip == 1), PAD)
    out = torch.where(chosen & (slip == 3), _one_of(codes, "neighbours", which), out)
    return _closed(out, codes.masked_fill(~(chosen & (slip == 2)), PAD), codes)


def _spaces(codes: Tensor, chosen: Tensor, choice: Tensor) -> Tensor:
    """A chosen space is lost; and, as often on average, one appears inside a word."""
    space, typed = _is("space", codes), _is("word", codes)
    inside = typed & _after(typed)
    rate = space.sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp_min(1)
    torn = (chosen & inside & (choice < rate)).to(codes.dtype) * ord(" ")
    return _closed(codes.masked_fill(chosen & space, PAD), torn, codes)


def _case(codes: Tensor, chosen: Tensor, choice: Tensor) -> Tensor:
    """All letters of a chosen word in the other case, as with caps lock on."""
    import torch

    typed = _is("word", codes)
    first = typed & ~_before(typed)
    number = first.cumsum(dim=1)
    by_word = torch.zeros((len(codes), codes.shape[1] + 1), dtype=torch.bool, device=codes.device)
    by_word.scatter_(1, number.masked_fill(~first, 0), chosen & first)
    locked = by_word.gather(1, number) & typed
    return torch.where(locked, _one_of(codes, "other case", choice), codes)


def _ocr(codes: Tensor, chosen: Tensor, choice: Tensor) -> Tensor:
    """A chosen character is taken for one that looks like it."""
    import torch

    return torch.where(chosen, _one_of(codes, "misread", choice), codes)


def _punctuation(codes: Tensor, chosen: Tensor, choice: Tensor) -> Tensor:
    """A chosen mark is lost."""
    return _closed(codes.masked_fill(chosen & _is("mark", codes), PAD), codes * 0, codes)


def _before(values: Tensor) -> Tensor:
    """At every place the value of the one before; 0 at the first."""
    import torch

    return torch.nn.functional.pad(values[:, :-1], (1, 0))


def _after(values: Tensor) -> Tensor:
    """At every place the value of the one after; 0 at the last."""
    import torch

    return torch.nn.functional.pad(values[:, 1:], (0, 1))


def _closed(codes: Tensor, inserted: Tensor, original: Tensor) -> Tensor:
    """Rows without the gaps that deletions left, each of `inserted` behind its place as long as there is room."""
    import torch

    room = (original == PAD).sum(dim=1, keepdim=True)
    new = inserted != PAD
    inserted = inserted.masked_fill(new.cumsum(dim=1) > room, PAD)
    both = torch.stack([codes, inserted], dim=2).flatten(1)
    kept = both != PAD
    place = (kept.cumsum(dim=1) - 1).masked_fill(~kept, both.shape[1])
    closed = both.new_full((len(both), both.shape[1] + 1), PAD).scatter_(1, place, both)
    return closed[:, : codes.shape[1]].contiguous()


def _is(kind: str, codes: Tensor) -> Tensor:
    """Which characters are of a kind, ``(N, L)`` bool."""
    flags = _kinds()[kind].to(codes.device)
    return flags[codes.clamp_max(_PLANE).long()]


@cache
def _kinds() -> Mapping[str, Tensor]:
    """Per kind a table over the basic plane, and False behind it."""
    import torch

    characters = [chr(code) for code in range(_PLANE)]
    tests = {"word": str.isalnum, "space": str.isspace, "mark": MARKS.__contains__}
    return {kind: torch.tensor([*map(test, characters), False]) for kind, test in tests.items()}


def _one_of(codes: Tensor, table: str, choice: Tensor) -> Tensor:
    """Every character as one of the others that a table has for it, chosen by a number in 0..1; itself where it has none."""
    others, count = (part.to(codes.device) for part in _tables()[table])
    row = codes.clamp_max(len(count) - 1).long()
    found = others[row, (choice * count[row]).long().clamp_max(others.shape[1] - 1)]
    return found.where(count[row] > 0, codes)


@cache
def _tables() -> Mapping[str, tuple[Tensor, Tensor]]:
    """Per table the other characters ``(V, K)`` and how many there are ``(V,)``; the last row has none."""
    cases = {c: c.swapcase() for c in map(chr, range(0x590)) if c.isalpha() and len(c.swapcase()) == 1}
    misread: dict[str, str] = {}
    for group in MISREAD:
        for one in group:
            misread[one] = misread.get(one, "") + group.replace(one, "")
    return {
        "neighbours": _table(NEIGHBOURS),
        "other case": _table({c: other for c, other in cases.items() if other != c}),
        "misread": _table(misread),
    }


def _table(others: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    import torch

    codes = torch.zeros((max(map(ord, others)) + 2, max(map(len, others.values()))), dtype=torch.int32)
    count = torch.zeros(len(codes), dtype=torch.int64)
    for one, found in others.items():
        codes[ord(one), : len(found)] = torch.tensor([ord(other) for other in found], dtype=torch.int32)
        count[ord(one)] = len(found)
    return codes, count
