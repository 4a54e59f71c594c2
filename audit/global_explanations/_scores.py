"""The one number per row that a global explanation follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

Score = Callable[["Tensor"], "Tensor"]
"""``(N, *shape)`` rows → ``(N,)`` float64."""
Scale = Literal["probability", "log_odds"]

ELEMENTS = 2**22
"""Of rows that are made up at once."""


def score_of(model: AuditedModel, target: int, scale: Scale) -> Score:
    """What the model says of a class, or the value of a regression.

    Args:
        target: class; ignored for a regression.
        scale: the class's probability, or its log-odds against all others.

    Raises:
        UserError: log-odds of a model that answers labels only.
    """

    def value(x: Tensor) -> Tensor:
        scores = model.scores(x)
        model.check_finite(scores)
        return scores.reshape(len(x)).double()

    def label(x: Tensor) -> Tensor:
        return (model.labels_of(model.scores(x)) == target).double()

    def probability(x: Tensor) -> Tensor:
        scores = model.scores(x)
        model.check_finite(scores)
        return model.probabilities_of(scores)[:, target]

    def log_odds(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = torch.cat(model.in_parts(x, model.logits)).double()
        model.check_finite(logits)
        others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
        return logits[:, target] - others.logsumexp(dim=1)

    if model.task == "regression":
        return value
    if model.output == "label":
        if scale == "log_odds":
            raise UserError(f"model '{model.name}' answers labels only: it has no log-odds; use scale probability")
        return label
    return log_odds if scale == "log_odds" else probability
