"""What a reader is told, in the language that the reader chose: English source strings, gettext catalogues.

Catalogues lie in ``catalogues/LANGUAGE/LC_MESSAGES/assay.po`` and ``.mo``; ``python -m audit.catalogues`` brings them up to date.
A text without a translation stays English.
"""

from __future__ import annotations

import gettext as _gettext
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

LANGUAGES = {"en": "English", "zh_CN": "简体中文"}
"""Code of each language and its own name for itself."""
CATALOGUES = Path(__file__).parent / "catalogues"
DOMAIN = "assay"
_chosen: ContextVar[str | None] = ContextVar("language", default=None)


@cache
def _catalogue(language: str) -> _gettext.NullTranslations:
    return _gettext.translation(DOMAIN, CATALOGUES, languages=[language], fallback=True)


def choose(language: str) -> None:
    """Speak this language from here on, in this thread; English where it is unknown."""
    _chosen.set(language if language in LANGUAGES else "en")


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Speak a language within a block."""
    before = _chosen.set(language if language in LANGUAGES else "en")
    try:
        yield
    finally:
        _chosen.reset(before)


def spoken() -> str:
    """Code of the language that is spoken now."""
    return _chosen.get() or "en"


def is_chosen() -> bool:
    """Whether a language was chosen in this thread."""
    return _chosen.get() is not None


def gettext(text: str) -> str:
    """The text in the language that is spoken now."""
    return _catalogue(spoken()).gettext(text) if text else ""


def ngettext(one: str, many: str, n: int) -> str:
    """`one` or `many` by the count `n`, in the language that is spoken now."""
    return _catalogue(spoken()).ngettext(one, many, n)
