"""Multi-head attention out of linear layers, so that every gradient in it belongs to a layer that hooks know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearAttention(nn.Module):
    """The same outputs as the `nn.MultiheadAttention` that it is made of.

    (Opacus's DPMultiheadAttention mixes heads with positions where the batch is first, and takes no causal mask.)

    Args:
        source: whose weights are taken over; without `bias_k`, `bias_v` and `add_zero_attn`.
    """

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = source.embed_dim, source.num_heads
        self.batch_first, self.dropout = source.batch_first, float(source.dropout)
        # read by nn.TransformerEncoderLayer, which would else go round this layer in evaluation
        self._qkv_same_embed_dim, self.in_proj_weight, self.in_proj_bias = False, None, None
        if source.in_proj_weight is not None:
            weights: Any = source.in_proj_weight.chunk(3)
            trained = [source.in_proj_weight.requires_grad] * 3
        else:
            weights = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
            trained = [w.requires_grad for w in weights]
        biases = (None,) * 3 if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (
            _linear(weight, bias, train, source.in_proj_bias is not None and source.in_proj_bias.requires_grad)
            for weight, bias, train in zip(weights, biases, trained, strict=True)
        )
        out = source.out_proj
        self.out_proj = _linear(
            out.weight, out.bias, out.weight.requires_grad, out.bias is not None and out.bias.requires_grad
        )
        self.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, of batches."""
        if query.dim() != 3:
            raise ValueError(f"attention takes batches (3 dimensions), and got {query.dim()} dimensions")
        q, k, v = (self._heads(layer(x)) for layer, x in ((self.query, query), (self.key, key), (self.value, value)))
        mask = _bias(attn_mask, key_padding_mask, q, k)
        kept = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = functional.dropout(weights, kept, self.training)
            mixed = weights @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=kept)
        out = self.out_proj(self._rows(mixed))
        if not need_weights:
            return out, None
        return out, weights.mean(dim=1) if average_attn_weights else weights

    def as_source(self) -> dict[str, Tensor]:
        """The weights under the names of `nn.MultiheadAttention`."""
        three = self.query, self.key, self.value
        state = {f"out_proj.{name}": tensor for name, tensor in self.out_proj.state_dict().items()}
        if len({layer.in_features for layer in three}) == 1 and self.query.in_features == self.embed_dim:
            state["in_proj_weight"] = torch.cat([layer.weight.detach() for layer in three])
        else:
            state |= {f"{name}_proj_weight": layer.weight.detach() for name, layer in zip("qkv", three, strict=True)}
        if self.query.bias is not None:
            state["in_proj_bias"] = torch.cat([layer.bias.detach() for layer in three])
        return state

    def _heads(self, x: Tensor) -> Tensor:
        """``(N, heads, T, d)``."""
        x = x.reshape(*x.shape[:2], self.num_heads, -1)
        return x.permute(0, 2, 1, 3) if self.batch_first else x.permute(1, 2, 0, 3)

    def _rows(self, x: Tensor) -> Tensor:
        """Back from `_heads`."""
        return (x.permute(0, 2, 1, 3) if self.batch_first else x.permute(2, 0, 1, 3)).flatten(2)


def _linear(weight: Tensor, bias: Tensor | None, trained: bool, bias_trained: bool) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias_trained)
    return layer


def _bias(mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the scores, ``(N or 1, heads or 1, T, S)``.

    Args:
        mask: ``(T, S)`` or ``(N · heads, T, S)``; true means not to be looked at, as do true ones of `padding` ``(N, S)``.
    """
    added = None
    if mask is not None:
        added = _additive(mask, q)
        added = added[None, None] if mask.dim() == 2 else added.reshape(len(q), -1, *mask.shape[1:])
    if padding is not None:
        hidden = _additive(padding, q)[:, None, None, :]
        added = hidden if added is None else added + hidden
    return added


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
    return mask.to(like.dtype)
