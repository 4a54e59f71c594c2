"""The page of a frontier: what each epsilon costs in accuracy and what it keeps from attackers, drawn and in a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from audit import __version__
from audit.report import _charts
from audit.report.html import environment

if TYPE_CHECKING:
    from audit.train.frontier_table import Frontier, Number, Point

Pick = Callable[["Point"], "Number | None"]


def frontier_page(frontier: Frontier) -> str:
    """The frontier as an HTML page that needs nothing beside itself."""
    rates = sorted({n.fpr for p in frontier.points for n in p.numbers if n.fpr is not None}, key=float, reverse=True)
    columns: list[tuple[str, Pick]] = [(frontier.utility, lambda point: point.number(frontier.utility))]
    for attack in frontier.attacks:
        columns.append((f"AUC, {attack}", _picking("auc", attack)))
        columns += [
            (f"found at {float(rate):.3g} FPR, {attack}", _picking("tpr_at_fpr", attack, rate)) for rate in rates
        ]
    charts = [_chart(frontier, {frontier.utility: columns[0][1]}, f"{frontier.utility} on test rows", "linear", 1)]
    if frontier.attacks:
        aucs = {attack: _picking("auc", attack) for attack in frontier.attacks}
        charts.append(_chart(frontier, aucs, "membership AUC (0.5: nothing leaks)", "linear", 2))
    if frontier.attacks and rates:
        found = {attack: _picking("tpr_at_fpr", attack, rates[0]) for attack in frontier.attacks}
        label = f"members found at FPR {rates[0]} (that much: nothing leaks)"
        charts.append(_chart(frontier, found, label, "log", 3))
    template = environment().get_template("frontier.html.j2")
    text: str = template.render(frontier=frontier, columns=columns, charts=charts, version=__version__)
    return text.rstrip("\n") + "\n"


def _picking(metric: str, attack: str, fpr: str | None = None) -> Pick:
    return lambda point: point.number(metric, attack, fpr)


def _chart(frontier: Frontier, picks: dict[str, Pick], label: str, scale: str, number: int) -> str:
    """Each number over the epsilon spent, and as a level line what it is without privacy."""
    series: list[_charts.Series] = []
    private = [point for point in frontier.points if point.spent is not None]
    spent = [point.spent or math.nan for point in private]
    for name, pick in picks.items():
        if private:
            series.append(_series(name, spent, [pick(point) for point in private]))
        for plain in (point for point in frontier.points if point.spent is None):
            ends = [min(spent, default=1.0), max(spent, default=10.0)]
            series.append(_series(f"{name}, without privacy", ends, [pick(plain)] * 2))
    return _charts.curve(
        series, title=label, x_label=f"epsilon spent (delta {frontier.delta:g})", y_label=label, x_scale="log", y_scale=scale,
        number=number,
    )  # fmt: skip


def _series(name: str, x: list[float], numbers: list[Number | None]) -> _charts.Series:
    import numpy as np

    def column(pick: Callable[[Number], float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        found = [None if number is None else pick(number) for number in numbers]
        return np.array([math.nan if value is None else value for value in found])

    return _charts.Series(
        name, np.array(x), column(lambda n: n.value), column(lambda n: n.low), column(lambda n: n.high)
    )
