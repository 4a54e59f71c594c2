"""An input spec from what a person says of it on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from audit.model import Field, FieldKind, InputSpec
from audit.parameters import UserError

if TYPE_CHECKING:
    import pandas as pd

_MANY_CATEGORIES = 1000
KINDS = (*get_args(FieldKind), "table")


@dataclass(frozen=True)
class InputChoice:
    """What was said of the input; call it with what the file says of itself, and it gives the spec.

    Args:
        kind: of a single field, or ``table``.
        shape: of a single field, without the batch.
        bounds: of a single field, or of every number of a table.
        features: column names, or the CSV or Parquet file whose columns they are.
        label: column of that file that is no feature.
        file: YAML or JSON of the whole spec, in place of all the others.
    """

    kind: str | None = None
    shape: tuple[int, ...] | None = None
    bounds: tuple[float, float] | None = None
    units: str = ""
    features: str | None = None
    label: str | None = None
    file: Path | None = None
    preprocessing: str = ""

    def __call__(self, inferred: InputSpec | None) -> InputSpec | None:
        """The spec; None where nothing is known.

        Raises:
            UserError: what was said is incomplete or contradicts itself.
        """
        if self.kind is not None and self.kind not in KINDS:
            raise UserError(f"there is no input kind '{self.kind}'; known: {', '.join(KINDS)}")
        if self.file is not None:
            if any((self.kind, self.shape, self.bounds, self.units, self.features)):
                raise UserError("--spec says everything about the input: leave the other input options out")
            return self._finished(_read_spec(self.file).fields)
        if self.label is not None and (self.features is None or not Path(self.features).is_file()):
            raise UserError("--label names a column of the file given as --features, and none is given")
        if self.features is not None:
            return self._table()
        if self.shape is not None:
            return self._single(inferred)
        if inferred is None:
            if self.kind not in (None, "table"):
                raise UserError(f"input kind '{self.kind}' needs a shape, without the batch: --shape 3,224,224")
            return None
        if self.kind not in (None, "table", inferred.kind, inferred.fields[0].kind):
            raise UserError(f"the file was trained on a {inferred.kind}; input '{self.kind}' needs a --shape")
        return self._finished(inferred.fields)

    def _single(self, inferred: InputSpec | None) -> InputSpec:
        kind = self.kind or (inferred.kind if inferred is not None else None)
        if kind in (None, "table", "category", "id"):
            raise UserError("--shape needs the kind of a single input: --input image, number, text, tokens or series")
        if not self.shape or any(size < 1 for size in self.shape):
            raise UserError(f"shape {self.shape} is none: give sizes without the batch, such as 3,224,224")
        return self._finished((_field(kind, kind, shape=self.shape),))

    def _table(self) -> InputSpec:
        if self.shape is not None or self.kind not in (None, "table", "number"):
            raise UserError("--features are the columns of a table: leave --shape out, and --input unless it is table")
        path = Path(self.features or "")
        if path.is_file():
            return self._finished(_fields_of(_read_table(path), path, self.label))
        names = [name.strip() for name in (self.features or "").split(",")]
        if path.suffix in (".csv", ".parquet") or not all(names):
            raise UserError(f"--features '{self.features}' is neither a file nor names separated by commas")
        return self._finished(tuple(_field(name, "number") for name in names))

    def _finished(self, fields: tuple[Field, ...]) -> InputSpec:
        """The fields with bounds and units, and the preprocessing."""
        changes: dict[str, Any] = {}
        if self.bounds is not None:
            changes["bounds"] = self.bounds
        if self.units:
            changes["units"] = self.units
        try:
            bounded = [
                Field(**{**field.model_dump(), **changes}) if field.kind not in ("category", "id") else field
                for field in fields
            ]
            return InputSpec(fields=tuple(bounded), preprocessing=self.preprocessing)
        except ValidationError as error:
            raise UserError(_said(error)) from error


def _field(name: str, kind: str, **more: Any) -> Field:
    try:
        return Field(name=name, kind=kind, **more)  # type: ignore[arg-type]
    except ValidationError as error:
        raise UserError(_said(error)) from error


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"input spec: {f'{place}: ' if place else ''}{first['msg'].removeprefix('Value error, ')}"


def _read_spec(path: Path) -> InputSpec:
    """A spec from YAML or JSON (which is YAML).

    Raises:
        UserError: the file cannot be read, or is no input spec.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no input spec: expected 'fields:', a list of fields with name and kind")
    try:
        return InputSpec.model_validate(found)
    except ValidationError as error:
        raise UserError(f"{path}: {_said(error)}") from error


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"cannot read columns from {path}: {str(error).splitlines()[0]}") from error


def _fields_of(table: pd.DataFrame, path: Path, label: str | None) -> tuple[Field, ...]:
    """Columns as fields: numbers as numbers, anything else as categories in sorted order."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    names = [str(name) for name in table.columns]
    if label is not None and label not in names:
        raise UserError(f"{path} has no column '{label}' to leave out; it has {', '.join(names[:20])}")
    fields = []
    for name, column in zip(names, (table.iloc[:, i] for i in range(len(names))), strict=True):
        if name == label:
            continue
        if is_numeric_dtype(column) and not is_bool_dtype(column):
            fields.append(_field(name, "number"))
            continue
        values = tuple(sorted({str(value) for value in column.dropna()}))
        if len(values) > _MANY_CATEGORIES:
            raise UserError(
                f"{path}: column '{name}' holds {len(values)} different texts, which is no category; use --spec"
            )
        fields.append(_field(name, "category", categories=values))
    if not fields:
        raise UserError(f"{path} has no feature columns")
    return tuple(fields)
