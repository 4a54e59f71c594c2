"""What table sources share: columns become numbers or categories, a label, and protected attributes."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field as Limits
from pydantic import model_validator

from audit.datasets import Rows, Source
from audit.datasets._labels import Classes, Name, encode, in_order, is_number, text_of
from audit.datasets._texts import text_rows
from audit.model import Field, InputSpec, Task
from audit.names import nearest
from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MISSING = ("NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "NAN", "null", "NULL", "None", "?")
"""Cells that stand for a missing value where none are declared; a blank cell always does."""
LARGEST_EXACT = 2**53
"""Integers beyond it are not all floats."""
MOST_GROUPS = 50
"""A protected attribute with more values divides the rows into groups too small to compare."""
FEW_VALUES = 20
"""A numeric label with at most so many different integers is taken for classes where the task is not declared."""


@dataclass(frozen=True)
class Column:
    """One column as read: numbers (NaN for missing), or texts (None for missing)."""

    numbers: NDArray[np.float64] | None
    texts: tuple[str | None, ...] | None
    tokens: tuple[str, ...] = ()
    """What stood for a missing value."""

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Mask of rows without a value."""
        import numpy as np

        if self.numbers is not None:
            return np.isnan(self.numbers)
        return np.array([text is None for text in self.texts or ()], dtype=bool)

    def as_texts(self) -> tuple[str | None, ...]:
        """Values as text, numbers in their shortest form; None for missing."""
        if self.numbers is None:
            return self.texts or ()
        return tuple(None if number != number else text_of(number) for number in self.numbers.tolist())

    def take(self, rows: NDArray[Any]) -> Column:
        """The rows at `rows`."""
        return Column(
            None if self.numbers is None else self.numbers[rows],
            None if self.texts is None else tuple(self.texts[i] for i in rows),
            self.tokens,
        )


class Table(Source):
    """Base of sources whose rows are the rows of a table."""

    label: Name
    """Column that holds what the model predicts."""
    task: Task | None = None
    """Without it: classification where the label is text or has few different integers, else regression."""
    classes: Classes = None
    """Label values in the order of the class indices, or their number; by default the sorted values. Names for indices work too."""
    features: tuple[Name, ...] | None = None
    """Columns the model is fed, in this order; by default all but the label, the excluded and the protected ones."""
    text: Name | None = None
    """Column with the texts that the model is fed, instead of a table of features. They are taken as they are, spaces included."""
    length: Annotated[int, Limits(ge=1)] | None = None
    """Of `text`: characters there is room for; longer texts are cut. By default the longest text's and a quarter more."""
    exclude: tuple[Name, ...] = ()
    """Columns to leave out."""
    protected: tuple[Name, ...] = ()
    """Columns that divide the rows into groups (sex, age band); inputs only if they are among `features`."""
    categories: dict[Name, tuple[Name, ...]] = {}
    """Column → its values in the order of their codes; an empty list infers them, and makes a numeric column a category."""
    ids: tuple[Name, ...] = ()
    """Numeric columns of the inputs whose numbers name somebody or something (a user, an item): they have no order and no scale."""
    missing: Literal["error", "keep", "drop"] = "error"
    """Rows that lack an input: refuse the data, keep them with NaN, or drop the rows."""
    missing_values: tuple[Name, ...] | dict[Name, tuple[Name, ...]] | None = None
    """Cells that stand for a missing value, besides blank ones: in every column, or column → cells; by default NA, nan, null, None, ? …"""

    @model_validator(mode="after")
    def _text_or_table(self) -> Table:
        if self.text is None and self.length is not None:
            raise ValueError("length is the room for a text: name the column as 'text'")
        if self.text is not None and (self.features is not None or self.exclude or self.categories or self.ids):
            raise ValueError("text is the only input: leave features, exclude, categories and ids out")
        if self.text is not None and self.missing == "keep":
            raise ValueError("a text is there or not: missing is error or drop")
        return self

    @abstractmethod
    def columns(self, base: Path) -> tuple[str, dict[str, Any]]:
        """Where the table was read from, and its columns: name → float64 array, or list of texts with None for missing."""

    def read(self, base: Path) -> Rows:
        import numpy as np

        origin, raw = self.columns(base)
        names = self._inputs(origin, raw)
        self._known(origin, "categories", self.categories, raw)
        self._known(origin, "ids", self.ids, raw)
        self._known(origin, "missing_values", self.missing_values if isinstance(self.missing_values, dict) else (), raw)
        if not len(raw[self.label]):
            raise UserError(f"{origin}: no row is left: the table holds a header alone")
        table = {
            name: self._column(origin, name, raw[name]) for name in dict.fromkeys([self.label, *names, *self.protected])
        }
        notes = [f"{name}: {int(table[name].missing.sum())} missing ({', '.join(table[name].tokens) or 'null'})"
                 for name in raw if name in table and table[name].missing.any()]  # fmt: skip
        kept = self._rows(origin, names, table, notes)
        table = {name: column.take(kept) for name, column in table.items()}

        labels, classes = self._labels(origin, table[self.label], notes)
        spec, x = self._lay_out(origin, names, table, notes)
        groups = {name: self._groups(origin, name, table[name]) for name in self.protected}
        for name in self.protected:
            role = "also an input" if name in names else "not an input"
            notes.append(f"{name}: protected attribute with {len(np.unique(groups[name]))} groups, {role}")
        return Rows(x, labels, spec, classes, groups, notes=tuple(notes))

    # --- which columns ---------------------------------------------------------------------------------------------

    def _known(self, origin: str, parameter: str, names: Iterable[str], raw: Mapping[str, Any]) -> None:
        for name in names:
            if name not in raw:
                guess = nearest(name, list(raw))
                hint = f"did you mean '{guess}'?" if guess else f"it has {', '.join(list(raw)[:20])}"
                raise UserError(f"{origin}: {parameter} names column '{name}', which does not exist; {hint}")

    def _inputs(self, origin: str, raw: Mapping[str, Any]) -> list[str]:
        self._known(origin, "label", [self.label], raw)
        self._known(origin, "exclude", self.exclude, raw)
        self._known(origin, "protected", self.protected, raw)
        if self.text is not None:
            self._known(origin, "text", [self.text], raw)
            if self.text == self.label:
                raise UserError(
                    f"{origin}: the label '{self.label}' is the text itself; a model must not be fed its answer"
                )
            names = [self.text]
        elif self.features is None:
            left_out = {self.label, *self.exclude, *self.protected}
            names = [name for name in raw if name not in left_out]
        else:
            self._known(origin, "features", self.features, raw)
            names = list(self.features)
            if self.label in names:
                raise UserError(
                    f"{origin}: the label '{self.label}' is among the features; a model must not be fed its answer"
                )
            if both := set(names) & set(self.exclude):
                raise UserError(f"{origin}: '{min(both)}' is both a feature and excluded")
            if len(set(names)) < len(names):
                raise UserError(f"{origin}: features names a column twice")
        if not names:
            raise UserError(f"{origin}: no input column is left beside the label '{self.label}'")
        return names

    # --- what a column holds ---------------------------------------------------------------------------------------

    def _column(self, origin: str, name: str, values: Any) -> Column:
        import numpy as np

        if name == self.text:
            return self._as_written(origin, name, values)
        column = self._parse(origin, name, values) if isinstance(values, list) else self._typed(name, values, ())
        if column.missing.all():
            raise UserError(f"{origin}: column '{name}' holds no value at all; exclude it")
        if column.numbers is None:
            return column
        if np.isinf(column.numbers).any():
            row = int(np.flatnonzero(np.isinf(column.numbers))[0]) + 1
            raise UserError(
                f"{origin}: column '{name}' holds an infinite number in data row {row}; declare it in missing_values or exclude the column"
            )
        return Column(None, column.as_texts(), column.tokens) if name in self.categories else column

    def _as_written(self, origin: str, name: str, values: Any) -> Column:
        """The column of texts; blank ones are missing."""
        if not isinstance(values, list):
            raise UserError(f"{origin}: column '{name}' holds numbers, not texts")
        return Column(
            None, tuple(None if value is None or not value.strip() else value for value in values), ("blank",)
        )

    def _tokens(self, name: str) -> tuple[str, ...]:
        """Cells of a column that stand for a missing value."""
        if isinstance(self.missing_values, dict):
            return self.missing_values.get(name, MISSING)
        return MISSING if self.missing_values is None else self.missing_values

    def _typed(self, name: str, numbers: NDArray[np.float64], tokens: tuple[str, ...]) -> Column:
        """A column of numbers, declared codes for missing values taken out."""
        import numpy as np

        codes = [float(token) for token in self._tokens(name) if is_number(token)]
        used = tuple(text_of(code) for code in codes if (numbers == code).any())
        return Column(np.where(np.isin(numbers, codes), np.nan, numbers) if used else numbers, None, tokens + used)

    def _parse(self, origin: str, name: str, values: list[str | None]) -> Column:
        """A column of texts: numbers where every present cell is one."""
        import numpy as np
        import pandas as pd

        tokens = {"", *self._tokens(name)}
        cells = [None if value is None else value.strip() for value in values]
        if name in self.categories:  # a code that went through a float: 1.0 is 1, while 01 stays itself
            cells = [None if cell is None else re.sub(r"^(-?\d+)\.0+$", r"\1", cell) for cell in cells]
        used = tuple(
            sorted({f"'{cell}'" if cell else "blank" for cell in cells if cell is not None and cell in tokens})
        )
        texts = tuple(None if cell is None or cell in tokens else cell for cell in cells)
        distinct = list(dict.fromkeys(text for text in texts if text is not None))
        if name in self.categories or not distinct:
            return Column(None, texts, used)
        parsed = pd.to_numeric(pd.Series(distinct, dtype="str"), errors="coerce").to_numpy(np.float64, na_value=np.nan)
        unreadable = np.isnan(parsed)
        if not unreadable.any():
            large = [text for text, value in zip(distinct, parsed, strict=True) if abs(value) >= LARGEST_EXACT]
            if digits := next((text for text in large if re.fullmatch(r"[-+]?\d+", text) and not _exact(text)), None):
                raise UserError(
                    f"{origin}: column '{name}' holds {digits[:24]}, an integer beyond 2**53 that would lose digits; exclude it, or declare it under categories"
                )
            known: dict[str | None, float] = {None: np.nan, **dict(zip(distinct, parsed.tolist(), strict=True))}
            return self._typed(name, np.array([known[text] for text in texts], dtype=np.float64), used)
        if unreadable.mean() <= 0.5:
            wrong = distinct[int(np.flatnonzero(unreadable)[0])]
            raise UserError(
                f"{origin}: column '{name}' is mostly numbers, but holds '{wrong}' in data row {texts.index(wrong) + 1}; declare it in missing_values, or the column under categories"
            )
        return Column(None, texts, used)

    # --- rows, label, inputs, groups -------------------------------------------------------------------------------

    def _rows(self, origin: str, names: list[str], table: Mapping[str, Column], notes: list[str]) -> NDArray[np.intp]:
        """Rows to keep."""
        import numpy as np

        unlabelled = table[self.label].missing
        lacking = np.logical_or.reduce([unlabelled, *(table[name].missing for name in names)])
        if self.missing == "error" and lacking.any():
            per_column = [(name, int(table[name].missing.sum())) for name in [self.label, *names]]
            shown = ", ".join(f"{name} {count}" for name, count in per_column if count)
            raise UserError(
                f"{origin}: {int(lacking.sum())} of {len(lacking)} rows lack a value ({shown}); set missing to keep or drop"
            )
        if self.missing == "keep" and unlabelled.any():
            raise UserError(
                f"{origin}: {int(unlabelled.sum())} rows lack the label '{self.label}'; only 'missing: drop' can leave them out"
            )
        drop = lacking if self.missing == "drop" else unlabelled
        if drop.all():
            raise UserError(f"{origin}: no row is left: each lacks a value")
        if drop.any():
            notes.append(f"{int(drop.sum())} of {len(drop)} rows dropped: a label or an input is missing")
        return np.flatnonzero(~drop)

    def _labels(self, origin: str, column: Column, notes: list[str]) -> tuple[NDArray[Any], tuple[str, ...]]:
        import numpy as np

        how = "declared" if self.task or self.classes is not None else "inferred"
        task: Task
        if self.task is not None:
            task = self.task
        elif column.numbers is None or self.classes is not None:
            task = "classification"
        else:
            distinct = np.unique(column.numbers)
            task = "classification" if len(distinct) <= FEW_VALUES and (distinct % 1 == 0).all() else "regression"
        if task == "regression":
            if column.numbers is None:
                example = next(text for text in column.texts or () if not is_number(text))
                raise UserError(f"{origin}: label '{self.label}' holds '{example}': a regression needs numbers")
            if self.classes is not None:
                raise UserError(f"{origin}: a regression has no classes; leave 'classes' or 'task: regression' out")
            if len(column.numbers) > 1 and (column.numbers == column.numbers[0]).all():
                notes.append(f"{self.label}: every label is {column.numbers[0]:g}")
            notes.append(f"{self.label}: label, regression ({how})")
            return column.numbers.astype(np.float64), ()
        texts = [text for text in column.as_texts() if text is not None]
        if self.classes is None and len(texts) > FEW_VALUES and len(set(texts)) == len(texts):
            raise UserError(
                f"{origin}: label '{self.label}' has another value in each of {len(texts)} rows; declare 'task: regression', or choose another column"
            )
        labels, classes = encode(texts, self.classes, f"{origin}: the labels in '{self.label}'")
        notes.append(f"{self.label}: label, {len(classes)} classes ({', '.join(classes[:10])}), classification ({how})")
        return labels, classes

    def _lay_out(
        self, origin: str, names: list[str], table: Mapping[str, Column], notes: list[str]
    ) -> tuple[InputSpec, NDArray[Any]]:
        import numpy as np

        if self.text is not None:
            texts = [text for text in table[self.text].texts or () if text is not None]
            return text_rows(texts, self.text, self.length, origin, notes)
        fields, x = [], []
        for name in names:
            column = table[name]
            if column.numbers is not None:
                fields.append(_id(name, column.numbers) if name in self.ids else Field(name=name, kind="number"))
                x.append(column.numbers)
            elif name in self.ids:
                raise UserError(f"{origin}: column '{name}' holds text: ids are numbers; declare it under categories")
            else:
                values, codes = self._codes(origin, name, column)
                fields.append(Field(name=name, kind="category", categories=values))
                x.append(codes)
                how = "declared" if self.categories.get(name) else "inferred"
                notes.append(f"{name}: category with {len(values)} values ({', '.join(values[:10])}), {how}")
            present = x[-1][~np.isnan(x[-1])]
            if len(x[-1]) > 1 and len(present) == len(x[-1]) and (present == present[0]).all():
                notes.append(f"{name}: constant")
        kinds = [field.kind for field in fields]
        ids = f", {kinds.count('id')} ids" if "id" in kinds else ""
        notes.append(f"inputs: {kinds.count('number')} numbers, {kinds.count('category')} categories{ids}")
        return InputSpec(fields=tuple(fields)), np.column_stack(x)

    def _codes(self, origin: str, name: str, column: Column) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        import numpy as np

        texts = column.texts or ()
        found = {text for text in texts if text is not None}
        values = self.categories.get(name) or ()
        if unknown := found - set(values) if values else set():
            raise UserError(
                f"{origin}: column '{name}' holds '{min(unknown)}', not among its declared categories ({', '.join(values[:10])})"
            )
        if not values:
            if name not in self.categories and len(texts) > FEW_VALUES and len(found) > len(texts) / 2:
                raise UserError(
                    f"{origin}: column '{name}' is text with {len(found)} different values in {len(texts)} rows; exclude it, or declare it under categories"
                )
            values = in_order(found)
        code = {value: float(i) for i, value in enumerate(values)}
        return values, np.array([np.nan if text is None else code[text] for text in texts], dtype=np.float64)

    def _groups(self, origin: str, name: str, column: Column) -> NDArray[Any]:
        import numpy as np

        values = np.array([text if text is not None else "missing" for text in column.as_texts()])
        if (count := len(np.unique(values))) > MOST_GROUPS:
            raise UserError(
                f"{origin}: protected attribute '{name}' has {count} values, too many groups to compare; divide it into a few bands first"
            )
        return values


def _exact(digits: str) -> bool:
    """Whether an integer in text is a float without loss, for sure."""
    return len(digits) < 18 and abs(int(digits)) <= LARGEST_EXACT


def _id(name: str, numbers: NDArray[np.float64]) -> Field:
    """A column of ids, with the smallest and the largest as bounds."""
    import numpy as np

    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    return Field(name=name, kind="id", bounds=(low, high) if low < high else None)
