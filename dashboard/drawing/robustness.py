"""Charts of robustness: accuracy over eps with its gates, distances by class, rows broken over the queries spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.numbers import show, show_interval
from dashboard.drawing import charts, theme
from dashboard.words import _

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 6
"""Points of a line up to which each has its own bar, and the line is thin: nothing was measured between them."""
MANY = 60
"""Points of a line beyond which none is marked."""
HEIGHT = charts.AROUND + 240

Point = tuple[float, float, float | None, float | None]
"""eps, accuracy, and the ends of its interval."""


@dataclass(frozen=True)
class Curve:
    """Accuracy over eps.

    Args:
        certified: proven, a lower bound of what any attack leaves; otherwise attacked, an upper bound.
    """

    name: str
    certified: bool
    points: Sequence[Point]


@dataclass(frozen=True)
class Limit:
    """What a gate asks for at an eps."""

    eps: float
    threshold: float
    told: str


def over_eps(curves: Sequence[Curve], limits: Sequence[Limit], *, title: str, label: str) -> charts.Drawn:
    """Accuracy over eps: attacked from above, certified from below, and the gates as short thick strokes.

    Args:
        label: of the axis of eps, with its norm and units.
    """
    import altair as alt
    import pandas as pd

    ordered = sorted(curves, key=lambda curve: curve.certified)
    rows = [
        {
            "series": curve.name, "bound": _("at least") if curve.certified else _("at most"), "eps": eps, "accuracy": value,
            "low": value if low is None else low, "high": value if high is None else high, "few": len(curve.points) <= FEW, "many": len(curve.points) > MANY,
            "shown": show(value), "interval": show_interval(low, high) if (low, high) != (None, None) else "–", "at": show(eps),
        }
        for curve in ordered
        for eps, value, low, high in curve.points
    ]  # fmt: skip
    names = list(dict.fromkeys(curve.name for curve in ordered))
    looks = charts.series_scale(names)
    color = alt.Color("series:N", scale=looks["color"], legend=charts.legend_of(names))
    furthest = max((eps for curve in curves for eps, *_ends in curve.points), default=1.0)
    x = alt.X(
        "eps:Q", title=label, scale=alt.Scale(domain=[0, 1.08 * furthest], nice=False), axis=alt.Axis(tickCount=10)
    )
    y = alt.Y("accuracy:Q", title=_("accuracy"), scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(pd.DataFrame(rows)).encode(x=x, color=color)
    tips = [
        alt.Tooltip("series:N", title=_("series")),
        alt.Tooltip("at:N", title=label),
        alt.Tooltip("shown:N", title=_("accuracy")),
        alt.Tooltip("interval:N", title=_("95 % interval")),
        alt.Tooltip("bound:N", title=_("under any attack, it is")),
    ]
    ends: dict[str, Any] = {"y": alt.Y("low:Q", title=_("accuracy")), "y2": "high:Q"}
    dash = alt.StrokeDash("series:N", scale=looks["strokeDash"], legend=None)
    layers: list[Any] = [
        base.transform_filter("!datum.few").mark_area(opacity=0.18).encode(**ends),
        base.transform_filter("datum.few").mark_rule(strokeWidth=2).encode(**ends),
        base.transform_filter("datum.few").mark_line(strokeWidth=1, opacity=0.6).encode(y=y, strokeDash=dash),
        base.transform_filter("!datum.few").mark_line(strokeWidth=2).encode(y=y, strokeDash=dash),
        base.transform_filter("!datum.many")
        .mark_point(filled=True, size=55, opacity=1)
        .encode(y=y, shape=alt.Shape("series:N", scale=looks["shape"], legend=charts.legend_of(names)), tooltip=tips),
    ]
    if limits:
        layers += _strokes(limits)
    return alt.layer(*layers).properties(title=title, height=HEIGHT)


def _strokes(limits: Sequence[Limit]) -> list[Any]:
    import altair as alt
    import pandas as pd

    ink = theme.colours(theme.mode())["ink"]
    base = alt.Chart(
        pd.DataFrame([{"eps": one.eps, "accuracy": one.threshold, "told": one.told} for one in limits])
    ).encode(x="eps:Q", y="accuracy:Q")
    return [
        base.mark_tick(orient="horizontal", size=30, thickness=3, color=ink).encode(
            tooltip=[alt.Tooltip("told:N", title=_("required"))]
        ),
        base.mark_text(align="left", baseline="middle", dx=19, fontSize=11, color=ink).encode(text="told:N"),
    ]


def distances(
    found: Mapping[str, NDArray[Any]], eps: Sequence[float], median: float | None, *, title: str, label: str, unit: str
) -> charts.Drawn:
    """How many rows are broken by which distance, with the eps that were audited and the median as lines.

    Args:
        found: minimal distances ``(N,)`` by the attack that found them.
    """
    import altair as alt
    import pandas as pd

    drawn = charts.histogram(found, title=title, label=label, unit=unit, marked=median)
    if not eps:
        return drawn
    soft = theme.colours(theme.mode())["soft"]
    base = alt.Chart(pd.DataFrame([{"at": one, "told": f"eps {show(one)}"} for one in eps]))
    return alt.layer(
        drawn,
        base.mark_rule(color=soft, strokeDash=[2, 3], strokeWidth=1.5).encode(x="at:Q"),
        base.mark_text(color=soft, align="left", dx=4, fontSize=11, baseline="top").encode(
            x="at:Q", y=alt.value(2), text="told:N"
        ),
    ).properties(title=title)


@dataclass(frozen=True)
class Spread:
    """Minimal distances of the rows of a class: from the nearest to the furthest, quartiles between them."""

    name: str
    n: int
    ends: tuple[float, float]
    middle: tuple[float, float]
    median: float


def by_class(found: Sequence[Spread], *, title: str, label: str) -> charts.Drawn:
    """Distances by class: the thin line is all rows, the bar the middle half, the stroke the median."""
    import altair as alt
    import pandas as pd

    palette = theme.colours(theme.mode())
    frame = pd.DataFrame(
        [
            {
                "name": f"{one.name} (n = {one.n:,})", "first": one.ends[0], "last": one.ends[1], "low": one.middle[0], "high": one.middle[1],
                "median": one.median, "told": show(one.median), "half": show_interval(*one.middle), "all": show_interval(*one.ends),
            }
            for one in found
        ]
    )  # fmt: skip
    y = alt.Y(
        "name:N", sort=list(frame["name"]), title=_("true class"), axis=alt.Axis(labelLimit=160, labelFlush=False)
    )
    base = alt.Chart(frame).encode(
        y=y,
        tooltip=[
            alt.Tooltip("name:N", title=_("true class")),
            alt.Tooltip("told:N", title=_("median")),
            alt.Tooltip("half:N", title=_("middle half")),
            alt.Tooltip("all:N", title=_("all rows")),
        ],
    )
    x = alt.X("first:Q", title=label, scale=alt.Scale(zero=True))
    return alt.layer(
        base.mark_rule(strokeWidth=1.5, color=palette["soft"]).encode(x=x, x2="last:Q"),
        base.mark_bar(height=10, color=palette["s1"], opacity=0.55).encode(x=alt.X("low:Q", title=label), x2="high:Q"),
        base.mark_tick(thickness=3, size=16, color=palette["ink"]).encode(x=alt.X("median:Q", title=label)),
    ).properties(title=title, height=max(charts.AROUND + 200, charts.AROUND + 24 * len(frame)))


@dataclass(frozen=True)
class Spent:
    """Queries ``(K,)`` of the rows that an attack broke, each with the share of the attacked rows that it stands for."""

    name: str
    queries: NDArray[Any]
    each: float


def over_queries(found: Sequence[Spent], *, title: str) -> charts.Drawn:
    """Share of the attacked rows that are broken, over the queries spent on a row."""
    import altair as alt
    import numpy as np
    import pandas as pd

    most = max((float(one.queries.max()) for one in found if len(one.queries)), default=1.0)
    frames = []
    for one in found:
        order = np.sort(one.queries.astype(float))
        reached = one.each * np.arange(1, len(order) + 1)
        x = np.concatenate([order[:1], order, [most]])
        frames.append(
            pd.DataFrame({"queries": x, "share": np.concatenate([[0.0], reached, reached[-1:]]), "series": one.name})
        )
    names = [one.name for one in found]
    looks = charts.series_scale(names)
    frame = pd.concat(frames)
    top = charts.ends_of_shares(float(frame["share"].max()))
    base = alt.Chart(frame).encode(
        x=alt.X("queries:Q", title=_("queries spent on a row"), scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("share:Q", title=_("share of rows broken"), scale=alt.Scale(domain=top), axis=alt.Axis(format="~%")),
        color=alt.Color("series:N", scale=looks["color"], legend=charts.legend_of(names, lines=True)),
        strokeDash=alt.StrokeDash("series:N", scale=looks["strokeDash"], legend=charts.legend_of(names, lines=True)),
        tooltip=[alt.Tooltip("series:N", title=_("attack")), alt.Tooltip("queries:Q", title=_("queries"), format=",")],
    )  # fmt: skip
    return alt.layer(base.mark_line(strokeWidth=2, interpolate="step-after")).properties(title=title, height=HEIGHT)
