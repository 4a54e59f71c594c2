"""Which input elements count as one feature: they leave, join and are named together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.model import InputSpec

Unit = Literal["auto", "element", "pixel", "patch", "segment", "window", "word"]
"""``element``: every number by itself; ``pixel``: a place across channels; ``patch``: a square of pixels; ``segment``: a
superpixel, pixels that lie together and look alike; ``window``: a stretch of a series across channels; ``word``: a run of
characters between spaces (one CJK character). ``auto``: pixels of an image, words of a text, else elements."""

_CJK = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Scripts without spaces: a character counts as a word."""
_SPACES = (
    0x0,
    0x9,
    0xA,
    0xB,
    0xC,
    0xD,
    0x20,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
)


@dataclass(frozen=True)
class Features:
    """The features of a batch.

    Args:
        number: ``(N, *shape)`` int64 feature of each element, 0 … count − 1; −1 belongs to none, and never changes.
        count: ``(N,)`` int64 features of each row.
        unit: what one is, for the reader.
    """

    number: Tensor
    count: Tensor
    unit: str

    def __getitem__(self, rows: slice | Tensor) -> Features:
        """The features of some rows."""
        return Features(self.number[rows], self.count[rows], self.unit)

    @property
    def most(self) -> int:
        """Features of the row that has most."""
        return int(self.count.max()) if len(self.count) else 0

    def known(self) -> Tensor:
        """``(N, most)`` bool: which places hold a feature of the row."""
        import torch

        return torch.arange(self.most, device=self.count.device) < self.count[:, None]

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` ``(N, *shape)`` over each feature, ``(N, most)`` float64; 0 beyond a row's count."""
        import torch

        flat = self.number.flatten(1).to(values.device)
        totals = torch.zeros((len(flat), self.most + 1), dtype=torch.float64, device=values.device)
        return totals.scatter_add_(1, flat + 1, values.detach().double().flatten(1))[:, 1:]

    def spread(self, values: Tensor) -> Tensor:
        """Each feature's value ``(N, most)`` evenly over its elements, ``(N, *shape)``; 0 for elements of none."""
        import torch

        flat = self.number.flatten(1).to(values.device)
        sizes = torch.zeros((len(flat), self.most + 1), device=values.device, dtype=values.dtype)
        sizes.scatter_add_(1, flat + 1, torch.ones_like(flat, dtype=values.dtype))
        each = torch.nn.functional.pad(values / sizes[:, 1:].clamp_min(1), (1, 0))
        return each.gather(1, flat + 1).reshape(self.number.shape)

    def elements(self, present: Tensor, row: Tensor) -> Tensor:
        """Which elements are there when some features are, ``(P, *shape)`` bool; elements of no feature always are.

        Args:
            present: ``(P, most)`` bool.
            row: ``(P,)`` int64 row that each belongs to.
        """
        import torch

        with_none = torch.nn.functional.pad(present, (1, 0), value=True)
        return with_none.gather(1, self.number.flatten(1)[row] + 1).reshape(-1, *self.number.shape[1:])


def features_of(x: Tensor, spec: InputSpec, unit: Unit = "auto", size: int | None = None) -> Features:
    """The features of rows.

    Args:
        x: ``(N, *shape)``.
        size: side of a patch in pixels, length of a window in steps, most segments of an image.

    Raises:
        UserError: the unit does not fit the input, or a patch, window or segment has no size.
    """
    import torch

    if unit == "auto":
        unit = "pixel" if spec.kind == "image" and len(spec.shape) > 1 else "word" if spec.kind == "text" else "element"
    if unit == "word":
        if spec.kind != "text":
            raise UserError(f"unit 'word' needs a text, the input is {spec.a_kind}")
        return _words(x)
    if unit in ("pixel", "patch", "segment") and (spec.kind != "image" or len(spec.shape) < 2):
        raise UserError(f"unit '{unit}' needs an image, the input is {spec.a_kind}")
    if unit == "window" and (spec.tabular or spec.kind != "series"):
        raise UserError(f"unit 'window' needs a series, the input is {spec.a_kind}")
    if unit in ("patch", "window", "segment") and size is None:
        raise UserError(f"unit '{unit}' needs a size")
    if unit == "segment":
        return _segments(x, spec, size or 1)
    plane = _plane(spec, unit, size or 1)
    number = plane.expand(spec.shape).to(x.device).expand(len(x), *spec.shape)
    return Features(number, torch.full((len(x),), int(plane.max()) + 1, device=x.device), _shown(unit, spec))


def _shown(unit: str, spec: InputSpec) -> str:
    return ("column" if spec.tabular else "value") if unit == "element" else unit


def _plane(spec: InputSpec, unit: str, size: int) -> Tensor:
    """Feature of each element of one input, in a shape that broadcasts over the input's."""
    import torch

    if unit == "element":
        return torch.arange(math.prod(spec.shape)).reshape(spec.shape)
    if unit == "window":
        return torch.arange(spec.shape[-1]) // size
    height, width = spec.shape[-2:]
    across = -(-width // size)
    return (torch.arange(height) // size)[:, None] * across + torch.arange(width) // size


def _words(x: Tensor) -> Features:
    """Runs of characters between spaces; a character of a script without spaces by itself."""
    import torch

    codes = x.long()
    inside = ~torch.isin(codes, torch.tensor(_SPACES, device=x.device))
    alone = torch.zeros_like(inside)
    for low, high in _CJK:
        alone |= (codes >= low) & (codes <= high)
    before = torch.nn.functional.pad(inside & ~alone, (1, 0))[:, :-1]  # the character before goes on
    starts = inside & (alone | ~before)
    number = torch.where(inside, starts.long().cumsum(dim=1) - 1, -1)
    return Features(number, starts.sum(dim=1), "word")


def _segments(x: Tensor, spec: InputSpec, most: int) -> Features:
    """Superpixels: at most `most` of each image, which lie together and look alike.

    SLIC: k-means over place and colour, of three channels in CIELAB. An image is scaled to its own smallest and largest value.

    Source: Achanta et al. 2012, doi 10.1109/TPAMI.2012.120.
    """
    import torch

    images = x.detach().double().nan_to_num().cpu()
    planes = [torch.from_numpy(_slic(image.numpy(), most)) for image in images]
    number = torch.stack(planes) if planes else torch.zeros((0, *spec.shape[-2:]), dtype=torch.int64)
    count = number.flatten(1).amax(dim=1) + 1 if planes else number.new_zeros(0)
    if len(spec.shape) == 3:
        number = number[:, None].expand(x.shape)
    return Features(number.to(x.device), count.to(x.device), "segment")


def _slic(image: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Segment of each pixel, 0 … count − 1, of an image ``(C, H, W)`` or ``(H, W)``.

    SLIC takes the number asked for as a hint, and small images give more: fewer are asked for until there are not too many.
    """
    import numpy as np
    from skimage.segmentation import slic

    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low if high > low else 1.0)
    channels = scaled.shape[0] if scaled.ndim == 3 else 1
    pixels = np.moveaxis(scaled, 0, -1) if channels > 1 else scaled.reshape(scaled.shape[-2:])
    colour = channels == 3
    asked = most
    while True:
        found = slic(
            pixels, n_segments=asked, compactness=10.0 if colour else 0.1, start_label=0,
            channel_axis=-1 if channels > 1 else None, convert2lab=colour,
        )  # fmt: skip
        known, number = np.unique(found, return_inverse=True)
        if len(known) <= most or asked == 1:
            return number.reshape(found.shape).astype(np.int64)
        asked = max(1, asked * 4 // 5)
