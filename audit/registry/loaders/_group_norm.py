"""GroupNorm in the place of BatchNorm: what a factory's module becomes where nobody may depend on who else is in the batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

LARGEST_GROUPS = 32
"""Source: Wu & He 2018, arXiv:1803.08494."""


def groups(channels: int) -> int:
    """How many groups so many channels are divided into."""
    return math.gcd(LARGEST_GROUPS, channels)


def with_group_norm(module: nn.Module) -> nn.Module:
    """The module itself, each BatchNorm in it replaced by a GroupNorm with its scale and shift: another model, to be trained anew."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    replaced: dict[nn.Module, nn.Module] = {}  # a layer that stands in two places stays one
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if not isinstance(layer, _BatchNorm):
            continue
        if layer not in replaced:
            channels = layer.num_features
            other = nn.GroupNorm(groups(channels), channels, eps=layer.eps, affine=layer.affine)
            if layer.affine:
                other.weight, other.bias = layer.weight, layer.bias
            replaced[layer] = other.train(layer.training)
        if not name:
            return replaced[layer]
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, replaced[layer])
    return module
