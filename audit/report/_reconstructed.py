"""One class as a model was led to it: the reconstruction beside the mean of the class and the rows nearest to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit.report import _charts
from audit.report._images import Picture, photograph
from audit.report._sample import BarList, Sample, bar_list, named, number
from audit.report._words import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.run_folder import Evidence

SHOWN = {
    "class_mean": "mean of members",
    "nearest_member": "nearest member",
    "nearest_held_out": "nearest held-out row",
}
FAINT = 1.5
"""A picture that fills the range after so much stretching is shown as it is."""


class ReconstructedReader:
    """Turns rows of one series of reconstructions into samples.

    Args:
        number: of the series on its page, so that its drawings have names of their own.
    """

    def __init__(self, evidence: Evidence, bounds: tuple[float, float] | None, number: int) -> None:
        self._evidence, self._bounds, self._number = evidence, bounds, number
        meta = evidence.meta
        self._kind = str(meta.get("input_kind", ""))
        self._classes, self._features = (
            meta[name] if isinstance(meta.get(name), list) else [] for name in ("classes", "feature_names")
        )

    def sample(self, position: int) -> Sample:
        """One class."""
        import numpy as np

        row = self._evidence.row(position)
        name = named(row["label"], self._classes)
        sample = Sample(f"class {name}: the model is {float(row['probability']):.1%} sure", None)
        found = {told: row[field] for field, told in SHOWN.items() if field in row and not np.isnan(row[field]).any()}
        if self._kind == "image":
            bounds = self._bounds or (float(row["x"].min()), float(row["x"].max()))
            sample.pictures = [
                _stretched(row["x"], bounds, f"Reconstruction of class {name}."),
                *(photograph(x, bounds, f"{told.capitalize()} of class {name}.", told) for told, x in found.items()),
            ]
        elif self._kind == "series":
            sample.drawings.append(self._lines({"reconstruction": row["x"], **found}, name, position))
        elif "mean of members" in found:
            sample.lists.append(self._columns(row["x"], found["mean of members"]))
        sample.lines = _numbers(row)
        return sample

    def _lines(self, found: Mapping[str, NDArray[Any]], name: str, position: int) -> str:
        """The first channel of a series, each as a line."""
        import numpy as np

        series = [_charts.Series(told, np.arange(x.shape[-1]), x.reshape(-1, x.shape[-1])[0]) for told, x in found.items()]  # fmt: skip
        return _charts.curve(
            series, title=f"Class {name}: reconstruction", x_label="moment", y_label="value", x_scale="linear",
            y_scale="linear", number=1000 * self._number + position,
        )  # fmt: skip

    def _columns(self, x: NDArray[Any], mean: NDArray[Any]) -> BarList:
        """Columns in which a reconstruction is furthest from the mean of the class."""
        names = self._features if len(self._features) == len(x) else [f"position {i}" for i in range(len(x))]
        cells = [f"{number(before)} → {number(after)}" for before, after in zip(mean, x, strict=True)]
        return bar_list(names, cells, x - mean, ("column", "mean of members → reconstruction", "difference"))


def _stretched(x: NDArray[Any], bounds: tuple[float, float], alt: str) -> Picture:
    """A reconstruction; one that hardly leaves its start with its contrast raised until it fills the range."""
    low, high = float(x.min()), float(x.max())
    factor = (bounds[1] - bounds[0]) / ((high - low) or (bounds[1] - bounds[0]))
    if factor < FAINT:
        return photograph(x, bounds, alt, "reconstruction")
    return photograph(x, (low, high), alt, f"reconstruction, contrast × {factor:.2g}")


def _numbers(row: Mapping[str, Any]) -> list[str]:
    """Likeness, and how far the nearest rows are; of the member its id, never more."""
    import math

    lines = []
    if not math.isnan(likeness := float(row["similarity"])):
        lines.append(f"similarity to the mean {likeness:.2f}")
    lines.append(f"nearest member {clean(str(row['member_id']))}, at {float(row['member_distance']):.3f}")
    lines.append(f"nearest held-out row at {float(row['held_out_distance']):.3f}")
    return lines
