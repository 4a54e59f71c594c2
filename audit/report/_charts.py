"""Curves and bars as inline SVG, drawn by matplotlib; colours and text follow the page, so that light, dark and print all read."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from audit.language import gettext as _
from audit.report._words import clean

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

ENLARGED = 1.35
"""CSS pixels per point: text of 9 points reads as the page's own."""
# stand-ins that the page's own colours replace
_INK, _FAINT = "#0a0b01", "#0a0b02"
_SERIES = tuple(f"#0a0c0{i}" for i in range(1, 7))
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
_MARKERS = "os^Dv*"
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "assay",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Series:
    """One line of a chart; `low` and `high` are its interval, NaN where there is none."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


def curve(
    series: Sequence[Series], *, title: str, x_label: str, y_label: str, x_scale: str, y_scale: str, number: int
) -> str:
    """Lines with their intervals as bands and bars. `number` keeps the ids of several charts on one page apart."""

    def draw(axes: Axes) -> None:
        import numpy as np

        for i, line in enumerate(series):
            look = _look(i)
            few = len(line.x) <= 40
            axes.plot(line.x, line.y, label=clean(line.name), marker=_MARKERS[i % 6] if few else "", **look)
            if line.low is not None and line.high is not None:
                known = np.isfinite(line.low) & np.isfinite(line.high)
                band = {"color": look["color"], "alpha": 0.18, "linewidth": 0}
                axes.fill_between(line.x[known], line.low[known], line.high[known], **band)
        _scale(axes, x_scale, y_scale, series)
        axes.set_xlabel(clean(x_label))
        axes.set_ylabel(clean(y_label))
        if len(series) > 1:
            axes.legend()

    return _svg([draw], (5.6, 3.3), title, number)


def points(
    series: Sequence[Series], *, title: str, x_label: str, y_label: str, y_scale: str, ticks: Mapping[str, float], chance: float | None,
    number: int,
) -> str:  # fmt: skip
    """A few numbers over a logarithmic axis, each with its interval as an upright bar; NaN in `x` breaks a line.

    Args:
        ticks: label → place on the x axis.
        chance: level of a line across, of what means nothing.
    """

    def draw(axes: Axes) -> None:
        import numpy as np

        if chance is not None:
            axes.axhline(chance, color=_INK, linewidth=0.8, linestyle=(0, (2, 2)), label=_("chance"))
        for i, line in enumerate(series):
            x = line.x * 1.025 ** (
                i - (len(series) - 1) / 2
            )  # side by side: bars of several lines do not hide each other
            axes.plot(x, line.y, label=clean(line.name), marker=_MARKERS[i % 6], **_look(i))
            if line.low is not None and line.high is not None:
                known = np.isfinite(line.low) & np.isfinite(line.high)
                axes.vlines(x[known], line.low[known], line.high[known], color=_SERIES[i % 6], linewidth=1.2)
        _logarithmic(axes, "x")
        if y_scale == "log":
            _logarithmic(axes, "y")
        axes.set_xticks(list(ticks.values()), [clean(label) for label in ticks])
        axes.set_xlabel(clean(x_label))
        axes.set_ylabel(clean(y_label))
        if len(series) > 1 or chance is not None:
            axes.legend()

    return _svg([draw], (5.6, 3.3), title, number)


def roc(series: Sequence[Series], *, title: str, number: int) -> str:
    """True against false positive rates, in whole and, beside it, where false positives are rare, on logarithmic axes."""

    def draw(axes: Axes, logarithmic: bool) -> None:
        import numpy as np

        rates = [float(v) for line in series for axis in (line.x, line.y) for v in axis if v > 0]
        floor = min(rates, default=1.0) / 2  # no rate below the smallest that so many rows can show
        chance = np.geomspace(floor, 1, 50) if logarithmic else np.array([0.0, 1.0])
        axes.plot(chance, chance, color=_INK, linewidth=0.8, linestyle=(0, (2, 2)), label=_("chance"))
        for i, line in enumerate(series):
            seen = line.y > 0 if logarithmic else np.full(len(line.y), True)
            x, y = (np.clip(a[seen], floor if logarithmic else 0, 1) for a in (line.x, line.y))
            axes.plot(x, y, label=clean(line.name), drawstyle="steps-post", **_look(i))
        if logarithmic:
            _logarithmic(axes, "x")
            _logarithmic(axes, "y")
        axes.set_xlabel(_("false positive rate"))
        axes.set_ylabel(_("true positive rate"))
        axes.set_aspect("equal")
        if not logarithmic:
            axes.legend(loc="lower right")

    return _svg([lambda axes: draw(axes, False), lambda axes: draw(axes, True)], (6.8, 3.2), title, number)


def bars(values: Mapping[str, float], *, title: str, label: str, number: int) -> str:
    """Horizontal bars, the first on top; negative ones point left and have the other colour and a hatch."""

    def draw(axes: Axes) -> None:
        names = [clean(name)[:40] for name in values]
        colours = [_SERIES[1] if value < 0 else _SERIES[0] for value in values.values()]
        drawn = axes.barh(range(len(names)), list(values.values()), color=colours, height=0.7)
        for bar, value in zip(drawn, values.values(), strict=True):
            if value < 0:
                bar.set(hatch="////", edgecolor=_INK, linewidth=0)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_xlabel(clean(label))
        axes.grid(False, axis="y")

    return _svg([draw], (5.6, 0.8 + 0.26 * len(values)), title, number)


def _look(i: int) -> dict[str, Any]:
    return {"color": _SERIES[i % 6], "linestyle": _DASHES[i % 6], "linewidth": 1.6, "markersize": 4}


def _scale(axes: Axes, x_scale: str, y_scale: str, series: Sequence[Series]) -> None:
    if x_scale == "log":
        positive = [float(x) for line in series for x in line.x if x > 0]
        # a logarithm has no zero: a curve that starts there keeps its first point on a short linear stretch
        if any((line.x <= 0).any() for line in series):
            _logarithmic(axes, "x", "symlog", linthresh=min(positive, default=1.0))
        else:
            _logarithmic(axes, "x")
    if y_scale == "log":
        _logarithmic(axes, "y")
    elif all(((line.y >= 0) & (line.y <= 1)).all() for line in series):
        axes.set_ylim(-0.03, 1.03)


def _logarithmic(axes: Axes, which: str, scale: str = "log", **options: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)(scale, **options)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _svg(draw: Sequence[Any], size: tuple[float, float], title: str, number: int) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    out = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the text stays text: the reader's fonts draw it
        figure: Figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        for axes, part in zip(figure.subplots(1, len(draw), squeeze=False)[0], draw, strict=True):
            axes.patch.set_alpha(0)
            part(axes)
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _inline(out.getvalue(), title, number)


def _inline(svg: str, title: str, number: int) -> str:
    """The drawing as part of a page: no prolog, no namespaces, ids of its own, the page's colours and fonts."""
    body = svg[svg.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r'\sxmlns(?::\w+)?="[^"]*"'):
        body = re.sub(pattern, "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r'\sid="([^"]*)"', lambda m: f' id="c{number}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\g<1>#c{number}-", body)
    body = re.sub(r"(font: [\d.]+px|font-family:) [^;\"]*", r"\1 system-ui, sans-serif", body)
    body = body.replace(_INK, "var(--ink)").replace(_FAINT, "var(--line)")
    for i, colour in enumerate(_SERIES, 1):
        body = body.replace(colour, f"var(--s{i})")
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(
        r'(<svg[^>]*?) width="([\d.]+)pt"', lambda m: f'{m[1]} width="{ENLARGED * float(m[2]):.0f}"', body, count=1
    )
    named = escape(clean(title))
    return body.replace("<svg", f'<svg role="img" aria-label={quoteattr(clean(title))} class="chart"', 1).replace(
        ">", f"><title>{named}</title>", 1
    )
