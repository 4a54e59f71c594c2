"""One class as a model was led to it: the reconstruction beside the mean of the class and the rows nearest to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit.language import gettext as _
from audit.report import _charts
from audit.report._images import photograph
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
"""Fields with what they hold, translated where they are shown."""
FAINT = 1.5
"""A reconstruction that spans no less than the range divided by this is shown as it is."""


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
        share = f"{float(row['probability']):.1%}"
        sample = Sample(_("class {name}: the model is {share} sure").format(name=name, share=share), None)
        found = {
            _(told): row[field] for field, told in SHOWN.items() if field in row and not np.isnan(row[field]).any()
        }
        if self._kind == "image":
            bounds = self._bounds or (float(row["x"].min()), float(row["x"].max()))
            raised = _contrast(row["x"], bounds)
            own = bounds if raised == 1 else (float(row["x"].min()), float(row["x"].max()))
            said = _("Reconstruction of class {name}.").format(name=name)
            sample.pictures.append(photograph(row["x"], own, said, _("reconstruction")))
            for told, x in found.items():
                said = _("{what} of class {name}.").format(what=told.capitalize(), name=name)
                sample.pictures.append(photograph(x, bounds, said, told))
            sample.lines += [_("its contrast is raised {n} times").format(n=f"{raised:.1f}")] if raised != 1 else []
        elif self._kind == "series":
            sample.drawings.append(self._lines({_("reconstruction"): row["x"], **found}, name, position))
        elif (mean := _(SHOWN["class_mean"])) in found:
            sample.lists.append(self._columns(row["x"], found[mean]))
        sample.lines += _numbers(row)
        return sample

    def _lines(self, found: Mapping[str, NDArray[Any]], name: str, position: int) -> str:
        """The first channel of a series, each as a line."""
        import numpy as np

        series = []
        for told, x in found.items():
            first = x.reshape(-1, x.shape[-1])[0].astype(float)
            series.append(_charts.Series(told, np.arange(len(first), dtype=float), first))
        return _charts.curve(
            series, title=_("Class {name}: reconstruction").format(name=name), x_label=_("moment"), y_label=_("value"), x_scale="linear",
            y_scale="linear", number=1000 * self._number + position,
        )  # fmt: skip

    def _columns(self, x: NDArray[Any], mean: NDArray[Any]) -> BarList:
        """Columns in which a reconstruction is furthest from the mean of the class."""
        names = (
            self._features if len(self._features) == len(x) else [_("position {i}").format(i=i) for i in range(len(x))]
        )
        cells = [f"{number(before)} → {number(after)}" for before, after in zip(mean, x, strict=True)]
        return bar_list(names, cells, x - mean, (_("column"), _("mean of members → reconstruction"), _("difference")))


def _contrast(x: NDArray[Any], bounds: tuple[float, float]) -> float:
    """How much the contrast of a reconstruction is raised to be seen: until it fills the range; 1 where it nearly does."""
    span, whole = float(x.max()) - float(x.min()), bounds[1] - bounds[0]
    return whole / span if FAINT * span < whole and span > 0 else 1.0


def _numbers(row: Mapping[str, Any]) -> list[str]:
    """Likeness, and how far the nearest rows are; of the member its id, never more."""
    import math

    lines = []
    if not math.isnan(likeness := float(row["similarity"])):
        lines.append(_("similarity to the mean {value}").format(value=f"{likeness:.2f}"))
    lines.append(
        _("nearest of {n} members: {row}, at {distance}").format(
            n=f"{int(row['members']):,}",
            row=clean(str(row["member_id"])),
            distance=f"{float(row['member_distance']):.3f}",
        )
    )
    lines.append(
        _("of {n} held-out rows at {distance}").format(
            n=f"{int(row['held_out']):,}", distance=f"{float(row['held_out_distance']):.3f}"
        )
    )
    return lines
