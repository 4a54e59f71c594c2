"""Tables in delimited text, plain or compressed."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import AfterValidator, Field

from audit.datasets._paths import locate_file, one_line
from audit.datasets._table import Table
from audit.parameters import UserError


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError as error:
        raise ValueError(f"there is no encoding '{name}'; common ones are utf-8, latin-1 and cp1252") from error
    return name


class Csv(Table):
    """A delimited text file with a header line; ``.gz``, ``.bz2`` and ``.xz`` are decompressed while reading.

    Every cell is read as text first: a column is numbers where all its cells are, else a category. What was inferred is noted.
    """

    path: str
    """File, relative to the scenario, or ``package:NAME/inner/path``."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """Character between cells."""
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"
    """Of the text; a byte order mark is skipped."""

    def columns(self, base: Path) -> tuple[str, dict[str, Any]]:
        file = locate_file(self.path, base)
        return str(file), read_text_columns(file, self.delimiter, self.encoding)


def read_text_columns(
    file: Path, delimiter: str = ",", encoding: str = "utf-8", *, labelled: bool = True
) -> dict[str, list[str]]:
    """The cells of a delimited file, column by column; rows are checked to have the header's length.

    Args:
        labelled: whether a label is wanted beside the input: a single column is refused.

    Raises:
        UserError: damaged compression, another encoding, a row of another length, an open quote, or a doubtful header.
    """
    import csv
    import lzma
    import zlib

    header: list[str] | None = None
    columns: list[list[str]] = []
    try:
        with _open(file, encoding) as lines:
            reader = csv.reader(_text_only(lines, file), delimiter=delimiter, strict=True, skipinitialspace=True)
            for row in reader:
                if not row or (len(row) == 1 and not row[0].strip() and len(columns) != 1):
                    continue  # a blank line
                if header is None:
                    header = [cell.strip() for cell in row]
                    columns = [[] for _ in header]
                elif len(row) != len(header):
                    raise UserError(
                        f"{file}, line {reader.line_num}: {len(row)} cells where the header has {len(header)}; the file may be cut short, or its delimiter is not '{delimiter}'"
                    )
                else:
                    for cells, cell in zip(columns, row, strict=True):
                        cells.append(cell)
    except UnicodeError as error:
        raise UserError(
            f"{file} is not {encoding} text ({one_line(error)}); declare its 'encoding', such as latin-1"
        ) from error
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {one_line(error)}") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error
    if header is None:
        raise UserError(f"{file} holds no header line")
    return named_columns(file, header, columns, labelled=labelled)


def named_columns(
    file: Path, header: list[str], columns: list[list[str]], *, labelled: bool = True
) -> dict[str, list[str]]:
    """Columns by name; a column without a name (a stored row index) is left out.

    Raises:
        UserError: a name occurs twice, or the header is a single cell that another delimiter would divide.
    """
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise UserError(
            f"{file}: the header names {', '.join(repr(name) for name in twice[:5])} more than once; rename the columns"
        )
    if len(header) == 1 and labelled:
        other = next((mark for mark in ";\t|," if mark in header[0]), None)
        hint = f"; its delimiter seems to be {other!r}" if other else ""
        raise UserError(f"{file} has a single column, '{header[0]}': a label and an input are needed{hint}")
    return {name: cells for name, cells in zip(header, columns, strict=True) if name}


def _open(file: Path, encoding: str) -> IO[str]:
    import bz2
    import gzip
    import io
    import lzma

    opened: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(file.suffix.lower(), open)
    text = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    return io.TextIOWrapper(opened(file, "rb"), encoding=text, newline="")


def _text_only(lines: IO[str], file: Path) -> Any:
    """The lines, refused where a zero character shows that they are no text."""
    for line in lines:
        if "\0" in line:
            raise UserError(f"{file} is no text in this encoding: it holds zero bytes")
        yield line
