"""The rows that attacks are tried on, and what the model says of them before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from audit.checks._sample import sample
from audit.checks.robustness._attacked import Rows
from audit.checks.robustness._averaged import Averaged
from audit.checks.robustness._inputs import require_inside
from audit.finding import Measurement, Metric, Proportion, ThreatModel
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks import Attack
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

CLEAN_ACCURACY = Metric(name="clean_accuracy", title="accuracy without attack", better="higher", kinds=("proportion",))
QUERIES = Metric(
    name="queries",
    title="queries per attacked row",
    better="neither",
    kinds=("mean",),
    unit="rows through the model",
)


def require_one_answer(queries: int | None, eot: int) -> None:
    """Refuse a cap on queries that one averaged answer overruns.

    Raises:
        UserError: fewer queries than answers that are averaged.
    """
    if queries is not None and queries < eot:
        raise UserError(f"queries: {queries} is less than one averaged answer takes (eot: {eot})")


@dataclass(frozen=True)
class Victim:
    """Sampled test rows under one model.

    Args:
        model: as it is attacked and judged: averaged where that was asked for.
        batch: the rows.
        x, y: the rows and their labels as tensors, ``(N, *shape)`` and ``(N,)``.
        eot: how many answers each of them is the mean of.
    """

    model: AuditedModel
    batch: Batch
    x: Tensor
    y: Tensor
    eot: int

    @classmethod
    def of(cls, model: AuditedModel, data: AuditData, samples: int | None, ctx: Context, *, eot: int = 1) -> Victim:
        """At most `samples` test rows; which ones depends on the seed and the rows alone."""
        import torch

        batch = sample(data.test, samples, ctx)
        x, y = model.tensor(batch), torch.as_tensor(batch.labels).to(model.device)
        return cls(Averaged.of(model, eot) if eot > 1 else model, batch, x, y, eot)

    def require_inside(self, bounds: tuple[float, float], data: AuditData) -> None:
        """Refuse rows outside the declared bounds, as `audit.checks.robustness._inputs.require_inside` does."""
        require_inside(self.x, bounds, self.model, data)

    @cached_property
    def scores(self) -> Tensor:
        """The model's answers to the rows, in its output space."""
        return self.model.outputs(self.batch) if self.eot == 1 else self.model.scores(self.x)

    @cached_property
    def predicted(self) -> Tensor:
        """``(N,)`` class of each row."""
        return self.model.labels_of(self.scores)

    @property
    def correct(self) -> Tensor:
        """``(N,)`` bool."""
        return self.predicted == self.y

    @property
    def right(self) -> Tensor:
        """Positions of the rows that there is something to attack in."""
        return self.correct.nonzero().flatten()

    @property
    def varied(self) -> bool:
        """Whether the model gives more than one answer."""
        return bool((self.predicted != self.predicted[0]).any())

    def rows(self, threat: ThreatModel, ctx: Context, eps: Tensor | None = None) -> Rows:
        """All rows under a threat model; `eps` ``(N,)`` where each row has its own."""
        return Rows(self.model, self.x, self.y, self.batch.ids, threat, ctx, eps, self.eot)

    def fitted(self, attacks: Mapping[str, Attack], data: AuditData, ctx: Context) -> dict[str, Attack]:
        """The attacks, each fitted to this model and these rows."""
        mine = replace(data, test=self.batch)
        return {name: attack.fit(self.model, mine, ctx) for name, attack in attacks.items()}

    def measured(self, ctx: Context) -> Measurement:
        """Accuracy without attack, with each row's outcome and class as evidence."""
        clean = ctx.evidence("clean", "outcomes", classes=list(self.model.classes))
        clean.append(self.batch.ids, value=self.correct.double(), label=self.y)
        return Measurement(metric=CLEAN_ACCURACY.name, estimate=share(self.correct), evidence=(clean.ref,))


def share(flags: Tensor) -> Proportion:
    """How many of so many."""
    return Proportion(k=int(flags.sum()), n=len(flags))
