"""A series as a line coloured by what each stretch contributes, and below it the contributions by themselves: inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from audit.language import gettext as _
from audit.numbers import show
from audit.report._words import clean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_STEPS = 360
"""Longer series are drawn in so many stretches: the line spans what lies in one, its contributions add up."""
MAX_CHANNELS = 8
"""The channels that contribute most are drawn."""
_WIDTH, _LEFT, _RIGHT = 560, 52, 8
_LINE, _AREA, _GAP = 64, 44, 16
_LEVELS = 10


def series_map(
    x: NDArray[Any], values: NDArray[Any], title: str, channels: Sequence[str] = ()
) -> tuple[str, float, str]:
    """The drawing, the largest contribution of a drawn stretch, and what a reader must know (shortened, channels left out).

    Args:
        x: ``(T,)`` or ``(C, T)``.
        values: as `x`.
    """
    import numpy as np

    lines, amounts = (np.nan_to_num(np.atleast_2d(np.asarray(part, dtype=float))) for part in (x, values))
    lines, amounts = (part.reshape(-1, part.shape[-1]) for part in (lines, amounts))
    order = np.argsort(-np.abs(amounts).sum(axis=1), kind="stable")[:MAX_CHANNELS]
    per = -(-lines.shape[1] // MAX_STEPS)
    edges = np.arange(0, lines.shape[1], per)
    summed = np.add.reduceat(amounts, edges, axis=1)
    limit = float(np.abs(summed).max(initial=0.0))
    parts, top = [], 4
    for channel in sorted(order.tolist()):
        name = clean(channels[channel]) if len(channels) == len(lines) else _("channel {n}").format(n=channel)
        parts.append(
            _channel(lines[channel], summed[channel], edges, limit, top, name if len(lines) > 1 else "", lines.shape[1])
        )
        top += _LINE + 6 + _AREA + _GAP
    notes = []
    if per > 1:
        notes.append(_("drawn in {n} stretches of {steps} steps").format(n=len(edges), steps=per))
    if len(order) < len(lines):
        notes.append(_("{n} of {all} channels drawn, those that contribute most").format(n=len(order), all=len(lines)))
    last = _("step {step}").format(step=f"{lines.shape[1] - 1:,}")
    axis = (
        f'<text x="{_LEFT}" y="{top + 4}">0</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{top + 4}" text-anchor="end">{escape(last)}</text>'
    )
    label = quoteattr(clean(title))
    drawing = (
        f'<svg role="img" aria-label={label} class="series" viewBox="0 0 {_WIDTH} {top + 10}" width="{_WIDTH}">'
        f"<title>{escape(clean(title))}</title>{''.join(parts)}{axis}</svg>"
    )
    return drawing, limit, _(", ").join(notes)


def _channel(
    line: NDArray[np.float64],
    amounts: NDArray[np.float64],
    edges: NDArray[Any],
    limit: float,
    top: int,
    name: str,
    steps: int,
) -> str:
    """One channel: its line in colours, its contributions as bars up (for) and down (against)."""
    import numpy as np

    low, high = float(line.min()), float(line.max())
    span = (high - low) or 1.0
    width = _WIDTH - _LEFT - _RIGHT
    across = _LEFT + width * np.arange(steps) / max(1, steps - 1)
    up = top + _LINE - 4 - (_LINE - 18) * (line - low) / span
    stops = [*edges[1:].tolist(), steps]
    shares = amounts / limit if limit else np.zeros(len(amounts))
    strokes: dict[int, list[str]] = {}
    bars: dict[bool, list[str]] = {}
    zero, each = top + _LINE + 6 + _AREA / 2, width / len(edges)
    for i, (start, stop) in enumerate(zip(edges.tolist(), stops, strict=True)):
        run = _turns(line, start, min(stop + 1, steps))  # up to the next stretch, so that the line does not break
        level = round(float(shares[i]) * _LEVELS)
        strokes.setdefault(level, []).append(_path(across[run], up[run]))
        if shares[i]:
            height = float(shares[i]) * _AREA / 2
            where = f"M{_LEFT + i * each:.1f} {zero:.1f}h{each:.2f}v{-height:.1f}h{-each:.2f}z"
            bars.setdefault(height > 0, []).append(where)
    drawn = [
        f'<path class="{"for" if level > 0 else "against"}" style="--share: {100 * abs(level) // _LEVELS}%" '
        f'stroke-width="{1.3 + 1.5 * abs(level) / _LEVELS:.2f}" d="{"".join(paths)}"/>'
        for level, paths in sorted(strokes.items(), key=lambda item: abs(item[0]))
    ]
    drawn += [f'<path class="{"up" if sign else "down"}" d="{"".join(paths)}"/>' for sign, paths in bars.items()]
    named = f'<text x="{_LEFT}" y="{top + 8}" class="name">{escape(name)}</text>' if name else ""
    ticks = "".join(
        f'<text x="{_LEFT - 5}" y="{y:.0f}" text-anchor="end">{escape(text)}</text>'
        for y, text in (
            (top + 17, show(float(f"{high:.3g}"))),
            (top + _LINE, show(float(f"{low:.3g}"))),
            (zero - _AREA / 2 + 12, "+"),
            (zero + _AREA / 2 - 2, "−"),
        )
    )
    return f'{"".join(drawn)}<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}"/>{ticks}{named}'


def _turns(line: NDArray[np.float64], start: int, stop: int) -> NDArray[Any]:
    """The steps of a stretch that its line goes through: all of a short one, else its ends, its lowest and its highest."""
    import numpy as np

    if stop - start <= 5:
        return np.arange(start, stop)
    part = line[start:stop]
    return start + np.unique([0, int(part.argmin()), int(part.argmax()), stop - start - 1])


def _path(across: NDArray[np.float64], up: NDArray[np.float64]) -> str:
    points = [f"{x:.1f} {y:.1f}" for x, y in zip(across, up, strict=True)]
    return f"M{points[0]}L{' '.join(points[1:])}" if len(points) > 1 else f"M{points[0]}h.1"
