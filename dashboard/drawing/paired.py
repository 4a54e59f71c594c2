"""Two maps of one table row as bars side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dashboard.drawing import charts, theme
from dashboard.words import _

if TYPE_CHECKING:
    from numpy.typing import NDArray


LOOKS = ("s5", "s4")
"""Colours of the two: neither of those that stand for a sign."""


def paired_bars(
    names: Sequence[str],
    before: NDArray[Any],
    after: NDArray[Any],
    said: tuple[str, str],
    changed: Sequence[bool],
    *,
    title: str,
    label: str,
) -> charts.Drawn:
    """Features' contributions before and after, the largest of either first; those that were changed are never left out.

    Args:
        names: each feature with its value, and with both where it was changed.
        before, after: ``(F,)``.
        said: what the two are called.
        changed: ``(F,)`` whether the feature's value is another after.
        label: what the axis counts, with its unit.
    """
    import altair as alt
    import numpy as np
    import pandas as pd

    both = np.nan_to_num(np.stack([before, after]).astype(float))
    sizes = np.abs(both).max(axis=0)
    first = np.lexsort((-sizes, ~np.asarray(changed, dtype=bool)))[: max(charts.MOST_FEATURES, sum(changed))]
    order = sorted(first.tolist(), key=lambda i: -sizes[i])
    rows = [
        {"name": names[i], "of": said[side], "amount": float(both[side, i]), "told": charts.signed(float(both[side, i]))}
        for i in order
        for side in (0, 1)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["name", "of", "amount", "told"])
    palette = theme.colours(theme.mode())
    colours = alt.Scale(domain=list(said), range=[palette[look] for look in LOOKS])
    bars: charts.Drawn = (
        alt.Chart(frame)
        .mark_bar(height=9, cornerRadius=1)
        .encode(
            y=alt.Y("name:N", sort=[names[i] for i in order], title=None, axis=alt.Axis(labelLimit=280, labelOverlap=False)),
            yOffset=alt.YOffset("of:N", sort=list(said)),
            x=alt.X("amount:Q", title=label, axis=alt.Axis(tickCount=8)),
            color=alt.Color(
                "of:N", scale=colours, sort=list(said), legend=alt.Legend(title=None, orient="bottom", labelLimit=320)
            ),
            tooltip=[
                alt.Tooltip("name:N", title=_("feature")),
                alt.Tooltip("of:N", title=_("map")),
                alt.Tooltip("told:N", title=_("contribution")),
            ],
        )
        .properties(title=title, height=charts.AROUND + 28 * len(order))
    )  # fmt: skip
    return bars
