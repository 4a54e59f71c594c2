"""Which columns and categories a scikit-learn model was fitted on, read from the model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.model import Field, InputSpec

if TYPE_CHECKING:
    from collections.abc import Sequence


def infer_spec(estimator: Any) -> InputSpec | None:
    """The input spec as far as the model knows it: names where it was fitted on a DataFrame, categories of its encoders."""
    names = _names(estimator)
    if names is None:
        return None
    known = original_categories(estimator)
    return InputSpec(
        fields=tuple(
            Field(name=name, kind="category", categories=tuple(known[name]))
            if name in known
            else Field(name=name, kind="number")
            for name in names
        )
    )


def _names(estimator: Any) -> list[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        return [str(name) for name in names]
    count = getattr(estimator, "n_features_in_", None)
    return None if count is None else [f"x{i}" for i in range(int(count))]


def original_categories(estimator: Any) -> dict[str, dict[str, Any]]:
    """Column → category's name → the value that it was fitted under (``"3"`` → 3); missing values left out."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    _collect(estimator, [str(name) for name in names], found)
    return found


def _collect(step: Any, columns: Sequence[str], found: dict[str, dict[str, Any]]) -> None:
    """Follow `columns` into a step as long as they stay the same columns, and note the categories of encoders."""
    import pandas as pd

    categories = getattr(step, "categories_", None)
    if isinstance(categories, list) and len(categories) == len(columns):
        for column, values in zip(columns, categories, strict=True):
            found.setdefault(column, {str(v): v for v in values.tolist() if not pd.isna(v)})
    elif hasattr(step, "transformers_"):
        for _, inner, selected in step.transformers_:
            if not isinstance(inner, str):
                _collect(inner, _select(selected, columns), found)
    elif hasattr(step, "steps"):
        for _, inner in step.steps:
            _collect(inner, columns, found)
            if not _keeps_columns(inner):
                return
    elif (inner := getattr(step, "_preprocessor", None)) is not None:
        _collect(inner, columns, found)


def _keeps_columns(step: Any) -> bool:
    """Whether what comes out of a step are the columns that went in, one for one."""
    return isinstance(step, str) or type(step).__name__ in {
        "SimpleImputer",
        "StandardScaler",
        "MinMaxScaler",
        "RobustScaler",
    }


def _select(selected: Any, columns: Sequence[str]) -> list[str]:
    """The columns that a ColumnTransformer's selector stands for: names, places, a mask or a slice."""
    import numpy as np

    if isinstance(selected, slice):
        start, stop = (columns.index(v) if isinstance(v, str) else v for v in (selected.start, selected.stop))
        if isinstance(selected.stop, str):
            stop += 1  # slices by name include their end
        return list(columns[start : stop : selected.step])
    chosen = np.atleast_1d(np.asarray(selected))
    if chosen.dtype == bool:
        return [column for column, taken in zip(columns, chosen.tolist(), strict=True) if taken]
    return [str(c) if isinstance(c, str) else columns[int(c)] for c in chosen.tolist()]
