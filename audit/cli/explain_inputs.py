"""Single inputs from the command line as rows of the shape that a model is fed: image files, arrays, tables, texts, data sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.datasets._paths import locate_file, one_line
from audit.names import nearest
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.data import AuditData, Batch
    from audit.model import AuditedModel, Field

_TEXTS = (".txt",)
_TABLES = (".csv", ".tsv", ".gz", ".bz2", ".xz")


@dataclass(frozen=True)
class Inputs:
    """Rows to explain.

    Args:
        batch: their labels are 0 where none are known.
        names: what the user calls each of them.
        labelled: whether the labels are known.
        notes: what was done to them on reading.
    """

    batch: Batch
    names: tuple[str, ...]
    labelled: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def take(self, places: Any) -> Inputs:
        """The rows at these positions."""
        names = tuple(self.names[int(place)] for place in places)
        return Inputs(self.batch.take(places), names, self.labelled, self.notes)


class InputReader:
    """Reads inputs for one model.

    Args:
        column: of a table that holds texts; by default the one named like the model's input, ``text``, or the only one.
        resize: let images of another size through, bilinearly resized.
        missing: take blank cells and NaN of a table as missing values.
    """

    def __init__(
        self, model: AuditedModel, *, column: str | None = None, resize: bool = False, missing: bool = False
    ) -> None:
        self._model, self._spec = model, model.spec
        self._column, self._resize, self._missing = column, resize, missing
        self._notes: list[str] = []

    def read(self, files: Sequence[Path], texts: Sequence[str] = ()) -> Inputs:
        """Every row of some files, and texts as they are.

        Raises:
            UserError: a file cannot be read, or holds what the model is not fed.
        """
        import numpy as np

        from audit.data import Batch, row_ids

        self._notes.clear()
        parts: list[NDArray[Any]] = []
        names: list[str] = []
        if texts:
            parts.append(self._texts(list(texts), "--text"))
            names += [f"text {i}" for i in range(1, len(texts) + 1)]
        for file in files:
            rows = self._file(locate_file(str(file), Path()))
            parts.append(rows)
            names += [file.name] if len(rows) == 1 else [f"{file.name} row {i}" for i in range(len(rows))]
        x = np.concatenate(parts)
        self._in_bounds(x, names)
        labels = np.zeros(len(x), dtype=np.int64)
        return Inputs(Batch(x, labels, row_ids(x, labels)), tuple(names), notes=tuple(dict.fromkeys(self._notes)))

    def _file(self, file: Path) -> NDArray[Any]:
        from audit.datasets.image_folder import SUFFIXES

        suffix = file.suffix.lower()
        if suffix in SUFFIXES:
            return self._image(file)
        if suffix in (".npy", ".npz"):
            return self._array(file)
        if suffix in _TABLES:
            return self._table(file)
        if suffix in _TEXTS:
            return self._texts([self._text_of(file)], str(file))
        known = ", ".join((*SUFFIXES, ".npy", ".npz", *_TABLES, *_TEXTS))
        raise UserError(f"{file}: '{suffix or file.name}' is no kind of input; known: {known}")

    def _refuse(self, what: str, file: object) -> None:
        raise UserError(f"{file} is {what}, model '{self._model.name}' is fed {_article(self._spec.kind)}")

    # --- images ---

    def _image(self, file: Path) -> NDArray[Any]:
        import numpy as np

        from audit.datasets.image_folder import read_image

        shape = self._spec.shape
        if self._spec.kind != "image" or len(shape) not in (2, 3):
            self._refuse("an image", file)
        last = len(shape) == 3 and shape[0] not in (1, 3) and shape[-1] in (1, 3)
        channels, *size = (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]) if last else shape
        if channels not in (1, 3):
            raise UserError(f"{file}: model '{self._model.name}' takes {channels} channels, an image file has 1 or 3")
        mode = "L" if channels == 1 else "RGB"
        pixels = read_image(file, None, mode).astype(np.float32)
        height, width = pixels.shape[1:]
        if [height, width] != size:
            if not self._resize:
                raise UserError(
                    f"{file} is {height} x {width} pixels, model '{self._model.name}' takes {size[0]} x {size[1]}: resize it, or give --resize"
                )
            pixels = read_image(file, (size[0], size[1]), mode).astype(np.float32)
            self._notes.append(f"images resized to {size[0]} x {size[1]}, bilinear")
        if self._spec.bounds is not None:
            low, high = self._spec.bounds
            pixels = low + pixels * np.float32((high - low) / 255)
            if (low, high) != (0, 255):
                self._notes.append(f"pixels scaled from 0..255 to the model's {low:g}..{high:g}")
        else:
            self._notes.append("the model has no bounds: pixels are fed as 0..255")
        return (np.moveaxis(pixels, 0, -1) if last else pixels).reshape(1, *shape)

    # --- arrays ---

    def _array(self, file: Path) -> NDArray[Any]:
        import numpy as np

        spec, array = self._spec, _stored(file)
        if spec.kind == "text" and array.dtype.kind == "U":
            return self._texts(array.reshape(-1).tolist(), str(file))
        if array.dtype.kind not in "biuf":
            raise UserError(f"{file} holds {array.dtype}, not numbers")
        if not array.size:
            raise UserError(f"{file} holds no number: its shape is {array.shape}")
        alone = array.ndim <= len(spec.shape) and array.size == math.prod(spec.shape)
        rows = self._channels(array[None] if alone else array)
        if rows.shape[1:] != tuple(spec.shape) and not _same_but_ones(rows.shape[1:], spec.shape):
            raise UserError(
                f"{file} has shape {array.shape}, model '{self._model.name}' takes {tuple(spec.shape)} or rows of that shape"
            )
        rows = rows.reshape(len(rows), *spec.shape)
        bad = ~np.isfinite(rows.astype(np.float64)).reshape(len(rows), -1).all(axis=1)
        if spec.tabular and self._missing:
            bad = np.isinf(rows.astype(np.float64)).any(axis=1)
        if bad.any():
            hint = ": --missing keeps NaN as missing values" if spec.tabular and not self._missing else ""
            raise UserError(f"{file} holds NaN or infinity in row {int(np.flatnonzero(bad)[0])}{hint}")
        if spec.tabular:
            table = rows.astype(np.float64)
            for place, field in enumerate(spec.fields):
                _refuse_codes(file, field, table[:, place])
            return table
        return rows.astype(np.int32 if spec.kind == "text" else np.float32)

    def _channels(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Images with their channels where the model has them."""
        import numpy as np

        shape = self._spec.shape
        if self._spec.kind != "image" or len(shape) != 3 or rows.ndim != 4 or rows.shape[1:] == shape:
            return rows
        for axes, moved in (((1, -1), (*shape[1:], shape[0])), ((-1, 1), (shape[2], *shape[:2]))):
            if rows.shape[1:] == moved:
                self._notes.append(f"channels moved: {rows.shape[1:]} to {tuple(shape)}")
                return np.moveaxis(rows, axes[1], axes[0])
        return rows

    # --- tables and texts ---

    def _table(self, file: Path) -> NDArray[Any]:
        import numpy as np

        from audit.datasets.csv import read_text_columns

        columns = read_text_columns(file, "\t" if ".tsv" in file.suffixes else ",", labelled=False)
        if not next(iter(columns.values()), ()):
            raise UserError(f"{file} holds a header alone")
        if self._spec.kind == "text":
            return self._texts(columns[self._text_column(file, list(columns))], str(file))
        if not self._spec.tabular:
            self._refuse("a table", file)
        if absent := [field.name for field in self._spec.fields if field.name not in columns]:
            guess = nearest(absent[0], list(columns))
            hint = f"did you mean '{guess}'?" if guess else f"it has {', '.join(list(columns)[:20])}"
            raise UserError(
                f"{file} lacks columns that model '{self._model.name}' is fed: {', '.join(absent[:8])}; {hint}"
            )
        return np.column_stack([self._numbers(file, field, columns[field.name]) for field in self._spec.fields])

    def _numbers(self, file: Path, field: Field, cells: Sequence[str]) -> NDArray[Any]:
        """One column: numbers, or the codes of its categories."""
        import numpy as np

        from audit.datasets._table import MISSING

        codes = {name: float(i) for i, name in enumerate(field.categories)}
        read: Callable[[str], float] = codes.__getitem__ if field.kind == "category" else float
        found = np.full(len(cells), np.nan)
        for row, cell in enumerate(text.strip() for text in cells):
            if not cell or (cell in MISSING and cell not in codes):
                if not self._missing:
                    raise UserError(
                        f"{file}, data row {row + 1}: '{field.name}' is missing; --missing keeps it as a missing value"
                    )
                continue
            try:
                found[row] = read(cell)
            except KeyError:
                known = ", ".join(field.categories[:10])
                raise UserError(
                    f"{file}, data row {row + 1}: '{field.name}' is '{cell}', which model '{self._model.name}' does not know; known: {known}"
                ) from None
            except ValueError:
                raise UserError(f"{file}, data row {row + 1}: '{field.name}' is '{cell}', no number") from None
            if math.isinf(found[row]):
                raise UserError(f"{file}, data row {row + 1}: '{field.name}' is infinite")
        return found

    def _text_column(self, file: Path, names: list[str]) -> str:
        wanted = [self._column] if self._column is not None else [self._spec.fields[0].name, "text"]
        found = next((name for name in wanted if name in names), names[0] if len(names) == 1 else None)
        if found is None or (self._column is not None and found != self._column):
            raise UserError(f"{file}: name the column of texts with --column; it has {', '.join(names[:20])}")
        return found

    def _texts(self, texts: list[str], where: str) -> NDArray[Any]:
        from audit.text import encode

        if self._spec.kind != "text":
            self._refuse("a text", where)
        try:
            return encode(texts, self._spec.shape[0])
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def _text_of(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is no UTF-8 text: {one_line(error)}") from error

    def _in_bounds(self, x: NDArray[Any], names: Sequence[str]) -> None:
        import numpy as np

        for place, field in enumerate(self._spec.fields if self._spec.tabular else ()):
            if field.kind == "id" and field.bounds is not None:
                low, high = field.bounds
                known = np.isnan(x[:, place]) | ((x[:, place] % 1 == 0) & (low <= x[:, place]) & (x[:, place] <= high))
                if not known.all():
                    row = int(np.flatnonzero(~known)[0])
                    raise UserError(
                        f"{names[row]}: '{field.name}' is {x[row, place]:g}, model '{self._model.name}' knows {low:g} to {high:g}"
                    )
        if self._spec.bounds is None or self._spec.kind == "text":
            return
        low, high = self._spec.bounds
        rows = x.reshape(len(x), -1)
        outside = ((rows < low) | (rows > high)).any(axis=1)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise UserError(
                f"{names[row]} spans {np.nanmin(rows[row]):g} to {np.nanmax(rows[row]):g}, model '{self._model.name}' is fed {low:g} to {high:g}"
            )


def data_of(text: str, model: AuditedModel) -> AuditData:
    """A data source as a scenario names it, laid out for a model.

    Args:
        text: its name (``sklearn.digits``), a mapping (``{source: csv, path: a.csv, label: y}``), or a scenario file, whose data
            it is.

    Raises:
        UserError: there is no such source, or what it reads does not fit the model.
    """
    from audit.plan import bind
    from audit.scenario import parse, read

    path = Path(text)
    if path.suffix.lower() in (".yaml", ".yml"):
        file = read(path)
    else:
        said = text if text.lstrip().startswith("{") else f"{{source: {text}}}"
        file = parse(f"name: explain\ndata: {said}\nchecks: [preflight.model_contract]\n", "--data", Path())
    plan = bind(file)
    name = str(plan.scenario.data.get("source"))
    return plan.source.load(file.base, name).fit_to(model.spec, model.classes, model.name)


def chosen_rows(inputs: Inputs, rows: str | None, samples: int | None, seed: int) -> Inputs:
    """Some of many rows: by their numbers, or drawn as checks draw them.

    Raises:
        UserError: a number is none, or beyond the rows there are.
    """
    from audit.checks._sample import drawn

    if rows is not None:
        places = []
        for part in rows.split(","):
            if not part.strip().isdecimal():
                raise UserError(f"--rows '{rows}': write row numbers separated by commas, such as 0,5,9")
            places.append(int(part))
        if beyond := [place for place in places if place >= len(inputs)]:
            raise UserError(f"--rows {beyond[0]}: there are {len(inputs):,} rows, 0 to {len(inputs) - 1:,}")
        return inputs.take(list(dict.fromkeys(places)))
    if samples is None or samples >= len(inputs):
        return inputs
    return inputs.take(drawn(inputs.batch.ids, samples, seed))


def _stored(file: Path) -> NDArray[Any]:
    """The array of an ``.npy``, or of an ``.npz``: the one named ``x``, or the only one."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with file.open("rb") as content:
            found = np.load(content, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            names = list(found.files)
            name = "x" if "x" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise UserError(f"{file} holds {', '.join(names[:10]) or 'no array'}: name the inputs 'x'")
            array = found[name]
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        what = (
            "holds Python objects (a pickle), which are never opened"
            if "allow_pickle" in str(error)
            else one_line(error)
        )
        raise UserError(f"{file} cannot be read: {what}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{file}: '{name}' is no NumPy array")
    return array


def _same_but_ones(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes differ in axes of length one alone: a grey image with or without its channel."""
    return [n for n in shape if n != 1] == [n for n in wanted if n != 1]


def _refuse_codes(file: Path, field: Field, values: NDArray[Any]) -> None:
    import numpy as np

    known = values[~np.isnan(values)]
    if field.kind == "category" and ((known % 1 != 0) | (known < 0) | (known >= len(field.categories))).any():
        raise UserError(
            f"{file}: column '{field.name}' holds what is no code of its {len(field.categories)} categories (0 to {len(field.categories) - 1})"
        )


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "image" else kind if kind in ("series", "tokens") else f"a {kind}"
