"""One attribution as a page shows it: the input beside what each part of it contributes. One form for each kind of input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audit.language import gettext as _
from audit.report._images import MAX_SIDE, photograph, signed_map, summed
from audit.report._sample import BarList, Sample, bar_list, named, number
from audit.report._series_map import series_map
from audit.report._table_changes import cell_of
from audit.report._text_map import shaded, words_of
from audit.report._told import told
from audit.report._words import clean, mapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUNDED = ("segment", "patch")
"""Units of an image whose edges are drawn."""
ROUNDING = 1e-12
"""Share of the score below which all contributions together are rounding."""
PERCENT = ("relative_", "share_")
"""Quality numbers that are shares begin like this."""


@dataclass(frozen=True)
class Part:
    """A part of an input and what it contributes; `value` is the cell of a table."""

    name: str
    amount: float
    value: str = ""


class AttributionReader:
    """Turns rows of attribution evidence into samples.

    Args:
        meta: of the evidence: input_kind, classes, feature_names, unit, part_names.
        bounds: black and white of a picture; without them the picture's own smallest and largest value.
        fields: the columns of a table, or the channels' one field, as the model's input spec has them.
    """

    def __init__(
        self,
        meta: Mapping[str, Any],
        bounds: tuple[float, float] | None = None,
        fields: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.kind = str(meta.get("input_kind", ""))
        self.unit = str(meta.get("unit") or "")
        self.classes, self._names, self._parts = (
            meta[name] if isinstance(meta.get(name), list) else []
            for name in ("classes", "feature_names", "part_names")
        )
        self._bounds, self._fields = bounds, fields

    def sample(self, row: Mapping[str, Any], right: bool | None = None) -> Sample:
        """An input and what speaks for the explained class.

        Args:
            row: x, values, target and, where they are known, prediction, label, score, base_value, error, feature, parts,
                quality_NAME.
        """
        import numpy as np

        row = without_rounding(row)
        sample = Sample(self._title(row), right)
        aim = named(row.get("target"), self.classes) if self.classes else ""
        match self.form(row):
            case "image":
                self._image(sample, row, aim)
            case "text":
                self._text(sample, row, aim)
            case "series":
                self._series(sample, row, aim)
            case _:
                sample.lists.append(self._bars(row["x"], row["values"]))
        if bands := self.bands(row):
            header = (_("band") if self.kind == "series" else _("part"), "", _("contribution"))
            amounts = np.array([part.amount for part in bands])
            sample.lists.append(bar_list([part.name for part in bands], [""] * len(bands), amounts, header))
        sample.lines += _numbers(row)
        return sample

    def form(self, row: Mapping[str, Any]) -> Literal["image", "text", "series", "table"]:
        """How a row is drawn: as what it is, or as positions where it lies flat."""
        if self.kind == "image" and row["x"].ndim > 1:
            return "image"
        return self.kind if self.kind in ("text", "series") else "table"  # type: ignore[return-value]

    def bands(self, row: Mapping[str, Any]) -> list[Part]:
        """Parts that have no place in the input, in their own order; none of most explainers."""
        known = "parts" in row and len(self._parts) == len(row["parts"])
        return [
            Part(clean(name), float(value))
            for name, value in (zip(self._parts, row["parts"], strict=True) if known else ())
        ]

    def strongest(self, row: Mapping[str, Any], most: int = 3) -> list[Part]:
        """The parts of the input that contribute most, the largest first."""
        import numpy as np

        form = self.form(row)
        if bands := self.bands(row):
            return sorted(bands, key=lambda part: -abs(part.amount))[:most]
        if form == "text":
            tokens = words_of(shaded(row["x"], row["values"], row.get("feature"))[0], most)
            return [Part(token.text.strip(), token.value) for token in tokens]
        values = np.nan_to_num(np.asarray(without_rounding(row)["values"], dtype=float))
        if form == "table":
            names, cells = self.columns(row["x"])
            return [Part(names[i], float(values.flat[i]), cells[i]) for i in _largest(values, most)]
        if (feature := row.get("feature")) is None:  # a place across channels, or a step of a channel
            places = summed(values) if form == "image" else values.reshape(-1, values.shape[-1])
            found = {i: [int(at) for at in np.unravel_index(i, places.shape)] for i in _largest(places, most)}
            return [Part(self._place(at), float(places.flat[i])) for i, at in found.items()]
        features, number = np.unique(np.asarray(feature), return_inverse=True)
        number = number.reshape(values.shape)
        totals = np.zeros(len(features))
        np.add.at(totals, number, values)
        totals[features < 0] = 0.0
        return [Part(self._where(np.argwhere(number == i)), float(totals[i])) for i in _largest(totals, most)]

    def _place(self, at: Sequence[int]) -> str:
        if self.kind == "image":
            return _("row {row}, column {column}").format(row=at[0], column=at[1])
        step = f"{at[1]:,}"
        return (
            _("step {step} of channel {channel}").format(step=step, channel=at[0])
            if at[0]
            else _("step {step}").format(step=step)
        )

    def _where(self, places: NDArray[Any]) -> str:
        """Where a feature lies: its stretch of a series, its middle in an image."""
        if self.kind == "series":
            first, last = int(places[:, -1].min()), int(places[:, -1].max())
            ends = f"{first:,}", f"{last:,}"
            return (
                _("steps {first} to {last}").format(first=ends[0], last=ends[1])
                if last > first
                else _("step {step}").format(step=ends[0])
            )
        row, column = (round(float(part)) for part in places[:, -2:].mean(axis=0))
        place = _("row {row}, column {column}").format(row=row, column=column)
        return place if self.unit == "pixel" else _("{unit} around {place}").format(unit=self.unit, place=place)

    def _title(self, row: Mapping[str, Any]) -> str:
        label, answer = (named(row.get(name), self.classes) for name in ("label", "prediction"))
        said = _("true {label}, predicted {answer}") if label else _("predicted {answer}")
        return said.format(label=label, answer=answer)

    def _image(self, sample: Sample, row: Mapping[str, Any], aim: str) -> None:
        x = row["x"]
        bounds = self._bounds or (float(x.min()), float(x.max()))
        sample.pictures.append(photograph(x, bounds, _("Input. {title}.").format(title=sample.title), _("input")))
        feature = row.get("feature") if self.unit in BOUNDED else None
        label = _("for {target}").format(target=aim) if aim else _("contributions")
        drawn, limit = signed_map(
            row["values"], _("Attribution map for {target}.").format(target=aim or _("the output")), label, feature
        )
        sample.pictures.append(drawn)
        sample.lines.append(_scale(limit))
        if max(x.shape[-2:]) > MAX_SIDE:
            sample.lines.append(_("averaged down to fit"))

    def _text(self, sample: Sample, row: Mapping[str, Any], aim: str) -> None:
        sample.tokens, limit = shaded(row["x"], row["values"], row.get("feature"))
        sample.lines.append(_scale(limit, aim))

    def _series(self, sample: Sample, row: Mapping[str, Any], aim: str) -> None:
        title = _("Series, coloured by what speaks for {target}. {title}.").format(
            target=aim or _("the output"), title=sample.title
        )
        drawing, limit, note = series_map(row["x"], row["values"], title, self._names)
        sample.drawings.append(drawing)
        sample.lines += [_scale(limit, aim), *([note] if note else [])]

    def _bars(self, x: NDArray[Any], values: NDArray[Any]) -> BarList:
        names, cells = self.columns(x)
        return bar_list(names, cells, values, (_("feature"), _("value"), _("contribution")))

    def columns(self, x: NDArray[Any]) -> tuple[list[str], list[str]]:
        """Names of the columns, and their cells in the reader's terms."""
        flat = x.reshape(-1)
        names = (
            self._names if len(self._names) == len(flat) else [_("position {i}").format(i=i) for i in range(len(flat))]
        )
        known = self._fields if len(self._fields) == len(flat) else [{}] * len(flat)
        return [clean(name) for name in names], [
            cell_of(mapping(field), float(value)) for field, value in zip(known, flat, strict=True)
        ]


def _scale(limit: float, aim: str = "") -> str:
    """The ends of a row's colours, and the class that they speak for."""
    said = _("scale ± {limit} for {target}") if aim else _("scale ± {limit}")
    return said.format(limit=number(limit), target=aim)


def without_rounding(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with contributions of no more than rounding as zero: on a scale of their own they would look like much."""
    import numpy as np

    values = np.asarray(row["values"])
    if "score" not in row or np.abs(np.nan_to_num(values)).max(initial=0.0) > ROUNDING * abs(float(row["score"])):
        return dict(row)
    return {**row, "values": np.zeros_like(values)}


def _largest(amounts: NDArray[Any], most: int) -> list[int]:
    """Positions of the largest amounts by size, in flat order among equals; none of zero."""
    import numpy as np

    order = np.argsort(-np.abs(amounts), axis=None, kind="stable")[:most].tolist()
    return [i for i in order if amounts.flat[i]]


def _numbers(row: Mapping[str, Any]) -> list[str]:
    """What is known of the attribution: score, error, and how good it is."""
    words = {"score": _("score"), "base_value": _("base value")}
    found = [f"{said} {number(row[name])}" for name, said in words.items() if name in row]
    if "error" in row:
        found.append(_("error {value}").format(value=_short(row["error"])))
    for name in sorted(name for name in row if name.startswith("quality_") and not math.isnan(float(row[name]))):
        what = name.removeprefix("quality_")
        written = _percent(float(row[name])) if what.startswith(PERCENT) else _short(row[name])
        found.append(f"{told(clean(what).replace('_', ' '))} {written}")
    return found


def _short(value: Any) -> str:
    """Two digits: an error and a quality are no more exact."""
    return number(float(f"{float(value):.2g}"))


def _percent(share: float) -> str:
    return "< 0.0001\u00a0%" if 0 < abs(share) < 1e-6 else f"{_short(100 * share)}\u00a0%"
