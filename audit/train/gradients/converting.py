"""Layers that hooks cannot follow, replaced by layers with the same outputs that they can."""

from __future__ import annotations

import copy
import math
import warnings

import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from audit.parameters import UserError
from audit.train.gradients.attention import LinearAttention

_RECURRENT: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: DPLSTM, nn.GRU: DPGRU, nn.RNN: DPRNN}
LARGEST_GROUPS = 32
"""Source: Wu & He 2018, arXiv:1803.08494."""


def converted(module: nn.Module, *, group_norm: bool = False) -> tuple[nn.Module, list[str]]:
    """A copy of the module that every gradient mode can take, and what was changed, one line each.

    LSTM, GRU and RNN become Opacus's, attention `LinearAttention`, with their weights; layers that work in place no longer do. Outputs
    stay the same, but for dropout between recurrent layers in training, which Opacus puts elsewhere (a line says so). Layers without
    an equal are left as they are: those that hooks cannot follow are for `functorch` or `loop`.

    Args:
        group_norm: also replace BatchNorm by GroupNorm with BatchNorm's scale and shift. That is another model: train it anew.
    """
    fresh = copy.deepcopy(module)
    said: list[str] = []
    replaced: dict[nn.Module, nn.Module] = {}  # a layer that stands in two places stays one
    for name, layer in list(fresh.named_modules(remove_duplicate=False)):
        if getattr(layer, "inplace", None) is True:
            layer.inplace = False  # type: ignore[assignment]
            said.append(f"{name}: {type(layer).__name__} works on a copy")
        if layer not in replaced:
            other, remark = _replacement(layer, group_norm)
            if other is None:
                continue
            replaced[layer] = other
            said.append(f"{name or 'the module'}: {remark}")
        if not name:
            return replaced[layer], said
        parent, _, attribute = name.rpartition(".")
        setattr(fresh.get_submodule(parent), attribute, replaced[layer])
    return fresh, said


def reverted(original: nn.Module, trained: nn.Module) -> nn.Module:
    """A copy of the module that `converted` was given, with the weights that its copy has now: what is released needs no Opacus.

    Raises:
        UserError: BatchNorm became GroupNorm: there is no way back from another model.
    """
    state = trained.state_dict()
    for name, layer in trained.named_modules():
        if isinstance(layer, LinearAttention):
            state |= {f"{name}.{key}".lstrip("."): tensor for key, tensor in layer.as_source().items()}
    fresh = copy.deepcopy(original)
    wanted = fresh.state_dict()
    if missing := wanted.keys() - state.keys():
        raise UserError(
            f"the trained model has no '{min(missing)}': a model whose layers became others cannot be turned back; build it with "
            "those layers from the start"
        )
    fresh.load_state_dict({name: state[name] for name in wanted})
    return fresh.train(trained.training)


def _replacement(layer: nn.Module, group_norm: bool) -> tuple[nn.Module | None, str]:
    kind = type(layer).__name__
    if type(layer) in _RECURRENT and not layer.proj_size:
        other = _recurrent(layer)
        remark = f"{kind} is now {type(other).__name__}, with its weights"
        if layer.dropout:
            remark += "; in training its dropout acts on the hidden state at every step"
        return other, remark
    if type(layer) is nn.MultiheadAttention and layer.bias_k is None and not layer.add_zero_attn:
        return LinearAttention(layer), f"{kind} is now linear layers, with its weights"
    if group_norm and isinstance(layer, _BatchNorm):
        return _group_norm(layer), f"{kind} is now GroupNorm: another model, to be trained anew"
    return None, ""


def _recurrent(layer: nn.Module) -> nn.Module:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    options = {name: getattr(layer, name) for name in names}
    if isinstance(layer, nn.RNN):
        options["nonlinearity"] = layer.nonlinearity
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dropout option adds dropout")  # said when the layer was made
        other = _RECURRENT[type(layer)](**options)
    weight = next(layer.parameters())
    other.to(device=weight.device, dtype=weight.dtype)
    mine = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            mine[name].copy_(parameter).requires_grad_(parameter.requires_grad)
    return other.train(layer.training)


def _group_norm(layer: _BatchNorm) -> nn.GroupNorm:
    channels = layer.num_features
    other = nn.GroupNorm(math.gcd(LARGEST_GROUPS, channels), channels, eps=layer.eps, affine=layer.affine)
    if layer.affine:
        other.weight, other.bias = layer.weight, layer.bias
    return other.train(layer.training)
