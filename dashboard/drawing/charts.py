"""Altair charts: each has a title, axis titles with units, and a sentence that says what good looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from audit.numbers import show
from dashboard.drawing import theme
from dashboard.words import _

if TYPE_CHECKING:
    import altair as alt
    from numpy.typing import NDArray

    Drawn = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart

DASHES = ([1, 0], [6, 3], [2, 2], [6, 2, 1, 2], [10, 3], [3, 1, 1, 1])
AROUND = 130
"""Pixels of a chart's height that its title, axis and legend take."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")


def series_scale(names: list[str]) -> dict[str, Any]:
    """Encodings that tell series apart by colour, dash and shape together."""
    import altair as alt

    palette = theme.colours(theme.mode())
    chosen = [palette[theme.SERIES[i % len(theme.SERIES)]] for i in range(len(names))]
    turned = [
        i + i // len(SHAPES) for i in range(len(names))
    ]  # a seventh has the first's colour, not its dash and shape
    return {
        "color": alt.Scale(domain=names, range=chosen),
        "strokeDash": alt.Scale(domain=names, range=[DASHES[i % len(DASHES)] for i in turned]),
        "shape": alt.Scale(domain=names, range=[SHAPES[i % len(SHAPES)] for i in turned]),
    }


def legend_of(names: Sequence[str], *, lines: bool = False) -> alt.Legend | None:
    """The legend of series below a chart: their points, or strokes of their lines; None where there is one."""
    import altair as alt

    if len(names) == 1:
        return None
    symbol: dict[str, Any] = (
        {"symbolType": "stroke", "symbolSize": 260, "symbolStrokeWidth": 2.5} if lines else {"symbolStrokeWidth": 0}
    )
    columns = 4 if max(map(len, names), default=0) <= 24 else 2
    return alt.Legend(title=None, orient="bottom", labelLimit=320, columns=columns, symbolOpacity=1, **symbol)


def draw(
    chart: alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart, good: str, *, key: str | None = None
) -> None:
    """Show a chart and, below it, what good looks like.

    Args:
        good: a sentence.
        key: of the element, where several charts are alike.
    """
    # The tests hold every chart against Vega-Lite's schema; doing so again would be a third of a page's time.
    object.__setattr__(chart, "to_dict", partial(chart.to_dict, validate=False))
    st.altair_chart(chart, width="stretch", key=key)
    st.caption(good)


# --- contributions of the columns of a table ---------------------------------------------------------------------

MOST_FEATURES = 14
"""Features that a chart shows one by one; the others are added up, or left out and counted."""
MOST_POINTS = 300
"""Rows that a chart draws as points, evenly taken."""


def reach(amounts: Sequence[float], base: float, score: float | None) -> tuple[float, float]:
    """Between which values a waterfall's bars lie."""
    import numpy as np

    values = np.nan_to_num(np.asarray(amounts, dtype=float))
    ends = base + np.cumsum([0.0, *values[np.argsort(-np.abs(values), kind="stable")]])
    ends = np.append(ends, ends[-1] if score is None else score)
    return float(ends.min()), float(ends.max())


def waterfall(
    names: Sequence[str],
    amounts: Sequence[float],
    base: float,
    score: float | None,
    *,
    title: str,
    label: str,
    within: tuple[float, float] | None = None,
) -> Drawn:
    """From the base value to the score of one row, contribution by contribution, the largest first.

    Args:
        names: each feature with its value.
        score: of the model itself; None where it is not known: then the sum stands there.
        label: what the axis counts, with its unit.
        within: ends of the axis, where several waterfalls share one.
    """
    import altair as alt
    import numpy as np
    import pandas as pd

    values = np.nan_to_num(np.asarray(amounts, dtype=float))
    order = np.argsort(-np.abs(values), kind="stable")
    shown = [int(i) for i in order[:MOST_FEATURES] if values[i]]
    rest = values.sum() - values[shown].sum()
    steps = [(names[i], float(values[i])) for i in shown]
    if others := int((values != 0).sum()) - len(shown):
        steps.append((_("{n} other features").format(n=others), float(rest)))
    ends = base + np.cumsum([0.0, *(amount for _name, amount in steps)])
    rows = [
        {
            "place": number, "name": name, "start": float(ends[number]), "end": float(ends[number + 1]),
            "amount": signed(amount), "sign": _("raises") if amount > 0 else _("lowers"),
        }
        for number, (name, amount) in enumerate(steps)
    ]  # fmt: skip
    total = float(ends[-1]) if score is None else score
    marks = pd.DataFrame(
        [
            {"name": _("base value"), "end": base, "amount": show(base)},
            {"name": _("score"), "end": total, "amount": show(total)},
        ]
    )
    sort = [_("base value"), *(name for name, _amount in steps), _("score")]
    y = alt.Y("name:N", sort=sort, title=None, axis=alt.Axis(labelLimit=280, labelOverlap=False))
    domain: Any = alt.Undefined if within is None else list(within)
    x = alt.X("start:Q", title=label, scale=alt.Scale(zero=False, domain=domain))
    frame = pd.DataFrame(rows, columns=["place", "name", "start", "end", "amount", "sign"])
    palette = theme.colours(theme.mode())
    told = [
        alt.Tooltip("name:N", title=_("feature")),
        alt.Tooltip("amount:N", title=_("contribution")),
        alt.Tooltip("sign:N", title=_("what it does")),
    ]
    colour = alt.Color(
        "sign:N",
        scale=alt.Scale(domain=[_("raises"), _("lowers")], range=[palette["s2"], palette["s1"]]),
        legend=alt.Legend(title=None, orient="bottom"),
    )
    bars_ = (
        alt.Chart(frame).mark_bar(height=15, cornerRadius=2).encode(y=y, x=x, x2="end:Q", color=colour, tooltip=told)
    )
    texts = alt.Chart(frame).mark_text(align="left", dx=4, fontSize=11, color=palette["ink"]).encode(
        y=y, x=alt.X("right:Q"), text="amount:N"
    ).transform_calculate(right="max(datum.start, datum.end)")  # fmt: skip
    ticks = alt.Chart(marks).mark_tick(thickness=3, height=18, color=palette["ink"]).encode(y=y, x="end:Q")
    numbers = alt.Chart(marks).mark_text(align="left", dx=6, fontSize=11, color=palette["ink"]).encode(
        y=y, x="end:Q", text="amount:N"
    )  # fmt: skip
    return alt.layer(bars_, texts, ticks, numbers).properties(title=title, height=AROUND + 24 * len(sort))


def mean_sizes(names: Sequence[str], values: NDArray[Any], *, title: str, label: str) -> Drawn:
    """Mean size of each feature's contribution over rows ``(N, F)``, the largest first."""
    import altair as alt
    import numpy as np
    import pandas as pd

    mean = np.abs(np.nan_to_num(values)).mean(axis=0)
    order = np.argsort(-mean, kind="stable")[:MOST_FEATURES]
    frame = pd.DataFrame(
        {"name": [names[i] for i in order], "mean": mean[order], "told": [show(float(m)) for m in mean[order]]}
    )
    bars_: Drawn = (
        alt.Chart(frame)
        .mark_bar(color=theme.colours(theme.mode())["s1"], height=15)
        .encode(
            y=alt.Y("name:N", sort=list(frame["name"]), title=None, axis=alt.Axis(labelLimit=220, labelOverlap=False)),
            x=alt.X("mean:Q", title=label),
            tooltip=[alt.Tooltip("name:N", title=_("feature")), alt.Tooltip("told:N", title=label)],
        )
        .properties(title=title, height=AROUND + 24 * len(frame))
    )
    return bars_


def beeswarm(
    names: Sequence[str],
    values: NDArray[Any],
    x: NDArray[Any],
    cells: Sequence[Sequence[str]],
    *,
    title: str,
    label: str,
) -> Drawn:
    """Every row's contribution of every feature, coloured by the feature's value within its column.

    Args:
        values, x: ``(N, F)`` contributions and values.
        cells: per row, its values as a reader writes them.
    """
    import altair as alt
    import numpy as np
    import pandas as pd

    values = np.nan_to_num(values)
    order = np.argsort(-np.abs(values).mean(axis=0), kind="stable")[:MOST_FEATURES].tolist()
    taken = np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).round().astype(int)
    width = float(np.ptp(values[taken][:, order])) or 1.0
    rows = [
        {"name": names[i], "amount": float(values[row, i]), "offset": offset, "level": level, "cell": cells[row][i],
         "told": signed(float(values[row, i]))}
        for i in order
        for row, offset, level in zip(
            taken.tolist(), _swarm(values[taken, i], width), _levels(x[taken, i]), strict=True
        )
    ]  # fmt: skip
    palette = theme.colours(theme.mode())
    swarm: Drawn = (
        alt.Chart(pd.DataFrame(rows))
        .mark_circle(size=22, opacity=0.85)
        .encode(
            x=alt.X("amount:Q", title=label),
            y=alt.Y("name:N", sort=[names[i] for i in order], title=None, axis=alt.Axis(labelLimit=220, labelOverlap=False)),
            yOffset=alt.YOffset("offset:Q", scale=alt.Scale(domain=[-1.1, 1.1])),
            color=alt.Color(
                "level:Q",
                scale=alt.Scale(
                    domain=[0, 0.5, 1],
                    range=[palette["s1"], palette["soft"], palette["s2"]],
                    interpolate="rgb",
                ),
                legend=alt.Legend(title=_("value in its column"), orient="bottom", values=[0, 0.5, 1], gradientLength=160,
                                  labelExpr=_LEVEL_NAMES.format(low=_("low"), middle=_("middle"), high=_("high"))),
            ),
            tooltip=[
                alt.Tooltip("name:N", title=_("feature")),
                alt.Tooltip("cell:N", title=_("value")),
                alt.Tooltip("told:N", title=_("contribution")),
            ],
        )
        .properties(title=title, height=AROUND + 36 * len(order))
    )  # fmt: skip
    return swarm


_LEVEL_NAMES = "datum.value == 0 ? '{low}' : datum.value == 1 ? '{high}' : '{middle}'"


def _swarm(amounts: NDArray[Any], width: float) -> list[float]:
    """Where each point lies across its line, -1 to 1: those of one place side by side, alternately up and down."""
    import numpy as np

    place = np.round(amounts / width * 90).astype(int)
    seen: dict[int, int] = {}
    counts: list[int] = []
    for one in place.tolist():
        counts.append(seen.get(one, 0))
        seen[one] = counts[-1] + 1
    most = max(seen.values(), default=1)
    step = min(0.22, 2 / (most + 1))
    return [step * ((k + 1) // 2) * (1 if k % 2 else -1) for k in counts]


def _levels(column: NDArray[Any]) -> list[float]:
    """Each value's rank within its column, 0 to 1; a missing one lies in the middle."""
    import numpy as np

    known = np.isfinite(column)
    _values, place = np.unique(column[known], return_inverse=True)
    levels = np.full(len(column), 0.5)
    if known.any() and place.max():
        levels[known] = place / place.max()
    return [float(level) for level in levels]


def dependence(
    x: NDArray[Any],
    amounts: NDArray[Any],
    cells: Sequence[str],
    *,
    categories: bool,
    title: str,
    x_label: str,
    label: str,
) -> Drawn:
    """Contribution of a feature over its value: a point per row.

    Args:
        x, amounts: ``(N,)``.
        cells: the values as a reader writes them; the axis itself where they are categories.
    """
    import altair as alt
    import numpy as np
    import pandas as pd

    taken = np.linspace(0, len(x) - 1, min(len(x), 4 * MOST_POINTS)).round().astype(int)
    frame = pd.DataFrame(
        {
            "x": np.asarray(x, dtype=float)[taken],
            "amount": np.nan_to_num(amounts)[taken],
            "cell": [cells[i] for i in taken],
            "told": [signed(float(amounts[i])) for i in taken],
        }
    )
    palette = theme.colours(theme.mode())
    across = (
        alt.X("cell:N", title=x_label, sort=alt.EncodingSortField("x"), axis=alt.Axis(labelAngle=0))
        if categories
        else alt.X("x:Q", title=x_label, scale=alt.Scale(zero=False))
    )
    points = (
        alt.Chart(frame)
        .mark_circle(size=36, opacity=0.6, color=palette["s1"])
        .encode(
            x=across,
            y=alt.Y("amount:Q", title=label),
            tooltip=[alt.Tooltip("cell:N", title=x_label), alt.Tooltip("told:N", title=_("contribution"))],
        )
    )
    zero = alt.Chart(pd.DataFrame({"amount": [0.0]})).mark_rule(color=palette["soft"]).encode(y="amount:Q")
    return alt.layer(zero, points).properties(title=title, height=300)


# --- maps of one sample ------------------------------------------------------------------------------------------

MAX_STEPS = 720
"""Longer series are drawn in so many stretches: the line goes through their means, their contributions add up."""


def relevance_line(
    x: NDArray[Any], amounts: NDArray[Any], limit: float, *, title: str, x_label: str, y_label: str, label: str
) -> Drawn:
    """One channel of a series ``(T,)``, its line coloured by what each stretch contributes, the contributions as bars below."""
    import altair as alt
    import numpy as np
    import pandas as pd

    per = -(-len(x) // MAX_STEPS)
    edges = np.arange(0, len(x), per)
    lengths = np.diff([*edges, len(x)])
    line = np.add.reduceat(np.nan_to_num(x.astype(float)), edges) / lengths
    summed = np.add.reduceat(np.nan_to_num(amounts.astype(float)), edges)
    frame = pd.DataFrame(
        {
            "step": edges, "next": np.append(edges[1:], edges[-1]), "value": line, "then": np.append(line[1:], line[-1]),
            "amount": summed, "told": [signed(float(v)) for v in summed], "cell": [show(float(v)) for v in line],
        }
    )  # fmt: skip
    scale = diverging(limit)
    legend = alt.Legend(title=label, orient="right", gradientLength=80, type="gradient")
    colour, told = (alt.Color("amount:Q", scale=scale, legend=shown) for shown in (None, legend))
    tips = [
        alt.Tooltip("step:Q", title=x_label),
        alt.Tooltip("cell:N", title=y_label),
        alt.Tooltip("told:N", title=label),
    ]
    across = alt.X("step:Q", title=None, scale=alt.Scale(domain=[0, len(x) - 1], nice=False))
    below = alt.X("step:Q", title=x_label, scale=alt.Scale(domain=[0, len(x) - 1], nice=False))
    upper = (
        alt.Chart(frame)
        .mark_rule(strokeWidth=3, strokeCap="round")
        .encode(
            x=across, x2="next:Q", y=alt.Y("value:Q", title=y_label, scale=alt.Scale(zero=False)), y2="then:Q",
            color=colour, tooltip=tips,
        )
        .properties(title=title, height=170, width="container")
    )  # fmt: skip
    lower = (
        alt.Chart(frame)
        .mark_bar(width=max(1.0, 700 / len(frame)))
        .encode(x=below, y=alt.Y("amount:Q", title=label), color=told, tooltip=tips)
        .properties(height=90, width="container")
    )
    both: Drawn = alt.vconcat(upper, lower, spacing=6).resolve_scale(color="independent")
    return both


def diverging(limit: float) -> alt.Scale:
    """Blue against, grey nothing, vermilion for; the page's own, so that all of it is seen on light and dark."""
    import altair as alt

    palette = theme.colours(theme.mode())
    ends = limit or 1.0
    return alt.Scale(
        domain=[-ends, 0, ends],
        range=[palette["s1"], palette["line"], palette["s2"]],
        clamp=True,
        interpolate="rgb",
    )


def removal(curves: Mapping[str, tuple[Any, Any, Any]], *, title: str, x_label: str, y_label: str) -> Drawn:
    """A row's score as features leave or join, by explainer: in the order of the map, and in orders that know nothing.

    Args:
        curves: by explainer the share, the score in the map's order and the mean score under uninformed orders, ``(K,)`` each.
    """
    import altair as alt
    import pandas as pd

    informed, random = _("in the map's order"), _("in random order")
    rows = [
        {
            "share": float(a),
            "score": float(s),
            "explainer": name,
            "order": order,
            "told": show(float(s)),
            "at": show(float(a)),
        }
        for name, (share, own, uninformed) in curves.items()
        for order, scores in ((informed, own), (random, uninformed))
        for a, s in zip(share, scores, strict=True)
    ]
    names = list(curves)
    looks = series_scale(names)
    frame = pd.DataFrame(rows, columns=["share", "score", "explainer", "order", "told", "at"])
    probability = bool(len(frame)) and frame["score"].between(0, 1).all()
    base = alt.Chart(frame).encode(
        x=alt.X("share:Q", title=x_label, scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("score:Q", title=y_label, scale=alt.Scale(domain=[0, 1]) if probability else alt.Scale(zero=False)),
        color=alt.Color(
            "explainer:N",
            scale=looks["color"],
            legend=alt.Legend(title=None, orient="bottom", labelLimit=320, columns=1),
        ),
        strokeDash=alt.StrokeDash(
            "order:N", scale=alt.Scale(domain=[informed, random], range=[[1, 0], [4, 4]]), legend=None
        ),
        tooltip=[
            alt.Tooltip("explainer:N", title=_("explainer")),
            alt.Tooltip("order:N", title=_("order")),
            alt.Tooltip("at:N", title=x_label),
            alt.Tooltip("told:N", title=y_label),
        ],
    )
    lines = base.mark_line(strokeWidth=2)
    shapes = alt.Shape("explainer:N", scale=looks["shape"], legend=None)
    points = base.transform_filter(alt.datum.order == informed).mark_point(filled=True, size=34).encode(shape=shapes)
    return alt.layer(lines, points).properties(title=title, height=AROUND + 220 + 20 * len(names))


# --- measured numbers --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dot:
    """A measured number with its interval, as a line of a chart.

    Args:
        told: the interval in words.
    """

    name: str
    group: str
    value: float
    low: float | None
    high: float | None
    told: str


def dots(
    found: Sequence[Dot],
    *,
    title: str,
    label: str,
    share: bool = True,
    log: bool = False,
    around: float | None = None,
    marked: float | None = None,
) -> Drawn:
    """Numbers with their intervals below one another, on one axis.

    Args:
        share: they lie between 0 and 1, and the axis counts in percent.
        around: the axis has this number in its middle, a line on it, and is as wide as the numbers need.
        marked: a line at a number that the others are held against.
    """
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(
        [
            {
                "name": d.name, "group": d.group, "value": d.value, "shown": show(d.value), "told": d.told,
                "low": d.value if d.low is None else d.low, "high": d.value if d.high is None else d.high,
            }
            for d in found
        ]
    )  # fmt: skip
    names, groups = list(dict.fromkeys(frame["name"])), list(dict.fromkeys(frame["group"]))
    side_by_side = len(groups) > 1 and len(frame) > 0.6 * len(names) * len(groups)
    alone = len(groups) > 1 and not side_by_side  # each number has a line of its own, named in full
    frame["line"] = frame["name"] + " · " + frame["group"] if alone else frame["name"]
    lines = list(dict.fromkeys(frame["line"]))
    looks = series_scale(groups)
    legend = None if len(groups) == 1 else alt.Legend(title=None, orient="bottom")
    ends = [float(frame[side].min()) for side in ("low", "value")] + [
        float(frame[side].max()) for side in ("high", "value")
    ]
    domain = _ends_around(around, ends, share) if around is not None else ends_of_shares(max(ends)) if share else None
    scale = alt.Scale(domain=domain) if domain else alt.Scale(type="log") if log else alt.Scale(zero=True)
    axis = alt.Axis(format="~%", tickCount=8) if share else alt.Axis(tickCount=8)
    if around is not None and domain:
        axis = alt.Axis(values=_ticks_around(around, domain[1] - around))
    base = alt.Chart(frame).encode(
        y=alt.Y("line:N", sort=lines, title=None, axis=alt.Axis(labelLimit=260, labelFlush=False, labelOverlap=False)),
        color=alt.Color("group:N", scale=looks["color"], sort=groups, legend=legend),
        tooltip=[
            alt.Tooltip("name:N", title=_("what")),
            *([alt.Tooltip("group:N", title=_("of"))] if len(groups) > 1 else []),
            alt.Tooltip("shown:N", title=label),
            alt.Tooltip("told:N", title=_("interval")),
        ],
    )
    if side_by_side:
        base = base.encode(yOffset=alt.YOffset("group:N", sort=groups))
    x = alt.X("value:Q", title=label, scale=scale, axis=axis)
    rules = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=label, scale=scale, axis=axis), x2="high:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x, shape=alt.Shape("group:N", scale=looks["shape"], sort=groups, legend=legend)
    )
    layers: list[Any] = [rules, points]
    if (at := around if marked is None else marked) is not None:
        soft = theme.colours(theme.mode())["soft"]
        line = alt.Chart(pd.DataFrame({"at": [at]}))
        layers.append(line.mark_rule(color=soft, strokeDash=[5, 3], strokeWidth=1.5).encode(x="at:Q"))
    each = 12 + 16 * len(groups) if side_by_side else 24
    below = 40 if legend else 0
    return alt.layer(*layers).properties(title=title, height=AROUND + below + each * len(lines))


def ends_of_shares(largest: float) -> list[float]:
    """From 0 to a twentieth above the largest; small shares are not to be lost in an empty field."""
    import math

    return [0.0, 1.0 if largest > 0.5 else min(1.0, math.ceil(20 * largest + 0.5) / 20)]


def _ticks_around(middle: float, reach: float) -> list[float]:
    """Round numbers on both sides of `middle`, which is one of them."""
    import math

    decade = 10.0 ** math.floor(math.log10(reach))
    step = next(part * decade for part in (0.2, 0.5, 1, 2, 5) if reach / (part * decade) <= 3)
    several = math.floor(reach / step)
    return [round(middle + at * step, 12) for at in range(-several, several + 1)]


def _ends_around(middle: float, ends: Sequence[float], share: bool) -> list[float]:
    """A field with `middle` in its middle that holds every number."""
    reach = max(0.05, *(1.15 * abs(end - middle) for end in ends))
    if share:
        reach = min(reach, middle, 1 - middle)
    return [middle - reach, middle + reach]


def heat(
    cells: Sequence[tuple[str, str, float, str]], *, title: str, row_title: str, column_title: str, label: str
) -> Drawn:
    """Shares in cells, each with its number: (row, column, share, what stands behind it). The fuller, the larger."""
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(list(cells), columns=["row", "column", "share", "told"])
    frame["shown"] = [percent(value) for value in frame["share"]]
    rows, columns = (list(dict.fromkeys(frame[name])) for name in ("row", "column"))
    palette = theme.colours(theme.mode())
    base = alt.Chart(frame).encode(
        x=alt.X(
            "column:N",
            sort=columns,
            title=column_title,
            axis=alt.Axis(labelAngle=_angle(columns), labelLimit=140, labelOverlap=False),
        ),
        y=alt.Y("row:N", sort=rows, title=row_title, axis=alt.Axis(labelLimit=200, labelFlush=False)),
        tooltip=[
            alt.Tooltip("row:N", title=row_title),
            alt.Tooltip("column:N", title=column_title),
            alt.Tooltip("shown:N", title=label),
            alt.Tooltip("told:N", title=_("rows")),
        ],
    )
    tint = base.mark_rect(color=palette["s2"]).encode(
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 0.9]), legend=None)
    )
    text = base.mark_text(fontSize=12).encode(
        text="shown:N",
        color=alt.condition("datum.share > 0.6", alt.value(palette["paper"]), alt.value(palette["ink"])),
    )
    return alt.layer(tint, text).properties(
        title=title, height=AROUND + 30 * len(rows) + (60 if _angle(columns) else 0)
    )


ROOM = 90
"""Letters that names of columns have side by side before they lean."""


def _angle(columns: Sequence[str]) -> int:
    """How names of columns lie: level where there is room."""
    longest = max((len(name) for name in columns), default=0)
    return 0 if (longest + 2) * len(columns) <= ROOM else -40


def histogram(
    values: Mapping[str, Any],
    *,
    title: str,
    label: str,
    unit: str,
    marked: float | None = None,
    bins: int | Sequence[float] = 30,
    counted: str = "",
) -> Drawn:
    """How many rows, or what `counted` names, have which number, by series; `marked`: a line at one number."""
    import altair as alt
    import numpy as np
    import pandas as pd

    everything = np.concatenate([np.asarray(v, dtype=float) for v in values.values()])
    edges = np.histogram_bin_edges(everything, bins=bins)
    rows = [
        {
            "series": name,
            "low": float(a),
            "high": float(b),
            "count": int(n),
            "told": f"{show(float(a))} – {show(float(b))}",
        }
        for name, found in values.items()
        for a, b, n in zip(edges[:-1], edges[1:], np.histogram(np.asarray(found, dtype=float), edges)[0], strict=True)
        if n
    ]
    names = list(values)
    looks = series_scale(names)
    title_x = f"{label} ({unit})" if unit else label
    drawn = (
        alt.Chart(pd.DataFrame(rows))
        .mark_bar(stroke=theme.colours(theme.mode())["paper"], strokeWidth=0.5)
        .encode(
            x=alt.X("low:Q", title=title_x, bin="binned"),
            x2="high:Q",
            y=alt.Y("count:Q", title=counted or _("rows"), axis=alt.Axis(tickMinStep=1)),
            color=alt.Color(
                "series:N", scale=looks["color"],
                legend=None if len(names) == 1 else alt.Legend(title=None, orient="bottom"),
            ),
            tooltip=[
                *([alt.Tooltip("series:N", title=_("series"))] if len(names) > 1 else []),
                alt.Tooltip("told:N", title=title_x),
                alt.Tooltip("count:Q", title=counted or _("rows")),
            ],
        )
    )  # fmt: skip
    layers: list[Any] = [drawn]
    if marked is not None:
        ink = theme.colours(theme.mode())["ink"]
        line = pd.DataFrame({"at": [marked]})
        layers.append(alt.Chart(line).mark_rule(color=ink, strokeDash=[5, 3], strokeWidth=2).encode(x="at:Q"))
    return alt.layer(*layers).properties(title=title, height=AROUND + 200)


def percent(share: float) -> str:
    """A share as a reader reads it in a cell: ``73 %``; with as many decimals as keep what is short of all from being called all."""
    for digits in range(5):
        written = f"{100 * share:.{digits}f}"
        if float(written) not in (0.0, 100.0) or float(written) == 100 * share:
            return f"{written} %"
    return "< 0.0001 %" if share < 0.5 else "> 99.9999 %"


def signed(value: float) -> str:
    """A number with its sign."""
    return f"+{show(value)}" if value > 0 else show(value)


def short(value: float, digits: int = 3) -> str:
    """A number to a few digits, where more would say nothing: a scale, a quality, an error."""
    return show(float(f"{value:.{digits}g}"))
