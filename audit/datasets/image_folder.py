"""Folders of image files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, model_validator
from pydantic import Field as Limits

from audit.datasets import Rows, Source
from audit.datasets._labels import Classes, encode
from audit.datasets._paths import locate_file, locate_folder, one_line
from audit.model import Field, InputSpec
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Names that are taken for images; everything else in the folder is left out."""

Pixels = Annotated[int, Limits(ge=1)]


def _labelling(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
    if "label" not in groups:
        raise ValueError(f"'{pattern}' needs a group named label, such as (?P<label>\\d+)")
    return pattern


class ImageFolder(Source):
    """Image files, labelled by their subfolder, by a table, or by their own names; pixels float32 in 0..255.

    Rows are in the order of the files' paths. Files are taken as stored: no rotation from EXIF, alpha dropped.
    """

    path: str
    """Folder, relative to the scenario, or ``package:NAME/inner/path``. By default each of its subfolders is a class."""
    labels: str | None = None
    """CSV file with the columns ``file`` (relative to `path`) and ``label``, in place of subfolders."""
    pattern: Annotated[str, AfterValidator(_labelling)] | None = None
    """Regular expression for whole file names (relative to `path`) whose group ``label`` is the label; others are left out."""
    classes: Classes = None
    """Names of the classes in the order of their indices, or their number; by default the sorted labels. Labels are names or indices."""
    size: Pixels | tuple[Pixels, Pixels] | None = None
    """Height and width (one number for a square) that images are resized to, bilinearly; without it all must have one size."""
    mode: Literal["RGB", "L"] = "RGB"
    """Colour ``(3, H, W)`` or grey ``(1, H, W)``."""

    @model_validator(mode="after")
    def _one_labelling(self) -> ImageFolder:
        if self.labels is not None and self.pattern is not None:
            raise ValueError("labels and pattern both say what is in an image: give one of them")
        return self

    def read(self, base: Path) -> Rows:
        folder = locate_folder(self.path, base)
        notes: list[str] = []
        if self.labels is not None:
            found = _by_table(folder, locate_file(self.labels, base))
        elif self.pattern is not None:
            found = _by_name(folder, re.compile(self.pattern), notes)
        else:
            found = _by_subfolder(folder, notes)
        labels, names = encode([label for _, label in found], self.classes, f"{folder}: labels")
        if self.split is None and self.limit is not None:
            # Without a split the first rows are the ones kept: the rest need not be decoded.
            found, labels = found[: self.limit], labels[: self.limit]
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        x = _decode([file for file, _ in found], size, self.mode)
        image = Field(name="image", kind="image", shape=x.shape[1:], bounds=(0.0, 255.0), units="pixel value")
        if size is not None:
            notes.append(f"images resized to {size[0]} x {size[1]}, bilinear")
        return Rows(x, labels, InputSpec(fields=(image,)), names, notes=tuple(notes))


def _files(folder: Path) -> Iterator[Path]:
    """Image files below a folder in the order of their paths."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return iter(sorted(files, key=lambda path: path.relative_to(folder).as_posix()))


def _by_subfolder(folder: Path, notes: list[str]) -> list[tuple[Path, str]]:
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [(file, sub.name) for sub in subfolders for file in _files(sub)]
    if not found:
        raise UserError(
            f"{folder} holds no subfolder with images ({', '.join(SUFFIXES)}); with all images in one folder declare 'labels' or 'pattern'"
        )
    with_images = {label for _, label in found}
    if empty := [sub.name for sub in subfolders if sub.name not in with_images]:
        notes.append(f"subfolders without images: {', '.join(empty[:5])}")
    notes.append(f"{len(found)} images in {len(with_images)} subfolders, a class each")
    return found


def _by_name(folder: Path, pattern: re.Pattern[str], notes: list[str]) -> list[tuple[Path, str]]:
    files = list(_files(folder))
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    matches = [(file, pattern.fullmatch(file.relative_to(folder).as_posix())) for file in files]
    found = [(file, match["label"]) for file, match in matches if match is not None]
    if not found:
        example = files[0].relative_to(folder).as_posix()
        raise UserError(
            f"{folder}: none of {len(files)} images matches the pattern '{pattern.pattern}'; one is '{example}'"
        )
    if unlabelled := [file.name for file, label in found if not label]:
        raise UserError(f"{folder}: the pattern gives '{unlabelled[0]}' no label")
    if len(found) < len(files):
        notes.append(f"{len(files) - len(found)} of {len(files)} images do not match the pattern and are left out")
    return [(file, _plain_index(label)) for file, label in found]


def _plain_index(label: str) -> str:
    """``007`` as ``7``: indices in file names are often padded."""
    return str(int(label)) if label.isascii() and label.isdigit() else label


def _by_table(folder: Path, table: Path) -> list[tuple[Path, str]]:
    from audit.datasets.csv import read_text_columns

    columns = read_text_columns(table)
    if not {"file", "label"} <= columns.keys():
        raise UserError(f"{table}: the columns file and label are needed, it has {', '.join(columns)}")
    found = []
    for row, (name, label) in enumerate(zip(columns["file"], columns["label"], strict=True), 1):
        file = folder / name.strip()
        if not name.strip() or PurePosixPath(name).is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{table}, data row {row}: '{name}' is no file below {folder}")
        if not file.is_file():
            raise UserError(f"{table}, data row {row}: {file} does not exist")
        if not label.strip():
            raise UserError(f"{table}, data row {row}: '{name}' has no label")
        found.append((file, label.strip()))
    if not found:
        raise UserError(f"{table} names no images: it holds a header alone")
    return found


def _decode(files: list[Path], size: tuple[int, int] | None, mode: str) -> NDArray[Any]:
    """Pixels ``(N, C, H, W)`` float32 in 0..255."""
    import numpy as np

    first = read_image(files[0], size, mode)
    x = np.empty((len(files), *first.shape), dtype=np.float32)
    for i, file in enumerate(files):
        pixels = first if i == 0 else read_image(file, size, mode)
        if pixels.shape != first.shape:
            raise UserError(
                f"{file} is {pixels.shape[1]} x {pixels.shape[2]}, {files[0].name} is {first.shape[1]} x {first.shape[2]}: declare 'size' to resize them all"
            )
        x[i] = pixels
    return x


def read_image(file: Path, size: tuple[int, int] | None, mode: str) -> NDArray[Any]:
    """One image ``(C, H, W)`` uint8.

    Raises:
        UserError: it is corrupt, no image, too large to be meant, or of more than eight bits.
    """
    import struct
    import warnings
    import zlib

    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise UserError(
                        f"image {file} has pixels of mode {opened.mode}, more than eight bits; convert it first"
                    )
                image = opened.convert(mode)
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error) as error:
        raise UserError(f"image {file} cannot be read: {one_line(error)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {file} is too large to be meant: {one_line(error)}") from error
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
