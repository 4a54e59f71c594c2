"""How far inputs can move: the unit in which perturbations of explained rows are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.parameters import NotApplicable

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import InputSpec

_CODES = ("category", "text", "tokens", "id")


def ranges(spec: InputSpec, background: Tensor) -> Tensor:
    """Length of each element's range, ``(*shape)`` or what broadcasts to it: that of its bounds, else of its background rows.

    An image or series without bounds has one range for all its elements; codes (categories) have 0, for there is nothing between
    them to move through.

    Args:
        background: ``(M, *shape)``.

    Raises:
        NotApplicable: the whole input is codes.
    """
    import torch

    if all(field.kind in _CODES for field in spec.fields):
        kinds = ", ".join(sorted({field.kind for field in spec.fields}))
        raise NotApplicable(f"between the codes of a {kinds} input there is nothing to move through")
    dtype = torch.float64
    if not spec.tabular:
        bounds = spec.fields[0].bounds or (float(background.min()), float(background.max()))
        return torch.tensor(bounds[1] - bounds[0], dtype=dtype)
    widths = []
    for column, field in enumerate(spec.fields):
        seen = background[:, column][~background[:, column].isnan()].double()
        own = float(seen.max() - seen.min()) if len(seen) else 0.0
        width = field.bounds[1] - field.bounds[0] if field.bounds is not None else own
        widths.append(0.0 if field.kind in _CODES else width)
    return torch.tensor(widths, dtype=dtype)


def inside(x: Tensor, spec: InputSpec) -> Tensor:
    """`x` with what lies beyond the bounds of its field moved onto them; missing values stay missing."""
    import torch

    low, high = (
        torch.tensor(
            [field.bounds[side] if field.bounds is not None else sign * torch.inf for field in spec.fields],
            dtype=x.dtype, device=x.device,
        )
        for side, sign in ((0, -1), (1, 1))
    )  # fmt: skip
    return x.clamp(low, high) if spec.tabular else x.clamp(low.reshape(()), high.reshape(()))
