"""The IDX format of MNIST and its successors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from audit.datasets import Rows, Source
from audit.datasets._arrays import array_rows, with_members
from audit.datasets._labels import Classes
from audit.datasets._paths import locate_file, locate_folder, one_line
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


class Idx(Source):
    """Images and labels in IDX files, gzipped or not: a folder with the MNIST names, or two files.

    In a folder the ``train-`` pair are members and the ``t10k-`` pair is tested on; a folder with one pair gives plain rows.
    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """

    path: str | None = None
    """Folder with ``t10k-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``, ``train-…``, each with or without ``.gz``."""
    images: str | None = None
    """File of images, in place of a folder."""
    labels: str | None = None
    """File of their labels."""
    classes: Classes = None
    """Names of the classes in the order of their indices, or their number; by default 0 to the largest label."""

    @model_validator(mode="after")
    def _folder_or_files(self) -> Idx:
        files = (self.images is not None) + (self.labels is not None)
        if files == 1 or (self.path is not None) == (files == 2):
            raise ValueError("give either path, a folder, or both images and labels, two files")
        return self

    def read(self, base: Path) -> Rows:
        train = None
        if self.path is not None:
            folder = locate_folder(self.path, base)
            origin, pairs = str(folder), [pair for part in ("t10k", "train") if (pair := _pair(folder, part))]
            if not pairs:
                raise UserError(
                    f"{folder} holds no pair of IDX files such as t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
                )
        else:
            pairs = [(locate_file(str(self.images), base), locate_file(str(self.labels), base))]
            origin = str(pairs[0][0])
        parts = [(_images(images), _labels(labels)) for images, labels in pairs]
        for (images, labels), (x, y) in zip(pairs, parts, strict=True):
            if len(x) != len(y):
                raise UserError(f"{images} holds {len(x)} images, {labels} holds {len(y)} labels")
        x, y = parts[0]
        if len(parts) == 2:
            x, y, train = with_members(parts[0], parts[1], origin)
        return array_rows(x, y, where=origin, kind="image", task="classification", classes=self.classes, train=train)


def _pair(folder: Path, part: str) -> tuple[Path, Path] | None:
    """Image and label file of a part; None where neither is there.

    Raises:
        UserError: one is there without the other.
    """
    found: list[Path | None] = []
    for what in ("images-idx3", "labels-idx1"):
        names = [f"{part}-{what}-ubyte{end}" for end in ("", ".gz")]
        names += [f"{part}-{what.replace('-', '.')}-ubyte{end}" for end in ("", ".gz")]
        found.append(next((folder / name for name in names if (folder / name).is_file()), None))
    images, labels = found
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        raise UserError(
            f"{folder}: {images or labels} has no counterpart of {'labels' if labels is None else 'images'}"
        )
    return locate_file(str(images), folder), locate_file(str(labels), folder)


def _images(file: Path) -> NDArray[Any]:
    array = read_idx(file)
    if array.ndim != 3 or not array.size:
        raise UserError(f"{file} holds an array of shape {array.shape}; images have (count, height, width)")
    return array


def _labels(file: Path) -> NDArray[Any]:
    array = read_idx(file)
    if array.ndim != 1 or not array.size:
        raise UserError(f"{file} holds an array of shape {array.shape}; labels have (count,)")
    return array


def read_idx(file: Path) -> NDArray[Any]:
    """One IDX file as an array in its own type.

    Raises:
        UserError: it is no IDX file, damaged, or shorter or longer than its header says.
    """
    import math

    import numpy as np

    content = _content(file)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or not content[3]:
        raise UserError(f"{file} is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dtype, dimensions = np.dtype(_TYPES[content[2]]), content[3]
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], dtype=">u4")) if len(content) >= start else ()
    expected = start + math.prod(shape) * dtype.itemsize
    if len(shape) < dimensions or len(content) < expected:
        raise UserError(f"{file} is cut short: {len(content)} bytes, its header {shape} asks for {expected}")
    if len(content) > expected:
        raise UserError(f"{file} is longer than its header {shape} says: {len(content)} bytes, not {expected}")
    return np.frombuffer(content, dtype=dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _content(file: Path) -> bytes:
    import gzip
    import zlib

    try:
        with file.open("rb") as raw:
            zipped = raw.read(2) == _GZIP
        return gzip.decompress(file.read_bytes()) if zipped else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error
