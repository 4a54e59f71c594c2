"""Texts token by token: what explainers that look inside a model of texts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.model import Tokens
from audit.parameters import NotApplicable

if TYPE_CHECKING:
    from torch import Tensor

    from audit.explainers._features import Features
    from audit.model import AuditedModel, TokenModel

_TOKENS_BACKWARD = 2048
"""Tokens in a pass that keeps activations for the way back: 16 texts of 128 tokens."""


def token_model(model: AuditedModel, explainer: str) -> TokenModel:
    """The inside of a model that reads texts token by token.

    Raises:
        NotApplicable: it shows none.
    """
    if model.text is None:
        raise NotApplicable(
            f"{explainer}: model '{model.name}' shows no token embeddings: use permutation_shap or occlusion"
        )
    return model.text


def rows_per_pass(model: AuditedModel, tokens: Tokens) -> int:
    """Rows of texts this long in a pass with gradients, at least one and at most the model's micro-batch."""
    return max(1, min(model.micro_batch, _TOKENS_BACKWARD // tokens.ids.shape[1]))


def rows_of(tokens: Tokens, rows: Tensor) -> Tokens:
    """Some rows, as long as the longest of them."""
    longest = _length(tokens.mask[rows])
    parts = (tokens.ids, tokens.mask, tokens.special, tokens.start, tokens.stop)
    return Tokens(*(part[rows, :longest] for part in parts))


def _length(mask: Tensor) -> int:
    """Places up to the last that any row holds a token at."""
    held = mask.any(dim=0).nonzero()
    return int(held[-1, 0]) + 1 if len(held) else 1


def score_at(model: AuditedModel, embeddings: Tensor, tokens: Tokens, target: Tensor) -> Tensor:
    """The target's score ``(N,)`` with word embeddings ``(N, T, E)`` in place of the tokens' own; see `AuditedModel.target_score`."""
    import torch

    model.rows_forward += len(embeddings)
    if torch.is_grad_enabled() and embeddings.requires_grad:
        model.rows_backward += len(embeddings)
    return model.target_of(token_model(model, "scores").from_embeddings(embeddings, tokens), target)


def over_characters(values: Tensor, tokens: Tokens, length: int) -> tuple[Tensor, Features]:
    """Values of tokens ``(N, T)`` evenly over the characters that they stand for, ``(N, length)`` float64, and which those are.

    Tokens that share a character (the bytes of one) count as one; one that stands for none goes with the token before it. What the
    tokenizer put there is left out, and so are characters that no token stands for.
    """
    import torch

    from audit.explainers._features import Features

    own = tokens.mask & ~tokens.special
    written = own & (tokens.stop > tokens.start)
    reached = torch.where(written, tokens.stop, 0).cummax(dim=1).values
    before = torch.nn.functional.pad(reached, (1, 0))[:, :-1]
    opens = written & (tokens.start >= before)
    group = (opens.long().cumsum(dim=1) - 1).clamp_min(0)
    count = opens.sum(dim=1)
    most = int(count.max()) if len(count) else 0
    if not most:
        nothing = values.new_zeros((len(values), length), dtype=torch.float64)
        return nothing, Features(torch.full_like(nothing, -1, dtype=torch.int64), count, "token")
    total = values.new_zeros((len(values), most), dtype=torch.float64)
    total.scatter_add_(1, group.clamp_max(most - 1), torch.where(own, values.detach().double(), 0.0))
    first = torch.full_like(total, length, dtype=torch.int64)
    first.scatter_reduce_(1, group.clamp_max(most - 1), torch.where(written, tokens.start, length), "amin")
    last = torch.zeros_like(first)
    last.scatter_reduce_(1, group.clamp_max(most - 1), torch.where(written, tokens.stop, 0), "amax")
    place = torch.arange(length, device=values.device).expand(len(values), -1).contiguous()
    number = (torch.searchsorted(first, place, right=True) - 1).clamp_min(0)
    inside = (first.gather(1, number) <= place) & (place < last.gather(1, number))
    features = Features(torch.where(inside, number, -1), count, "token")
    return features.spread(total), features


def readout(score: Tensor, last: Tensor) -> Tensor:
    """Which tokens the score is read from, as shares ``(N, T)``: the first of an encoder, the last of a decoder, all of a mean.

    The share of each row of the last layer's attention ``(N, H, T, T)`` in the size of its gradient: a token whose row makes no
    difference is not read.
    """
    import torch

    (slope,) = torch.autograd.grad(score.sum(), last, retain_graph=True)
    size = slope.double().abs().sum(dim=(1, 3))
    size[:, 0] += torch.finfo(torch.float64).tiny  # a score that hangs on no attention at all
    return size / size.sum(dim=1, keepdim=True)
