"""What a run stores in English, said in the reader's language.

A stored sentence is recognised by its template (`audit.catalogues.stored` reads them from the source), and what stood in the template's holes
is put into the translation. What nobody knows, a plug-in's own words for instance, stays as it was stored.
"""

from __future__ import annotations

import json
import re
import string
from dataclasses import dataclass
from functools import cache, lru_cache

from audit.language import CATALOGUES, gettext, ngettext, spoken

SENTENCES = CATALOGUES / "stored.json"
"""Templates, those that stand around another sentence first."""
REMEMBERED = 8192
DEPTH = 6
"""How many sentences may stand inside one another."""
_INTERVAL = re.compile(r"(?P<low>[-−]?[\d.,e+-]+|−?∞) to (?P<high>[-−]?[\d.,e+-]+|∞)")
_SPACE = re.compile("(?<=[，。；：（）、]) | (?=[，。；：（）、])")
"""Full-width marks bring their own space."""
MARKS = ("; ", ": ", ", ")
"""What stands between several sentences in one."""
JOINTS = " ,;:"
"""What joins a part of a sentence to the rest."""
WORD, NUMBER, CLAUSE, ANYTHING = r"\S*?", "(?:(?![;,] ).)*?", "(?:(?!; ).)*?", ".*?"
"""What may fill a hole."""
FEW, SHORT = 5, 8
"""Letters of a template that hardly says a thing, and of one that could stand in any sentence."""
SENTENCE = ("said", "message")
"""Names of holes that are filled with a sentence."""


def told(text: str) -> str:
    """A stored sentence in the language that is spoken now."""
    return text if spoken() == "en" else _SPACE.sub("", _told(text, spoken(), 0))


@dataclass(frozen=True)
class _Template:
    one: str
    many: str
    """The same as `one` but for a text that has a plural."""
    words: str
    """Its longest stretch between holes: what does not hold it is another sentence."""
    pattern: re.Pattern[str]

    def said(self) -> str:
        """The template in the language that is spoken now."""
        return gettext(self.one) if self.one == self.many else ngettext(self.one, self.many, 2)


@lru_cache(maxsize=REMEMBERED)
def _told(text: str, language: str, depth: int) -> str:
    known = gettext(text) if depth == 0 or text in _whole() else text
    if known != text or depth > DEPTH or not re.search("[a-z]", text):
        return known
    if found := _INTERVAL.fullmatch(text):
        return gettext("{low} to {high}").format(**found.groupdict())
    for template in _templates():
        if template.words in text and (found := template.pattern.fullmatch(text)):
            said = template.said()
            if said not in (template.one, template.many):
                return said.format(**{key: _told(held, language, depth + 1) for key, held in found.groupdict().items()})
    return _joined(text, language, depth + 1)


def _joined(text: str, language: str, depth: int) -> str:
    """Several sentences one after the other, each by itself; the text as it is where none of them is known."""
    if (core := text.strip(JOINTS)) != text:
        if (said := _told(core, language, depth)) == core:
            return text
        before, after = text[: text.index(core)], text[text.index(core) + len(core) :]
        return _mark(before).lstrip() + said + _mark(after).rstrip()
    for mark in MARKS:
        parts = text.split(mark)
        told_parts = [_told(part, language, depth) for part in parts]
        if told_parts != parts:
            return gettext(mark).join(told_parts)
    if found := re.fullmatch(r"(.*?) ?\((.+)\)", text, re.DOTALL):
        before, held = found.groups()
        if (said := _told(held, language, depth)) != held:
            return gettext("{value} ({told})").format(value=_told(before, language, depth), told=said)
    return text


def _mark(text: str) -> str:
    return gettext(text) if text in MARKS else text


@cache
def _sentences() -> list[str | list[str]]:
    """Texts, or one and many; read once."""
    known: list[str | list[str]] = json.loads(SENTENCES.read_text(encoding="utf-8"))
    return known


@cache
def _whole() -> frozenset[str]:
    """Sentences without a hole."""
    return frozenset(text for text in _sentences() if isinstance(text, str) and "{" not in text)


@cache
def _templates() -> tuple[_Template, ...]:
    return tuple(
        _template(form, *(text if isinstance(text, list) else (text, text)))
        for text in _sentences()
        for form in (text if isinstance(text, list) else (text,))
        if "{" in form
    )


def _template(form: str, one: str, many: str) -> _Template:
    """The pattern of one form of a text; what fills a hole twice has to be the same."""
    pattern, stretches, seen = "", [""], set[str]()
    for literal, name, _form, _conversion in string.Formatter().parse(form):
        pattern += re.escape(literal)
        stretches.append(literal)
        if name is not None:
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{_filling(form, name, first=not pattern)})"
            seen.add(name)
    return _Template(one, many, max(stretches, key=len), re.compile(pattern, re.DOTALL))


def _filling(form: str, name: str, first: bool) -> str:
    """What a hole takes: the less its template says, the less."""
    letters = len(re.findall("[A-Za-z]", re.sub(r"\{\w*\}", "", form)))
    if name in SENTENCE or (letters >= SHORT and re.search("[;:]", form)):
        return ANYTHING
    if letters < FEW:
        return WORD
    return NUMBER if first and "," not in form else CLAUSE
