"""What an answer was computed with, read from autograd's graph: whether every step of it is linear in the input."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.graph import Node

_LINEAR = """
    AccumulateGrad Add Alias AsStrided AvgPool1D AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D Cat Clone ConstantPadNd
    Contiguous Copy CopySlices Cumsum Diagonal Expand Flip Gather Index IndexSelect MaskedFill Mean MkldnnAdaptiveAvgPool2D
    MkldnnConvolution Narrow Neg Permute PixelShuffle PixelUnshuffle ReflectionPad1D ReflectionPad2D Repeat ReplicationPad1D
    ReplicationPad2D Reshape ReshapeAlias Roll Rsub Select Slice Split SplitWithSizes Squeeze Stack Sub Sum T ToCopy Transpose Unbind
    Unfold UnsafeSplit UnsafeView Unsqueeze UpsampleBicubic2D UpsampleBilinear2D UpsampleLinear1D UpsampleNearest1D
    UpsampleNearest2D View Where
"""
"""Operations that are linear in whatever they take."""
_FACTORS = {
    "Addbmm": (1, 2), "Addmm": (1, 2), "Addmv": (1, 2), "Addcmul": (1, 2), "Baddbmm": (1, 2), "Bmm": (0, 1), "Convolution": (0, 1),
    "Dot": (0, 1), "Mm": (0, 1), "Mul": (0, 1), "Mv": (0, 1),
}  # fmt: skip
"""Products, by the places of their factors: linear while one factor at most depends on the input."""
_ONLY_FIRST = frozenset({"Div", "NativeBatchNorm", "CudnnBatchNorm"})
"""Linear in the first argument alone."""
_SUFFIX = re.compile(r"Backward(s|\d+)$")


def nonlinear_steps(answer: Tensor, allowed: frozenset[str] = frozenset()) -> list[str]:
    """Names of the steps from input to answer that are not known to be linear, each once; autograd's, without their ending.

    Parameters must be frozen, for a product with one that is not looks like a product of two answers. A mask that the input
    decides counts as given: whoever relies on linearity tests a number, too.

    Args:
        answer: made from an input that requires a gradient.
        allowed: further names that may stand in the graph.
    """
    found: dict[str, None] = {}
    seen: set[Node] = set()
    waiting = [answer.grad_fn] if answer.grad_fn is not None else []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        name = _SUFFIX.sub("", node.name().rsplit("::", 1)[-1])
        if name not in allowed and not _linear(node, name):
            found[name] = None
        waiting += [before for before, _ in node.next_functions if before is not None]
    return list(found)


def _linear(node: Node, name: str) -> bool:
    depends = [before is not None for before, _ in node.next_functions]
    if name in _FACTORS:
        return sum(depends[place] for place in _FACTORS[name] if place < len(depends)) <= 1
    if name in _ONLY_FIRST:
        return not any(depends[1:]) and not getattr(node, "_saved_training", False)
    return name in _LINEAR.split()
