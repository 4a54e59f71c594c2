"""What stands for "this feature is absent": a baseline for integrated gradients, the replacement in deletion and insertion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from audit.parameters import Real, UserError
from audit.text import PAD

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import InputSpec

BaselineName = Literal["zero", "black", "mean", "blur", "blank", "unknown"]
Baseline = BaselineName | Real
"""``zero``; ``black``, the lower bound; ``mean`` of the background rows (the most frequent value of a category or an id); ``blur``,
the image itself out of focus; or a number. Of a text: ``blank``, a space in place of each character, or ``unknown``, U+FFFD."""

_IN_PLACE_OF_A_CHARACTER = {"blank": 0x20, "unknown": 0xFFFD}


def default_baseline(spec: InputSpec) -> BaselineName:
    """``blank`` for a text, ``black`` for an image with bounds, else ``mean``."""
    if spec.kind == "text":
        return "blank"
    return "black" if spec.kind == "image" and spec.bounds is not None else "mean"


def baseline_rows(baseline: Baseline, x: Tensor, background: Tensor, spec: InputSpec) -> Tensor:
    """The baseline of each row, ``(N, *shape)``, of the inputs' type.

    Args:
        x: ``(N, *shape)``.
        background: ``(M, *shape)`` rows that ``mean`` is over.

    Raises:
        UserError: ``black`` without bounds, ``mean`` without background rows, ``blur`` of what is no image; ``blank`` and
            ``unknown`` of what is no text, and anything else of what is one.
    """
    import torch

    if (spec.kind == "text") != (baseline in _IN_PLACE_OF_A_CHARACTER):
        fitting = "blank or unknown" if spec.kind == "text" else "mean, zero or a number"
        raise UserError(f"baseline '{baseline}' does not suit {spec.a_kind}: choose {fitting}")
    if isinstance(baseline, str) and baseline in _IN_PLACE_OF_A_CHARACTER:
        return torch.where(x == PAD, x, _IN_PLACE_OF_A_CHARACTER[baseline])  # a text stays as long as it is
    if baseline == "blur":
        if spec.kind != "image" or len(spec.shape) < 2:
            raise UserError(
                f"baseline 'blur' needs an image, the input is {spec.a_kind}: choose mean, zero or a number"
            )
        return _blurred(x)
    if baseline == "mean":
        return _mean(background, spec).to(x).expand_as(x)
    if baseline == "black":
        lows = [field.bounds[0] for field in spec.fields if field.bounds is not None]
        if len(lows) < len(spec.fields):
            raise UserError(
                "baseline 'black' is the lower bound, and the input spec has no bounds: choose zero or a number"
            )
        low = torch.tensor(lows, dtype=x.dtype, device=x.device)
        return (low if spec.tabular else low.reshape(())).expand_as(x)
    return torch.full_like(x, 0.0 if baseline == "zero" else float(baseline))


def _mean(background: Tensor, spec: InputSpec) -> Tensor:
    import torch

    if not len(background):
        raise UserError("baseline 'mean' needs background rows, and the data gave none")
    mean = background.double().nanmean(dim=0)
    if spec.tabular:
        for column, field in enumerate(spec.fields):
            known = background[:, column][~background[:, column].isnan()]
            if field.kind in ("category", "id") and len(known):
                codes, counts = torch.unique(known, return_counts=True)
                mean[column] = codes[counts.argmax()]
    return mean


def _blurred(x: Tensor) -> Tensor:
    """Gaussian blur over the last two axes, sigma an eighth of the longer side, edges replicated."""
    import torch
    from torch.nn.functional import conv2d, pad

    height, width = x.shape[-2:]
    sigma = max(height, width) / 8
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (weights / weights.sum()).to(x)
    planes = x.reshape(-1, 1, height, width)
    planes = conv2d(pad(planes, (radius, radius, 0, 0), mode="replicate"), kernel.reshape(1, 1, 1, -1))
    planes = conv2d(pad(planes, (0, 0, radius, radius), mode="replicate"), kernel.reshape(1, 1, -1, 1))
    return planes.reshape(x.shape)
