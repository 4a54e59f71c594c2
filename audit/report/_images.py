"""Stored arrays as pictures: real pixels, and a diverging palette whose steps look equal and whose two sides weigh the same."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from audit.language import gettext as _

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SIDE = 256
"""Larger pictures are averaged down by a whole factor, and their caption says so."""
TILE = 112
"""Smaller pictures are enlarged by a whole factor up to about this many CSS pixels."""
_CENTRE = (0.97, 0.0, 0.0)
_ENDS = (
    (0.48, -0.035, -0.125),
    (0.48, 0.115, 0.085),
)  # OKLab: blue, vermilion; the same lightness and nearly the same chroma
_STEPS = 255
_EDGE = bytes((70, 74, 80))
"""Where two features meet: the entry after the palette's last."""


@dataclass(frozen=True)
class Picture:
    """One embedded picture."""

    src: str
    alt: str
    label: str
    width: int
    height: int
    """CSS pixels."""
    enlarged: bool


@cache
def palette() -> NDArray[np.uint8]:
    """Blue, near white, vermilion in 255 equal steps of OKLab, ``(255, 3)``; index 127 is zero.

    Source: Ottosson 2020, "A perceptual color space for image processing" (OKLab).
    """
    import numpy as np

    position = np.linspace(-1, 1, _STEPS)[:, None]
    centre, low, high = np.array(_CENTRE), np.array(_ENDS[0]), np.array(_ENDS[1])
    lab = np.where(position < 0, centre + (low - centre) * -position, centre + (high - centre) * position)
    to_cone = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(((lab @ to_cone.T) ** 3) @ to_rgb.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: NDArray[np.uint8] = np.round(encoded * 255).astype(np.uint8)
    return colours


def planes(x: NDArray[Any]) -> NDArray[np.float64]:
    """``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` with one, three or four channels last, as ``(H, W)`` or ``(H, W, 3)``.

    Raises:
        ValueError: the array is no image.
    """
    import numpy as np

    array = np.asarray(x, dtype=np.float64)
    if array.ndim == 3 and array.shape[-1] in (1, 3, 4) and array.shape[0] not in (1, 3, 4):
        array = np.moveaxis(array, -1, 0)
    if array.ndim == 3:
        array = (
            array[0] if len(array) == 1 else np.moveaxis(array[:3], 0, -1) if len(array) in (3, 4) else array.mean(0)
        )
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] == 3):
        raise ValueError(f"an array of shape {tuple(np.shape(x))} is no image")
    return array


def photograph(x: NDArray[Any], bounds: tuple[float, float], alt: str, label: str) -> Picture:
    """An input as it is, its bounds black and white."""
    import numpy as np

    low, high = bounds
    array = _reduced(planes(x))
    return _picture(np.round(255 * np.clip((array - low) / ((high - low) or 1.0), 0, 1)), alt, label)


def signed_map(
    values: NDArray[Any], alt: str, label: str, feature: NDArray[Any] | None = None
) -> tuple[Picture, float]:
    """Signed values, channels summed, in the diverging palette; and the value at the palette's ends.

    Args:
        feature: number of the feature of each element: where two meet, a line is drawn.
    """
    import numpy as np

    total = summed(values)
    limit = limit_of(total)
    pixels = _indices(np.nan_to_num(_reduced(total)) / (limit or 1.0))
    if feature is None:
        return _picture(pixels, alt, label, coloured=True), limit
    height, width = pixels.shape
    factor = max(1, TILE // max(height, width))
    pixels, number = (
        part.repeat(factor, axis=0).repeat(factor, axis=1) for part in (pixels, _sampled(feature, pixels))
    )
    pixels[meeting(number)] = _STEPS
    return Picture(_png(pixels, True), alt, label, width * factor, height * factor, factor > 1), limit


def summed(values: NDArray[Any]) -> NDArray[np.float64]:
    """A map over pixels, ``(H, W)``: channels (first, or last where the shape says so) added up."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 3:
        last = array.shape[-1] in (1, 3, 4) and array.shape[0] not in (1, 3, 4)
        array = array.sum(axis=-1 if last else 0)
    return planes(array)


def limit_of(total: NDArray[np.float64]) -> float:
    """The ends of the palette: the largest magnitude; of more than a thousand pixels its 99th percentile, so that a few cannot
    hide the rest."""
    import numpy as np

    magnitude = np.abs(total[np.isfinite(total)])
    limit = float((np.quantile(magnitude, 0.99) if magnitude.size > 1000 else magnitude.max()) if magnitude.size else 0)
    return limit or (float(magnitude.max()) if magnitude.size else 0.0)


def meeting(number: NDArray[Any]) -> NDArray[np.bool_]:
    """The first pixel of a feature after another one, across and down, ``(H, W)``."""
    import numpy as np

    found = np.zeros(number.shape, dtype=bool)
    found[:, 1:] |= number[:, 1:] != number[:, :-1]
    found[1:] |= number[1:] != number[:-1]
    return found


def plane_of(feature: NDArray[Any]) -> NDArray[Any]:
    """The features' numbers in one plane, ``(H, W)``: those of the first channel."""
    import numpy as np

    array = np.asarray(feature)
    if array.ndim == 3:
        last = array.shape[-1] in (1, 3, 4) and array.shape[0] not in (1, 3, 4)
        array = array[..., 0] if last else array[0]
    return array


def _sampled(feature: NDArray[Any], pixels: NDArray[Any]) -> NDArray[Any]:
    """The features' numbers in one plane of the picture's size."""
    plane = plane_of(feature)
    factor = max(1, plane.shape[0] // pixels.shape[0])
    return plane[::factor, ::factor][: pixels.shape[0], : pixels.shape[1]]


def magnified_change(
    x: NDArray[Any], changed: NDArray[Any], bounds: tuple[float, float], alt: str
) -> tuple[Picture, float]:
    """What was added to an input, stretched to the full range: grey (or white) is no change; and the factor of the stretch."""
    import numpy as np

    change = planes(changed) - planes(x)
    largest = float(np.abs(change).max()) or 1.0
    scaled = _reduced(change) / largest
    factor = (bounds[1] - bounds[0]) / 2 / largest
    label = _("change, × {factor}").format(factor=f"{factor:.3g}") if np.abs(change).max() else _("no change")
    if change.ndim == 2:
        return _picture(_indices(scaled), alt, label, coloured=True), factor
    return _picture(np.round(127.5 + 127.5 * scaled), alt, label), factor


def scale_bar() -> str:
    """The palette as one row of pixels."""
    import numpy as np

    return _png(np.arange(_STEPS, dtype=np.uint8)[None, :], coloured=True)


def _indices(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    half = _STEPS // 2
    return np.round(half + half * np.clip(scaled, -1, 1))


def _reduced(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averaged over whole blocks until no side is longer than `MAX_SIDE`; an edge that fills no block is dropped."""
    factor = -(-max(array.shape[:2]) // MAX_SIDE)
    if factor == 1:
        return array
    height, width = (max(1, side // factor) for side in array.shape[:2])
    if min(array.shape[:2]) < factor:
        return array[::factor, ::factor]
    blocks = array[: height * factor, : width * factor].reshape(height, factor, width, factor, *array.shape[2:])
    reduced: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return reduced


def _picture(pixels: NDArray[Any], alt: str, label: str, coloured: bool = False) -> Picture:
    height, width = pixels.shape[:2]
    factor = max(1, TILE // max(height, width))
    return Picture(_png(pixels, coloured), alt, label, width * factor, height * factor, factor > 1)


def _png(pixels: NDArray[Any], coloured: bool) -> str:
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(np.clip(np.nan_to_num(pixels), 0, 255).astype(np.uint8)))
    if coloured:
        image.putpalette(palette().tobytes() + _EDGE)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
