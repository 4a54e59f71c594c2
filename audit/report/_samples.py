"""Single rows of evidence: an input beside its map, an adversarial example beside its original. Read one row at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from audit.numbers import show
from audit.report._images import MAX_SIDE, Picture, magnified_change, photograph, signed_map
from audit.report._table_changes import Change, TableChanges
from audit.report._text_changes import Passage, passages, strangers
from audit.report._words import clean
from audit.run_folder import Evidence
from audit.text import decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PER_SERIES = 12
MAX_TABLES = 6
MAX_SAMPLES = 64
MAX_BYTES = 4_000_000
"""Of all pictures together, encoded: a report is to be mailed, and opens at once."""
MAX_FEATURES = 10


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
        self.bytes -= sum(len(picture.src) for sample in samples for picture in sample.pictures)


@dataclass(frozen=True)
class Bar:
    """One feature of a table row: its value, what was changed or contributed, and the bar's start and width in percent."""

    feature: str
    value: str
    amount: str
    left: float
    width: float
    positive: bool


@dataclass
class Sample:
    """One row of evidence as a page shows it."""

    title: str
    right: bool | None
    """Whether the model ends up right about it; None where that means nothing."""
    pictures: list[Picture] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    bars_header: tuple[str, str, str] = ("feature", "value", "contribution")
    passages: tuple[Passage, ...] = ()
    """A text before and after."""
    lines: list[str] = field(default_factory=list)


def attributions(evidence: Evidence, bounds: tuple[float, float] | None, budget: Budget) -> tuple[list[Sample], str]:
    """Samples of an ``attributions`` series, up to a third of them wrong predictions, and a line on how many are shown."""
    import numpy as np

    right = _right(evidence, "prediction")
    wrong = [] if right is None else np.flatnonzero(~right)[: max(1, budget.samples // 3)].tolist()
    order = wrong + [i for i in range(len(evidence)) if i not in set(wrong)]
    reader = _Reader(evidence, bounds, right)
    rule = "wrong predictions first" if wrong else ""
    return _take(evidence, order, budget, reader.attribution, rule)


def adversarial(
    evidence: Evidence, bounds: tuple[float, float] | None, budget: Budget, table: TableChanges | None = None
) -> tuple[list[Sample], str]:
    """Samples of an ``adversarial`` series, the ones that fool the model first, and a line on how many are shown."""
    import numpy as np

    right = _right(evidence, "adversarial_prediction")
    fooled = [] if right is None else np.flatnonzero(~right).tolist()
    order = fooled + ([] if right is None else np.flatnonzero(right).tolist())
    reader = _Reader(evidence, bounds, right, table)
    wrong = "are misclassified" if evidence.meta.get("by") == "corruption" else "fool the model"
    samples, shown = _take(
        evidence, order or range(len(evidence)), budget, reader.attacked, f"those that {wrong} first"
    )
    if right is not None:
        shown += f"; {len(fooled):,} of the {len(evidence):,} stored ones {wrong}"
    return samples, shown


def _right(evidence: Evidence, name: str) -> NDArray[np.bool_] | None:
    """Which rows are answered rightly in the end; None of a regression, and where no label is stored."""
    if name not in evidence.fields or "label" not in evidence.fields:
        return None
    answer, label = evidence.column(name), evidence.column("label")
    if answer.dtype.kind not in "iub" or label.dtype.kind not in "iub":
        return None
    equal: NDArray[np.bool_] = (answer == label).reshape(len(evidence))
    return equal


def _take(
    evidence: Evidence, order: Sequence[int], budget: Budget, build: Callable[[int], Sample], rule: str
) -> tuple[list[Sample], str]:
    taken: list[Sample] = []
    left = budget.bytes
    pictured = evidence.meta.get("input_kind") == "image"
    for position in order[: budget.samples if pictured else min(budget.samples, MAX_TABLES)]:
        sample = build(position)
        left -= sum(len(picture.src) for picture in sample.pictures)
        if left < 0 and taken:
            break
        taken.append(sample)
    total = len(evidence)
    return taken, f"{len(taken)} of {total:,} shown" + (f", {rule}" if rule and len(taken) < total else "")


class _Reader:
    """Turns rows of one series into samples."""

    def __init__(
        self,
        evidence: Evidence,
        bounds: tuple[float, float] | None,
        right: NDArray[np.bool_] | None,
        table: TableChanges | None = None,
    ) -> None:
        self.evidence, self.bounds, self.right, self.table = evidence, bounds, right, table
        meta = evidence.meta
        self.image = meta.get("input_kind") == "image"
        self.classes = meta["classes"] if isinstance(meta.get("classes"), list) else []
        self.features = meta["feature_names"] if isinstance(meta.get("feature_names"), list) else []

    def attribution(self, position: int) -> Sample:
        """An input and what speaks for the explained class."""
        row = self.evidence.row(position)
        answer, target = self._named(row.get("prediction")), self._named(row.get("target"))
        sample = Sample(self._title(row, answer), self._is_right(position))
        if self.image:
            bounds = self._pixel_bounds(row["x"])
            sample.pictures.append(photograph(row["x"], bounds, f"Input. {sample.title}.", "input"))
            drawn, limit = signed_map(row["values"], f"Attribution map for {target or 'the output'}.", f"for {target}")
            sample.pictures.append(drawn)
            sample.lines.append(f"scale ± {_number(limit)}")
            if max(row["x"].shape[-2:]) > MAX_SIDE:
                sample.lines.append("averaged down to fit")
        else:
            sample.bars = self._bars(row["x"], row["values"])
        sample.lines += [
            f"{name.replace('_', ' ')} {_number(row[name])}" for name in ("score", "base_value", "error") if name in row
        ]
        return sample

    def attacked(self, position: int) -> Sample:
        """An original, what was changed, and the result."""
        row = self.evidence.row(position)
        before, after = self._named(row.get("prediction")), self._named(row.get("adversarial_prediction"))
        sample = Sample(f"true {self._named(row.get('label'))}: {before} → {after}", self._is_right(position))
        changed = "corrupted" if self.evidence.meta.get("by") == "corruption" else "attacked"
        if self.image:
            bounds = self._pixel_bounds(row["x"])
            change, _ = magnified_change(row["x"], row["adversarial"], bounds, "What was changed, magnified.")
            sample.pictures = [
                photograph(row["x"], bounds, f"Original, predicted as {before}.", f"original: {before}"),
                change,
                photograph(
                    row["adversarial"], bounds, f"{changed.title()}, predicted as {after}.", f"{changed}: {after}"
                ),
            ]
        elif self.evidence.meta.get("input_kind") == "text":
            old, new = decode(row["x"]), decode(row["adversarial"])
            sample.passages = passages(old, new, (f"original: {before}", f"{changed}: {after}"))
            sample.lines += strangers(sample.passages[1])
        elif self.table is not None:
            changes = self.table.of(position)
            sample.bars = [_change_bar(change) for change in changes[:MAX_FEATURES]]
            sample.bars_header = ("column", "before → after", "change")
            sample.lines.append(f"{len(changes)} column{'s' if len(changes) > 1 else ''} changed")
        else:
            sample.bars = self._bars(row["x"], row["adversarial"] - row["x"], row["adversarial"])
            sample.bars_header = ("feature", "before → after", "change")
        size, norm = row.get("size"), self.evidence.meta.get("norm")
        if size is not None and (norm is not None or self.table is None):
            told = f"({clean(norm)})" if norm else clean(self.evidence.meta.get("units") or "")
            sample.lines.append(f"size {_number(size)} {told}".rstrip())
        if (queries := row.get("queries")) is not None:
            sample.lines.append(f"{int(queries):,} queries")
        return sample

    def _title(self, row: Mapping[str, Any], answer: str) -> str:
        label = self._named(row.get("label"))
        return f"true {label}, predicted {answer}" if label else f"predicted {answer}"

    def _is_right(self, position: int) -> bool | None:
        return None if self.right is None else bool(self.right[position])

    def _named(self, value: Any) -> str:
        """A class by its name, a value of a regression as a number."""
        if value is None:
            return ""
        item = value.item() if hasattr(value, "item") else value
        if isinstance(item, int) and 0 <= item < len(self.classes):
            return clean(self.classes[item])
        return str(item) if isinstance(item, (int, str)) else _number(item)

    def _pixel_bounds(self, x: NDArray[Any]) -> tuple[float, float]:
        return self.bounds or (float(x.min()), float(x.max()))

    def _bars(self, x: NDArray[Any], amounts: NDArray[Any], after: NDArray[Any] | None = None) -> list[Bar]:
        """The features with the largest amounts, the largest first, their bars on one scale."""
        import numpy as np

        x, amounts = np.ravel(x), np.nan_to_num(np.ravel(amounts).astype(float))
        names = self.features if len(self.features) == len(amounts) else [f"position {i}" for i in range(len(amounts))]
        order = np.argsort(-np.abs(amounts), kind="stable")[:MAX_FEATURES]
        order = order[amounts[order] != 0]
        largest = float(np.abs(amounts).max()) if amounts.size else 0.0
        bars = []
        for i in order.tolist():
            amount, width = float(amounts[i]), 50 * abs(float(amounts[i])) / largest
            value = _number(x[i]) if after is None else f"{_number(x[i])} → {_number(np.ravel(after)[i])}"
            left = 50.0 if amount > 0 else 50 - width
            bars.append(Bar(clean(names[i]), value, _signed(amount), round(left, 2), round(width, 2), amount > 0))
        return bars


def _change_bar(change: Change) -> Bar:
    width = 50 * abs(change.share)
    left = 50.0 if change.share > 0 else 50 - width
    return Bar(change.column, change.text, change.amount, round(left, 2), round(width, 2), change.share > 0)


def _number(value: Any) -> str:
    number = float(value)
    return "missing" if math.isnan(number) else show(number)


def _signed(value: float) -> str:
    return f"+{show(value)}" if value > 0 else show(value)
