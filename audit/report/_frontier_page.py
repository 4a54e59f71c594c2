"""The page of a frontier: what each epsilon costs in accuracy and what it keeps from attackers, drawn and in a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from audit import __version__
from audit.language import gettext as _
from audit.report import _charts
from audit.report.html import environment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.privacy.frontier_table import Frontier, Number, Point

Pick = Callable[["Point"], "Number | None"]


def frontier_page(frontier: Frontier) -> str:
    """The frontier as an HTML page that needs nothing beside itself."""
    rates = frontier.rates
    columns: list[tuple[str, Pick]] = [(_utility(frontier), _picking(frontier.utility))]
    for attack in frontier.attacks:
        columns.append((_("AUC, {attack}").format(attack=attack), _picking("auc", attack)))
        columns += [
            (
                _("found at {rate} FPR, {attack}").format(rate=_percent(rate), attack=attack),
                _picking("tpr_at_fpr", attack, rate),
            )
            for rate in rates
        ]
    drawn: list[tuple[str, dict[str, Pick], str, float | None]] = [
        (
            _("{metric} on test rows").format(metric=_utility(frontier)),
            {_utility(frontier): _picking(frontier.utility)},
            "linear",
            None,
        )
    ]
    if frontier.attacks:
        drawn.append((_("membership AUC"), {a: _picking("auc", a) for a in frontier.attacks}, "linear", 0.5))
        for rate in rates[:1]:
            found = {a: _picking("tpr_at_fpr", a, rate) for a in frontier.attacks}
            drawn.append((_("members found at {rate} FPR").format(rate=_percent(rate)), found, "log", float(rate)))
    charts = [_chart(frontier, *each, number) for number, each in enumerate(drawn, 1)]
    template = environment().get_template("frontier.html.j2")
    text: str = template.render(frontier=frontier, columns=columns, charts=charts, version=__version__)
    return text.rstrip("\n") + "\n"


def _utility(frontier: Frontier) -> str:
    return _({"rmse": "RMSE"}.get(frontier.utility, frontier.utility))


def _percent(rate: str) -> str:
    return f"{100 * float(rate):g} %"


def _picking(metric: str, attack: str | None = None, fpr: str | None = None) -> Pick:
    return lambda point: point.number(metric, attack, fpr)


def _chart(
    frontier: Frontier, label: str, picks: dict[str, Pick], scale: str, chance: float | None, number: int
) -> str:
    """Each number over the epsilon spent, and apart from the line, on the right, without privacy."""
    private = [(point.spent, point) for point in frontier.points if point.spent is not None]
    plain = [point for point in frontier.points if point.spent is None]
    ticks = {f"{spent:.2g}": spent for spent, _ in private}
    right = max(ticks.values(), default=1.0) * 2
    if plain:
        ticks[_("none")] = right
    places = [spent for spent, _ in private] + [math.nan, right] * bool(plain)
    shown: list[Point | None] = [point for _, point in private]
    shown += [None, *plain] if plain else []
    lines = [
        _series(name, places, [None if point is None else pick(point) for point in shown])
        for name, pick in picks.items()
    ]
    return _charts.points(
        lines, title=label, x_label=_("epsilon spent, at delta {delta}").format(delta=f"{frontier.delta:g}"), y_label=label, y_scale=scale, ticks=ticks,
        chance=chance, number=number,
    )  # fmt: skip


def _series(name: str, x: list[float], numbers: list[Number | None]) -> _charts.Series:
    import numpy as np

    def column(pick: Callable[[Number], float | None]) -> NDArray[np.float64]:
        found = [None if number is None else pick(number) for number in numbers]
        return np.array([math.nan if value is None else value for value in found])

    return _charts.Series(
        name, np.array(x), column(lambda n: n.value), column(lambda n: n.low), column(lambda n: n.high)
    )
