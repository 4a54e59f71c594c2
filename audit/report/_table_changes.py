"""What an attack changed in rows of a table, in the reader's terms: columns by name, categories by value, each on its own scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.language import gettext as _
from audit.numbers import show
from audit.report._words import clean, mapping

if TYPE_CHECKING:
    from audit.run_folder import Evidence


def header() -> tuple[str, ...]:
    """Names of the columns of `TableChanges.summary`."""
    return _("column"), _("changed in"), _("smallest change"), _("median change"), _("largest change")


@dataclass(frozen=True)
class Change:
    """One column of one row.

    Args:
        amount: the difference with its sign; empty for a category.
        share: of the largest change of this column in the series, -1 to 1; a category's is 1.
    """

    column: str
    text: str
    amount: str
    share: float


class TableChanges:
    """The changed cells of a series of adversarial rows.

    Args:
        fields: the columns as the model's input spec has them; without them columns are told by the evidence's own names, else by
            position.
    """

    def __init__(self, evidence: Evidence, fields: Sequence[Mapping[str, Any]]) -> None:
        import numpy as np

        self._before = np.asarray(evidence.column("x"), dtype=np.float64).reshape(len(evidence), -1)
        self._after = np.asarray(evidence.column("adversarial"), dtype=np.float64).reshape(self._before.shape)
        width = self._before.shape[1]
        self._fields = list(fields) if len(fields) == width else [{} for _ in range(width)]
        own = evidence.meta.get("feature_names")
        named = own if isinstance(own, list) and len(own) == width else [f.get("name") for f in self._fields]
        self._names = [
            clean(name) if name is not None else _("position {i}").format(i=i) for i, name in enumerate(named)
        ]
        self._delta = np.nan_to_num(self._after - self._before)
        self._largest = np.abs(self._delta).max(axis=0, initial=0.0)

    def of(self, row: int) -> list[Change]:
        """The changed cells of a row, the largest on their column's own scale first."""
        import numpy as np

        found = [self._change(row, column) for column in np.flatnonzero(self._delta[row]).tolist()]
        return sorted(found, key=lambda change: -abs(change.share))

    def summary(self) -> list[tuple[str, ...]]:
        """A line for every column that was changed anywhere, the commonest first; see `header`."""
        import numpy as np

        rows: list[tuple[str, ...]] = []
        counts = (self._delta != 0).sum(axis=0)
        for column in np.argsort(-counts, kind="stable")[: int((counts > 0).sum())].tolist():
            shown = ("–", "–", "–")
            if not self._categories(column):
                moved = np.sort(self._delta[self._delta[:, column] != 0, column])
                moved = moved[np.argsort(np.abs(moved), kind="stable")]
                shown = (_signed(moved[0]), _signed(np.median(moved)), _signed(moved[-1]))
            rows.append(
                (self._names[column], _("{k} of {n}").format(k=int(counts[column]), n=len(self._delta)), *shown)
            )
        return rows

    def _change(self, row: int, column: int) -> Change:
        before, after = float(self._before[row, column]), float(self._after[row, column])
        coded = bool(self._categories(column))
        delta = float(self._delta[row, column])
        units = clean(self._fields[column].get("units") or "")
        text = f"{self._cell(column, before)} → {self._cell(column, after)}" + (f" {units}" if units else "")
        share = 1.0 if coded else delta / float(self._largest[column])
        return Change(self._names[column], text, "" if coded else _signed(delta), share)

    def _cell(self, column: int, value: float) -> str:
        return cell_of(self._fields[column], value)

    def _categories(self, column: int) -> list[Any]:
        found = self._fields[column].get("categories")
        return found if isinstance(found, list) else []


def columns_of(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The fields of a model's input spec, from what the manifest holds of the model."""
    fields = mapping(facts.get("spec")).get("fields")
    return [mapping(field) for field in fields] if isinstance(fields, list) else []


def cell_of(field: Mapping[str, Any], value: float) -> str:
    """A cell in the reader's terms: a category by its name, a number, or ``missing``."""
    categories = field.get("categories")
    if math.isnan(value):
        return _("missing")
    if isinstance(categories, list | tuple) and value == int(value) and 0 <= value < len(categories):
        return clean(categories[int(value)])
    return show(value)


def _signed(value: float) -> str:
    return f"+{show(float(value))}" if value > 0 else show(float(value))
