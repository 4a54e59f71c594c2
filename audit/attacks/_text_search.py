"""Greedy search for edits of a text that change a classifier's answer: important words first, one edit per word.

Each example's search is written as if it were alone and hands over the texts that it wants answered; the searches of a batch go
side by side, so that the model is asked about all of them in one call.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field

from audit.attacks import Attack, Candidates
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.parameters import Real, UserError
from audit.text import decode, decode_all, encode, levenshtein, wellformed, words

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class Edit(NamedTuple):
    """What a piece of the text, ``text[start:stop]``, becomes."""

    start: int
    stop: int
    new: str

    def overlaps(self, other: Edit) -> bool:
        """Whether both change the same piece."""
        return self.start < other.stop and other.start < self.stop


@dataclass(frozen=True)
class Answer:
    """The model's answer to one text.

    Args:
        margin: score of the label minus the best other one; of a model that gives labels alone 1 or -1.
        wrong: whether the answer is another label.
    """

    margin: float
    wrong: bool


Search = Generator[list[str], list[Answer], str | None]
"""Hands over texts, takes an answer to each, or to the first of them where the queries run out; ends with what it found."""


def applied(text: str, edits: Iterable[Edit]) -> str:
    """The text with edits that do not overlap."""
    pieces, end = [], 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        pieces += [text[end : edit.start], edit.new]
        end = edit.stop
    return "".join([*pieces, text[end:]])


class _ByFeedback:
    """What the base class holds per attack, told by what this one sees; the class itself answers for scores."""

    def __init__(self, scores: Any, labels: Any) -> None:
        self._found = {"scores": scores, "labels": labels}

    def __get__(self, attack: TextAttack | None, owner: type[TextAttack]) -> Any:
        return self._found["scores" if attack is None else attack.feedback]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"'{text}' is no regular expression: {error}") from error
    return text


class TextAttack(Attack):
    """Base of attacks on texts: which edits there are is the attack's, finding the ones that fool the model is done here.

    Words are ranked by how far the label's lead falls when they are taken out, or with labels alone by whether the label changes
    then. With scores, every word's edits are asked about at once in that order, and the one that costs the label most stays, until the
    answer is wrong or the allowance is used up. With labels alone an edit is drawn for every word, the answer asked for after the first
    one, two, four, seven … words, and once it is wrong edits are taken back. What is not needed is taken back in either case.

    Source: Gao et al. 2018, arXiv:1801.04354 (ranking, greedy edits); Li et al. 2018, arXiv:1812.05271 (the best edit of several);
    Maheshwary et al. 2021, arXiv:2012.14956 (labels alone: edit first, take back after).
    """

    access: ClassVar[Access] = _ByFeedback("black_box_scores", "black_box_labels")  # type: ignore[assignment]
    norms: ClassVar[frozenset[str]] = frozenset()
    counted: ClassVar[str] = "characters"
    needs: ClassVar[frozenset[Capability]] = _ByFeedback(  # type: ignore[assignment]
        frozenset({Capability.PROBABILITIES}), frozenset({Capability.LABELS})
    )

    feedback: Literal["scores", "labels"] = "scores"
    """What the adversary sees of an answer: the scores, or the label alone."""
    max_edits: int = Field(10, ge=1)
    """Edits in a text at most, one per word."""
    max_share: Real = Field(0.25, gt=0, le=1)
    """Edits at most, as a share of the text's words; one is always allowed."""
    similarity: Real = Field(0.0, ge=0, le=1)
    """Share of the characters that stay at least: 1 minus the Levenshtein distance over the longer text's length."""
    protect: Annotated[str, AfterValidator(_pattern)] = r"(?:https?://|www\.)\S+|\S+@\S+\.\w+|[@#]\w+"
    """Regular expression of what is not touched: by default addresses of pages and people, mentions, hashtags."""
    tries: int = Field(24, ge=1)
    """With scores, edits asked about per word at most; of more, so many are drawn."""
    restarts: int | None = Field(None, ge=1)
    """Searches from the unchanged text, each with edits drawn anew: by default 2 with scores, of which the second is left out where
    nothing was drawn, and 20 with labels alone, where each takes few queries."""

    @abstractmethod
    def options(self, text: str, spans: Sequence[tuple[int, int]], word: int) -> list[list[Edit]]:
        """The edits of one word, none of which leaves it as it is, in groups: later groups are used where the former do not suffice.

        Args:
            spans: start and end of every word.
            word: which of them; it is not protected.
        """

    @abstractmethod
    def follows(self, text: str, candidate: str, allowance: int) -> bool:
        """Whether at most `allowance` edits of the declared kinds lead from one text to the other; knows nothing of the search."""

    def allowance(self, n_words: int) -> int:
        """How many edits a text of so many words may have."""
        return min(self.max_edits, max(1, int(self.max_share * n_words + 1e-9)))

    def limits(self) -> str:
        """The part of `constraints` that all attacks on texts share."""
        said = [f"at most {self.max_edits} edits and {self.max_share:.0%} of the words, one edit each"]
        if self.protect:
            said.append(f"nothing that matches {self.protect}")
        if self.similarity:
            said.append(f"at least {self.similarity:.0%} of the characters stay")
        return "; ".join(said)

    def free_words(self, text: str, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Which words are not protected."""
        kept = [match.span() for match in re.finditer(self.protect, text)] if self.protect else []
        return [not any(start < end and begin < stop for begin, end in kept) for start, stop in spans]

    def permits(self, model: AuditedModel, x: Tensor, candidates: Tensor) -> Tensor:
        """See `Attack.permits`: proper texts, few enough edits of the declared kinds, similar enough."""
        import torch

        new = candidates.cpu().numpy()
        proper = wellformed(new)
        found = torch.from_numpy(proper.copy())
        for row in proper.nonzero()[0].tolist():
            old, now = decode(x[row]), decode(new[row])
            found[row] = old == now or (
                self.follows(old, now, self.allowance(len(words(old)))) and self._similar(old, now)
            )
        return found.to(x.device)

    def change(self, x: Tensor, candidates: Tensor) -> Tensor:
        """Levenshtein distance in characters; of a row that is no text, its length."""
        import torch

        proper = wellformed(candidates.cpu().numpy()).tolist()
        found = [
            float(levenshtein(decode(old), decode(new)) if ok else len(old))
            for old, new, ok in zip(x, candidates, proper, strict=True)
        ]
        return torch.tensor(found, dtype=torch.float64, device=x.device)

    def _similar(self, old: str, new: str) -> bool:
        return self.similarity == 0 or levenshtein(old, new) <= self._changes(max(len(old), len(new)))

    def _changes(self, longest: int) -> float:
        """How many characters of so many may change."""
        return (1 - self.similarity) * longest + 1e-9

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the model's input is no text.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import numpy as np
        import torch

        if model.spec.kind != "text":
            raise UserError(f"model '{model.name}' takes {model.spec.a_kind}: attacks on texts need texts")
        length, labels = x.shape[1], y.tolist()
        searches = {
            row: self._search(text, length, threat.queries, np.random.default_rng(int(seed)))
            for row, (text, seed) in enumerate(zip(decode_all(x), rng.integers(2**62), strict=True))
        }

        def ask(rows: Sequence[int], texts: Sequence[str]) -> list[Answer]:
            return self._answers(model, texts, torch.tensor([labels[row] for row in rows]), length)

        found, queries = _side_by_side(searches, ask, threat.queries, len(x))
        out = x.clone()
        for row, text in found.items():
            out[row] = torch.from_numpy(encode([text], length)[0]).to(x)
        none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Candidates(out, torch.tensor(queries, dtype=torch.int64, device=x.device), none)

    def _answers(self, model: AuditedModel, texts: Sequence[str], y: Tensor, length: int) -> list[Answer]:
        """Answers to texts with labels `y`; encoded a micro-batch at a time, for candidates are many."""
        import torch

        margins, wrong = [], []
        for part in torch.arange(len(texts)).split(model.micro_batch):  # type: ignore[no-untyped-call]
            codes = torch.from_numpy(encode([texts[i] for i in part.tolist()], length)).to(model.device)
            scores, label = model.scores(codes), y[part].to(model.device)
            missed = model.labels_of(scores) != label
            wrong += missed.tolist()
            margins += (_margin(model, scores, label) if self.feedback == "scores" else 1.0 - 2.0 * missed).tolist()
        return [Answer(*pair) for pair in zip(margins, wrong, strict=True)]

    # --- one example -----------------------------------------------------------------------------------------------

    def _search(self, text: str, length: int, cap: int | None, rng: np.random.Generator) -> Search:
        """The whole search of one example.

        Args:
            length: characters that there is room for.
            cap: queries that the example may spend, where that is bounded; at most half of them go into the ranking.
        """
        spans = words(text)
        free = self.free_words(text, spans)
        groups = {word: self.options(text, spans, word) for word in range(len(spans)) if free[word]}
        order = [word for word, found in groups.items() if any(found)]
        if not order:
            return None
        allowance = self.allowance(len(spans))
        ranked, margin = yield from self._ranked(text, spans, order, cap, rng)
        for depth in range(1, 1 + max(map(len, groups.values()))):
            for _ in range(self.restarts or (2 if self.feedback == "scores" else 20)):
                places = [[edit for group in groups[word][:depth] for edit in group] for word in ranked(rng)]
                if self.feedback == "scores":
                    chosen = yield from self._climb(text, places, allowance, length, margin, rng)
                else:
                    chosen = yield from self._flood(text, places, length, rng)
                if chosen is not None:
                    chosen = yield from self._needed(text, chosen, length)
                    if len(chosen) <= allowance:
                        return applied(text, chosen)
                if self.feedback == "scores" and max(map(len, places)) <= self.tries:
                    break
        return None

    def _ranked(
        self, text: str, spans: Sequence[tuple[int, int]], order: list[int], cap: int | None, rng: np.random.Generator
    ) -> Generator[list[str], list[Answer], tuple[Callable[[np.random.Generator], list[int]], float]]:
        """Words by importance, as a function that draws the order of equal ones, and the margin of the unchanged text."""
        asked = [order[i] for i in rng.permutation(len(order))]
        if cap is not None:
            asked = asked[: cap // 2]
        clean = [text] if self.feedback == "scores" else []
        answers = yield [*clean, *(applied(text, [Edit(spans[word][0], spans[word][1], "")]) for word in asked)]
        margin = answers[0].margin if clean and answers else 1.0
        drops = {word: margin - a.margin for word, a in zip(asked, answers[len(clean) :], strict=False)}
        lowest = min(drops.values(), default=0.0) - 1.0

        def ranked(rng: np.random.Generator) -> list[int]:
            drawn = [order[i] for i in rng.permutation(len(order))]
            return sorted(drawn, key=lambda word: -drops.get(word, lowest))

        return ranked, margin

    def _climb(
        self, text: str, places: list[list[Edit]], allowance: int, length: int, margin: float, rng: np.random.Generator
    ) -> Generator[list[str], list[Answer], list[Edit] | None]:
        """Edits that together make the answer wrong, the best of each place in turn; None where there are none."""
        chosen: list[Edit] = []
        for place in places:
            if len(chosen) == allowance:
                break
            options = [place[i] for i in rng.permutation(len(place))]
            fitting = list(islice((edit for edit in options if self._fits(text, [*chosen, edit], length)), self.tries))
            answers = yield [applied(text, [*chosen, edit]) for edit in fitting]
            if not answers:
                continue
            best = min(range(len(answers)), key=lambda i: (not answers[i].wrong, answers[i].margin))
            if answers[best].wrong:
                return [*chosen, fitting[best]]
            if answers[best].margin < margin:
                chosen.append(fitting[best])
                margin = answers[best].margin
        return None

    def _flood(
        self, text: str, places: list[list[Edit]], length: int, rng: np.random.Generator
    ) -> Generator[list[str], list[Answer], list[Edit] | None]:
        """An edit drawn for each of the first one, two, four, seven … places: the fewest that make the answer wrong, however many."""
        chosen: list[Edit] = []
        for place in places:
            drawn = [place[i] for i in rng.permutation(len(place))]
            chosen += next(([edit] for edit in drawn if self._fits(text, [*chosen, edit], length)), [])
        counts = [1] if chosen else []
        while counts and counts[-1] < len(chosen):  # each half as many again
            counts.append(min(len(chosen), counts[-1] + 1 + counts[-1] // 2))
        answers = yield [applied(text, chosen[:count]) for count in counts]
        return next((chosen[:n] for n, answer in zip(counts, answers, strict=False) if answer.wrong), None)

    def _fits(self, text: str, edits: Sequence[Edit], length: int) -> bool:
        """Whether the last edit can be added to the others: apart from them, room enough, similar enough."""
        *others, last = edits
        if any(last.overlaps(other) for other in others):
            return False
        longer = len(text) + sum(len(edit.new) - (edit.stop - edit.start) for edit in edits)
        if longer > length or longer < 1:
            return False
        if self.similarity == 0:
            return True
        changes = sum(levenshtein(text[edit.start : edit.stop], edit.new) for edit in edits)
        return changes <= self._changes(max(len(text), longer))

    def _needed(self, text: str, edits: list[Edit], length: int) -> Generator[list[str], list[Answer], list[Edit]]:
        """Edits without those that can be taken back while the answer stays wrong: halves, then quarters …, the last ones first.

        Where one that made room is taken back, what is left may not fit any more.
        """
        size = len(edits) // 2
        while size:
            end = len(edits)
            while end > 0:
                fewer = edits[: max(0, end - size)] + edits[end:]
                less = applied(text, fewer)
                answers = (yield [less]) if fewer and len(less) <= length else []
                if answers and answers[0].wrong:
                    edits = fewer
                end -= size
            size //= 2
        return edits


def _margin(model: AuditedModel, scores: Tensor, y: Tensor) -> Tensor:
    """Score of the label minus the best other one, ``(N,)`` float64; of probabilities, the difference of their logarithms."""
    import torch

    scores = scores.double()
    if model.output == "margin":
        return scores.reshape(-1) * (2 * y - 1)
    if model.output == "probability":
        scores = scores.clamp_min(torch.finfo(torch.float64).tiny).log()
    own = scores.gather(1, y[:, None]).squeeze(1)
    return own - scores.scatter(1, y[:, None], -torch.inf).amax(dim=1)


def _side_by_side(
    searches: Mapping[int, Search], ask: Callable[[Sequence[int], Sequence[str]], list[Answer]], cap: int | None, n: int
) -> tuple[dict[int, str], list[int]]:
    """Run searches until all have ended, the texts of all in one call; what they found, and the texts asked about for each.

    A search that has spent its cap gets no more answers.
    """
    found: dict[int, str] = {}
    spent = [0] * n
    waiting: dict[int, list[str]] = {}

    def proceed(row: int, answers: list[Answer] | None) -> None:
        try:
            texts = searches[row].send(answers)  # type: ignore[arg-type]
        except StopIteration as ended:
            waiting.pop(row, None)
            if ended.value is not None:
                found[row] = ended.value
        else:
            waiting[row] = texts if cap is None else texts[: cap - spent[row]]
            spent[row] += len(waiting[row])

    for row in searches:
        proceed(row, None)
    while waiting:
        rows = [row for row, texts in waiting.items() for _ in texts]
        answers = ask(rows, [text for texts in waiting.values() for text in texts]) if rows else []
        start = 0
        for row, texts in list(waiting.items()):
            part = answers[start : start + len(texts)]
            start += len(texts)
            proceed(row, part)
    return found, spent
