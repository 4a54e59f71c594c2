"""An optimiser of torch's, by name: for a private training and for shadow models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.names import nearest
from audit.parameters import UserError
from audit.registry.importing import one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NOT_BY_STEPS = {"Optimizer", "LBFGS", "SparseAdam"}
_FUSED = {"adagrad", "adam", "adamw", "sgd"}


def optimiser(
    choice: tuple[str, dict[str, Any]], parameters: list[Tensor], *, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of a training file or recipe (`audit.recipe.Optimiser`) for some parameters.

    Args:
        fused: take torch's fused kernel where there is one: the same steps, rounded otherwise.

    Raises:
        UserError: torch has none of that name that steps along a dense gradient, or not with these parameters.
    """
    import torch

    name, given = choice
    known = {
        found.lower(): kind
        for found, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and found not in _NOT_BY_STEPS
    }
    if name.lower() not in known:
        guess = nearest(name.lower(), sorted(known))
        raise UserError(
            f"torch.optim has no '{name}' that trains by steps of a dense gradient"
            + (f"; did you mean '{guess}'?" if guess else f"; known: {', '.join(sorted(known))}")
        )
    faster = (
        {"fused": True} if fused and name.lower() in _FUSED and not given.keys() & {"foreach", "differentiable"} else {}
    )
    try:
        made: torch.optim.Optimizer = known[name.lower()](parameters, **{**faster, **given})
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimiser '{name}': {one_line(error)}") from error
    return made
