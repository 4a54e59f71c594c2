"""Slips and look-alikes, a character at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from audit.attacks._text_search import Edit, TextAttack
from audit.text import CONFUSABLES, HOMOGLYPHS, NEIGHBOURS, words

Kind = Literal["swap", "delete", "homoglyph", "keyboard", "space", "zero_width"]
INSERTED = {"space": " ", "zero_width": "\u200b"}


class CharacterEdits(TextAttack):
    """Misspells the words that the answer hangs on: letters swapped, dropped, mistyped, or replaced by others that look the same.

    A person reads on, while a model that knows words sees ones that it has never met. Which words, and which edit of each, is searched
    greedily by importance.

    Source: Gao et al. 2018, arXiv:1801.04354 (DeepWordBug); Li et al. 2018, arXiv:1812.05271 (TextBugger); Pruthi et al. 2019,
    arXiv:1905.11268 (first and last letter kept); Boucher et al. 2022, arXiv:2106.09898 (characters that cannot be seen).
    """

    edits: tuple[Kind, ...] = Field(("swap", "delete", "homoglyph", "keyboard"), min_length=1)
    """Which: two neighbouring letters swapped, one left out, one replaced by one that looks alike or by a neighbouring key, a space or a
    character without width put inside."""
    keep_ends: bool = True
    """Leave the first and the last letter of every word alone: a reader needs them most."""

    def constraints(self) -> str:
        """See `Attack.constraints`."""
        ends = "first and last letters stay; " if self.keep_ends else ""
        return f"{', '.join(self.edits)} of single characters: {ends}{self.limits()}"

    def options(self, text: str, spans: Sequence[tuple[int, int]], word: int) -> list[list[Edit]]:
        """See `TextAttack.options`."""
        start, stop = spans[word]
        first, last = (start + 1, stop - 1) if self.keep_ends else (start, stop)
        found: list[Edit] = []
        for at in range(first, last):
            one = text[at]
            if "swap" in self.edits and at + 1 < last and text[at + 1] != one:
                found.append(Edit(at, at + 2, text[at + 1] + one))
            if "delete" in self.edits and stop - start > 1:
                found.append(Edit(at, at + 1, ""))
            for kind, others in (("homoglyph", HOMOGLYPHS), ("keyboard", NEIGHBOURS)):
                if kind in self.edits:
                    found += [Edit(at, at + 1, other) for other in others.get(one, "")]
        for kind, new in INSERTED.items():
            if kind in self.edits:
                found += [Edit(at, at, new) for at in range(start + 1, stop)]
        return [list(dict.fromkeys(found))]

    def follows(self, text: str, candidate: str, allowance: int) -> bool:
        """See `TextAttack.follows`: all between the words is as it was, and every word as it was or one edit away."""
        spans = words(text)
        free = self.free_words(text, spans)
        reached, end = {0: 0}, 0  # places in the candidate → fewest edits on the way there
        for (start, stop), may in zip(spans, free, strict=True):
            gap, word, further = text[end:start], text[start:stop], dict[int, int]()
            for place, edits in reached.items():
                if not candidate.startswith(gap, place):
                    continue
                begin = place + len(gap)
                for length in {len(word) - 1, len(word), len(word) + 1}:
                    piece = candidate[begin : begin + length]
                    cost = edits + (piece != word)
                    if len(piece) == length and (piece == word or (may and self._is_one_edit(word, piece))):
                        further[begin + length] = min(cost, further.get(begin + length, cost))
            reached, end = further, stop
        return any(edits <= allowance and candidate[place:] == text[end:] for place, edits in reached.items())

    def _is_one_edit(self, word: str, piece: str) -> bool:
        """Whether a single edit of a declared kind turns one into the other."""
        inner = range(1, len(word) - 1) if self.keep_ends else range(len(word))
        if len(piece) < len(word):
            return "delete" in self.edits and piece != "" and any(piece == word[:i] + word[i + 1 :] for i in inner)
        if len(piece) > len(word):
            marks = [new for kind, new in INSERTED.items() if kind in self.edits]
            return any(piece == word[:i] + mark + word[i:] for mark in marks for i in range(1, len(word)))
        changed = [i for i in range(len(word)) if word[i] != piece[i]]
        if any(i not in inner for i in changed):
            return False
        if len(changed) == 1:
            old, new = word[changed[0]], piece[changed[0]]
            alike = "homoglyph" in self.edits and any(old in group and new in group for group in CONFUSABLES)
            return alike or ("keyboard" in self.edits and new in NEIGHBOURS.get(old, ""))
        crossed = len(changed) == 2 and changed[1] == changed[0] + 1
        return (
            crossed
            and "swap" in self.edits
            and piece[changed[0]] == word[changed[1]]
            and piece[changed[1]] == word[changed[0]]
        )
