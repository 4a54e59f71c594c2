"""Charts of evidence that every check may store: a curve with its intervals, a ROC curve, a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashboard.drawing import charts, theme
from dashboard.words import _

if TYPE_CHECKING:
    import altair as alt

HEIGHT = 360
FINENESS = 200
"""Points per decade that a ROC curve is drawn with."""
CELL = 30
"""Pixels of a cell of a matrix."""
FLOOR = 1e-4
"""No rate on logarithmic axes lies below it, where nothing smaller was seen."""


def curve(
    columns: Mapping[str, Any],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_scale: str = "linear",
    y_scale: str = "linear",
) -> alt.LayerChart | alt.FacetChart:
    """Lines over x, one per series, each with its interval as a band.

    Args:
        columns: ``x`` and ``y``, and where they are known ``low``, ``high`` and ``series``, each ``(N,)``.
        x_scale, y_scale: ``linear`` or ``log``; a logarithmic axis that holds a zero keeps it on a short linear stretch.
    """
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(dict(columns))
    frame["series"] = frame["series"].astype(str) if "series" in frame else ""
    names = list(dict.fromkeys(frame["series"]))
    looks = charts.series_scale(names)
    legend = charts.legend_of(names, lines=len(frame) > 40 * len(names))
    whole = bool((frame["x"] == frame["x"].round()).all())
    x = alt.X(
        "x:Q",
        title=x_label,
        scale=_scale(x_scale, frame["x"]),
        axis=alt.Axis(tickMinStep=1) if whole else alt.Undefined,
    )
    y = alt.Y("y:Q", title=y_label, scale=_scale(y_scale, frame["y"]))
    base = alt.Chart(frame)
    tip = [alt.Tooltip("series:N", title=_("series"))] * (len(names) > 1)
    tips = [*tip, alt.Tooltip("x:Q", title=x_label, format=".4~g"), alt.Tooltip("y:Q", title=y_label, format=".4~g")]
    layers: list[Any] = []
    if {"low", "high"} <= set(frame.columns):
        band = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        color = alt.Color("series:N", scale=looks["color"], legend=legend)
        layers.append(
            band.mark_area(opacity=0.18).encode(x=x, y=alt.Y("low:Q", title=y_label), y2="high:Q", color=color)
        )
        tips += [
            alt.Tooltip("low:Q", title=_("from"), format=".4~g"),
            alt.Tooltip("high:Q", title=_("to"), format=".4~g"),
        ]
    pointed = len(frame) <= 40 * len(names)
    encoded = {
        "color": alt.Color("series:N", scale=looks["color"], legend=legend),
        "strokeDash": alt.StrokeDash("series:N", scale=looks["strokeDash"], legend=None if pointed else legend),
    }
    layers.append(base.mark_line(strokeWidth=2).encode(x=x, y=y, **encoded))
    if pointed:
        shape = alt.Shape("series:N", scale=looks["shape"], legend=legend)
        color = alt.Color("series:N", scale=looks["color"], legend=legend)
        layers.append(base.mark_point(filled=True, size=45).encode(x=x, y=y, color=color, shape=shape, tooltip=tips))
    return alt.layer(*layers).properties(title=title, height=HEIGHT + 28 * -(-(len(names) - 1) // 3))


def roc(fpr: Any, tpr: Any, *, title: str) -> alt.LayerChart | alt.FacetChart:
    """True against false positive rate ``(N,)`` each, on logarithmic axes, for it is where false positives are rare that it counts."""
    import altair as alt
    import numpy as np
    import pandas as pd

    x, y = np.asarray(fpr, dtype=float).ravel(), np.asarray(tpr, dtype=float).ravel()
    seen = np.concatenate([x[x > 0], y[y > 0]])
    floor = float(seen.min()) if seen.size else FLOOR
    kept = _told_apart(np.clip(x, floor, 1), np.clip(y, floor, 1))
    x, y = x[kept], y[kept]
    frame = pd.DataFrame({"fpr": np.clip(x, floor, 1), "tpr": np.clip(y, floor, 1), "line": title})
    chance = pd.DataFrame({"fpr": [floor, 1.0], "tpr": [floor, 1.0], "line": _("chance")})
    axis = alt.Scale(type="log", domain=[floor, 1])
    looks = charts.series_scale([title, _("chance")])
    encoded = {
        "x": alt.X("fpr:Q", title=_("false positive rate"), scale=axis),
        "y": alt.Y("tpr:Q", title=_("true positive rate"), scale=axis),
        "color": alt.Color("line:N", scale=looks["color"], legend=alt.Legend(title=None, orient="bottom")),
        "strokeDash": alt.StrokeDash(
            "line:N", scale=looks["strokeDash"], legend=alt.Legend(title=None, orient="bottom")
        ),
    }
    steps = alt.Chart(frame).mark_line(interpolate="step-after", strokeWidth=2).encode(**encoded)
    diagonal = alt.Chart(chance).mark_line(strokeWidth=1).encode(**encoded)
    return alt.layer(steps, diagonal).properties(title=title, height=HEIGHT)


def _told_apart(x: Any, y: Any) -> Any:
    """Positions of the points of a curve ``(N,)`` that an eye can tell apart on logarithmic axes; the first and the last among them."""
    import numpy as np

    cells = np.stack([np.round(np.log10(values) * FINENESS) for values in (x, y)])
    kept = np.ones(len(x), dtype=bool)
    kept[1:] = (np.diff(cells, axis=1) != 0).any(axis=0)
    kept[-1:] = True
    return np.flatnonzero(kept)


def confusion(cells: Sequence[tuple[str, str, int, float]], classes: Sequence[str]) -> alt.LayerChart | alt.FacetChart:
    """A confusion matrix: (true class, predicted class, rows, share of the true class) per cell."""
    import altair as alt
    import pandas as pd

    frame = pd.DataFrame(list(cells), columns=["true", "predicted", "rows", "share"])
    frame["right"] = frame["true"] == frame["predicted"]
    palette = theme.colours(theme.mode())
    base = alt.Chart(frame).encode(
        x=alt.X(
            "predicted:N", title=_("predicted class"), sort=list(classes), axis=alt.Axis(labelAngle=0, labelFlush=False)
        ),
        y=alt.Y("true:N", title=_("true class"), sort=list(classes), axis=alt.Axis(labelFlush=False)),
        tooltip=[
            alt.Tooltip("true:N", title=_("true class")),
            alt.Tooltip("predicted:N", title=_("predicted class")),
            alt.Tooltip("rows:Q", title=_("rows")),
            alt.Tooltip("share:Q", title=_("share of the true class"), format=".1%"),
        ],
    )
    tint = base.mark_rect().encode(
        color=alt.condition("datum.right", alt.value(palette["s1"]), alt.value(palette["s2"])),
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, 0.85]), legend=None),
    )
    count = (
        base.transform_filter("datum.rows > 0")
        .mark_text(fontSize=11)
        .encode(
            text=alt.Text("rows:Q", format=","),
            color=alt.condition("datum.share > 0.55", alt.value(palette["paper"]), alt.value(palette["ink"])),
        )
    )
    return alt.layer(tint, count).properties(
        title=_("Confusion matrix: rows of the test data"), height=max(160, CELL * len(classes) + 40)
    )


def _scale(kind: str, values: Any) -> Any:
    import altair as alt

    if kind == "log":
        positive = values[values > 0]
        if (values <= 0).any():
            return alt.Scale(type="symlog", constant=float(positive.min()) if len(positive) else 1.0)
        return alt.Scale(type="log")
    return (
        alt.Scale(domain=[0, 1])
        if ((values >= 0) & (values <= 1)).all() and len(values) and values.max() > 0.2
        else alt.Scale(zero=False)
    )
