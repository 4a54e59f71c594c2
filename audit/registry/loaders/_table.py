"""Table input as other libraries want it: columns under their names, categories under their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from audit.model import Field, InputSpec
from audit.parameters import UserError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def decoded(codes: NDArray[Any], field: Field, originals: Mapping[str, Any] | None = None) -> NDArray[Any]:
    """Category codes ``(N,)`` as an object array of values; a missing one (NaN) stays NaN.

    Args:
        originals: the value behind a category's name, where it was no string (``"3"`` → 3).

    Raises:
        UserError: a code is no category of the field.
    """
    import numpy as np

    present = ~np.isnan(codes)
    whole = codes[present].astype(np.int64)
    if np.any(whole != codes[present]) or np.any((whole < 0) | (whole >= len(field.categories))):
        raise UserError(
            f"column '{field.name}' holds a code outside its {len(field.categories)} categories (0 to {len(field.categories) - 1})"
        )
    values = np.empty(len(field.categories), dtype=object)
    values[:] = [(originals or {}).get(name, name) for name in field.categories]
    out = np.full(len(codes), np.nan, dtype=object)
    out[present] = values[whole]
    return out


def frame(
    x: NDArray[Any],
    spec: InputSpec,
    *,
    order: Sequence[int] | None = None,
    originals: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Rows ``(N, F)`` as a DataFrame under the fields' names: numbers as float64, categories decoded.

    Args:
        order: places of the columns in the spec, in the order wanted.
        originals: column → category name → value, as in `decoded`.
    """
    import pandas as pd

    columns = {}
    for place in order if order is not None else range(len(spec.fields)):
        field = spec.fields[place]
        if field.kind != "category":
            columns[field.name] = x[:, place]
            continue
        values = decoded(x[:, place], field, (originals or {}).get(field.name))
        columns[field.name] = pd.array(values, dtype=object)
    return pd.DataFrame(columns)
