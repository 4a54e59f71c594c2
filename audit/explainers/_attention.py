"""Explaining by attention: a score's weights, layer by layer, in passes of bounded size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from audit.explainers import Attribution
from audit.explainers._passes import library_seed
from audit.explainers._tokens import over_characters, rows_of, rows_per_pass, token_model

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

Relevance = Callable[["Tensor", "tuple[Tensor, ...]"], "Tensor"]
"""The target's scores ``(N,)`` and each layer's attention ``(N, H, T, T)`` → relevance of the tokens ``(N, T)``."""


def by_attention(
    model: AuditedModel, x: Tensor, target: Tensor, rng: ExampleRng, explainer: str, relevance: Relevance
) -> Attribution:
    """Attributions of texts from what attention says of their tokens.

    Raises:
        NotApplicable: the model shows no token embeddings, or no attention from each token to each.
    """
    import torch

    from audit.bridges.global_generators import seeded

    inside = token_model(model, explainer)
    tokens = inside.tokens(x)
    values = torch.zeros(tokens.ids.shape, dtype=torch.float64, device=x.device)
    with seeded(library_seed(rng)):
        for row in torch.split(torch.arange(len(x), device=x.device), rows_per_pass(model, tokens)):
            some = rows_of(tokens, row)
            model.rows_forward += len(row)
            model.rows_backward += len(row)
            with torch.enable_grad():
                answer, attention = inside.attentions(some)
                model.check_finite(answer.detach())
                found = relevance(model.target_of(answer, target[row]), attention)
            values[row, : some.ids.shape[1]] = found.detach()
    spread, features = over_characters(values, tokens, x.shape[1])
    return Attribution(spread, target, model.output, features=features, method=f"{explainer} over tokens")
