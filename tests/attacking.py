"""What tests of attacks share: a threat model, streams, the digits a model gets right, the distance of a line."""

from __future__ import annotations

import torch
from torch import Tensor
from toys import digits

from audit.finding import Access, ThreatModel
from audit.model import AuditedModel
from audit.rng import ExampleRng

NORMS = ("linf", "l2", "l1")
DISTANCE = {"linf": 20 / 7, "l2": 4.0, "l1": 5.0}
"""Of (3, 4) from the line 3a + 4b = 5."""


def limits_of(
    norm: str,
    eps: float | None = None,
    bounds: tuple[float, float] | None = (0.0, 16.0),
    queries: int | None = None,
    access: Access = "white_box",
) -> ThreatModel:
    """What the adversary may do to a digit."""
    return ThreatModel(access=access, norm=norm, eps=eps, bounds=bounds, queries=queries)


def streams(n: int, seed: int = 0) -> ExampleRng:
    """Random streams of `n` rows."""
    return ExampleRng(seed, "test", [f"row-{i}" for i in range(n)], "attack")


def right_digits(model: AuditedModel, n: int) -> tuple[Tensor, Tensor]:
    """The first `n` test digits that the model gets right, and their labels."""
    test = digits().test
    x, y = torch.from_numpy(test.x), torch.from_numpy(test.labels)
    at = (model.predict(x) == y).nonzero().flatten()[:n]
    return x[at], y[at]
