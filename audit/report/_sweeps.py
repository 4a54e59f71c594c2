"""Curves over a scenario's matrix: how a metric moves with eps, or with whatever else was swept, each point with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from audit.language import gettext as _
from audit.report._charts import Series, curve
from audit.report._view import RunView

MAX_CHARTS = 6
MAX_SERIES = 6


@dataclass(frozen=True)
class Point:
    """One measured number of one cell."""

    entry: str
    title: str
    unit: str
    gated: bool
    cell: Mapping[str, str]
    dims: Mapping[str, str]
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sweep:
    """One chart: a metric of one check over one axis of its matrix."""

    title: str
    chart: str
    note: str = ""


def sweeps(view: RunView) -> list[Sweep]:
    """One chart per check, metric and numeric axis with at least two values; gated metrics first."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in _points(view):
        for axis, written in point.cell.items():
            if _number(written) is not None:
                groups.setdefault((point.entry, point.title, axis), []).append(point)
    swept = {key: points for key, points in groups.items() if len({p.cell[key[2]] for p in points}) > 1}
    order = sorted(swept, key=lambda key: not any(point.gated for point in swept[key]))
    return [_chart(*key, swept[key], number) for number, key in enumerate(order[:MAX_CHARTS], 1)]


def _chart(entry: str, title: str, axis: str, points: Iterable[Point], number: int) -> Sweep:
    import numpy as np

    lines: dict[str, list[Point]] = {}
    for point in points:
        rest = {**{key: value for key, value in point.cell.items() if key != axis}, **point.dims}
        lines.setdefault(", ".join(f"{key} {value}" for key, value in rest.items()) or _("overall"), []).append(point)
    series = []
    for name, found in list(lines.items())[:MAX_SERIES]:
        found.sort(key=lambda point: _number(point.cell[axis]) or 0.0)
        columns = (
            [_number(p.cell[axis]) for p in found],
            *([getattr(p, k) for p in found] for k in ("value", "low", "high")),
        )
        series.append(Series(name, *(np.array(column, dtype=np.float64) for column in columns)))
    unit = next((point.unit for point in points if point.unit), "")
    whole = _("{name}: {y} over {x}").format(name=entry, y=title, x=axis)
    drawn = curve(
        series, title=whole, x_label=axis, y_label=f"{title} ({unit})" if unit else title,
        x_scale="linear", y_scale="linear", number=1000 + number,
    )  # fmt: skip
    left_out = len(lines) - len(series)
    return Sweep(whole, drawn, _("{n} more parts are in the tables.").format(n=left_out) if left_out > 0 else "")


def _points(view: RunView) -> Iterator[Point]:
    for f in view.findings:
        if f.estimate is not None and f.interval is not None and f.cell and "baseline" not in (f.required or ""):
            low, high = (float("nan") if side is None else side for side in f.interval)
            own = {key: value for key, value in f.dims.items() if key not in f.cell}
            entry, title = f.step.split("[")[0], _(f.title or f.metric or f.check)
            yield Point(entry, title, f.unit, f.gated, f.cell, own, f.estimate.value, low, high)
    for record in view.unjudged:
        if (measured := record.measurement) is not None and record.cell:
            low, high = (v if abs(v) != float("inf") else float("nan") for v in measured.estimate.interval())
            title = measured.metric.replace("_", " ")
            yield Point(record.id, title, "", False, record.cell, measured.dims, measured.estimate.value, low, high)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
