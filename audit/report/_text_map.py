"""A text whose pieces are shaded by what they contribute, the weightiest with their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from audit.language import gettext as _
from audit.numbers import show
from audit.report._words import clean
from audit.text import decode

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBERED = 12
"""So many of the weightiest pieces carry their number in print."""
LONGEST = 40
"""Characters of a piece that carries its number: it is not broken over lines."""
QUIET = 0.05
"""Share of the largest contribution below which a piece has no mark."""
MAX_CHARACTERS = 1200
"""Of a longer text stretches without a marked piece are left out."""
KEPT = 60
"""Characters of such a stretch that stay at either end."""


@dataclass(frozen=True)
class Token:
    """A run of characters.

    Args:
        share: of the largest contribution in the text, -1 to 1; 0 of what is no feature.
        value: the contribution.
        numbered: whether the amount stands in the text itself.
    """

    text: str
    share: float = 0.0
    value: float = 0.0
    numbered: bool = False

    @property
    def amount(self) -> str:
        """The contribution with its sign, to two digits: a text is no table."""
        shown = show(float(f"{self.value:.2g}"))
        return f"+{shown}" if self.value > 0 else shown.replace("-", "−")

    @property
    def marked(self) -> bool:
        """Whether it contributes enough to be told apart."""
        return abs(self.share) >= QUIET


def shaded(x: NDArray[Any], values: NDArray[Any], feature: NDArray[Any] | None) -> tuple[tuple[Token, ...], float]:
    """A text in pieces, and the largest contribution.

    Args:
        x: ``(L,)`` code points.
        values: ``(L,)`` contributions of the characters.
        feature: ``(L,)`` number of the feature each character belongs to, -1 of none; without it runs between spaces.

    Raises:
        UserError: the row is no text.
    """
    import numpy as np

    text = decode(np.asarray(x))
    numbers = _between_spaces(text) if feature is None else np.asarray(feature)[: len(text)].astype(int)
    amounts = np.nan_to_num(np.asarray(values, dtype=float)[: len(text)])
    names, place = np.unique(numbers, return_inverse=True)
    totals = np.zeros(len(names))
    np.add.at(totals, place, amounts)
    totals[names < 0] = 0.0
    limit = float(np.abs(totals).max(initial=0.0))
    weightiest = set(np.argsort(-np.abs(totals), kind="stable")[:NUMBERED].tolist())
    ends = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(text)]
    pieces = []
    for start, stop in itertools.pairwise(ends if text else []):
        run, one = clean(text[start:stop]), int(place[start])
        if numbers[start] < 0 or not limit:
            pieces.append(Token(run))
            continue
        token = Token(run, round(float(totals[one]) / limit, 4), float(totals[one]))
        pieces.append(replace(token, numbered=one in weightiest and token.marked and len(run) <= LONGEST))
    return tuple(_shortened(pieces) if len(text) > MAX_CHARACTERS else pieces), limit


def words_of(tokens: Sequence[Token], most: int) -> list[Token]:
    """The weightiest pieces, each wording once."""
    ranked = sorted((token for token in tokens if token.share), key=lambda token: -abs(token.share))
    first: dict[str, Token] = {}
    for token in ranked:
        first.setdefault(token.text.strip(), token)
    return list(first.values())[:most]


def _between_spaces(text: str) -> NDArray[Any]:
    import numpy as np

    inside = np.array([not character.isspace() for character in text], dtype=bool)
    starts = inside & ~np.concatenate([[False], inside[:-1]])
    return np.where(inside, np.cumsum(starts) - 1, -1)


def _shortened(pieces: Sequence[Token]) -> list[Token]:
    """Without what lies far from every marked piece."""
    found: list[Token] = []
    quiet: list[Token] = []

    def flush(last: bool) -> None:
        length = sum(len(token.text) for token in quiet)
        if length <= 3 * KEPT:
            found.extend(quiet)
        else:
            head, tail = ([] if not found else _until(quiet, KEPT)), ([] if last else _until(quiet[::-1], KEPT)[::-1])
            left = length - sum(len(token.text) for token in head + tail)
            found.extend([*head, Token(" " + _("[… {n} characters …]").format(n=f"{left:,}") + " "), *tail])
        quiet.clear()

    for token in pieces:
        if token.marked:
            flush(False)
            found.append(token)
        else:
            quiet.append(token)
    flush(True)
    return found


def _until(tokens: Sequence[Token], characters: int) -> list[Token]:
    """The first tokens, up to a length."""
    found, length = [], 0
    for token in tokens:
        length += len(token.text)
        if length > characters:
            break
        found.append(token)
    return found
