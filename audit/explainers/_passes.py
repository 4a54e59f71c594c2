"""How many rows go through a model at once when it is explained: what memory allows, from the size of one input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_ELEMENTS_BACKWARD = 1_600_000
"""Input elements in a pass that keeps activations for the way back: 10 rows of 3x224x224."""
_ELEMENTS_FORWARD = 4_200_000
"""Input elements in a pass without gradients: 27 rows of 3x224x224."""


def rows_per_pass(model: AuditedModel, *, gradients: bool) -> int:
    """Rows per pass, at least one and at most the model's micro-batch."""
    import math

    elements = max(1, math.prod(model.spec.shape))
    return max(1, min(model.micro_batch, (_ELEMENTS_BACKWARD if gradients else _ELEMENTS_FORWARD) // elements))


def library_seed(rng: ExampleRng) -> int:
    """A 31-bit seed for global generators (a stochastic model draws from them), from the streams of all rows."""
    from audit.rng import key

    return key(*rng.fork("global generators").integers(2**31 - 1).tolist()) % (2**31 - 1)
