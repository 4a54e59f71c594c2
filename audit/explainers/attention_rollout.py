"""Attention rollout: where attention flows, from layer to layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from audit.explainers import Attribution, Explainer
from audit.explainers._attention import by_attention
from audit.explainers._tokens import readout
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class AttentionRollout(Explainer):
    """How much of each token's place flows to where the answer is read, if attention were all that a layer does.

    Attention of all heads on average, half of it replaced by the residual connection, multiplied from the last layer to the first.
    A baseline only: it shows where attention flows, not why the model answers as it does. It knows neither the class explained
    nor a sign, and is blind to what values and the feed-forward layers make of the tokens attended to; values are shares of at
    most 1 and do not add up to the score.

    Source: Abnar & Zuidema 2020, arXiv:2005.00928; why not to trust it: Jain & Wallace 2019, arXiv:1902.10186.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.EMBEDDINGS})
    complete: ClassVar[bool] = False

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64; the background is not used.

        Raises:
            NotApplicable: the model shows no token embeddings, or no attention from each token to each.
        """
        return by_attention(model, x, target, rng, "attention_rollout", _rollout)


def _rollout(score: Tensor, attention: tuple[Tensor, ...]) -> Tensor:
    """Shares ``(N, T)`` of the places that the score is read from."""
    flow = readout(score, attention[-1])
    for layer in reversed(attention):
        flow = (flow + (flow[:, None] @ layer.detach().double().mean(dim=1)).squeeze(1)) / 2
    return flow
