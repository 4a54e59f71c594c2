"""Texts as rows of code points, for every source that holds texts and for Python callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from audit.model import Field, InputSpec
from audit.parameters import UserError
from audit.text import encode, fault

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADROOM = 1.25
"""Length of the rows as a multiple of the longest text, where none is declared: room for edits that lengthen."""


def text_rows(
    texts: Sequence[str], name: str, length: int | None, where: str, notes: list[str]
) -> tuple[InputSpec, NDArray[Any]]:
    """The input spec of texts, and their code points ``(N, L)`` int32; what was done to them goes into `notes`.

    Args:
        name: of the field.
        length: L; longer texts are cut there.

    Raises:
        UserError: a text holds a zero or half of a surrogate pair.
    """
    import unicodedata

    for row, text in enumerate(texts):
        if problem := fault(text):
            raise UserError(f"{where}: the text in row {row + 1} {problem}")
    longest = max(map(len, texts))
    if length is None:
        length = max(16, int(HEADROOM * longest))
    elif cut := sum(len(text) > length for text in texts):
        notes.append(f"{name}: {cut} of {len(texts)} texts cut to {length} characters")
        texts = [text[:length] for text in texts]
    if other := sum(not unicodedata.is_normalized("NFC", text) for text in texts):
        notes.append(
            f"{name}: {other} texts are not in normalisation form C (letters and accents apart); fed as they are"
        )
    notes.append(f"inputs: texts of up to {longest} characters, room for {length}")
    return InputSpec(fields=(Field(name=name, kind="text", shape=(length,), units="characters"),)), encode(
        texts, length
    )
