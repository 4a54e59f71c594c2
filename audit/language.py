"""What a reader is told, in the language that the reader chose: English source strings, gettext catalogues.

Catalogues lie in ``catalogues/LANGUAGE/LC_MESSAGES/assay.po`` and ``.mo``; ``python -m audit.catalogues`` brings them up to date.
A text without a translation stays English.
"""

from __future__ import annotations

import gettext as _gettext
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from audit.parameters import UserError

T = TypeVar("T")

LANGUAGES = {"en": "English", "zh_CN": "简体中文"}
"""Code of each language and its own name for itself."""
CATALOGUES = Path(__file__).parent / "catalogues"
DOMAIN = "assay"
_chosen: ContextVar[str | None] = ContextVar("language", default=None)


@cache
def _catalogue(language: str) -> _gettext.NullTranslations:
    return _gettext.translation(DOMAIN, CATALOGUES, languages=[language], fallback=True)


def code_of(written: str) -> str:
    """The code of a language as a reader writes it: ``zh_CN``, ``zh-CN`` or ``zh``.

    Raises:
        UserError: there is no catalogue of this language.
    """
    wanted = written.replace("-", "_").lower()
    for code in LANGUAGES:
        if wanted in (code.lower(), code.lower().split("_")[0]):
            return code
    known = ", ".join(f"{code} ({name})" for code, name in LANGUAGES.items())
    raise UserError(f"there is no language '{written}': choose one of {known}")


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


class per_language(Generic[T]):
    """A cached property whose value is text: kept for each language in which it was asked for."""

    def __init__(self, build: Callable[[Any], T]) -> None:
        self._build, self.__doc__ = build, build.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}_by_language"

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        kept: dict[str, T] = instance.__dict__.setdefault(self._name, {})
        if (language := spoken()) not in kept:
            kept[language] = self._build(instance)
        return kept[language]
