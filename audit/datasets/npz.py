"""NumPy archives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from audit.datasets import Rows, Source
from audit.datasets._arrays import Kind, array_rows, with_members
from audit.datasets._labels import Classes
from audit.datasets._paths import locate_file, one_line
from audit.model import Task
from audit.names import nearest
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Npz(Source):
    """An ``.npz`` archive of arrays. Object arrays are pickles, which can run code: they are never opened."""

    path: str
    """File, relative to the scenario, or ``package:NAME/inner/path``."""
    x: str = "x"
    """Name of the inputs: ``(N, F)`` a table, ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)`` images."""
    y: str = "y"
    """Name of the labels ``(N,)``: class indices, class names, or values."""
    train_x: str | None = None
    """Name of the inputs that the model was trained on; `x` then holds test rows alone."""
    train_y: str | None = None
    """Name of their labels."""
    kind: Kind | None = None
    """What the inputs are; by default a table for two dimensions, else images."""
    channels: Literal["first", "last"] | None = None
    """Where an image has its channel axis, if its shape leaves a doubt."""
    bounds: tuple[Real, Real] | None = None
    """Smallest and largest valid input; images of bytes have 0..255."""
    units: str = ""
    """Of the inputs."""
    feature_names: tuple[str, ...] = ()
    """Of a table's columns; by default x0, x1, …"""
    classes: Classes = None
    """Names of the classes in the order of their indices, or their number; by default 0 to the largest label."""
    task: Task | None = None
    """Without it: classification where the labels are whole numbers or text, else regression."""
    missing: Literal["error", "keep"] = "error"
    """Whether NaN in a table is an error or a missing value."""

    @model_validator(mode="after")
    def _members_in_pairs(self) -> Npz:
        if (self.train_x is None) != (self.train_y is None):
            raise ValueError("train_x and train_y belong together: give both, or neither")
        return self

    def read(self, base: Path) -> Rows:
        file = locate_file(self.path, base)
        wanted = [name for name in (self.x, self.y, self.train_x, self.train_y) if name is not None]
        arrays = _load(file, wanted)
        x, y, train = arrays[self.x], arrays[self.y], None
        if self.train_x is not None and self.train_y is not None:
            x, y, train = with_members((x, y), (arrays[self.train_x], arrays[self.train_y]), str(file))
        return array_rows(
            x, y, where=str(file), train=train, kind=self.kind, channels=self.channels, bounds=self.bounds,
            units=self.units, feature_names=self.feature_names, classes=self.classes, task=self.task, missing=self.missing,
        )  # fmt: skip


def _load(file: Path, wanted: list[str]) -> dict[str, NDArray[Any]]:
    import zipfile
    import zlib

    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    name = ""
    try:
        with file.open("rb") as content:
            archive = np.load(content, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UserError(f"{file} is a single array (.npy); an archive of inputs and labels (.npz) is needed")
            for name in wanted:
                if name not in archive.files:
                    guess = nearest(name, archive.files)
                    hint = f"did you mean '{guess}'?" if guess else f"it holds {', '.join(archive.files) or 'none'}"
                    raise UserError(f"{file} holds no array '{name}'; {hint}")
                arrays[name] = archive[name]
                if not isinstance(arrays[name], np.ndarray):  # a member that is no .npy file comes as its bytes
                    raise UserError(f"{file}: array '{name}' is no NumPy array; store plain arrays with numpy.savez")
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        part = f"array '{name}' " if name else ""
        if "allow_pickle" in str(error):
            what = f"{part}holds Python objects (a pickle), which are never opened" if name else "is no .npz archive"
            raise UserError(f"{file}: {what}; store plain arrays with numpy.savez") from error
        raise UserError(f"{file}: {part}cannot be read: {one_line(error)}") from error
    return arrays
