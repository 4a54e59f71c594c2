"""Two maps of one table row as bars side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dashboard.drawing import charts
from dashboard.words import _

if TYPE_CHECKING:
    from numpy.typing import NDArray


def paired_bars(
    names: Sequence[str], before: NDArray[Any], after: NDArray[Any], said: tuple[str, str], *, title: str, label: str
) -> charts.Drawn:
    """Every feature's contribution before and after, the features with the largest of either first.

    Args:
        names: each feature with its value, and with both where it was changed.
        before, after: ``(F,)``.
        said: what the two are called.
        label: what the axis counts, with its unit.
    """
    import altair as alt
    import numpy as np
    import pandas as pd

    both = np.nan_to_num(np.stack([before, after]).astype(float))
    order = np.argsort(-np.abs(both).max(axis=0), kind="stable")[: charts.MOST_FEATURES].tolist()
    rows = [
        {"name": names[i], "of": said[side], "amount": float(both[side, i]), "told": charts.signed(float(both[side, i]))}
        for i in order
        for side in (0, 1)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["name", "of", "amount", "told"])
    looks = charts.series_scale(list(said))
    bars: charts.Drawn = (
        alt.Chart(frame)
        .mark_bar(height=9, cornerRadius=1)
        .encode(
            y=alt.Y("name:N", sort=[names[i] for i in order], title=None, axis=alt.Axis(labelLimit=280)),
            yOffset=alt.YOffset("of:N", sort=list(said)),
            x=alt.X("amount:Q", title=label),
            color=alt.Color(
                "of:N", scale=looks["color"], sort=list(said), legend=alt.Legend(title=None, orient="bottom", labelLimit=320)
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
