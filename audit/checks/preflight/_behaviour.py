"""How a model behaves when asked again, in other company, or after other questions: found by asking, not by looking inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.bridges.global_generators import seeded
from audit.checks.preflight._output_space import shape_fits

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

REPEATS = 3
"""Identical calls in a row."""

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError)
"""What models raise when a batch of some size does not suit them (batch norm in training, a fixed batch axis)."""


@dataclass(frozen=True)
class Difference:
    """Two answers to the same rows.

    Args:
        largest: largest difference of a score, as a share of the largest score; infinite where only one of two is finite.
        rows: rows that differ by more than the tolerance, or in their label.
        flips: rows whose label differs.
        n: rows compared.
    """

    largest: float
    rows: int
    flips: int
    n: int

    def __bool__(self) -> bool:
        return self.rows > 0

    def __str__(self) -> str:
        size = "" if self.largest == 0 else f", by up to {self.largest:.2g} of the largest score"
        flips = f", {self.flips} with another label" if self.flips else ""
        return f"{self.rows} of {self.n} rows differ{size}{flips}"


def difference(model: AuditedModel, a: Tensor, b: Tensor, tolerance: float) -> Difference:
    """Compare two answers of `model` to the same rows, ``(N, …)`` each in output space.

    A row differs where a score is off by more than `tolerance` times the largest finite score of the first answer, or where the
    label flips. Kernels sum in another order for another batch size: float32 answers then differ by some 1e-6 of the scores, an
    answer that uses the rest of the batch by orders of magnitude more.
    """
    import torch

    first, second = (t.reshape(len(t), -1).double() for t in (a, b))
    if first.shape != second.shape:
        return Difference(float("inf"), len(first), 0, len(first))
    same = (first == second) | (first.isnan() & second.isnan())
    finite = first.isfinite()
    scale = float(first[finite].abs().max()) if bool(finite.any()) else 1.0
    # NaN against a number, or an infinity that comes and goes, is as far apart as can be.
    apart = torch.where(same, 0.0, (first - second).abs().nan_to_num(nan=torch.inf)).amax(dim=1) / (scale or 1.0)
    flipped = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    if model.task == "classification" and model.output != "tokens" and shape_fits(model, a):
        readable = finite.all(dim=1) & second.isfinite().all(dim=1)
        if bool(readable.any()):
            flipped[readable] = model.labels_of(a[readable]) != model.labels_of(b[readable])
    beyond = flipped if model.output == "label" else (apart > tolerance) | flipped
    largest = 0.0 if model.output == "label" else float(apart.max())
    return Difference(largest, int(beyond.sum()), int(flipped.sum()), len(first))


@dataclass(frozen=True)
class Behaviour:
    """What repeated questions showed.

    Args:
        repeated: the identical call, again and again.
        restored: the identical call with the global random generators put back before each.
        interrupted: as `restored`, with other questions asked in between.
    """

    repeated: Difference
    restored: Difference
    interrupted: Difference

    @property
    def deterministic(self) -> bool:
        """The identical call gives the same answer."""
        return not self.repeated

    @property
    def stateless(self) -> bool:
        """Nothing but the input and the global generators decides the answer."""
        return not self.restored and not self.interrupted


def observe(model: AuditedModel, x: Tensor, others: Tensor, tolerance: float, seed: int) -> Behaviour:
    """Ask the same rows again and again.

    Args:
        x: ``(N, *shape)`` rows to ask about.
        others: ``(M, *shape)`` rows to ask about in between, as one batch and one by one.
        seed: of the global generators; they are given back as they were.
    """

    def restored() -> Tensor:
        with seeded(seed):
            return model.scores(x)

    with seeded(seed):
        model.scores(x)  # what it may remember of earlier callers is now the same for every repeat
        first, *again = [model.scores(x) for _ in range(REPEATS)]
        repeated = _worst(difference(model, first, answer, tolerance) for answer in again)
        before, repeat = restored(), restored()
        for question in (others, *(row[None] for row in others[:8])):
            _answer(lambda asked=question: model.scores(asked))  # type: ignore[misc]
        after = restored()
    return Behaviour(
        repeated, difference(model, before, repeat, tolerance), difference(model, before, after, tolerance)
    )


@dataclass(frozen=True)
class Company:
    """How answers depend on what else is in the batch.

    Args:
        way: the way of asking that changed the answers most, in words.
        worst: by how much it did.
        refused: what the model said to ways of asking that it refused.
    """

    way: str
    worst: Difference
    refused: tuple[str, ...] = ()

    @property
    def independent(self) -> bool:
        """A row's answer is its own, and may be asked for in any company or alone."""
        return not self.worst and not self.refused


def ask_in_company(model: AuditedModel, x: Tensor, others: Tensor, tolerance: float) -> Company:
    """Compare one batch with its rows asked one by one, in reverse order, in threes, and among other rows.

    Only a deterministic model without hidden state can be asked this.
    """
    import torch

    whole = model.scores(x)
    ways: dict[str, Callable[[], Tensor]] = {
        "in reverse order": lambda: model.scores(x.flip(0)).flip(0),
        "one by one": lambda: torch.cat([model.scores(row[None]) for row in x]),
        "in threes": lambda: torch.cat([model.scores(x[i : i + 3]) for i in range(0, len(x), 3)]),
        "among other rows": lambda: model.scores(torch.cat([x, others]))[: len(x)],
    }
    way, worst, refused = "", Difference(0.0, 0, 0, len(x)), []
    for words, ask in ways.items():
        answer = _answer(ask)
        if isinstance(answer, str):
            refused.append(f"{words}: {answer}")
        elif (seen := difference(model, whole, answer, tolerance)).rows > worst.rows:
            way, worst = words, seen
    return Company(way, worst, tuple(refused))


def _answer(ask: Callable[[], Tensor]) -> Tensor | str:
    """The model's answer, or what it raised instead."""
    try:
        return ask()
    except REFUSALS as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _worst(differences: Iterable[Difference]) -> Difference:
    return max(differences, key=lambda d: (d.rows, d.largest))
