"""Tables in Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audit.datasets._paths import locate_file, one_line
from audit.datasets._table import LARGEST_EXACT, Table
from audit.parameters import UserError


class Parquet(Table):
    """A Parquet file. Numbers stay numbers; text, dictionaries and booleans are categories; nulls are missing values."""

    path: str
    """File, relative to the scenario, or ``package:NAME/inner/path``."""

    def columns(self, base: Path) -> tuple[str, dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = locate_file(self.path, base)
        try:
            with pq.ParquetFile(file) as opened:
                names = opened.schema_arrow.names
                if twice := sorted({name for name in names if names.count(name) > 1}):
                    raise UserError(f"{file} has more than one column named '{twice[0]}'; rename them")
                wanted = [name for name in names if self._reads(name)]
                table = opened.read(columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is no readable Parquet file: {one_line(error)}") from error
        unread: dict[str, Any] = dict.fromkeys(names)
        return str(file), unread | {name: _values(file, name, table.column(name)) for name in wanted}

    def _reads(self, name: str) -> bool:
        """Whether a column is needed at all: one that is left out may hold what no model is fed."""
        if self.text is not None:
            return name in (self.label, self.text, *self.protected)
        if self.features is None:
            return name not in self.exclude
        return name in (self.label, *self.features, *self.protected)


def _values(file: Path, name: str, column: Any) -> Any:
    """A float64 array with NaN for null, or a list of texts with None for null.

    Raises:
        UserError: the column is of a type that is neither (a date, a list, bytes).
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_boolean(kind) or types.is_string(kind) or types.is_large_string(kind):
        texts: list[str | None] = column.cast(pa.large_string()).to_pylist()
        return texts
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    if types.is_integer(kind):
        extremes = pc.min_max(column).as_py()
        if any(end is not None and abs(end) > LARGEST_EXACT for end in extremes.values()):
            return column.cast(pa.large_string()).to_pylist()  # as text: a float would lose digits
    elif types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not types.is_floating(kind):
        raise UserError(f"{file}: column '{name}' is of type {kind}, neither numbers nor text; exclude it")
    return column.cast(pa.float64()).to_numpy()
