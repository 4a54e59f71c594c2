"""Explanations of one input as a PNG: the input beside what each explainer says, every map with its own scale in numbers."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from audit.report._attribution import BOUNDED, AttributionReader, Part, without_rounding
from audit.report._images import limit_of, meeting, palette, plane_of, planes, summed
from audit.report._words import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DPI = 130
MAX_BARS = 12
MAX_CHANNELS = 6
_LETTERS = 11
"""Letters of the heading in an inch."""
_PANEL, _TALLEST, _NARROWEST = 3.0, 4.5, 1.8
"""Inches of a picture: width, largest height, room that it takes at least."""
_BELOW, _ABOVE, _LINE, _GAP = 0.62, 0.34, 0.18, 0.28
_FOR, _AGAINST, _INK = "#a8441a", "#2060a8", "#57606a"
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


Shown = tuple[str, AttributionReader, Mapping[str, Any]]
"""An explainer's label, and its row, as `AttributionReader.sample` takes it."""


def picture(heading: str, found: Sequence[Shown], bounds: tuple[float, float] | None) -> bytes:
    """The PNG.

    Args:
        heading: what it is, what was predicted, with which score.
        found: what the explainers say, all of one input.
        bounds: black and white of an image.
    """
    import matplotlib
    from matplotlib.figure import Figure

    found = [(clean(label), reader, without_rounding(row)) for label, reader, row in found]
    form = found[0][1].form(found[0][2])
    out = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a font without the character draws a box
        if form == "image":
            figure = _images(clean(heading), found, bounds)
        else:
            figure = Figure(dpi=DPI, layout="constrained")
            (_series if form == "series" else _bars)(figure, found)
            figure.suptitle(_wrapped(heading, figure.get_figwidth()), fontsize=10, fontweight="bold")
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _wrapped(heading: str, width: float) -> str:
    return textwrap.fill(clean(heading), max(20, int(_LETTERS * width)))


def _images(heading: str, found: Sequence[Shown], bounds: tuple[float, float] | None) -> Figure:
    """The input and its maps in a row, each with its scale below. Placed by hand: a layout engine would take most of the time."""
    import numpy as np
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    x = planes(found[0][2]["x"])
    low, high = bounds or (float(x.min()), float(x.max()))
    height = min(_TALLEST, _PANEL * x.shape[0] / x.shape[1])
    width = height * x.shape[1] / x.shape[0]
    across = max(width, _NARROWEST)  # room for the numbers of a scale
    total = (1 + len(found)) * (across + _GAP) + _GAP
    said = _wrapped(heading, total)
    figure = Figure(figsize=(total, _BELOW + height + _ABOVE + _LINE * (1 + said.count("\n"))), dpi=DPI)
    tall = figure.get_figheight()
    figure.text(0.5, 1 - 0.06 / tall, said, ha="center", va="top", fontsize=10, fontweight="bold")

    def panel(number: int, title: str) -> tuple[Axes, Axes]:
        left = _GAP + number * (across + _GAP)
        place = figure.add_axes(
            ((left + (across - width) / 2) / total, _BELOW / tall, width / total, height / tall), xticks=[], yticks=[], title=title
        )  # fmt: skip
        place.spines[:].set_visible(False)
        return place, figure.add_axes((left / total, (_BELOW - 0.2) / tall, across / total, 0.1 / tall))

    place, below = panel(0, "input")
    if x.ndim == 2:
        shown = place.imshow(x, cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        figure.colorbar(shown, cax=below, orientation="horizontal", label="input")
    else:
        place.imshow(np.clip((x - low) / ((high - low) or 1.0), 0, 1), interpolation="nearest", aspect="auto")
        below.set_visible(False)
    colours = ListedColormap(palette() / 255, name="audit")
    for number, (label, reader, row) in enumerate(found, 1):
        place, below = panel(number, label)
        values = np.nan_to_num(summed(row["values"]))
        limit = limit_of(values) or 1.0
        drawn = place.imshow(values, cmap=colours, vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto")
        if "feature" in row and reader.unit in BOUNDED:
            _edges(place, plane_of(row["feature"]))
        figure.colorbar(drawn, cax=below, orientation="horizontal", label=_sides(reader))
    return figure


def _edges(place: Axes, number: NDArray[Any]) -> None:
    """Lines between the pixels where two features meet."""
    import numpy as np
    from matplotlib.collections import LineCollection

    across, down = number[:, 1:] != number[:, :-1], number[1:] != number[:-1]
    lines = [((c + 0.5, r - 0.5), (c + 0.5, r + 0.5)) for r, c in np.argwhere(across)]
    lines += [((c - 0.5, r + 0.5), (c + 0.5, r + 0.5)) for r, c in np.argwhere(down)]
    if meeting(number).any():
        place.add_collection(LineCollection(lines, colors="#464a50", linewidths=0.5))


def _series(figure: Figure, found: Sequence[Shown]) -> None:
    """A column per explainer; per channel the line in colours, and below it the contributions by themselves."""
    import numpy as np

    lines = np.asarray(found[0][2]["x"], dtype=float)
    lines = lines.reshape(-1, lines.shape[-1])
    sums = sum(np.abs(np.asarray(row["values"], dtype=float).reshape(lines.shape)).sum(axis=1) for _, _, row in found)
    channels = sorted(np.argsort(-np.asarray(sums), kind="stable")[:MAX_CHANNELS].tolist())
    bands = [reader.bands(row) for _, reader, row in found]
    below = 0.2 * max(map(len, bands))
    figure.set_size_inches(max(5.0, 4.2 * len(found)), 1.1 + 1.7 * len(channels) + below)
    heights = [1.1, 0.6] * len(channels) + [max(0.1, below)] * bool(below)
    grid = figure.subplots(len(heights), len(found), squeeze=False, height_ratios=heights)
    for column, (label, _, row) in enumerate(found):
        values = np.nan_to_num(np.asarray(row["values"], dtype=float).reshape(lines.shape))
        limit = float(np.abs(values).max()) or 1.0
        for place, channel in enumerate(channels):
            line, area = grid[2 * place, column], grid[2 * place + 1, column]
            line.sharex(area)
            line.tick_params(labelbottom=False)
            _coloured(line, lines[channel], values[channel] / limit)
            line.set_ylabel(f"channel {channel}" if len(lines) > 1 else "input")
            steps = np.arange(lines.shape[1])
            for sign, colour in ((1, _FOR), (-1, _AGAINST)):
                area.fill_between(
                    steps, np.clip(sign * values[channel], 0, None) * sign, step="mid", color=colour, linewidth=0
                )
            area.set_ylim(-1.05 * limit, 1.05 * limit)
            area.axhline(0, color=_INK, linewidth=0.6)
            area.set_ylabel("contribution", fontsize=7)
        grid[0, column].set_title(label)
        grid[2 * len(channels) - 1, column].set_xlabel("step")
        if below and bands[column]:
            _drawn(grid[-1, column], bands[column])
        elif below:
            grid[-1, column].set_visible(False)


def _coloured(place: Axes, line: NDArray[Any], share: NDArray[Any]) -> None:
    """A line whose stretches are the redder or bluer, and the thicker, the more they contribute."""
    import numpy as np
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    steps = np.arange(len(line))
    points = np.column_stack([steps, line])
    ends = np.array([to_rgb(colour) for colour in (_AGAINST, _FOR)])
    between = share[1:]
    weight = np.abs(between)[:, None]
    colours = (1 - weight) * np.array(to_rgb("#8a939c")) + weight * ends[(between > 0).astype(int)]
    parts = np.stack([points[:-1], points[1:]], axis=1)
    place.add_collection(LineCollection(list(parts), colors=colours, linewidths=0.9 + 1.2 * weight[:, 0]))
    place.autoscale()


def _bars(figure: Figure, found: Sequence[Shown]) -> None:
    """A column of bars per explainer: columns of a table with their values, words of a text."""
    most = [reader.strongest(row, MAX_BARS) for _, reader, row in found]
    figure.set_size_inches(5.2 * len(found), 2.1 + 0.27 * max(map(len, most), default=1))
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for place, (label, reader, _), parts in zip(axes, found, most, strict=True):
        _drawn(place, parts)
        place.set_title(label)
        place.set_xlabel(_sides(reader))


def _drawn(place: Axes, parts: Sequence[Part]) -> None:
    """Bars with their names and numbers, those against hatched."""
    amounts = [part.amount for part in parts]
    colours = [_FOR if amount > 0 else _AGAINST for amount in amounts]
    for bar, amount in zip(place.barh(range(len(parts)), amounts, color=colours, height=0.7), amounts, strict=True):
        if amount < 0:
            bar.set(hatch="////", edgecolor="white", linewidth=0)
    names = [f"{part.name[:40]} = {part.value[:16]}" if part.value else part.name[:48] for part in parts]
    place.set_yticks(
        range(len(parts)), [f"{name}  {part.amount:+.3g}" for name, part in zip(names, parts, strict=True)]
    )
    place.locator_params(axis="x", nbins=5)
    place.invert_yaxis()
    place.axvline(0, color=_INK, linewidth=0.8)


def _sides(reader: AttributionReader) -> str:
    return "− against the class · for it +" if reader.classes else "− lowers · raises the value +"
