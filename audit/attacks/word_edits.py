"""Whole words written otherwise: those that leave the words what they are first, then those that do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from audit.attacks._text_search import Edit, TextAttack
from audit.parameters import UserError
from audit.text import words

if TYPE_CHECKING:
    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel

Kind = Literal["case", "split", "merge", "repeat", "synonym", "delete"]
_FUNCTION_WORDS = """
a an the this that these those and or but nor if so because as of at by for with about to from in on up down out over under
i me my we us our you your he him his she her it its they them their who whom which what
am is are was were be been being do does did have has had will would shall should can could may might must
no not never neither none nothing nobody nowhere hardly barely without
isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't won't wouldn't can't cannot couldn't shouldn't
"""


class WordEdits(TextAttack):
    """Writes words in another case, apart, together or twice, replaces them by synonyms, leaves them out.

    The first four leave the words what they are; synonyms and deletions are tried on the texts that those do not break. Synonyms come
    from you: no list or model of the language is at hand that would tell whether a word still means the same.

    Source: Li et al. 2018, arXiv:1812.05271 (TextBugger); Ribeiro et al. 2020, arXiv:2005.04118 (invariance to what carries no
    meaning); Jin et al. 2020, arXiv:1907.11932 (TextFooler: importance, stop words kept).
    """

    edits: tuple[Kind, ...] = Field(("case", "split", "merge", "repeat", "delete"), min_length=1)
    """Which: another case; a space inside; no space before the next word; written twice; a synonym; left out."""
    synonyms: dict[str, tuple[str, ...]] = {}
    """Word → others that may stand in its place; case follows the text."""
    synonyms_file: str | None = None
    """YAML or JSON file with more of them, relative to the scenario."""
    keep: tuple[str, ...] = tuple(_FUNCTION_WORDS.split())
    """Words that are never edited: by default English function words, negations among them."""

    def fit(self, model: AuditedModel, data: AuditData, ctx: Context) -> WordEdits:
        """With the synonyms of the file.

        Raises:
            UserError: the file cannot be read, or is no mapping from words to lists of words.
        """
        if self.synonyms_file is None:
            return self
        more = _read_synonyms(ctx.base / self.synonyms_file)
        return self.model_copy(update={"synonyms": {**more, **self.synonyms}, "synonyms_file": None})

    @model_validator(mode="after")
    def _synonyms_are_there(self) -> WordEdits:
        given = bool(self.synonyms or self.synonyms_file)
        if given != ("synonym" in self.edits):
            what = "are given, and 'synonym' is not among the edits" if given else "are needed for the edit 'synonym'"
            raise ValueError(f"synonyms or a synonyms_file {what}")
        return self

    def constraints(self) -> str:
        """See `Attack.constraints`."""
        kept = f"; {len(self.keep)} words are never edited ({', '.join(self.keep[:3])} …)" if self.keep else ""
        return f"{', '.join(self.edits)} of whole words: {self.limits()}{kept}"

    def free_words(self, text: str, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """See `TextAttack.free_words`."""
        kept = {word.casefold() for word in self.keep}
        free = super().free_words(text, spans)
        return [
            may and text[slice(*span)].casefold().replace("’", "'") not in kept
            for may, span in zip(free, spans, strict=True)
        ]

    def options(self, text: str, spans: Sequence[tuple[int, int]], word: int) -> list[list[Edit]]:
        """See `TextAttack.options`: first what leaves the word the same."""
        start, stop = spans[word]
        old = text[start:stop]
        same, other = [], []
        if "case" in self.edits:
            same += [Edit(start, stop, new) for new in _cases(old)]
        if "split" in self.edits:
            same += [Edit(at, at, " ") for at in range(start + 1, stop)]
        if "repeat" in self.edits:
            same.append(Edit(start, stop, f"{old} {old}"))
        if "merge" in self.edits and word + 1 < len(spans) and self.free_words(text, [spans[word + 1]])[0]:
            following = spans[word + 1][0]
            if text[stop:following].isspace():
                same.append(Edit(stop, following, ""))
        if "synonym" in self.edits:
            found = (_in_case_of(old, new) for new in self._synonyms_of(old))
            other += [Edit(start, stop, new) for new in found if new != old]
        if "delete" in self.edits:
            if text[stop : stop + 1].isspace():
                other.append(Edit(start, stop + 1, ""))
            elif text[:start][-1:].isspace():
                other.append(Edit(start - 1, stop, ""))
        return [same, other] if other else [same]

    def _synonyms_of(self, word: str) -> tuple[str, ...]:
        return self.synonyms.get(word) or self.synonyms.get(word.casefold(), ())

    def follows(self, text: str, candidate: str, allowance: int) -> bool:
        """See `TextAttack.follows`: the candidate is read from the left, and every word and gap must be what the kinds allow."""
        spans = words(text)
        free = [*self.free_words(text, spans), False]
        edges = [0, *(edge for span in spans for edge in span), len(text)]
        gaps = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
        # (place in the candidate, what the text up to here demands of what comes next) → fewest edits on the way there
        reached = {(0, ""): 0}
        for i, gap in enumerate(gaps):
            joined = "merge" in self.edits and gap.isspace() and i > 0 and free[i - 1] and free[i]
            reached = _fewest(
                (state, edits + more)
                for (place, demand), edits in reached.items()
                for state, more in self._gap(gap, candidate, place, demand, joined, leaves=free[i])
            )
            if i < len(spans):
                old, spaced = text[slice(*spans[i])], gaps[i + 1][:1].isspace()
                reached = _fewest(
                    (state, edits + more)
                    for (place, demand), edits in reached.items()
                    for state, more in self._word(old, candidate, place, demand, free[i], spaced)
                )
        return reached.get((len(candidate), ""), allowance + 1) <= allowance

    def _gap(
        self, gap: str, candidate: str, place: int, demand: str, joined: bool, leaves: bool
    ) -> Iterator[tuple[tuple[int, str], int]]:
        """Ways to read what is between two words: as it is, left out, or short of the space that goes with a deleted word.

        Args:
            demand: ``short`` where the word before took the first space with it.
            joined: whether the words around may be written as one.
            leaves: whether the next word may be left out.
        """
        if joined and demand == "":
            yield (place, ""), 1
        rest = gap[1:] if demand == "short" else gap
        if candidate.startswith(rest, place):
            yield (place + len(rest), ""), 0
        if leaves and "delete" in self.edits and rest[-1:].isspace() and candidate.startswith(rest[:-1], place):
            yield (place + len(rest) - 1, "gone"), 0

    def _word(
        self, old: str, candidate: str, place: int, demand: str, free: bool, spaced: bool
    ) -> Iterator[tuple[tuple[int, str], int]]:
        """Ways to read a word.

        Args:
            demand: ``gone`` where the space before it was left out, and the word must be too.
            spaced: whether a space follows.
        """
        if demand == "gone":
            if not spaced:
                yield (place, ""), 1
            return
        if candidate.startswith(old, place):
            yield (place + len(old), ""), 0
        if not free:
            return
        if "delete" in self.edits and spaced:
            yield (place, "short"), 1
        lengths = {"case": len(old), "split": len(old) + 1, "repeat": 2 * len(old) + 1}
        for kind, length in lengths.items():
            piece = candidate[place : place + length]
            if kind in self.edits and len(piece) == length and _is(kind, old, piece):
                yield (place + length, ""), 1
        if "synonym" in self.edits:
            for new in self._synonyms_of(old):
                if candidate[place : place + len(new)].casefold() == new.casefold():
                    yield (place + len(new), ""), 1


def _is(kind: str, old: str, piece: str) -> bool:
    """Whether a piece is a word in another case, with a space inside, or twice."""
    if kind == "case":
        return piece.casefold() == old.casefold()
    if kind == "split":
        return piece.count(" ") == 1 and piece.strip() == piece and piece.replace(" ", "") == old
    return piece.split(" ") == [old, old]


def _fewest(found: Iterable[tuple[tuple[int, str], int]]) -> dict[tuple[int, str], int]:
    """Per state the smallest number that leads there."""
    best: dict[tuple[int, str], int] = {}
    for state, edits in found:
        best[state] = min(edits, best.get(state, edits))
    return best


def _cases(word: str) -> list[str]:
    """The word in other cases."""
    found = dict.fromkeys((word.upper(), word.lower(), word.capitalize(), word.swapcase()))
    return [new for new in found if new != word and len(new) == len(word) and new.casefold() == word.casefold()]


def _in_case_of(old: str, new: str) -> str:
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def _read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"synonyms_file {path} cannot be read: {error.strerror}") from error
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"synonyms_file {path} is neither YAML nor JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(word, str) and isinstance(others, list) and all(isinstance(other, str) and other for other in others)
        for word, others in found.items()
    ):
        raise UserError(f"synonyms_file {path} must map words to lists of words: 'good: [fine, decent]'")
    return {word: tuple(others) for word, others in found.items()}
