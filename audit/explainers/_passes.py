"""How many rows go through a model at once when it is explained: from the size of its inputs and activations, never from the clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_ELEMENTS_BACKWARD = 1_600_000
"""Input elements in a pass that keeps activations for the way back: 10 rows of 3x224x224."""
_ELEMENTS_FORWARD = 4_200_000
"""Input elements in a pass without gradients: 27 rows of 3x224x224."""
_ACTIVATION_BYTES = 1 << 25
"""Kept for the way back by a pass that a processor's cache still serves well (32 MiB: within 10 % of the fastest size of a pass
on six networks from 20 kB to 2 MB a row, one thread)."""
_FEWEST = 64
"""Rows below which a pass pays more for its calls than it gains by staying in the cache."""


def rows_per_pass(model: AuditedModel, *, gradients: bool) -> int:
    """Rows per pass that memory allows, at least one and at most the model's micro-batch."""
    elements = max(1, math.prod(model.spec.shape))
    return max(1, min(model.micro_batch, (_ELEMENTS_BACKWARD if gradients else _ELEMENTS_FORWARD) // elements))


def rows_per_gradient(model: AuditedModel, x: Tensor) -> int:
    """Rows per pass for many gradients: what memory allows, and no more than the cache holds the activations of.

    Passes that outgrow the cache take up to twice as long per row. What one row keeps for the way back is measured on a pass of
    its own, which is not counted among the queries, so the answer follows from the model and the shape of its inputs alone.

    Args:
        x: ``(N, *shape)`` inputs; the first is tried.
    """
    rows = rows_per_pass(model, gradients=True)
    if not len(x) or rows <= _FEWEST:
        return rows
    kept = model.remembered("bytes kept for the way back", 8, lambda: _bytes_kept(model, x[:1]))
    return min(rows, max(_FEWEST, _ACTIVATION_BYTES // max(1, kept)))


def _bytes_kept(model: AuditedModel, row: Tensor) -> int:
    """Bytes of what the forward pass of one row saves for its gradient, the model's own tensors left out."""
    import torch

    from audit.bridges.global_generators import seeded

    own = {t.data_ptr() for t in (*model.module.parameters(), *model.module.buffers())} if model.module else set()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with seeded(0), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model._forward(row.detach().clone().requires_grad_())
    return sum(kept.values())


def passes(count: int, draws: int, rows: int) -> Iterator[tuple[slice, list[slice]]]:
    """Every (row, draw) pair, in passes of at most `rows` pairs: rows whose draws go together, and the passes their draws take."""
    together = max(1, rows // draws)
    parts = [slice(first, min(first + rows, draws)) for first in range(0, draws, rows)]
    for first in range(0, count, together):
        yield slice(first, min(first + together, count)), parts


def library_seed(rng: ExampleRng) -> int:
    """A 31-bit seed for global generators (a stochastic model draws from them), from the streams of all rows."""
    from audit.rng import key

    return key(*rng.fork("global generators").integers(2**31 - 1).tolist()) % (2**31 - 1)
