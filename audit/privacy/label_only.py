"""Membership from labels alone: members keep their label under changes that turn a non-member's over.

A model is fitted to its members with room to spare, so that its decision boundary lies farther from them. An adversary who sees no
score asks about changed copies of a row and counts how often the label stays right.

Source: Choquette-Choo, Tramèr, Carlini & Papernot 2021, arXiv:2007.14321, sections 4.1 (augmentations) and 4.3 (noise).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audit.parameters import NotApplicable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.data import Batch
    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng

DEGREES = 4.0
"""Rotation that goes with each pixel of shift."""
NOISE = (0.05, 2.0)
"""Smallest and largest noise, in standard deviations of the column."""
APT = 0.5
"""Share of the rows that must keep their label when mirrored: mirrored digits are no digits, mirrored cats are cats."""


@dataclass(frozen=True)
class LabelRobustness:
    """How often each row's label stays right.

    Args:
        scores: ``(N,)``, from 0 (wrong as it is) to the number of changes counted plus 1.
        queries: labels asked for, of a row that is right as it is; one that is wrong is asked about once.
    """

    scores: NDArray[np.float64]
    queries: int


def label_robustness(
    model: AuditedModel, batch: Batch, right: NDArray[np.bool_], queries: int, rng: ExampleRng
) -> LabelRobustness:
    """Count the changes under which each row keeps its label.

    Images are shifted, rotated and mirrored, the smallest changes first; tables and series get noise of growing size, and
    categories drawn from other rows.

    Args:
        right: ``(N,)`` which rows the model gets right as they are: one query each.
        queries: labels at most to ask for, of each row, that one included.
        rng: one stream for each row.

    Raises:
        NotApplicable: the input is a text, or something else that can be neither shifted nor blurred.
    """
    import torch

    spec = model.spec
    if spec.kind in ("text", "tokens", "id"):
        raise NotApplicable(
            f"label_only moves images, tables and series: model '{model.name}' reads {spec.kind}; leave the attack out"
        )
    active = np.flatnonzero(right)
    x, labels = model.tensor(batch.take(active)), torch.from_numpy(batch.labels[active])
    count = queries - 1 if len(active) else 0
    changes = list(_moves(spec, count) if _is_picture(spec) else _noises(spec, x, rng.take(active), count))
    kept = np.zeros((len(changes), len(active)), dtype=bool)
    for asked, change in enumerate(changes):
        kept[asked] = (model.predict(change.apply(x)).cpu() == labels).numpy()
        if change.must_be_apt and kept[asked].mean() < APT:
            kept[asked] = False
    scores = np.zeros(len(batch))
    scores[active] = 1 + kept.sum(axis=0)
    return LabelRobustness(scores, len(changes) + 1)


@dataclass(frozen=True)
class _Change:
    """What is done to all rows at once, and whether it counts only where it leaves most labels as they are."""

    apply: Callable[[Tensor], Tensor]
    must_be_apt: bool = False


def _is_picture(spec: InputSpec) -> bool:
    return spec.kind == "image" and len(spec.shape) >= 2


def _moves(spec: InputSpec, count: int) -> Iterator[_Change]:
    """Mirrored; then, for each distance in turn, every shift by so many pixels and a rotation either way."""
    height, width = spec.shape[-2:]

    def every() -> Iterator[_Change]:
        yield _Change(lambda x: x.flip(-1), must_be_apt=True)
        for distance in range(1, min(height, width) // 2 + 1):
            for down, right in _ring(distance):
                yield _Change(lambda x, d=down, r=right: _shifted(x, d, r))  # type: ignore[misc]
            for side in (-1, 1):
                yield _Change(lambda x, a=side * DEGREES * distance: _rotated(x, a))  # type: ignore[misc]

    return itertools.islice(every(), count)


def _ring(distance: int) -> Iterator[tuple[int, int]]:
    """The ``4 · distance`` shifts (down, right) that add up to a distance."""
    for step in range(distance):
        away = distance - step
        yield from ((away, step), (-step, away), (-away, -step), (step, -away))


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Moved by whole pixels; the edge repeats where the picture has left."""
    import torch

    rows = torch.arange(x.shape[-2], device=x.device).sub(down).clamp(0, x.shape[-2] - 1)
    columns = torch.arange(x.shape[-1], device=x.device).sub(right).clamp(0, x.shape[-1] - 1)
    return x.index_select(-2, rows).index_select(-1, columns)


def _rotated(x: Tensor, degrees: float) -> Tensor:
    """Turned about the centre, bilinear; the edge repeats."""
    import torch
    from torch.nn import functional

    flat = x.reshape(len(x), -1, *x.shape[-2:])
    turn, ratio = math.radians(degrees), x.shape[-2] / x.shape[-1]  # the grid counts both sides from -1 to 1
    affine = torch.tensor(
        [[math.cos(turn), -math.sin(turn) * ratio, 0], [math.sin(turn) / ratio, math.cos(turn), 0]],
        dtype=x.dtype, device=x.device,
    )  # fmt: skip
    grid = functional.affine_grid(affine.expand(len(x), 2, 3), list(flat.shape), align_corners=False)
    return functional.grid_sample(flat, grid, padding_mode="border", align_corners=False).reshape(x.shape)


def _noises(spec: InputSpec, x: Tensor, rng: ExampleRng, count: int) -> Iterator[_Change]:
    """Noise from small to large; categories are drawn anew from the column the more often the larger it is."""
    import torch

    categories = torch.tensor([f.kind == "category" for f in spec.fields]) if spec.tabular else torch.zeros(1).bool()
    fixed = torch.tensor([f.kind == "id" for f in spec.fields]) if spec.tabular else torch.zeros(1).bool()
    numbers = (~categories & ~fixed).to(x.device)
    bounds = _bounds(spec, x)
    spread = _spread(x, by_column=spec.tabular) * numbers

    def noisy(x: Tensor, size: float) -> Tensor:
        moved = x + spread * size * rng.normal(tuple(x.shape[1:])).to(x)
        moved = torch.where(numbers, moved.clamp(*bounds), x)
        if not bool(categories.any()):
            return moved
        drawn = rng.uniform(tuple(x.shape[1:])).to(x.device) < size / (1 + size)
        donors = (rng.uniform(tuple(x.shape[1:])).to(x.device) * len(x)).long().clamp_max(len(x) - 1)
        return torch.where(drawn & categories.to(x.device), x.gather(0, donors), moved)

    sizes = np.geomspace(*NOISE, count).tolist()
    return (_Change(lambda x, size=size: noisy(x, size)) for size in sizes)  # type: ignore[misc]


def _bounds(spec: InputSpec, x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest valid values, that broadcast over rows."""
    import torch

    fields = spec.fields
    low = [-math.inf if f.bounds is None else f.bounds[0] for f in fields]
    high = [math.inf if f.bounds is None else f.bounds[1] for f in fields]
    return torch.tensor(low).to(x), torch.tensor(high).to(x)


def _spread(x: Tensor, *, by_column: bool) -> Tensor:
    """Standard deviation of each column, or of everything; missing values left out."""
    values = x if by_column else x.reshape(-1, 1)
    present = ~values.isnan()
    count = present.sum(dim=0).clamp_min(1)
    filled = values.nan_to_num(nan=0.0)
    mean = filled.sum(dim=0) / count
    return (((filled - mean) ** 2 * present).sum(dim=0) / count).sqrt()
