"""Arrays as rows: shape, type and range are checked once, for every source that reads arrays and for Python callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SkipValidation

from audit.data import AuditData
from audit.datasets import Rows, Source, Split
from audit.datasets._labels import encode_array
from audit.model import Field, InputSpec, Task
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Kind = Literal["image", "series", "table"]
CHANNEL_COUNTS = (1, 3)
"""Grey and colour: what tells the channel axis of an image from its height and width."""


def from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    *,
    name: str = "arrays",
    x_train: ArrayLike | None = None,
    y_train: ArrayLike | None = None,
    kind: Kind | None = None,
    channels: Literal["first", "last"] | None = None,
    bounds: tuple[float, float] | None = None,
    units: str = "",
    feature_names: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
    classes: int | Sequence[str] | None = None,
    task: Task | None = None,
    groups: Mapping[str, ArrayLike] | None = None,
    missing: Literal["error", "keep"] = "error",
    split: Split | None = None,
) -> AuditData:
    """Arrays in memory as the data of an audit.

    Args:
        x: inputs to test on: ``(N, F)`` a table, ``(N, H, W)`` or ``(N, C, H, W)`` or ``(N, H, W, C)`` images; NumPy, torch or pandas.
        y: ``(N,)`` class indices, class names, or values.
        x_train, y_train: the members the model was trained on, where they are known.
        kind, channels: what `x` is, where its shape leaves a doubt.
        bounds: smallest and largest valid input; images of bytes have 0..255.
        feature_names: of a table's columns.
        categories: column → its values in the order of their codes; the column holds codes.
        classes: names in the order of the indices, or their number.
        groups: protected attribute → one value per row of `x`.
        missing: whether NaN in a table is an error or a missing value.
        split: divides `x` into test rows and members, instead of `x_train`.

    Raises:
        UserError: lengths, shapes, types, labels or ranges do not fit; NaN or infinity.
    """
    import numpy as np

    inputs, labels, train = _array(x), _array(y), None
    feature_names = feature_names or [str(column) for column in getattr(x, "columns", ())]
    if (x_train is None) != (y_train is None):
        raise UserError(f"data '{name}': members need both x_train and y_train")
    if x_train is not None and y_train is not None:
        if split is not None:
            raise UserError(f"data '{name}': give x_train or a split, not both")
        if groups:
            raise UserError(
                f"data '{name}': with x_train, groups are not supported; put the members into x and give a split"
            )
        inputs, labels, train = with_members((inputs, labels), (_array(x_train), _array(y_train)), f"data '{name}'")
    rows = array_rows(
        inputs, labels, where=f"data '{name}'", train=train, kind=kind, channels=channels, bounds=bounds, units=units,
        feature_names=feature_names, categories=categories or {}, classes=classes, task=task, missing=missing,
        groups={attribute: np.asarray(values).astype(str) for attribute, values in (groups or {}).items()},
    )  # fmt: skip
    return _InMemory(rows=rows, split=split).load(Path(), name)


class _InMemory(Source):
    """Rows that exist already, to be split like those of any source."""

    rows: SkipValidation[Any]

    def read(self, base: Path) -> Rows:
        given: Rows = self.rows
        return given


def with_members(
    test: tuple[NDArray[Any], NDArray[Any]], train: tuple[NDArray[Any], NDArray[Any]], where: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Test rows and members as one (inputs, labels, mask of members).

    Raises:
        UserError: the inputs' shapes differ, or a part has not one label per input.
    """
    import numpy as np

    for part, (x, y) in (("test", test), ("train", train)):
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y):
            raise UserError(f"{where}: the {part} rows have inputs of shape {x.shape} and labels of shape {y.shape}")
    if test[0].shape[1:] != train[0].shape[1:]:
        raise UserError(f"{where}: test inputs have shape {test[0].shape[1:]}, train inputs {train[0].shape[1:]}")
    text = [y.dtype.kind in "US" for y in (test[1], train[1])]
    if text[0] != text[1] or test[1].shape[1:] != train[1].shape[1:]:
        raise UserError(
            f"{where}: test labels are {test[1].dtype} {test[1].shape}, train labels {train[1].dtype} {train[1].shape}"
        )
    mask = np.repeat([False, True], [len(test[0]), len(train[0])])
    return np.concatenate([test[0], train[0]]), np.concatenate([test[1], train[1]]), mask


def _array(values: ArrayLike) -> NDArray[Any]:
    import numpy as np

    tensor: Any = values
    return np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else tensor)


def array_rows(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    where: str,
    kind: Kind | None = None,
    channels: Literal["first", "last"] | None = None,
    bounds: tuple[float, float] | None = None,
    units: str = "",
    feature_names: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
    classes: int | Sequence[str] | None = None,
    task: Task | None = None,
    groups: Mapping[str, NDArray[Any]] | None = None,
    missing: Literal["error", "keep"] = "error",
    train: NDArray[Any] | None = None,
) -> Rows:
    """Checked arrays as the rows of a source; see `from_arrays`.

    Raises:
        UserError: as `from_arrays`; `where` begins the message.
    """
    import numpy as np

    if x.dtype.kind not in "biuf":
        raise UserError(f"{where}: inputs must be numbers, got dtype {x.dtype}")
    if x.ndim < 2 or not x.size or not y.ndim or len(x) != len(y):
        raise UserError(
            f"{where}: inputs of shape {x.shape} and labels of shape {y.shape}: one label per input row is needed, and at least one row"
        )
    for attribute, values in (groups or {}).items():
        if values.shape != (len(x),):
            raise UserError(f"{where}: group '{attribute}' has shape {values.shape} for {len(x)} rows")
    kind = kind or ("table" if x.ndim == 2 else "image")
    notes: list[str] = []
    if bounds is None and kind == "image" and x.dtype == np.uint8:
        bounds = (0.0, 255.0)
        notes.append("bounds 0..255, inferred from bytes")
    _in_range(x, kind, bounds, missing, where)
    labels, names = encode_array(y, task, classes, f"{where}: labels")
    how = "declared" if task or classes is not None else "inferred"
    notes.append(f"labels: {f'{len(names)} classes' if names else 'values of a regression'}, {how}")
    if kind == "table":
        spec, laid_out = _table(x, bounds, units, feature_names, categories or {}, where)
    else:
        laid_out = _channels_first(x, kind, channels, where, notes)
        spec = InputSpec(fields=(Field(name=kind, kind=kind, shape=laid_out.shape[1:], bounds=bounds, units=units),))
    return Rows(laid_out, labels, spec, names, groups or {}, train, tuple(notes))


def _in_range(x: NDArray[Any], kind: Kind, bounds: tuple[float, float] | None, missing: str, where: str) -> None:
    import numpy as np

    rows = x.reshape(len(x), -1)
    allowed = np.isnan(rows) if kind == "table" and missing == "keep" else np.zeros((), dtype=bool)
    if (bad := ~(np.isfinite(rows) | allowed).all(axis=1)).any():
        remedy = "; set missing to keep if NaN stands for a missing value" if kind == "table" else ""
        raise UserError(
            f"{where}: {int(bad.sum())} input rows hold NaN or infinity, first row {int(np.flatnonzero(bad)[0])}{remedy}"
        )
    if x.dtype.kind in "iu" and kind == "table" and max(abs(int(x.min())), abs(int(x.max()))) > 2**53:
        raise UserError(f"{where}: inputs hold integers beyond 2**53, which would lose digits; leave that column out")
    if bounds is not None and not allowed.all():
        low, high = float(np.nanmin(rows)), float(np.nanmax(rows))
        if low < bounds[0] or high > bounds[1]:
            raise UserError(
                f"{where}: inputs span {low:g} to {high:g}, outside the declared bounds {bounds[0]:g} to {bounds[1]:g}"
            )


def _table(
    x: NDArray[Any],
    bounds: tuple[float, float] | None,
    units: str,
    feature_names: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    where: str,
) -> tuple[InputSpec, NDArray[Any]]:
    import numpy as np

    if x.ndim != 2:
        raise UserError(f"{where}: a table has shape (rows, columns), got {x.shape}")
    names = list(feature_names) or [f"x{i}" for i in range(x.shape[1])]
    if len(names) != x.shape[1] or len(set(names)) < len(names):
        raise UserError(f"{where}: {x.shape[1]} columns need as many different feature names, got {len(set(names))}")
    if unknown := set(categories) - set(names):
        raise UserError(f"{where}: categories names column '{min(unknown)}', which does not exist")
    table = np.ascontiguousarray(x, dtype=np.float64)
    for name, values in categories.items():
        codes = table[:, names.index(name)]
        codes = codes[~np.isnan(codes)]
        if len(wrong := codes[(codes % 1 != 0) | (codes < 0) | (codes >= len(values))]):
            raise UserError(
                f"{where}: column '{name}' holds {wrong[0]:g}, no code of its {len(values)} categories (0 to {len(values) - 1})"
            )
    fields = tuple(
        Field(name=name, kind="category", categories=tuple(map(str, categories[name])))
        if name in categories
        else Field(name=name, kind="number", bounds=bounds, units=units)
        for name in names
    )
    return InputSpec(fields=fields), table


def _channels_first(x: NDArray[Any], kind: Kind, channels: str | None, where: str, notes: list[str]) -> NDArray[Any]:
    """Images ``(N, C, H, W)`` and series ``(N, C, T)`` in float32."""
    import numpy as np

    dimensions = 4 if kind == "image" else 3
    if x.ndim == dimensions - 1:
        return np.ascontiguousarray(x[:, None], dtype=np.float32)
    if x.ndim != dimensions:
        wanted = (
            "(rows, height, width) or with a channel axis" if kind == "image" else "(rows, time) or with a channel axis"
        )
        raise UserError(f"{where}: {kind} inputs have shape {wanted}, got {x.shape}")
    if channels is None and kind == "image":
        first, last = x.shape[1] in CHANNEL_COUNTS, x.shape[3] in CHANNEL_COUNTS
        if first == last:
            raise UserError(
                f"{where}: shape {x.shape} does not tell which axis is the channels; set channels to first or last"
            )
        channels = "first" if first else "last"
        notes.append(f"channels {channels}, inferred from shape {x.shape}")
    if channels == "last":
        x = np.moveaxis(x, -1, 1)
    return np.ascontiguousarray(x, dtype=np.float32)
