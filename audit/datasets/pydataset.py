"""The tables of R's packages, from the package ``pydataset``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from audit.datasets._paths import locate_file, one_line
from audit.datasets._table import Table
from audit.datasets.csv import read_text_columns
from audit.names import nearest
from audit.parameters import UserError

_TABLES = "resources/rdata/csv/"


class Pydataset(Table):
    """Real tables that R's packages are shipped with: ``InstEval`` is 73,421 ratings of lecturers by students of ETH Zürich.

    The archive is read directly: the package itself, which unpacks it into the home folder, is never imported.
    Source: V. Arel-Bundock, Rdatasets; package by A. Alto.
    """

    member: str = Field(min_length=1)
    """Name of the table: ``InstEval``, ``diamonds``, ``Wage`` …"""

    def columns(self, base: Path) -> tuple[str, dict[str, Any]]:
        import tarfile
        import tempfile
        import zlib

        file = locate_file("package:pydataset/resources.tar.gz", base)
        found = None
        names = []
        try:
            with tarfile.open(file, "r|gz") as archive, tempfile.TemporaryDirectory() as folder:
                for entry in archive:  # a stream: nothing after the table is decompressed
                    name = entry.name.rpartition("/")[2].removesuffix(".csv")
                    if not entry.name.startswith(_TABLES) or not entry.name.endswith(".csv") or name.startswith("."):
                        continue
                    names.append(name)
                    content = archive.extractfile(entry) if name == self.member else None
                    if content is not None:
                        copy = Path(folder) / "table.csv"
                        copy.write_bytes(content.read())
                        found = read_text_columns(copy)
                        break
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise UserError(f"{file} cannot be read: {one_line(error)}") from error
        if found is None:
            guess = nearest(self.member, sorted(names))
            hint = (
                f"; did you mean '{guess}'?"
                if guess
                else f": it holds {len(names)} others, such as {', '.join(names[:5])}"
            )
            raise UserError(f"package pydataset has no table '{self.member}'{hint}")
        return f"pydataset.{self.member}", dict(found)
