"""Charts of privacy: ROC on logarithmic axes, claimed against measured epsilon, a training over its steps, utility against privacy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.numbers import show
from dashboard.drawing import charts, theme
from dashboard.words import _

if TYPE_CHECKING:
    import altair as alt
    from numpy.typing import NDArray

    from audit.privacy.frontier_table import Frontier, Number, Point
    from audit.privacy.history import Point as Moment

RATES = (0.01, 0.001)
"""False positive rates at which attacks are compared."""
FLOOR = 1e-4
"""No rate on logarithmic axes lies below it."""
HEIGHT = 400
BARS = 24
"""Of the chart of batch sizes, at most."""
SHARES = [a * 10.0**k for k in range(-4, 1) for a in (1, 3)]
"""Ticks of a logarithmic axis of shares."""

Pick = Callable[["Point"], "Number | None"]


@dataclass(frozen=True)
class Line:
    """A ROC curve: rates ``(N,)`` each."""

    name: str
    fpr: NDArray[Any]
    tpr: NDArray[Any]

    @property
    def one_threshold(self) -> bool:
        """Whether it is a single point between nobody and everybody: an attack that knows two scores."""
        return len(self.fpr) == 3


@dataclass(frozen=True)
class Mark:
    """Members found at a false positive rate, with the interval.

    Args:
        decided: whether the non-members are enough for so small a rate.
    """

    name: str
    fpr: float
    value: float
    low: float | None
    high: float | None
    told: str
    decided: bool


@dataclass(frozen=True)
class Allowed:
    """A claim (epsilon, delta), and with it how well members may be told at most."""

    epsilon: float
    delta: float

    def most(self, fpr: NDArray[Any]) -> NDArray[Any]:
        """The largest true positive rate at false positive rates ``(N,)``, on average over trainings.

        Source: Kairouz et al. 2015, arXiv:1311.0776, theorem 2.1 (hypothesis testing under differential privacy).
        """
        import numpy as np

        grown = math.exp(min(self.epsilon, 700.0))
        most: NDArray[Any] = np.clip(np.minimum(grown * fpr + self.delta, 1 - (1 - self.delta - fpr) / grown), 0.0, 1.0)
        return most


def roc(
    lines: Sequence[Line],
    marks: Sequence[Mark],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    allowed: Allowed | None = None,
) -> charts.Drawn:
    """ROC curves of several attacks, the members found at the rates that count marked on each with their intervals.

    Args:
        allowed: a claim; a dotted line shows how far above chance it lets an attack come.
    """
    import altair as alt
    import numpy as np
    import pandas as pd

    seen = [rate[rate > 0] for line in lines for rate in (line.fpr, line.tpr)]
    least = min((float(rates.min()) for rates in seen if rates.size), default=FLOOR)
    floor = max(FLOOR, min(least, *RATES) / 1.5)
    chance, most = _("chance"), _("most that the claim allows")
    curves = [line for line in lines if not line.one_threshold]
    frames = [
        pd.DataFrame({"fpr": np.clip(x, floor, 1), "tpr": np.clip(y, floor, 1), "line": line.name})
        for line in curves
        for x, y in [_from_the_edge(line.fpr, line.tpr, floor)]
    ]
    references = [pd.DataFrame({"fpr": [floor, 1.0], "tpr": [floor, 1.0], "line": chance})]
    if allowed is not None:
        x = np.geomspace(floor, 1, 200)
        references.append(pd.DataFrame({"fpr": x, "tpr": np.clip(allowed.most(x), floor, 1), "line": most}))
    scale = alt.Scale(type="log", domain=[floor, 1], nice=False)
    axis = alt.Axis(values=[10.0**k for k in range(-4, 1)], format=".4~%")
    looks = _with_references([line.name for line in lines], {chance: [4, 3]} | ({most: [1, 3]} if allowed else {}))
    legend = charts.legend_of(looks["color"].domain, lines=True)
    color = alt.Color("line:N", scale=looks["color"], legend=legend)
    encoded = {
        "x": alt.X(
            "fpr:Q", title=x_label or _("false positive rate: non-members called members"), scale=scale, axis=axis
        ),
        "y": alt.Y("tpr:Q", title=y_label or _("true positive rate: members found"), scale=scale, axis=axis),
        "color": color,
        "strokeDash": alt.StrokeDash("line:N", scale=looks["strokeDash"], legend=legend),
    }
    palette = theme.colours(theme.mode())
    rules = pd.DataFrame([{"fpr": rate, "told": f"{100 * rate:g} %"} for rate in RATES if rate > floor])
    layers: list[Any] = [
        alt.Chart(rules).mark_rule(color=palette["soft"], strokeDash=[2, 3]).encode(x="fpr:Q"),
        alt.Chart(rules).mark_text(color=palette["soft"], align="left", dx=4, fontSize=11, baseline="top").encode(
            x="fpr:Q", y=alt.value(4), text="told:N"
        ),
        alt.Chart(pd.concat(references)).mark_line(strokeWidth=1.5).encode(**encoded),
    ]  # fmt: skip
    if frames:
        layers.append(alt.Chart(pd.concat(frames)).mark_line(interpolate="step-after", strokeWidth=2).encode(**encoded))
    single = [line for line in lines if line.one_threshold]
    if single:
        points = pd.DataFrame(
            [
                {"fpr": max(float(line.fpr[1]), floor), "tpr": max(float(line.tpr[1]), floor), "line": line.name}
                for line in single
            ]
        )
        layers.append(alt.Chart(points).mark_point(shape="diamond", filled=True, size=110, opacity=1).encode(
            x="fpr:Q", y="tpr:Q", color=color, tooltip=[
                alt.Tooltip("line:N", title=_("attack with one threshold")),
                alt.Tooltip("fpr:Q", title=_("false positive rate"), format=".4~g"),
                alt.Tooltip("tpr:Q", title=_("true positive rate"), format=".4~g"),
            ]
        ))  # fmt: skip
    shown = [mark for mark in marks if floor < mark.fpr]
    if shown:
        layers += _marked(shown, floor, color, looks["color"])
    return alt.layer(*layers).properties(title=title, height=HEIGHT)


def _with_references(names: Sequence[str], references: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Looks of some series and, grey and with dashes of their own, of the lines that they are held against."""
    import altair as alt

    own = charts.series_scale(list(names))
    domain, soft = [*names, *references], theme.colours(theme.mode())["soft"]
    return {
        "color": alt.Scale(domain=domain, range=[*own["color"].range, *([soft] * len(references))]),
        "strokeDash": alt.Scale(domain=domain, range=[*own["strokeDash"].range, *map(list, references.values())]),
    }


def _from_the_edge(x: NDArray[Any], y: NDArray[Any], floor: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The steps from the last that lies at or left of the axis's edge: what is before it would be drawn on top of each other."""
    import numpy as np

    x, y = np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel()
    first = max(0, int(np.searchsorted(x, floor, side="right")) - 1)
    return x[first:], y[first:]


def _marked(marks: Sequence[Mark], floor: float, color: alt.Color, scheme: alt.Scale) -> list[Any]:
    import altair as alt
    import pandas as pd

    names = list(dict.fromkeys(mark.name for mark in marks))
    beside = {name: 1.05 ** (2 * at - len(names) + 1) for at, name in enumerate(names)}  # intervals side by side
    frame = pd.DataFrame(
        [
            {
                "line": mark.name, "fpr": mark.fpr * beside[mark.name], "tpr": max(mark.value, floor), "low": max(mark.low or floor, floor),
                "high": max(mark.high if mark.high is not None else mark.value, floor), "rate": f"{100 * mark.fpr:g} %",
                "shown": show(mark.value), "told": mark.told, "decides": _("yes") if mark.decided else _("no: too few non-members"),
                "decided": mark.decided,
            }
            for mark in marks
        ]
    )  # fmt: skip
    base = alt.Chart(frame).encode(
        x="fpr:Q",
        color=color,
        tooltip=[
            alt.Tooltip("line:N", title=_("attack")),
            alt.Tooltip("rate:N", title=_("false positive rate")),
            alt.Tooltip("shown:N", title=_("members found")),
            alt.Tooltip("told:N", title=_("interval")),
            alt.Tooltip("decides:N", title=_("decides")),
        ],
    )
    fill = alt.condition("datum.decided", "line:N", alt.value("transparent"), scale=scheme, legend=None)
    return [
        base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q"),
        base.mark_point(size=80, strokeWidth=2, opacity=1).encode(y="tpr:Q", fill=fill),
    ]


# --- epsilon -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A lower bound on epsilon, and the largest that its procedure could have given."""

    name: str
    bound: float
    ceiling: float
    told: str


def budget(claim: float | None, accounted: Mapping[str, float], shown: Sequence[Shown], *, title: str) -> charts.Drawn:
    """The claim as a line; what the accountants compute as points; what the audit proved as bars up to its ceiling."""
    import altair as alt
    import pandas as pd

    palette = theme.colours(theme.mode())
    by, could = _("computed from the ledger"), _("ceiling: the most that the audit could have shown")
    proved = _("proven spent, at least")
    kinds = [*([by] if accounted else []), *([proved, could] if shown else [])]
    tints = {by: palette["s1"], proved: palette["s2"], could: palette["soft"]}
    points = pd.DataFrame(
        [{"name": name, "epsilon": value, "kind": by, "told": show(value)} for name, value in accounted.items()]
    )
    bounds = pd.DataFrame(
        [
            {"name": one.name, "epsilon": one.bound, "zero": 0.0, "ceiling": one.ceiling, "kind": proved, "could": could,
             "told": show(one.bound), "top": show(one.ceiling), "why": one.told}
            for one in shown
        ]
    )  # fmt: skip
    names = [*accounted, *(one.name for one in shown)]
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=260))
    x = alt.X(
        "epsilon:Q",
        title=_("epsilon (smaller is more private)"),
        scale=alt.Scale(zero=True),
        axis=alt.Axis(tickCount=8),
    )
    looks: dict[str, Any] = {
        "scale": alt.Scale(domain=kinds, range=[tints[kind] for kind in kinds]),
        "legend": alt.Legend(
            title=None, orient="bottom", labelLimit=360, columns=2, symbolOpacity=1, symbolType="square"
        ),
    }
    color, pale = alt.Color("kind:N", **looks), alt.Color("could:N", **looks)
    layers: list[Any] = []
    if shown:
        tips = [
            alt.Tooltip("name:N", title=_("audit")),
            alt.Tooltip("told:N", title=proved),
            alt.Tooltip("top:N", title=_("ceiling")),
            alt.Tooltip("why:N", title=_("from")),
        ]
        held = alt.Chart(bounds)
        layers += [
            held.mark_bar(height=16, opacity=0.25).encode(y=y, x=alt.X("zero:Q"), x2="ceiling:Q", color=pale, tooltip=tips),
            held.mark_bar(height=16).encode(y=y, x=alt.X("zero:Q"), x2="epsilon:Q", color=color, tooltip=tips),
            held.mark_tick(thickness=3, height=22).encode(y=y, x="ceiling:Q", color=pale, tooltip=tips),
            held.mark_text(align="left", dx=6, fontSize=11, color=palette["ink"]).encode(y=y, x="ceiling:Q", text="top:N"),
            held.transform_filter("datum.epsilon < 0.85 * datum.ceiling").mark_text(
                align="left", dx=5, fontSize=11, color=palette["ink"]
            ).encode(y=y, x="epsilon:Q", text="told:N"),
        ]  # fmt: skip
    if accounted:
        tips = [alt.Tooltip("name:N", title=_("accountant")), alt.Tooltip("told:N", title="epsilon")]
        computed = alt.Chart(points)
        small: dict[str, Any] = {"fontSize": 11, "color": palette["ink"]}
        limit = 0.0 if claim is None else claim * 1.001  # the claim's line crosses no number
        layers += [
            computed.mark_point(filled=True, size=90, shape="diamond", opacity=1).encode(y=y, x=x, color=color, tooltip=tips),
            computed.transform_filter(f"datum.epsilon <= {limit!r}").mark_text(align="right", dx=-9, **small).encode(
                y=y, x="epsilon:Q", text="told:N"
            ),
            computed.transform_filter(f"datum.epsilon > {limit!r}").mark_text(align="left", dx=9, **small).encode(
                y=y, x="epsilon:Q", text="told:N"
            ),
        ]  # fmt: skip
    if claim is not None:
        line = pd.DataFrame([{"epsilon": claim, "told": _("claimed: {epsilon}").format(epsilon=show(claim))}])
        layers += [
            alt.Chart(line).mark_rule(color=palette["ink"], strokeDash=[6, 3], strokeWidth=2).encode(x=x),
            alt.Chart(line).mark_text(color=palette["ink"], baseline="bottom", fontWeight="bold").encode(
                x="epsilon:Q", y=alt.value(-5), text="told:N"
            ),
        ]  # fmt: skip
    return alt.layer(*layers).properties(
        title=alt.Title(title, offset=26), height=charts.AROUND + 34 * max(2, len(names))
    )


def over_steps(
    moments: Sequence[Moment],
    pick: Callable[[Moment], float | None],
    *,
    title: str,
    label: str,
    claim: float | None = None,
    share: bool = False,
) -> charts.Drawn:
    """A number of a training over its steps; `claim`: a line that it may not pass."""
    import altair as alt
    import pandas as pd

    rows = [
        {"step": moment.step, "value": value, "told": show(value)}
        for moment in moments
        if (value := pick(moment)) is not None and math.isfinite(value)
    ]
    palette = theme.colours(theme.mode())
    x = alt.X("step:Q", title=_("steps of the optimiser"), axis=alt.Axis(tickMinStep=1))
    y = alt.Y("value:Q", title=label, scale=alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=True))
    tips = [alt.Tooltip("step:Q", title=_("step")), alt.Tooltip("told:N", title=label)]
    base = alt.Chart(pd.DataFrame(rows, columns=["step", "value", "told"])).encode(x=x, y=y, tooltip=tips)
    layers: list[Any] = [
        base.mark_line(strokeWidth=2, color=palette["s1"]),
        base.mark_point(filled=True, size=36, color=palette["s1"]),
    ]
    if claim is not None:
        line = pd.DataFrame([{"value": claim, "told": _("claimed: {epsilon}").format(epsilon=show(claim))}])
        layers += [
            alt.Chart(line).mark_rule(color=palette["ink"], strokeDash=[6, 3]).encode(y="value:Q"),
            alt.Chart(line).mark_text(color=palette["ink"], align="left", dx=4, dy=-8, fontSize=11).encode(
                x=alt.value(0), y="value:Q", text="told:N"
            ),
        ]  # fmt: skip
    return alt.layer(*layers).properties(title=title, height=260)


# --- utility against privacy -------------------------------------------------------------------------------------


def frontier(
    found: Frontier,
    picks: Mapping[str, Pick],
    *,
    title: str,
    label: str,
    chance: float | None = None,
    log: bool = False,
) -> charts.Drawn:
    """A number of each model over the epsilon that it spent; the model without privacy stands apart on the right."""
    import altair as alt
    import pandas as pd

    spent = [point.spent for point in found.points if point.spent is not None]
    right, left = (max(spent) * 2.2, min(spent) / 1.4) if spent else (1.0, 0.5)
    rows = [
        {
            "x": right if point.spent is None else point.spent, "private": point.spent is not None, "series": name,
            "value": number.value, "low": number.value if number.low is None else number.low,
            "high": number.value if number.high is None else number.high, "model": point.model,
            "spent": _("without privacy") if point.spent is None else show(point.spent), "told": show(number.value),
            "status": number.status, "note": number.note or "–",
        }
        for name, pick in picks.items()
        for point in found.points
        if (number := pick(point)) is not None
    ]  # fmt: skip
    columns = ["x", "private", "series", "value", "low", "high", "model", "spent", "told", "status", "note"]
    frame = pd.DataFrame(rows, columns=columns)
    beside = {name: 1.035 ** (2 * at - len(picks) + 1) for at, name in enumerate(picks)}  # intervals side by side
    frame["x"] *= frame["series"].map(beside)
    if log and len(frame):
        floor = min((v for v in [*frame["low"], *frame["value"]] if v > 0), default=FLOOR)
        frame[["value", "low", "high"]] = frame[["value", "low", "high"]].clip(lower=floor)
    looks = charts.series_scale(list(picks))
    ticks = sorted({*spent, *([right] if len(spent) < len(found.points) else [])})
    words = " : ".join(f"datum.value == {x!r} ? '{show(float(f'{x:.3g}'))}'" for x in spent)
    none = _("none")
    named = f"{words} : '{none}'" if words else f"'{none}'"
    x = alt.X(
        "x:Q",
        title=_("epsilon spent, at delta {delta}").format(delta=f"{found.delta:g}"),
        scale=alt.Scale(type="log", domain=[left, right * 2.6], nice=False),
        axis=alt.Axis(values=ticks, labelExpr=named, labelOverlap=False),
    )
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    axis = alt.Axis(format=".2~%", values=SHARES) if log else alt.Axis(format=".3~g", tickCount=5)
    y = alt.Y("value:Q", title=label, scale=scale, axis=axis)
    legend = None if len(picks) == 1 else alt.Legend(title=None, orient="bottom", symbolStrokeWidth=0)
    base = alt.Chart(frame).encode(x=x, color=alt.Color("series:N", scale=looks["color"], legend=legend))
    tips = [
        alt.Tooltip("model:N", title=_("model")),
        alt.Tooltip("spent:N", title=_("epsilon spent")),
        alt.Tooltip("series:N", title=_("what")),
        alt.Tooltip("told:N", title=label),
        alt.Tooltip("low:Q", title=_("from"), format=".4~g"),
        alt.Tooltip("high:Q", title=_("to"), format=".4~g"),
        alt.Tooltip("status:N", title=_("status")),
        alt.Tooltip("note:N", title=_("note")),
    ]
    layers: list[Any] = [
        base.transform_filter("datum.private").mark_line(strokeWidth=1.5).encode(
            y=y, strokeDash=alt.StrokeDash("series:N", scale=looks["strokeDash"], legend=None)
        ),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=label), y2="high:Q"),
        base.mark_point(size=70, strokeWidth=2, opacity=1).encode(
            y=y, shape=alt.Shape("series:N", scale=looks["shape"], legend=legend), tooltip=tips,
            fill=alt.condition("datum.status == 'info'", "series:N", alt.value("transparent"), scale=looks["color"], legend=None),
        ),
    ]  # fmt: skip
    if chance is not None:
        line = pd.DataFrame([{"value": chance, "told": _("chance")}])
        soft = theme.colours(theme.mode())["soft"]
        layers += [
            alt.Chart(line).mark_rule(color=soft, strokeDash=[4, 3]).encode(y="value:Q"),
            alt.Chart(line).mark_text(color=soft, align="left", dx=3, fontSize=11).encode(
                x=alt.value("width"), y="value:Q", text="told:N"
            ),
        ]  # fmt: skip
    return alt.layer(*layers).properties(title=title, height=320)


def batches(
    sizes: NDArray[Any], rates: Mapping[float, float], examples: int, *, title: str, label: str
) -> charts.Drawn:
    """Sizes of the batches ``(N,)`` that were drawn as bars, and as a line how many of each Poisson sampling lets expect.

    Args:
        rates: with which each example joined a batch, each with the share of the batches that it held for.
        examples: that there are.
    """
    import altair as alt
    import numpy as np
    import pandas as pd
    from scipy.special import bdtr

    width = max(
        1, -(-int(np.ptp(sizes)) // BARS)
    )  # whole sizes: a bar that held more than its neighbour would look fuller
    edges = np.arange(sizes.min() - 0.5, sizes.max() + width, width)
    drawn = charts.histogram(
        {"": sizes}, title=title, label=label, unit=_("examples"), bins=edges.tolist(), counted=_("batches")
    )
    low, high = (
        end(examples * rate + side * 4 * math.sqrt(examples * rate * (1 - rate)) for rate in rates)
        for end, side in ((min, -1), (max, 1))
    )
    first = edges[0] - width * max(0, math.ceil((edges[0] - low) / width))
    at = np.arange(first, max(high, edges[-1]) + width, width)
    grown = sum(
        share * np.diff(bdtr(np.clip(np.floor(at), 0, examples), examples, rate)) for rate, share in rates.items()
    )
    frame = pd.DataFrame({"size": (at[:-1] + at[1:]) / 2, "expected": len(sizes) * grown})
    ink = theme.colours(theme.mode())["ink"]
    line = alt.Chart(frame).mark_line(color=ink, strokeDash=[5, 3], strokeWidth=2, interpolate="monotone")
    return alt.layer(drawn, line.encode(x="size:Q", y="expected:Q")).properties(title=title)
