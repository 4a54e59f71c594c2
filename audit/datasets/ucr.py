"""Series in the text format of the UCR archive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.datasets import Rows, Source
from audit.datasets._arrays import array_rows, with_members
from audit.datasets._labels import Name, text_of
from audit.datasets._paths import locate_file, locate_folder, one_line
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENDS = (".txt", ".tsv", ".csv")


class Ucr(Source):
    """A folder of the UCR archive, such as ``GunPoint`` with ``GunPoint_TRAIN.txt`` and ``GunPoint_TEST.txt``: one series per line,
    its class first, numbers parted by blanks, tabs or commas. Series come as ``(1, L)``, one channel of L steps.

    The ``TRAIN`` file are members and the ``TEST`` file is tested on; a `split` throws the two together and divides them anew.

    Source: Dau et al. 2019, The UCR Time Series Archive, arXiv:1810.07758.
    """

    path: str
    """Folder, relative to the scenario, or ``package:NAME/inner/path``."""
    classes: tuple[Name, ...] | None = None
    """Names of the classes, in the order of the numbers that stand for them in the files; by default these numbers."""
    units: str = ""
    """Of the values."""

    def read(self, base: Path) -> Rows:
        import numpy as np

        folder = locate_folder(self.path, base)
        test, train = (_labelled(_file(folder, part)) for part in ("TEST", "TRAIN"))
        x, labels, members = with_members(test, train, str(folder))
        values, codes = np.unique(labels, return_inverse=True)
        names = self.classes or tuple(str(text_of(value)) for value in values.tolist())
        if len(names) != len(values):
            raise UserError(f"{folder} holds {len(values)} classes, {len(names)} are named: {', '.join(names[:5])}")
        rows = array_rows(
            x[:, None], codes, where=str(folder), kind="series", task="classification", classes=len(names), units=self.units,
            train=members if self.split is None else None,
        )  # fmt: skip
        return replace(rows, classes=names)  # the numbers in the files are names, no indices


def _file(folder: Path, part: str) -> Path:
    names = [f"{folder.name}_{part}{end}" for end in _ENDS]
    found = next((name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} holds no file {', '.join(names[:-1])} or {names[-1]}")
    return locate_file(found, folder)


def _labelled(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Series ``(N, L)`` and class numbers ``(N,)``.

    Raises:
        UserError: a line holds no numbers, or another number of them than the first (series of unequal length).
    """
    import numpy as np

    try:
        lines = [line.replace(",", " ").split() for line in file.read_text(encoding="ascii").splitlines()]
        cells = [np.array(line, dtype=np.float64) for line in lines if line]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as lines of numbers: {one_line(error)}") from error
    if lengths := [len(line) for line in cells if len(line) != len(cells[0]) or len(line) < 2]:
        raise UserError(
            f"{file}: one line has {len(cells[0])} numbers, another {lengths[0]}: series of one length are needed"
        )
    table = np.stack(cells)
    return table[:, 1:], table[:, 0]
