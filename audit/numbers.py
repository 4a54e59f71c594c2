"""How numbers are written for a reader, everywhere the same: the digits shown are the digits stored, rounded once."""

from __future__ import annotations

import math

from audit.language import gettext as _


def show(value: float | None) -> str:
    """Four significant digits without trailing zeros; whole numbers whole, with thousands separators from 10,000."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    return text if "e" in text or "." not in text else text.rstrip("0").rstrip(".")


def show_interval(low: float | None, high: float | None) -> str:
    """``0.79 to 0.86``; an open side in words."""
    low = None if low is not None and math.isinf(low) else low
    high = None if high is not None and math.isinf(high) else high
    if low is None and high is None:
        return _("anything")
    if high is None:
        return _("at least {value}").format(value=show(low))
    if low is None:
        return _("at most {value}").format(value=show(high))
    return show(low) if low == high else _("{low} to {high}").format(low=show(low), high=show(high))


def show_seconds(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 20 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
