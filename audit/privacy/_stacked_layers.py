"""Stacks of known layers: linear ones as batched matrix products, convolutions of S modules side by side as one grouped one.

A walk over the module's graph finds the layers. A value has one of two layouts: *rows*, ``(S, B, …)``, or *channels*,
``(B, S·C, …)`` with the channels of one module beside those of the next, last in memory. Each layer asks for the one it works on.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from audit.privacy._stacked import Stack


class Unsupported(Exception):
    """A layer or operation that has no rule here."""


@dataclass(frozen=True)
class _Value:
    """A tensor of S modules in one of two layouts."""

    tensor: Tensor
    channels: bool

    def as_rows(self, count: int) -> Tensor:
        """``(S, B, …)``"""
        if not self.channels:
            return self.tensor
        size, width, *rest = self.tensor.shape
        return self.tensor.view(size, count, width // count, *rest).transpose(0, 1)

    def as_channels(self) -> Tensor:
        """``(B, S·C, …)``; images channels last, which convolutions and pools of many channels are fastest on."""
        if self.channels:
            return self.tensor
        if self.tensor.dim() < 3:
            raise Unsupported("no channels")
        found = self.tensor.transpose(0, 1).flatten(1, 2)
        return found.contiguous(memory_format=torch.channels_last) if found.dim() == 4 else found


_BATCH = object()
"""What ``x.size(0)`` stands for."""

_ELEMENTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Dropout,
)  # fmt: skip
_ON_CHANNELS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS: set[Callable[..., Any]] = {
    torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.abs, torch.exp, torch.sqrt, torch.square, functional.relu,
    functional.relu6, functional.leaky_relu, functional.elu, functional.gelu, functional.silu, functional.mish,
    functional.softplus, functional.hardtanh, functional.hardswish, functional.sigmoid, functional.tanh, functional.dropout, Tensor.float, Tensor.double,
}  # fmt: skip
_OF_TWO: set[Callable[..., Any]] = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg, operator.iadd, operator.imul,
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum,
}  # fmt: skip
_FUNCTIONS_ON_CHANNELS: set[Callable[..., Any]] = {
    functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, functional.avg_pool1d, functional.avg_pool2d,
    functional.avg_pool3d, functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d,
    functional.adaptive_max_pool2d, functional.dropout2d,
}  # fmt: skip
_OVER_DIMS: set[Callable[..., Any]] = {torch.mean, torch.sum, torch.amax}
_METHODS: dict[str, Callable[..., Any]] = {
    "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "clamp": torch.clamp, "flatten": torch.flatten,
    "mean": torch.mean, "sum": torch.sum, "amax": torch.amax, "add": torch.add, "sub": torch.sub, "mul": torch.mul,
    "div": torch.div, "abs": torch.abs, "square": torch.square, "float": Tensor.float, "double": Tensor.double,
}  # fmt: skip
_OVERWRITABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.MaxPool2d,
)
"""Layers whose backward pass does not look at their output."""


class Layered(Stack):
    """Modules made of layers that have a rule here."""

    name = "batched matrix products and grouped convolutions"

    def __init__(self, base: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(base, tensors)
        self._own = {id(own): name for name, own in _every_tensor(self.base)}
        self._walks = dict[bool, _Walk]()

    def __call__(self, x: Tensor) -> Tensor:
        """See `Stack.__call__`."""
        training = self.base.training
        if training not in self._walks:  # functional dropout is drawn into the graph of one mode
            self._walks[training] = _Walk(self)
        return cast(Tensor, self._walks[training].run(x))

    def of(self, own: Tensor | None) -> Tensor | None:
        """``(S, …)`` for one of the base's tensors."""
        return None if own is None else self.tensors[self._own[id(own)]]


def _every_tensor(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


class _Walk(fx.Interpreter):
    """Runs the graph of one module on the values of S."""

    def __init__(self, stack: Layered) -> None:
        traced = fx.symbolic_trace(stack.base)
        _pools_before_relu(traced)
        super().__init__(traced)
        self.stack, self.count = stack, stack.count
        self._modules = dict(stack.base.named_modules())
        self._in_place = _may_overwrite(traced, self._modules)
        self._now: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """See `fx.Interpreter.run_node`."""
        self._now = n
        return super().run_node(n)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The input, in rows."""
        return _Value(super().placeholder(target, args, kwargs), channels=False)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The answer, in rows."""
        if not isinstance(args[0], _Value):
            raise Unsupported("answers with more than a tensor")
        return args[0].as_rows(self.count)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A parameter used as it is: its dimensions meet others than a layer's do."""
        raise Unsupported(f"tensor {target} outside a layer")

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A layer."""
        layer = self._modules[target]
        if kwargs or len(args) != 1 or not isinstance(args[0], _Value):
            raise Unsupported(f"layer {target} takes more than a tensor")
        if isinstance(layer, nn.ReLU) and self._now in self._in_place:
            return _Value(args[0].tensor.relu_(), args[0].channels)
        if type(layer) in _ELEMENTWISE:
            return _Value(layer(args[0].tensor), args[0].channels)
        if type(layer) in _ON_CHANNELS:
            return _Value(layer(args[0].as_channels()), channels=True)
        if type(layer) is nn.Flatten:
            return self._flat(args[0], layer.start_dim, layer.end_dim)
        rule = _RULES.get(type(layer))
        if rule is None:
            raise Unsupported(f"layer {target}, a {type(layer).__name__}")
        return rule(layer, args[0], self.stack)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operation."""
        if target is getattr and isinstance(args[0], _Value) and args[1] == "shape":
            return (_BATCH, *args[0].as_rows(self.count).shape[2:])
        if target is operator.getitem and isinstance(args[0], tuple):
            return args[0][args[1]]
        if target in (torch.relu, functional.relu) and self._now in self._in_place:
            return _Value(args[0].tensor.relu_(), args[0].channels)
        if target in _ELEMENTWISE_FUNCTIONS:
            return _Value(target(args[0].tensor, *_plain(args[1:]), **_plain(kwargs)), args[0].channels)
        if target in _FUNCTIONS_ON_CHANNELS:
            return _Value(target(args[0].as_channels(), *_plain(args[1:]), **_plain(kwargs)), channels=True)
        if target in _OF_TWO:
            return self._of_two(target, args, _plain(kwargs))
        if target is torch.flatten:
            return self._flat(*args, **kwargs)
        if target in _OVER_DIMS:
            return self._over_dims(target, *args, **kwargs)
        if target is torch.cat:
            return self._joined(*args, **kwargs)
        raise Unsupported(f"operation {target}")

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A tensor's own operation."""
        if (target == "size" and len(args) == 2 and args[1] == 0) or target == "__len__":
            return _BATCH
        if target == "size":
            shape = (_BATCH, *args[0].as_rows(self.count).shape[2:])
            return shape if len(args) == 1 else shape[args[1]]
        if target in ("view", "reshape"):
            return self._shaped(args[0], tuple(args[1]) if isinstance(args[1], tuple | list) else args[1:])
        if target == "contiguous":
            return args[0]
        if target not in _METHODS:
            raise Unsupported(f"method {target}")
        return self.call_function(_METHODS[target], args, kwargs)

    def _flat(self, value: _Value, start_dim: int = 0, end_dim: int = -1) -> _Value:
        rows = value.as_rows(self.count)
        start, stop = (_place(dim, rows.dim()) for dim in (start_dim, end_dim))
        return _Value(rows.flatten(start, stop), channels=False)

    def _shaped(self, value: _Value, shape: tuple[Any, ...]) -> _Value:
        rows = value.as_rows(self.count)
        first, *rest = shape
        if (first is not _BATCH and first != -1) or not all(isinstance(size, int) for size in rest):
            raise Unsupported("reshapes the batch")
        if first == -1 and (-1 in rest or math.prod(rest) != math.prod(rows.shape[2:])):
            raise Unsupported("reshapes the batch")
        return _Value(rows.reshape(*rows.shape[:2], *rest), channels=False)

    def _of_two(self, target: Callable[..., Any], args: Any, kwargs: Any) -> _Value:
        values = [argument for argument in args if isinstance(argument, _Value)]
        rest = _plain([argument for argument in args if not isinstance(argument, _Value)])
        if any(not isinstance(other, int | float) for other in rest):
            raise Unsupported("meets something that is no number")
        channels = all(value.channels for value in values)
        tensors = iter([value.tensor if channels else value.as_rows(self.count) for value in values])
        found = [next(tensors) if isinstance(argument, _Value) else argument for argument in args]
        shapes = {argument.shape for argument in found if isinstance(argument, Tensor)}
        if len(shapes) > 1:
            raise Unsupported("tensors of two shapes meet")
        return _Value(target(*found, **kwargs), channels)

    def _over_dims(self, target: Callable[..., Any], value: _Value, dim: Any, keepdim: bool = False) -> _Value:
        rows = value.as_rows(self.count)
        dims = tuple(_place(one, rows.dim()) for one in (dim if isinstance(dim, tuple | list) else (dim,)))
        return _Value(target(rows, dim=dims, keepdim=keepdim), channels=False)

    def _joined(self, values: Any, dim: int = 0) -> _Value:
        rows = [value.as_rows(self.count) for value in values]
        return _Value(torch.cat(rows, dim=_place(dim, rows[0].dim())), channels=False)


def _place(dim: int, dims: int) -> int:
    """Where a module's own dimension, which is not the batch, is in rows."""
    found = dim % (dims - 1) + 1
    if found == 1:
        raise Unsupported("works across the batch")
    return found


def _plain(found: Any) -> Any:
    """Arguments that hold no value of a stack.

    Raises:
        Unsupported: one does.
    """
    if any(isinstance(one, _Value) or one is _BATCH for one in (found.values() if isinstance(found, dict) else found)):
        raise Unsupported("takes a tensor where a number is expected")
    return found


# --- layers with weights --------------------------------------------------------------------------------------------


def _linear(layer: nn.Linear, value: _Value, stack: Layered) -> _Value:
    rows = value.as_rows(stack.count)
    weight, bias = stack.of(layer.weight), stack.of(layer.bias)
    assert weight is not None
    columns = rows.flatten(1, -2).transpose(1, 2)  # weights first: their gradient comes in their own layout, uncopied
    found = torch.bmm(weight, columns) if bias is None else torch.baddbmm(bias[:, :, None], weight, columns)
    found = found.transpose(1, 2)
    return _Value(found if rows.dim() == 3 else found.reshape(*rows.shape[:-1], -1), channels=False)


def _convolution(layer: Any, value: _Value, stack: Layered) -> _Value:
    if layer.padding_mode != "zeros":
        raise Unsupported(f"pads by {layer.padding_mode}")
    weight, bias = stack.of(layer.weight), stack.of(layer.bias)
    assert weight is not None
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[weight.dim() - 3]
    found = convolve(
        value.as_channels(), weight.flatten(0, 1), None if bias is None else bias.flatten(), layer.stride, layer.padding,
        layer.dilation, layer.groups * stack.count,
    )  # fmt: skip
    return _Value(found, channels=True)


def _group_norm(layer: nn.GroupNorm, value: _Value, stack: Layered) -> _Value:
    weight, bias = stack.of(layer.weight), stack.of(layer.bias)
    found = functional.group_norm(
        value.as_channels(), stack.count * layer.num_groups, None if weight is None else weight.flatten(),
        None if bias is None else bias.flatten(), layer.eps,
    )  # fmt: skip
    return _Value(found, channels=True)


def _batch_norm(layer: nn.modules.batchnorm._BatchNorm, value: _Value, stack: Layered) -> _Value:
    """Statistics over the batch, which the modules' own channels keep apart; running ones move in place."""
    if layer.momentum is None:
        raise Unsupported("averages running statistics over all batches")
    mean, deviation = stack.of(layer.running_mean), stack.of(layer.running_var)
    weight, bias = stack.of(layer.weight), stack.of(layer.bias)
    seen = stack.of(layer.num_batches_tracked)
    if layer.training and seen is not None:
        seen += 1
    mean, deviation, weight, bias = (None if t is None else t.flatten() for t in (mean, deviation, weight, bias))
    found = functional.batch_norm(
        value.as_channels(), mean, deviation, weight, bias, layer.training or mean is None, layer.momentum, layer.eps
    )
    return _Value(found, channels=True)


def _layer_norm(layer: nn.LayerNorm, value: _Value, stack: Layered) -> _Value:
    rows, weight, bias = value.as_rows(stack.count), stack.of(layer.weight), stack.of(layer.bias)
    found = functional.layer_norm(rows, layer.normalized_shape, eps=layer.eps)
    inner = (stack.count, *[1] * (rows.dim() - 1 - len(layer.normalized_shape)), *layer.normalized_shape)
    if weight is not None:
        found = found * weight.view(inner)
    return _Value(found if bias is None else found + bias.view(inner), channels=False)


def _embedding(layer: nn.Embedding, value: _Value, stack: Layered) -> _Value:
    """Each module looks up in its own part of one long table."""
    if layer.padding_idx is not None or layer.max_norm is not None or layer.sparse or layer.scale_grad_by_freq:
        raise Unsupported("an embedding that treats some words in a way of its own")
    table, rows = stack.of(layer.weight), value.as_rows(stack.count)
    assert table is not None
    first = torch.arange(stack.count, device=rows.device).view(-1, *[1] * (rows.dim() - 1)) * layer.num_embeddings
    return _Value(functional.embedding(rows + first, table.flatten(0, 1)), channels=False)


_RULES: dict[type[nn.Module], Callable[[Any, _Value, Layered], _Value]] = {
    nn.Linear: _linear, nn.Conv1d: _convolution, nn.Conv2d: _convolution, nn.Conv3d: _convolution, nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm, nn.BatchNorm2d: _batch_norm, nn.BatchNorm3d: _batch_norm, nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}  # fmt: skip


# --- the graph made cheaper -----------------------------------------------------------------------------------------


def _is_relu(node: Any, modules: Mapping[str, nn.Module]) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    return (node.op == "call_function" and node.target in (torch.relu, functional.relu)) or (
        node.op == "call_method" and node.target == "relu"
    )


def _is_max_pool(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        layer = modules[str(node.target)]
        return isinstance(layer, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) and not layer.return_indices
    pools = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
    return node.op == "call_function" and node.target in pools


def _pools_before_relu(traced: fx.GraphModule) -> None:
    """``max_pool(relu(x))`` becomes ``relu(max_pool(x))``: the same value and gradient, and a fraction of the work."""
    modules = dict(traced.named_modules())
    for pool in list(traced.graph.nodes):
        if not _is_max_pool(pool, modules):
            continue
        relu: Any = pool.args[0] if pool.args else None
        if not _is_relu(relu, modules) or len(relu.users) > 1:
            continue
        pool.replace_all_uses_with(relu)
        pool.args = (relu.args[0], *pool.args[1:])
        relu.args = (pool, *relu.args[1:])
        pool.append(relu)
    traced.graph.lint()


def _may_overwrite(traced: fx.GraphModule, modules: Mapping[str, nn.Module]) -> set[fx.Node]:
    """ReLUs that may write over what they are given: nobody else reads it."""
    return {
        node
        for node in traced.graph.nodes
        if _is_relu(node, modules)
        and isinstance(node.args[0], fx.Node)
        and node.args[0].op == "call_module"
        and isinstance(modules[str(node.args[0].target)], _OVERWRITABLE)
        and len(node.args[0].users) == 1
    }
