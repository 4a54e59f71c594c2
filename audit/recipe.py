"""How a torch model is trained: enough to train another like it on other rows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from audit.parameters import Parameters


def one_optimiser(value: Any) -> Any:
    """``adam`` or ``{adam: {lr: 0.01}}`` as a name and its parameters."""
    if isinstance(value, str):
        return (value, {})
    if isinstance(value, dict) and len(value) == 1:
        ((name, parameters),) = value.items()
        if parameters is None or isinstance(parameters, dict):
            return (name, parameters or {})
    if isinstance(value, tuple | list) and len(value) == 2:  # as it was stored
        return tuple(value)
    raise ValueError("expected one of torch.optim by name with its parameters, such as 'adam: {lr: 0.01}'")


Optimiser = Annotated[tuple[str, dict[str, Any]], BeforeValidator(one_optimiser)]
"""One of ``torch.optim`` by name, with its parameters."""


class Recipe(Parameters):
    """Optimiser, length and batch of a training, without its privacy."""

    epochs: Annotated[int, Field(ge=1)]
    """How often each row takes part."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Rows of a step."""
    optimiser: Optimiser = ("adam", {"lr": 1e-3})
    """One of ``torch.optim`` by name, with its parameters."""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """For classes, and for numbers."""
