"""Which rows of evidence a page shows, and how many: read one row at a time, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.language import gettext as _
from audit.report._attacked import AttackedReader
from audit.report._attribution import AttributionReader
from audit.report._reconstructed import ReconstructedReader
from audit.report._sample import Sample
from audit.report._table_changes import TableChanges
from audit.run_folder import Evidence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PER_SERIES = 12
MAX_WIDE = 6
"""Tables, texts and series take more room than pictures."""
MAX_SAMPLES = 64
MAX_BYTES = 4_000_000
"""Of all pictures and drawings together, encoded: a report is to be mailed, and opens at once."""


@dataclass
class Budget:
    """How many samples, and how many bytes of pictures, may still be taken."""

    samples: int = MAX_SAMPLES
    bytes: int = MAX_BYTES

    def share(self, series: int) -> Budget:
        """What the first of so many series may take."""
        return Budget(max(1, min(MAX_PER_SERIES, self.samples // series)), self.bytes // series)

    def spend(self, samples: Sequence[Sample]) -> None:
        """Take off what a series used."""
        self.samples -= len(samples)
        self.bytes -= sum(sample.size for sample in samples)


def attributions(evidence: Evidence, reader: AttributionReader, budget: Budget) -> tuple[list[Sample], str]:
    """Samples of an ``attributions`` series, up to a third of them wrong predictions, and a line on how many are shown."""
    import numpy as np

    right = _right(evidence, "prediction")
    wrong = [] if right is None else np.flatnonzero(~right)[: max(1, budget.samples // 3)].tolist()
    order = wrong + [i for i in range(len(evidence)) if i not in set(wrong)]
    rule = _("wrong predictions first") if wrong else ""
    return _take(evidence, order, budget, lambda i: reader.sample(evidence.row(i), _at(right, i)), rule)


def adversarial(
    evidence: Evidence, bounds: tuple[float, float] | None, budget: Budget, table: TableChanges | None = None
) -> tuple[list[Sample], str]:
    """Samples of an ``adversarial`` series, the ones that fool the model first, and a line on how many are shown."""
    import numpy as np

    right = _right(evidence, "adversarial_prediction")
    fooled = [] if right is None else np.flatnonzero(~right).tolist()
    order = fooled + ([] if right is None else np.flatnonzero(right).tolist())
    reader = AttackedReader(evidence, bounds, table)
    corrupted = evidence.meta.get("by") == "corruption"
    first = _("those that are misclassified first") if corrupted else _("those that fool the model first")
    samples, shown = _take(
        evidence,
        order or range(len(evidence)),
        budget,
        lambda i: reader.sample(i, _at(right, i)),
        first if right is not None else "",
    )
    if right is not None:
        told = (
            _("{n} of the {all} stored ones are misclassified")
            if corrupted
            else _("{n} of the {all} stored ones fool the model")
        )
        shown += _("; ") + told.format(n=f"{len(fooled):,}", all=f"{len(evidence):,}")
    return samples, shown


def reconstructions(
    evidence: Evidence, bounds: tuple[float, float] | None, budget: Budget, number: int
) -> tuple[list[Sample], str]:
    """Samples of a ``reconstruction`` series, those nearest to a member first, and a line on how many are shown."""
    import numpy as np

    member, held_out = (np.ravel(evidence.column(f"{whose}_distance")) for whose in ("member", "held_out"))
    order = np.argsort(member - held_out, kind="stable").tolist()
    reader = ReconstructedReader(evidence, bounds, number)
    return _take(evidence, order, budget, reader.sample, _("those nearest to a member first"))


def _right(evidence: Evidence, name: str) -> NDArray[np.bool_] | None:
    """Which rows are answered rightly in the end; None of a regression, and where no label is stored."""
    if name not in evidence.fields or "label" not in evidence.fields:
        return None
    answer, label = evidence.column(name), evidence.column("label")
    if answer.dtype.kind not in "iub" or label.dtype.kind not in "iub":
        return None
    equal: NDArray[np.bool_] = (answer == label).reshape(len(evidence))
    return equal


def _at(right: NDArray[np.bool_] | None, position: int) -> bool | None:
    return None if right is None else bool(right[position])


def _take(
    evidence: Evidence, order: Sequence[int], budget: Budget, build: Callable[[int], Sample], rule: str
) -> tuple[list[Sample], str]:
    taken: list[Sample] = []
    left = budget.bytes
    pictured = evidence.meta.get("input_kind") == "image"
    for position in order[: budget.samples if pictured else min(budget.samples, MAX_WIDE)]:
        sample = build(position)
        left -= sample.size
        if left < 0 and taken:
            break
        taken.append(sample)
    total = len(evidence)
    shown = _("{n} of {all} shown").format(n=len(taken), all=f"{total:,}")
    return taken, _(", ").join([shown, rule] if rule and len(taken) < total else [shown])
