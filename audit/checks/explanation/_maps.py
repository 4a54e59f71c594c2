"""Maps as one number per feature, which is what ranks and shares are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.explainers import Attribution
    from audit.explainers._features import Features
    from audit.model import InputSpec


def common_features(x: Tensor, spec: InputSpec, *maps: Attribution) -> Features:
    """What maps of the same inputs are compared on.

    The features that all of them gave one value to, where those are the same (words, superpixels); else those of the input: pixels
    of an image, words of a text, columns, single values.

    Args:
        x: ``(N, *shape)``.
    """
    import torch

    from audit.explainers._features import features_of

    own = [found.features for found in maps]
    first = own[0]
    if first is not None and all(other is not None and torch.equal(other.number, first.number) for other in own):
        return first
    return features_of(x, spec)
