"""A gate drawn on one line: what was required, what was measured, and how sure that is. Inline SVG in the page's own colours."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from audit.finding import Finding
from audit.language import gettext as _
from audit.numbers import show
from audit.report._words import STATUS, clean, gate_of, interval_of, level_of, n_of, value_of

WIDTH, HEIGHT = 260, 44
_LEFT, _RIGHT, _Y = 8.0, WIDTH - 8.0, 22.0


def gate_line(finding: Finding) -> str:
    """The drawing; empty where there is no gate or nothing was measured."""
    gate, estimate = gate_of(finding), finding.estimate
    if gate is None or estimate is None or finding.interval is None:
        return ""
    point = None if gate.baseline else estimate.value
    low, high = finding.interval
    ends = _domain([v for v in (point, low, high, gate.threshold) if v is not None], gate.baseline)

    def at(value: float) -> float:
        return _LEFT + (value - ends[0]) / (ends[1] - ends[0]) * (_RIGHT - _LEFT)

    threshold = at(gate.threshold)
    side = {"greater": 1, "less": -1, "equal": 0}[gate.direction]
    parts = []
    if side:
        x, width = (threshold, _RIGHT - threshold) if side > 0 else (_LEFT, threshold - _LEFT)
        parts.append(f'<rect class="met" x="{x:.1f}" y="{_Y - 7}" width="{width:.1f}" height="14"/>')
        tip = threshold + side * 6
        flag = f"{threshold:.1f},{_Y - 10} {tip:.1f},{_Y - 7} {threshold:.1f},{_Y - 4}"
        parts.append(f'<polygon class="flag" points="{flag}"/>')
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{_Y}" x2="{_RIGHT}" y2="{_Y}"/>')
    parts.append(f'<line class="threshold" x1="{threshold:.1f}" y1="{_Y - 10}" x2="{threshold:.1f}" y2="{_Y + 8}"/>')
    parts.append(_interval(_LEFT if low is None else at(low), _RIGHT if high is None else at(high), low, high))
    if point is not None:
        parts.append(f'<circle class="point" cx="{at(point):.1f}" cy="{_Y}" r="4"/>')
    label = (
        _("baseline") + (f" {gate.threshold:+g}" if gate.threshold else "") if gate.baseline else show(gate.threshold)
    )
    anchor = "start" if threshold < 40 else "end" if threshold > WIDTH - 40 else "middle"
    parts.append(f'<text class="required" x="{threshold:.1f}" y="9" text-anchor="{anchor}">{escape(label)}</text>')
    parts.append(f'<text x="{_LEFT}" y="{HEIGHT - 3}" text-anchor="start">{escape(show(ends[0]))}</text>')
    parts.append(f'<text x="{_RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(show(ends[1]))}</text>')
    said = clean(_said(finding))
    return (
        f'<svg class="gate {finding.status}" role="img" aria-label={quoteattr(said)} viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}"><title>{escape(said)}</title>{"".join(parts)}</svg>'
    )


def _interval(x1: float, x2: float, low: float | None, high: float | None) -> str:
    """A bar with caps where it ends, an arrow where it does not."""
    out = [f'<line class="interval" x1="{x1:.1f}" y1="{_Y}" x2="{x2:.1f}" y2="{_Y}"/>']
    for x, end, way in ((x1, low, 1), (x2, high, -1)):
        if end is None:
            out.append(
                f'<polyline class="interval" points="{x + way * 6:.1f},{_Y - 5} {x:.1f},{_Y} {x + way * 6:.1f},{_Y + 5}"/>'
            )
        elif x1 != x2:
            out.append(f'<line class="interval" x1="{x:.1f}" y1="{_Y - 5}" x2="{x:.1f}" y2="{_Y + 5}"/>')
    return "".join(out)


def _domain(values: list[float], difference: bool) -> tuple[float, float]:
    """A stretch of the axis that holds the values with some air, which goes past 0 and past 1 only where a value does.

    Shares end there, counts and distances begin there; a difference knows no such ends.
    """
    first, last = min(values), max(values)
    air = 0.2 * (last - first) or 0.2 * abs(first) or 1.0
    low, high = first - air, last + air
    if not difference:
        low = 0.0 if low < 0 <= first else low
        high = 1.0 if last <= 1 < high else high
    step = 10.0 ** _magnitude(high - low)
    return round(low / step) * step, round(high / step) * step


def _magnitude(span: float) -> int:
    """Exponent of a hundredth of a span, so that the ends carry few digits."""
    exponent = 0
    while span < 10:
        span, exponent = span * 10, exponent - 1
    while span >= 100:
        span, exponent = span / 10, exponent + 1
    return exponent


def _said(finding: Finding) -> str:
    interval = interval_of(finding)
    sure = _(", {level} interval {interval}").format(level=level_of(finding), interval=interval) if interval else ""
    return _("{status}: measured {value}{sure}, n = {n}, required {required}").format(
        status=_(STATUS[finding.status].word),
        value=value_of(finding),
        sure=sure,
        n=n_of(finding),
        required=finding.required,
    )
