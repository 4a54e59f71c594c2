"""Declared bounds against the range that the data really has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.model import Field, InputSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.data import Batch

ROUNDING = 1e-6
"""Share of the bounds' width that a value may lie outside: float32 rounding of a rescaling, no more."""
NARROW = 0.6
"""Data that spans at most this share of the bounds does not fill them: 0..1 for -1..1 spans 0.5, dark photographs some 0.8."""
SCALED = 0.05
"""Data that spans at most this share is on another scale, however few rows there are: 0..1 for 0..255 spans 0.004."""
ENOUGH_ROWS = 8
"""Rows from which on a narrow range is the data's and not a few images' own."""


@dataclass(frozen=True)
class Fit:
    """How data and bounds fit.

    Args:
        declared: whether any field has bounds, or is a category.
        faults: what does not fit, each a sentence.
        notes: what may be right, and must be known.
    """

    declared: bool
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fit_of(spec: InputSpec, parts: Sequence[Batch]) -> Fit:
    """Compare the values of all rows with the bounds and categories of a model's input spec."""
    import numpy as np

    if not spec.tabular or (spec.bounds is not None and len(spec.fields) >= ENOUGH_ROWS):
        # One range for the whole input: pixels, samples of a series, or pixels laid out as columns.
        if spec.bounds is None:
            wanted = spec.kind in ("image", "series")
            note = f"no bounds are declared for the {spec.kind}: nothing says what a valid input is"
            return Fit(False, (), (note,) if wanted else ())
        values = [part.x.reshape(len(part), -1) for part in parts]
        return _whole("input", spec.bounds, values, narrow_is_fault=True)
    found = []
    for j, field in enumerate(spec.fields):
        column = [part.x[:, j : j + 1] for part in parts]
        if field.kind == "category" and field.categories:
            found.append(_codes(field, np.concatenate(column)))
        elif field.bounds is not None:
            found.append(_whole(f"column '{field.name}'", field.bounds, column, narrow_is_fault=False))
    return Fit(bool(found), tuple(f for fit in found for f in fit.faults), tuple(n for fit in found for n in fit.notes))


def _whole(what: str, bounds: tuple[float, float], parts: Sequence[NDArray[Any]], *, narrow_is_fault: bool) -> Fit:
    import numpy as np

    low, high = bounds
    slack = ROUNDING * (high - low)
    finite = [np.where(np.isfinite(part), part, np.nan) for part in parts]
    n = sum(len(part) for part in parts)
    if not any(bool((~np.isnan(part)).any()) for part in finite):
        return Fit(True)
    least = min(float(np.nanmin(part)) for part in finite if not np.isnan(part).all())
    most = max(float(np.nanmax(part)) for part in finite if not np.isnan(part).all())
    outside = sum(int(((part < low - slack) | (part > high + slack)).any(axis=1).sum()) for part in finite)
    spans = f"{what} spans {least:.4g} to {most:.4g}, declared bounds are {low:g} to {high:g}"
    if outside:
        return Fit(True, (f"{outside} of {n} rows lie outside the bounds: {spans}",))
    share = (most - least) / (high - low)
    said = f"{spans}: it fills {share:.1%} of them; data and bounds seem to be on different scales"
    if narrow_is_fault and (share <= SCALED or (share <= NARROW and n >= ENOUGH_ROWS)):
        return Fit(True, (said,))
    if share <= (NARROW if narrow_is_fault else SCALED) and n > 1:
        return Fit(True, (), (said,))
    return Fit(True)


def _codes(field: Field, codes: NDArray[Any]) -> Fit:
    import numpy as np

    codes = codes[~np.isnan(codes)]
    wrong = codes[(codes % 1 != 0) | (codes < 0) | (codes >= len(field.categories))]
    if len(wrong):
        return Fit(
            True,
            (f"column '{field.name}' holds {wrong[0]:g}, no code of its {len(field.categories)} categories",),
        )
    return Fit(True)


def extremes(spec: InputSpec, x: Tensor) -> Tensor | None:
    """All-low, middle and all-high inputs ``(3, *shape)`` within the bounds; None where a number has none.

    Fields without a range of their own (categories) are as in the first row of `x`.
    """
    import torch

    numbers = [field for field in spec.fields if field.kind != "category"]
    if not numbers or any(field.bounds is None for field in numbers):
        return None
    rows = x[:1].repeat(3, *[1] * (x.ndim - 1))
    for j, field in enumerate(spec.fields):
        if field.bounds is None:
            continue
        low, high = field.bounds
        levels = torch.tensor([low, (low + high) / 2, high], dtype=x.dtype, device=x.device)
        if spec.tabular:
            rows[:, j] = levels
        else:
            rows[:] = levels.reshape(3, *[1] * (x.ndim - 1))
    return rows
