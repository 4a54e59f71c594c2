"""Gradient × attention: the attention that raises the score, passed on from layer to layer."""

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


class GradientXAttention(Explainer):
    """Relevance of each token to the class explained: attention weights times the score's gradient with respect to them, where
    that is positive, on average over heads, added to what the layer's input carries already, from the first layer to the last.

    Knows the class, unlike attention rollout, but no sign: tokens that speak against it get nothing. Values are on no scale of
    the score and do not add up to it; compare them within a text. What feed-forward layers do is passed over.

    Source: Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.EMBEDDINGS})
    complete: ClassVar[bool] = False

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64; the background is not used.

        Raises:
            NotApplicable: the model shows no token embeddings, or no attention from each token to each.
        """
        return by_attention(model, x, target, rng, "gradient_x_attention", _relevance)


def _relevance(score: Tensor, attention: tuple[Tensor, ...]) -> Tensor:
    """Relevance ``(N, T)`` for the places that the score is read from.

    R ← R + mean((∇A ⊙ A)⁺) R, layer by layer: of R, only the rows that are read are needed, so vectors go the other way.
    """
    import torch

    relevance = readout(score, attention[-1])
    slopes = torch.autograd.grad(score.sum(), attention)
    for layer, slope in zip(reversed(attention), reversed(slopes), strict=True):
        raising = (layer.detach() * slope).double().clamp_min(0).mean(dim=1)
        relevance = relevance + (relevance[:, None] @ raising).squeeze(1)
    return relevance
