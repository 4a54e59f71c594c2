"""Altair charts: each has a title, axis titles with units, and a sentence that says what good looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import theme

if TYPE_CHECKING:
    import altair as alt

DASHES = ([1, 0], [6, 3], [2, 2], [6, 2, 1, 2], [10, 3], [3, 1, 1, 1])
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")


def series_scale(names: list[str]) -> dict[str, Any]:
    """Encodings that tell series apart by colour, dash and shape together."""
    import altair as alt

    palette = theme.colours(theme.mode())
    chosen = [palette[theme.SERIES[i % len(theme.SERIES)]] for i in range(len(names))]
    return {
        "color": alt.Scale(domain=names, range=chosen),
        "strokeDash": alt.Scale(domain=names, range=[DASHES[i % len(DASHES)] for i in range(len(names))]),
        "shape": alt.Scale(domain=names, range=[SHAPES[i % len(SHAPES)] for i in range(len(names))]),
    }


def draw(chart: alt.Chart | alt.LayerChart, good: str, *, key: str | None = None) -> None:
    """Show a chart and, below it, what good looks like.

    Args:
        good: a sentence.
        key: of the element, where several charts are alike.
    """
    st.altair_chart(chart, width="stretch", key=key)
    st.caption(good)
