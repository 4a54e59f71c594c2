"""Texts as rows of numbers: Unicode code points, int32, zeros after the end.

Code points are what an edit changes, and nothing is lost on the way: a text comes back as it was given, in its own normalisation
form. A row's length leaves room for edits that lengthen the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAD = 0
"""Stands after the end of a text; no text may hold it."""

KEYS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Rows of a QWERTY keyboard, each a little to the right of the one above."""

CONFUSABLES = (
    "aаɑ", "cсϲ", "dԁ", "eе", "gɡ", "hһ", "iі", "jјϳ", "lӀΙ", "nո", "oоοօ", "pрρ", "qԛ", "sѕ", "uս", "vѵν", "wԝ", "xх", "yуү", "AАΑ",
    "BВΒ", "CСϹ", "EЕΕ", "GԌ", "HНΗ", "IІ", "JЈͿ", "KКΚ", "MМΜ", "NΝ", "OОΟ", "PРΡ", "SЅՏ", "TТΤ", "UՍ", "VѴ", "WԜ", "XХΧ", "YҮΥ", "ZΖ",
    "3З",
)  # fmt: skip
"""Characters that look alike in common fonts, the plainest first: Latin, Cyrillic, Greek, Armenian.

Source: Unicode Technical Standard 39, ``confusables.txt``.
"""


def _neighbours() -> dict[str, str]:
    """Each key → the keys that touch it, of letters in both cases."""
    found: dict[str, str] = {}
    for row, keys in enumerate(KEYS):
        for column, key in enumerate(keys):
            places = [(row, column - 1), (row, column + 1), (row - 1, column), (row - 1, column + 1), (row + 1, column - 1), (row + 1, column)]  # fmt: skip
            near = "".join(
                KEYS[r][c] for r, c in places if 0 <= r < len(KEYS) and 0 <= c < len(KEYS[r]) and (r == 0) == (row == 0)
            )
            found[key], found[key.upper()] = near, near.upper()
    return found


NEIGHBOURS = _neighbours()
"""Key → keys that touch it on a QWERTY keyboard; letters for letters in their case, digits for digits."""
HOMOGLYPHS = {one: group.replace(one, "") for group in CONFUSABLES for one in group}
"""Character → the others of its group in `CONFUSABLES`."""
_SKELETON = str.maketrans({one: group[0] for group in CONFUSABLES for one in group[1:]})


def encode(texts: Sequence[str], length: int) -> NDArray[Any]:
    """Texts as code points ``(N, length)`` int32.

    Raises:
        UserError: a text is longer than `length`, or holds a zero or half of a surrogate pair.
    """
    import numpy as np

    rows = np.zeros((len(texts), length), dtype=np.int32)
    for row, text in enumerate(texts):
        if len(text) > length:
            raise UserError(f"text {row} has {len(text)} characters, more than the {length} there is room for")
        if problem := fault(text):
            raise UserError(f"text {row} {problem}")
        rows[row, : len(text)] = np.frombuffer(text.encode("utf-32-le"), dtype="<i4")
    return rows


def fault(text: str) -> str:
    """What keeps a text from being one, in words; empty where nothing does."""
    if "\0" in text:
        return "holds a zero character, which stands for the end"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"holds half of a surrogate pair at character {error.start}: it was read in a wrong encoding"
    return ""


def decode(row: Any) -> str:
    """The text of one row of code points (array or tensor).

    Raises:
        UserError: the row holds what is no code point, or a zero before the end.
    """
    return decode_all(row[None])[0]


def decode_all(rows: Any) -> list[str]:
    """The texts of rows ``(N, L)`` of code points (array or tensor); raises as `decode`."""
    import numpy as np

    codes = np.ascontiguousarray(rows.detach().cpu() if hasattr(rows, "detach") else rows)
    whole = codes.astype("<i4")
    if (whole != codes).any() or not wellformed(whole).all():
        row = int(np.flatnonzero((whole != codes).any(axis=1) | ~wellformed(whole))[0])
        raise UserError(
            f"row {row} is no text: it holds numbers that are no Unicode characters, or a zero before its end"
        )
    return [row.tobytes().decode("utf-32-le").rstrip("\0") for row in whole]


def wellformed(codes: NDArray[Any]) -> NDArray[Any]:
    """Which rows ``(N, L)`` are code points with zeros after the end alone, ``(N,)`` bool."""
    import numpy as np

    valid = (codes >= 0) & (codes <= 0x10FFFF) & ~((codes >= 0xD800) & (codes <= 0xDFFF))
    ended = np.maximum.accumulate(codes == PAD, axis=1)
    found: NDArray[Any] = (valid & ~(ended & (codes != PAD))).all(axis=1)
    return found


def words(text: str) -> list[tuple[int, int]]:
    """Start and end of every word: letters and digits of any script with their accents, apostrophes inside included."""
    return [match.span() for match in _word().finditer(text)]


@cache
def _word() -> re.Pattern[str]:
    marks = "".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c).startswith("M"))
    return re.compile(rf"[^\W_](?:[^\W_]|[{marks}]|['’](?=[^\W_]))*")


def skeleton(text: str) -> str:
    """The text with every confusable character as the plainest that looks like it, and characters without width left out.

    Source: Unicode Technical Standard 39, section 4, over `CONFUSABLES`.
    """
    return text.translate(_SKELETON).translate(dict.fromkeys(map(ord, INVISIBLE)))


INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
"""Characters that take no room on a screen."""


@lru_cache(maxsize=1 << 16)
def levenshtein(a: str, b: str) -> int:
    """Insertions, deletions and replacements of single characters that turn `a` into `b`.

    Source: Wagner & Fischer 1974, "The string-to-string correction problem"; a row at a time.
    """
    import numpy as np

    if not a or not b:
        return len(a) + len(b)
    other = np.array([ord(c) for c in b])
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for i, character in enumerate(a, 1):
        new = row + 1
        new[1:] = np.minimum(new[1:], row[:-1] + (other != ord(character)))
        new[0] = i
        row = np.minimum.accumulate(new - steps) + steps  # insertions, one after the other
    return int(row[-1])
