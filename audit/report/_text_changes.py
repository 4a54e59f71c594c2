"""A text before and after, with what differs marked: whole where it is short, around the changes where it is long."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from audit.report._words import clean
from audit.text import INVISIBLE

CONTEXT = 60
"""Characters shown around a change."""
MAX_CHANGES = 40
"""Changes marked in a text; what comes after the last of them is left out."""
LONGEST = 200
"""Passages that differ are compared by characters up to this length."""
_TOKEN = re.compile(r"\w+\s*|\W")
_SPACES = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


@dataclass(frozen=True)
class Piece:
    """A run of characters."""

    text: str
    marked: bool = False
    said: str = ""
    """Of a character that looks like another or cannot be seen: which it is."""


@dataclass(frozen=True)
class Passage:
    """One side of the comparison."""

    label: str
    pieces: tuple[Piece, ...]


def passages(old: str, new: str, labels: tuple[str, str]) -> tuple[Passage, Passage]:
    """Both texts with their differences marked, the same left out of both."""
    changes = list(_changes(old, new))[:MAX_CHANGES]
    sides = (_side(old, [(a, b) for a, b, _, _ in changes]), _side(new, [(c, d) for _, _, c, d in changes]))
    before, after = (Passage(label, pieces) for label, pieces in zip(labels, sides, strict=True))
    return before, after


def strangers(passage: Passage) -> list[str]:
    """The marked characters that are not what they look like, each once."""
    return list(dict.fromkeys(piece.said for piece in passage.pieces if piece.said))


def _changes(old: str, new: str) -> Iterator[tuple[int, int, int, int]]:
    """Differing ranges ``old[a:b]``, ``new[c:d]``: words are matched first, then characters within words that differ."""
    before, after = _TOKEN.findall(old), _TOKEN.findall(new)
    starts = _starts(before), _starts(after)
    for kind, a, b, c, d in SequenceMatcher(None, before, after).get_opcodes():
        if kind == "equal":
            continue
        paired = b - a == d - c
        for i in range(b - a if paired else 1):
            first, last = (starts[0][a + i], starts[0][a + i + 1]) if paired else (starts[0][a], starts[0][b])
            begin, end = (starts[1][c + i], starts[1][c + i + 1]) if paired else (starts[1][c], starts[1][d])
            yield from _within(old, first, last, new, begin, end)


def _within(old: str, first: int, last: int, new: str, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Differing characters of ``old[first:last]`` and ``new[begin:end]``; of what is long, all of it."""
    if max(last - first, end - begin) > LONGEST:
        yield first, last, begin, end
        return
    for kind, a, b, c, d in SequenceMatcher(None, old[first:last], new[begin:end], autojunk=False).get_opcodes():
        if kind != "equal":
            yield first + a, first + b, begin + c, begin + d


def _starts(tokens: list[str]) -> list[int]:
    """Where each token starts, and where the last one ends."""
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token))
    return starts


def _side(text: str, ranges: list[tuple[int, int]]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    end = 0
    for number, (start, stop) in enumerate([*ranges, (len(text), len(text))]):
        pieces.append(Piece(_shortened(text[end:start], number > 0, number < len(ranges))))
        pieces += _marked(text[start:stop])
        end = stop
    return tuple(piece for piece in pieces if piece.text)


def _shortened(same: str, before: bool, after: bool) -> str:
    """What did not change, without what is far from the changes before and after it."""
    keep = CONTEXT * (before + after)
    if len(same) <= keep + CONTEXT // 2 or not keep:
        return clean(same if keep or len(same) <= 4 * CONTEXT else same[: 4 * CONTEXT] + " …")
    return clean((same[:CONTEXT] if before else "") + " … " + (same[-CONTEXT:] if after else ""))


def _marked(changed: str) -> Iterator[Piece]:
    """A changed run; a character beyond ASCII stands alone with its name, one without width is shown by its number."""
    for run in re.findall(r"[\x00-\x7f]+|[^\x00-\x7f]", changed):
        if run.isascii():
            yield Piece(clean(run.translate(_SPACES)), True)
        else:
            number = f"U+{ord(run):04X}"
            shown = f"[{number}]" if run in INVISIBLE or unicodedata.combining(run) else clean(run)
            yield Piece(shown, True, f"{shown if shown[0] != '[' else ''} {number} {unicodedata.name(run, '')}".strip())
