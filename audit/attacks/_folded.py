"""The same model, faster: normalisation folded into the layer before it, convolutions with channels last.

For use inside an attack alone: the answers differ by roundings, so what is found is asked of the model itself before it counts.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from audit.model import AuditedModel

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROBE = 8
"""Rows that both are asked about before the faster one is used."""
_TOLERANCE = 1e-4
"""Largest difference of two answers as a share of the largest score."""


class Folded(AuditedModel):
    """A model made faster, which `folded` gives; its rows count as the original's."""


@contextmanager
def folded(model: AuditedModel, x: Tensor) -> Iterator[AuditedModel]:
    """The model made faster, for as long as the block lasts; the model itself where that cannot be done, or changes its answers.

    What it is made of decides, and the answers to a few rows, never the clock. Batch normalisation goes into the convolution or
    linear layer whose answer it takes, four-dimensional weights are laid out with channels last (0.65 to 0.97 of the time of a pass on
    four small networks, one thread of a CPU).

    Args:
        x: ``(N, *shape)`` rows to try it on; not counted as queries.
    """
    # Another class answers in its own way: it is folded already, or averages its answers.
    fast = _made(model, x) if len(x) and type(model) is AuditedModel else None
    if fast is None:
        yield model
        return
    try:
        yield fast
    finally:
        model.rows_forward += fast.rows_forward
        model.rows_backward += fast.rows_backward
        model.micro_batch = fast.micro_batch


def wrong_for_both(
    model: AuditedModel, fast: AuditedModel, x: Tensor, y: Tensor, wrong: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of the rows that a faster model gets wrong, ``(N,)`` bool, the model itself gets wrong, and which it was asked about."""
    if model is fast or not bool(wrong.any()):
        return wrong, wrong & False
    both = wrong.clone()
    both[wrong] = model.predict(x[wrong]) != y[wrong]
    return both, wrong


def _made(model: AuditedModel, x: Tensor) -> Folded | None:
    """The faster model, where its answers are the model's."""
    import torch
    from torch import nn

    if model.module is None or not any(
        isinstance(m, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)) for m in model.module.modules()
    ):
        return None
    probe = x[:_PROBE]
    # A module may be anything: what cannot be copied, followed or called with this is used as it is.
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            expected = model._forward(probe)
            module = copy.deepcopy(model.module).requires_grad_(False)
            fast = model.with_module(module).variant(Folded)
            _fold(fast, module, probe)
            if model.device == "cpu":
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            answer = fast._forward(probe)
            same = bool((answer - expected).abs().max() <= _TOLERANCE * expected.abs().max())
    except Exception:
        # Whatever a module of anybody's does not take, it is attacked as it is.
        return None
    return fast if same else None


def _fold(fast: AuditedModel, module: nn.Module, probe: Tensor) -> None:
    """Fold every batch normalisation that takes the answer of a convolution or linear layer, and takes it once."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    layers = {
        name: m for name, m in module.named_modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
    }
    norms = {name: m for name, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    calls: Counter[str] = Counter()
    made: list[tuple[Tensor, str]] = []  # the answers are kept, for an id is unique among the living only
    pairs: dict[str, str] = {}

    def after_layer(name: str, answer: Tensor) -> None:
        calls[name] += 1
        made.append((answer, name))

    def before_norm(name: str, fed: Tensor) -> None:
        calls[name] += 1
        for answer, layer in made:
            if answer is fed:
                pairs[name] = layer

    hooks = [
        *(m.register_forward_hook(lambda _m, _a, out, name=name: after_layer(name, out)) for name, m in layers.items()),
        *(
            m.register_forward_pre_hook(lambda _m, args, name=name: before_norm(name, args[0]))
            for name, m in norms.items()
        ),
    ]
    try:
        fast._forward(probe)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, layer in pairs.items():
        once = calls[norm] == calls[layer] == 1 and list(pairs.values()).count(layer) == 1
        if once and not norms[norm].training and norms[norm].running_mean is not None:
            own: Any = layers[layer]
            fuse: Any = fuse_linear_bn_eval if isinstance(own, nn.Linear) else fuse_conv_bn_eval
            module.set_submodule(layer, fuse(own, norms[norm]).requires_grad_(False))
            module.set_submodule(norm, nn.Identity())
