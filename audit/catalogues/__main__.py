"""``python -m audit.catalogues``: bring every catalogue up to date with the source, and say what is left to translate."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from audit.finding import Severity
from audit.language import CATALOGUES, DOMAIN, LANGUAGES
from audit.names import available
from audit.report._coverage import HEADINGS
from audit.report._evidence import KINDS
from audit.report._words import ACCESS, GOALS, STATUS, VERDICTS

SOURCES = ("dashboard",)
KEYWORDS = {"_": None, "ngettext": (1, 2)}
THREATS = ("access", "seeks", "norm", "eps", "largest change made", "bounds", "queries per example", "constraints")
"""Names in `audit.report._words.threat_rows`."""
WIDTH = 120
WRITTEN = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
"""What a catalogue's head says, whenever it is written: the same texts are the same bytes."""


def vocabulary() -> list[str]:
    """Words that the source keeps in tables, and that a page translates when it shows them."""
    return [
        *(text for status in STATUS.values() for text in (status.word, status.meaning)),
        *(headline for _status, headline in VERDICTS.values()),
        *map(str, Severity),
        *ACCESS.values(),
        *GOALS.values(),
        *THREATS,
        *HEADINGS.values(),
        *KINDS.values(),
        *sorted({name.split(".")[0] for name in available("checks") if name.split(".")[0] in _own()}),
    ]


def _own() -> set[str]:
    return {path.name for path in (CATALOGUES.parent / "checks").iterdir() if path.is_dir()}


def template() -> Catalog:
    """Every text that is to be translated."""
    found = Catalog(project="assay", charset="utf-8")
    root = CATALOGUES.parents[1]
    for folder in SOURCES:
        for name, _line, message, comments, _context in extract_from_dir(
            root / folder, [("**.py", "python")], keywords=KEYWORDS
        ):
            found.add(message, locations=[(f"{folder}/{name}", 0)], auto_comments=comments)
    for word in vocabulary():
        found.add(word)
    return found


def po_file(language: str) -> Path:
    """Where a language's translations are written."""
    return CATALOGUES / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def catalogue(language: str) -> Catalog:
    """A language's translations as they are written; empty where there are none yet."""
    path = po_file(language)
    if not path.exists():
        return Catalog(locale=language, project="assay", charset="utf-8")
    with path.open("rb") as file:
        return read_po(file, locale=language)


def update(language: str) -> list[str]:
    """Rewrite a language's files; gives what is not translated."""
    found = catalogue(language)
    found.update(template(), no_fuzzy_matching=True)
    found.creation_date = found.revision_date = WRITTEN
    path = po_file(language)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, found, width=WIDTH, ignore_obsolete=True, sort_output=True, include_lineno=False)
    with path.with_suffix(".mo").open("wb") as file:
        write_mo(file, found)
    missing = [message for message in found if message.id and not all(_texts(message.string))]
    return [message.id if isinstance(message.id, str) else message.id[0] for message in missing]


def _texts(string: object) -> tuple[str, ...]:
    return tuple(map(str, string)) if isinstance(string, (list, tuple)) else (str(string),)


def main() -> int:
    """Bring every language up to date."""
    left = [(language, text) for language in LANGUAGES if language != "en" for text in update(language)]
    for language, text in left:
        print(f"{language}: not translated: {text!r}")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
