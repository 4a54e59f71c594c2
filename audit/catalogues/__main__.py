"""``python -m audit.catalogues``: bring every catalogue up to date with the source, and say what is left to translate."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import get_args

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from jinja2.ext import extract_from_ast

from audit.catalogues import stored
from audit.catalogues.stored import KEYWORDS, Text
from audit.cli.explain_session import summary
from audit.finding import Severity
from audit.language import CATALOGUES, DOMAIN, LANGUAGES
from audit.model import FieldKind, OutputSpace, Task
from audit.names import available, resolve
from audit.report._about import about
from audit.report._coverage import HEADINGS
from audit.report._evidence import KINDS
from audit.report._reconstructed import SHOWN
from audit.report._told import MARKS
from audit.report._words import ACCESS, BOUND_HELD, DIMS, GOALS, STATUS, VERDICTS
from audit.report.html import environment

SOURCES = (
    "dashboard/**/*.py",
    "audit/report/*.py",
    "audit/judge/*.py",
    "audit/numbers.py",
    "audit/report/templates/*.j2",
)
OUTCOMES = ("completed", "unfinished")
"""How a step ended, where no status says it."""
WIDTH = 120
WRITTEN = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
"""What a catalogue's head says, whenever it is written: the same texts are the same bytes."""


def vocabulary() -> list[Text]:
    """Words that the source keeps in tables, and that a page translates when it shows them."""
    return [
        *(text for status in STATUS.values() for text in (status.word, status.meaning)),
        *(headline for _status, headline in VERDICTS.values()),
        BOUND_HELD,
        *map(str, Severity),
        *ACCESS.values(),
        *GOALS.values(),
        *DIMS,
        *OUTCOMES,
        *get_args(Task),
        *get_args(FieldKind),
        *get_args(OutputSpace),
        *SHOWN.values(),
        *HEADINGS.values(),
        *KINDS.values(),
        *sorted({name.split(".")[0] for name in own_checks()}),
        *sorted(
            {
                text
                for name in own_checks()
                for metric in resolve("checks", name).metrics
                for text in (metric.title, metric.unit)
                if text
            }
        ),
        *MARKS,
        *stored.sentences(),
        *stored.columns(),
        *(text for name in own_checks() for text in _own_words(name)),
        *(summary(resolve("explainers", name)) for name in _own_explainers()),
        "RMSE",
    ]


def own_checks() -> list[str]:
    """Names of this package's checks, without those of other packages."""
    families = {path.name for path in (CATALOGUES.parent / "checks").iterdir() if path.is_dir()}
    return [name for name in available("checks") if name.split(".")[0] in families]


def _own_explainers() -> list[str]:
    return [name for name in available("explainers") if (CATALOGUES.parent / "explainers" / f"{name}.py").exists()]


def _own_words(check: str) -> list[str]:
    """What a check says of itself."""
    told = about(check)
    return [text for text in (told.summary, told.blind_spots, told.remedy) if text]


def messages_of_template(source: str) -> list[Text]:
    """The same of a Jinja template."""
    calls = extract_from_ast(environment().parse(source), tuple(KEYWORDS))
    return [
        text if isinstance(text, str) else tuple(part for part in text if part is not None)
        for _, _, text in calls
        if text
    ]


def template() -> Catalog:
    """Every text that is to be translated."""
    found = Catalog(project="assay", charset="utf-8")
    root = CATALOGUES.parents[1]
    for pattern in SOURCES:
        for path in sorted(root.glob(pattern)):
            read = stored.called if path.suffix == ".py" else messages_of_template
            for message in read(path.read_text(encoding="utf-8")):
                found.add(message, locations=[(path.relative_to(root).as_posix(), 0)])
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
    found.header_comment, found.fuzzy = f"# assay: {LANGUAGES[language]}", False
    found.version = found.msgid_bugs_address = found.last_translator = found.language_team = ""
    path = po_file(language)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, found, width=WIDTH, ignore_obsolete=True, sort_output=True, include_lineno=False)
    with path.with_suffix(".mo").open("wb") as file:
        write_mo(file, found)
    missing = [message for message in found if message.id and (message.fuzzy or not all(_texts(message.string)))]
    return [message.id if isinstance(message.id, str) else message.id[0] for message in missing]


def _texts(string: object) -> tuple[str, ...]:
    return tuple(map(str, string)) if isinstance(string, (list, tuple)) else (str(string or ""),)


def main() -> int:
    """Bring every language up to date."""
    stored.write()
    left = [(language, text) for language in LANGUAGES if language != "en" for text in update(language)]
    for language, text in left:
        print(f"{language}: not translated: {text!r}")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
