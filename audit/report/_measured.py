"""Numbers that nothing rides on, in few tables: one row per class, group or attack, one column per metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from audit.finding import Finding, Measurement, Status
from audit.language import gettext as _
from audit.numbers import show, show_interval
from audit.report._about import title_of
from audit.report._view import RunView
from audit.report._words import dim_of, interval_of, n_of, value_of, value_of_dim

MAX_ROWS = 200


@dataclass(frozen=True)
class Cell:
    """One number with its interval; of a gated one its status too."""

    value: str
    interval: str = ""
    n: str = "–"
    status: Status | None = None


@dataclass
class Grid:
    """The parts of one step's metrics: rows are parts, columns are metrics."""

    title: str
    keys: tuple[str, ...]
    columns: list[str] = field(default_factory=list)
    rows: dict[tuple[str, ...], dict[str, Cell]] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        """What its parts are told apart by, in words."""
        return tuple(map(dim_of, self.keys))

    @property
    def shown(self) -> list[tuple[tuple[str, ...], dict[str, Cell]]]:
        """The rows a page has room for."""
        return list(self.rows.items())[:MAX_ROWS]

    def n_of(self, cells: dict[str, Cell]) -> str:
        """The n of a row; empty where its metrics differ in it."""
        found = {cell.n for cell in cells.values()}
        return found.pop() if len(found) == 1 else ""


@dataclass(frozen=True)
class Line:
    """One undivided number."""

    step: str
    title: str
    cell: Cell


def lines(view: RunView) -> list[Line]:
    """Undivided numbers without a gate."""
    found = [
        Line(f.step, _(f.title or f.metric or f.check), cell_of(f))
        for f in view.ungated
        if f.estimate is not None and not own_dims(f)
    ]
    return found + [
        Line(record.step, title_of(record.check, record.measurement.metric), _unjudged(record.measurement))
        for record in view.unjudged
        if record.measurement is not None and not record.measurement.dims
    ]


def grids(view: RunView) -> list[Grid]:
    """Numbers of parts, the gated among them included, one grid per step and kind of part."""
    found: dict[tuple[str, ...], Grid] = {}
    for step, dims, title, cell in _parts(view):
        keys = tuple(dims)
        grid = found.setdefault(
            (step, *sorted(keys)),
            Grid(_("{name} by {keys}").format(name=step, keys=_(", ").join(map(dim_of, keys))), keys),
        )
        if title not in grid.columns:
            grid.columns.append(title)
        grid.rows.setdefault(tuple(value_of_dim(key, dims[key]) for key in grid.keys), {}).setdefault(title, cell)
    return list(found.values())


def _parts(view: RunView) -> Iterable[tuple[str, dict[str, str], str, Cell]]:
    for f in view.findings:
        if f.estimate is not None and (dims := own_dims(f)):
            yield f.step, dims, _(f.title or f.metric or f.check), cell_of(f)
    for record in view.unjudged:
        if record.measurement is not None and record.measurement.dims:
            measured = record.measurement
            yield record.step, measured.dims, title_of(record.check, measured.metric), _unjudged(measured)


def own_dims(finding: Finding) -> dict[str, str]:
    """The part of the metric a finding speaks of, without the cell of the matrix."""
    return {key: value for key, value in finding.dims.items() if key not in finding.cell}


def cell_of(finding: Finding) -> Cell:
    """A finding's number for a table."""
    status = finding.status if finding.status is not Status.INFO else None
    return Cell(value_of(finding), interval_of(finding), n_of(finding), status)


def _unjudged(measured: Measurement) -> Cell:
    estimate = measured.estimate
    low, high = estimate.interval()
    n = f"{estimate.n:,}" if estimate.n is not None else "–"
    return Cell(show(estimate.value), "" if low == high else show_interval(low, high), n)
