"""Layers that hooks cannot follow, replaced by layers with the same outputs that they can."""

from __future__ import annotations

import copy
import warnings

import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN
from torch import nn

from audit.train.gradients.attention import LinearAttention

_RECURRENT: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: DPLSTM, nn.GRU: DPGRU, nn.RNN: DPRNN}


def converted(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy of the module that every gradient mode can take, and what was changed, one line each.

    LSTM, GRU and RNN become Opacus's, attention `LinearAttention`, with their weights; layers that work in place no longer do. Outputs
    stay the same, but for dropout between recurrent layers in training, which Opacus puts elsewhere (a line says so). Layers without
    an equal are left as they are: those that hooks cannot follow are for `functorch` or `loop`.
    """
    fresh = copy.deepcopy(module)
    said: list[str] = []
    replaced: dict[nn.Module, nn.Module] = {}  # a layer that stands in two places stays one
    for name, layer in list(fresh.named_modules(remove_duplicate=False)):
        if getattr(layer, "inplace", None) is True:
            layer.inplace = False  # type: ignore[assignment]
            said.append(f"{name}: {type(layer).__name__} works on a copy")
        if layer not in replaced:
            other, remark = _replacement(layer)
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
    """A copy of the module that `converted` was given, with the weights that its copy has now: what is released needs no Opacus."""
    state = trained.state_dict()
    for name, layer in trained.named_modules():
        if isinstance(layer, LinearAttention):
            state |= {f"{name}.{key}".lstrip("."): tensor for key, tensor in layer.as_source().items()}
    fresh = copy.deepcopy(original)
    fresh.load_state_dict({name: state[name] for name in fresh.state_dict()})
    return fresh.train(trained.training)


def _replacement(layer: nn.Module) -> tuple[nn.Module | None, str]:
    kind = type(layer).__name__
    if type(layer) in _RECURRENT and not layer.proj_size:
        other = _recurrent(layer)
        remark = f"{kind} is now {type(other).__name__}, with its weights"
        if layer.dropout:
            remark += "; in training its dropout acts on the hidden state at every step"
        return other, remark
    if type(layer) is nn.MultiheadAttention and layer.bias_k is None and not layer.add_zero_attn:
        return LinearAttention(layer), f"{kind} is now linear layers, with its weights"
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
