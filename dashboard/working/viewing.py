"""A picture that a person uploads, as that person sees it: upright, on white where it is transparent, its first frame."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from audit.datasets.image_folder import SUFFIXES
from audit.language import gettext as _

if TYPE_CHECKING:
    from PIL.Image import Image

    from audit.model import AuditedModel

UPRIGHT = 1
"""EXIF orientation of a picture that lies as it is seen."""
SIDEWAYS = (5, 6, 7, 8)
"""Those of one that lies on its side."""
ORIENTATION = 0x0112


def viewed(path: Path, model: AuditedModel, out: Path, *, crop: bool) -> tuple[Path, tuple[str, ...]]:
    """The file to read in its place, and what was done; the file itself where nothing needs to be, or where it cannot be read.

    Args:
        out: where the changed picture is put.
        crop: cut the middle out, as wide and high as the model's input is, so that resizing bends nothing.
    """
    from PIL import Image, ImageOps

    if path.suffix.lower() not in SUFFIXES or model.spec.kind != "image":
        return path, ()
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                if (frames := getattr(opened, "n_frames", 1)) > 1:
                    notes.append(_("of {frames} frames the first is taken").format(frames=f"{frames:,}"))
                picture: Image.Image = opened
                if opened.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:
                    picture = ImageOps.exif_transpose(picture)
                    notes.append(_("turned upright, as the file says that it is to be seen"))
                if picture.has_transparency_data:
                    picture = _on_white(picture)
                    notes.append(_("transparent parts are put on white"))
                height, width = _size(model)
                if (picture.height, picture.width) != (height, width):
                    notes.append(
                        _("the picture has {size} pixels, the model takes {wanted}").format(
                            size=f"{picture.height} × {picture.width}", wanted=f"{height} × {width}"
                        )
                    )
                    if crop:
                        picture = _middle(picture, width / height)
                        size = f"{picture.height} × {picture.width}"
                        notes.append(_("its middle of {size} pixels is taken").format(size=size))
                if picture is opened:
                    return path, tuple(notes)
                out.mkdir(parents=True, exist_ok=True)
                changed = out / f"{path.stem}.png"
                (picture.convert("RGB") if picture.mode == "CMYK" else picture).save(changed)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        TypeError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        return path, ()  # whoever reads it next says what is wrong with it
    return changed, tuple(notes)


def bends(path: Path, model: AuditedModel) -> bool:
    """Whether a picture has other proportions than the model's input; not where it cannot be read."""
    from PIL import Image

    if path.suffix.lower() not in SUFFIXES or model.spec.kind != "image":
        return False
    try:
        with Image.open(path) as opened:
            turned = opened.getexif().get(ORIENTATION, UPRIGHT) in SIDEWAYS
            width, height = reversed(opened.size) if turned else opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    wanted_height, wanted_width = _size(model)
    return width * wanted_height != height * wanted_width


def _size(model: AuditedModel) -> tuple[int, int]:
    """Height and width of the model's input, wherever its channels are."""
    shape = model.spec.shape
    last = len(shape) == 3 and shape[0] not in (1, 3) and shape[-1] in (1, 3)
    height, width = shape[:2] if last else shape[-2:]
    return int(height), int(width)


def _on_white(picture: Image) -> Image:
    from PIL import Image

    clear = picture.convert("RGBA")
    white = Image.new("RGBA", clear.size, "white")
    white.alpha_composite(clear)
    return white.convert("RGB")


def _middle(picture: Image, aspect: float) -> Image:
    """The largest part of a width : height around the middle."""
    width = min(picture.width, max(1, round(picture.height * aspect)))
    height = min(picture.height, max(1, round(picture.width / aspect)))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
