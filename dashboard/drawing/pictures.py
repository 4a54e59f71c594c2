"""Arrays as PNG pictures, every pixel one pixel; enlarged to whole multiples by nearest neighbour."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from audit.report._images import meeting, palette, plane_of, planes, summed

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGE, SMALL = 320, 72
"""Pixels that the longer side of a picture, and of one in a gallery, is enlarged to, or a little more."""
MOST = 1024
"""Longer sides are averaged down by a whole factor."""
EDGE = (70, 74, 80)
"""Where two features meet."""
_STRONGEST = (74, 20, 134)
"""Sizes without signs: the end of their palette. It is neither of the colours that stand for a sign."""
Part = Literal["signed", "positive", "negative", "absolute"]


@dataclass(frozen=True)
class Look:
    """How a map is drawn.

    Args:
        opacity: of the map over the input, 0 to 1.
        part: which contributions: all with their signs, those for, those against, or sizes alone.
        percentile: of the sizes, 0 to 100, where the palette ends; larger ones take the colour at its end.
    """

    opacity: float = 1.0
    part: Part = "signed"
    percentile: float = 100.0

    def of(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The contributions that are drawn."""
        amounts = np.nan_to_num(np.asarray(values, dtype=np.float64))
        match self.part:
            case "positive":
                return np.maximum(amounts, 0.0)
            case "negative":
                return np.minimum(amounts, 0.0)
            case "absolute":
                return np.abs(amounts)
        return amounts

    def limit(self, *totals: NDArray[Any]) -> float:
        """The amount at the palette's ends: one scale for all of these maps."""
        sizes = np.abs(np.concatenate([self.of(total).ravel() for total in totals]))
        if not sizes.size:
            return 0.0
        return float(np.percentile(sizes, self.percentile)) or float(sizes.max())


def picture(x: NDArray[Any], bounds: tuple[float, float], size: int = LARGE) -> bytes:
    """An input as it is, its bounds black and white.

    Raises:
        ValueError: the array is no image.
    """
    return _png(_enlarged(_photograph(x, bounds), size))


def overlay(
    x: NDArray[Any],
    values: NDArray[Any],
    bounds: tuple[float, float],
    look: Look,
    limit: float,
    feature: NDArray[Any] | None = None,
    size: int = LARGE,
) -> bytes:
    """A map over its input in grey.

    Args:
        values: contributions; channels add up.
        limit: the amount at the palette's ends.
        feature: number of the feature of each element: where two meet, a line is drawn.
    """
    grey = _photograph(x, bounds)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    colours = painted(_reduced(look.of(summed(values))), limit, look.part)
    mixed = (1 - look.opacity) * grey[..., None] + look.opacity * colours
    drawn = _enlarged(mixed, size)
    if feature is not None:
        plane = plane_of(feature)
        factor = _factor(plane)
        number = _enlarged(plane[::factor, ::factor][: grey.shape[0], : grey.shape[1]], size)
        drawn[meeting(number)] = EDGE
    return _png(drawn)


def painted(amounts: NDArray[Any], limit: float, part: Part = "signed") -> NDArray[np.float64]:
    """Amounts in colours, 0 to 255, ``(..., 3)``: blue against, near white nothing, vermilion for; sizes alone in violet."""
    colours = _sizes() if part == "absolute" else palette()
    scaled = np.clip(np.asarray(amounts, dtype=np.float64) / (limit or 1.0), -1, 1)
    share = scaled if part == "absolute" else (scaled + 1) / 2
    chosen: NDArray[np.float64] = colours[np.round(share * (len(colours) - 1)).astype(int)].astype(np.float64)
    return chosen


def magnified(x: NDArray[Any], changed: NDArray[Any], size: int = LARGE) -> tuple[bytes, float]:
    """What was added to an input, stretched to the full range, and the largest amount: nothing is grey in colour, white of one
    channel."""
    change = planes(changed) - planes(x)
    largest = float(np.abs(change).max())
    reduced = _reduced(change)
    drawn = 127.5 + 127.5 * reduced / (largest or 1.0) if reduced.ndim == 3 else painted(reduced, largest)
    return _png(_enlarged(drawn, size)), largest


def colour_bar(part: Part) -> bytes:
    """The palette from its lowest to its highest amount, one row of pixels, enlarged."""
    ends = {"signed": (-1.0, 1.0), "positive": (0.0, 1.0), "negative": (-1.0, 0.0), "absolute": (0.0, 1.0)}[part]
    row = painted(np.linspace(*ends, 128), 1.0, part)[None]
    return _png(row.repeat(6, axis=0))


def address(png: bytes) -> str:
    """A picture as its own address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def svg_address(drawing: str, style: str = "") -> str:
    """An inline SVG as the address of an image, with a style sheet of its own.

    Args:
        drawing: ``<svg …>…</svg>``.
        style: CSS rules; an image sees none of the page's.
    """
    start = drawing.index(">") + 1
    head = drawing[:start].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    text = f"{head}<style>{style}</style>{drawing[start:]}"
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


@cache
def _sizes() -> NDArray[np.float64]:
    """Near white to violet in 255 steps."""
    first = palette()[len(palette()) // 2].astype(np.float64)
    steps: NDArray[np.float64] = first + (np.array(_STRONGEST) - first) * np.linspace(0, 1, 255)[:, None]
    return steps


def _photograph(x: NDArray[Any], bounds: tuple[float, float]) -> NDArray[np.float64]:
    low, high = bounds
    scaled = (_reduced(planes(x)) - low) / ((high - low) or 1.0)
    grey: NDArray[np.float64] = 255 * np.clip(np.nan_to_num(scaled), 0, 1)
    return grey


def _factor(array: NDArray[Any]) -> int:
    return max(1, -(-int(max(array.shape[:2])) // MOST))


def _reduced(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averaged over whole blocks until no side is longer than `MOST`; an edge that fills no block is dropped."""
    factor = _factor(array)
    if factor == 1 or min(array.shape[:2]) < factor:
        return array[::factor, ::factor]
    height, width = (side // factor for side in array.shape[:2])
    blocks = array[: height * factor, : width * factor].reshape(height, factor, width, factor, *array.shape[2:])
    reduced: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return reduced


def _enlarged(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Every pixel a square of pixels."""
    factor = max(1, -(-size // max(array.shape[:2])))
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _png(pixels: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.clip(np.round(np.nan_to_num(pixels)), 0, 255).astype(np.uint8))).save(
        out, "PNG"
    )
    return out.getvalue()
