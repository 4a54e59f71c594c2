"""A torch module as the layers that certificates know, by tracing it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from audit.certificates._layers import Affine, Given, Layer, MaxPool, Relu
from audit.certificates._linear import Convolution, Copy, Dense, LinearMap, Positive, Scaling, window_positions
from audit.certificates._rounding import DTYPE
from audit.parameters import NotApplicable

_KNOWN = "linear, convolution, ReLU, pooling and normalisation layers with fixed statistics, sums and constant scales"
_BATCH = 2
_TF32 = 2.0**-11


def traced_layers(module: nn.Module, x: Tensor) -> tuple[Layer, ...]:
    """The layers of a feed-forward module in evaluation mode; the first is the input, the last the answer.

    Args:
        x: ``(N, *shape)`` one or more rows, for shapes; nothing is learnt from their values.

    Raises:
        NotApplicable: the module cannot be traced, or holds a layer that no bound is known for; the message names it.
    """
    try:
        graph = fx.symbolic_trace(module)
    except Exception as error:  # control flow that depends on values, and whatever else a forward does with a proxy
        raise NotApplicable(
            f"bounds need a network that can be traced: {type(module).__name__}: {' '.join(str(error).split())}"
        ) from error
    dtype = next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise NotApplicable(f"bounds need a network in float32 or float64, {type(module).__name__} is in {dtype}")
    with torch.no_grad():
        return _Lowering(graph, x[:1].to(dtype).repeat(_BATCH, *[1] * (x.dim() - 1))).layers()


class _Unknown(Exception):
    """A layer, or a way of using it, that no bound is known for."""


@dataclass(frozen=True)
class _Traced:
    """A value that depends on the input: the layer that gives it, and what it is for the example."""

    at: int
    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape[1:])


class _Lowering:
    """Walks the traced graph once with a small batch: what depends on the input becomes a layer, all else a constant."""

    def __init__(self, graph: fx.GraphModule, x: Tensor) -> None:
        self._graph, self._modules, self._x = graph, dict(graph.named_modules()), x
        self._unit = _unit_roundoff(x)
        self._layers: list[Layer] = []
        self._env: dict[fx.Node, Any] = {}

    def layers(self) -> tuple[Layer, ...]:
        """The whole graph."""
        for node in self._graph.graph.nodes:
            if node.op == "placeholder":
                self._env[node] = self._given() if not self._layers else (node.args or (None,))[0]
            elif node.op == "output":
                answer = self._env.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
                if not isinstance(answer, _Traced):
                    raise NotApplicable("bounds need a network that answers with one tensor computed from its input")
                return tuple(self._layers[: answer.at + 1])
            else:
                self._env[node] = self._step(node)
        raise NotApplicable("bounds need a network that answers")

    def _given(self) -> _Traced:
        self._layers.append(Given("input", (), tuple(self._x.shape[1:])))
        return _Traced(0, self._x)

    def _step(self, node: fx.Node) -> Any:
        call, rule, name = self._called(node)
        args: Any = fx.node.map_arg(node.args, self._env.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self._env.__getitem__)
        value = call(*_plain(args), **_plain(kwargs))
        if not isinstance(value, Tensor) or not any(isinstance(self._env[n], _Traced) for n in node.all_input_nodes):
            return value
        try:
            if rule is None or value.dim() < 1 or len(value) != _BATCH or value.dtype != self._x.dtype:
                raise _Unknown(f"known are {_KNOWN}")
            layer = rule(_Site(name, tuple(value.shape[1:]), self._unit, call), *args, **kwargs)
        except (_Unknown, TypeError) as error:
            raise NotApplicable(f"no bound is known for layer {name}: {error}") from error
        self._layers.append(layer)
        return _Traced(len(self._layers) - 1, value)

    def _called(self, node: fx.Node) -> tuple[Callable[..., Any], Callable[..., Layer] | None, str]:
        target: Any = node.target
        if node.op == "get_attr":
            return (lambda: operator.attrgetter(target)(self._graph)), None, target
        if node.op == "call_module":
            module = self._modules[target]
            rule = _MODULES.get(type(module))
            return module, rule and (lambda site, x: rule(site, module, x)), f"'{target}' ({type(module).__name__})"
        if node.op == "call_method":
            method: Callable[..., Any] = lambda owner, *args, **kwargs: getattr(owner, target)(*args, **kwargs)  # noqa: E731
            return method, _METHODS.get(target), f"'{node.name}' ({target})"
        return target, _FUNCTIONS.get(target), f"'{node.name}' ({getattr(target, '__name__', target)})"


def _plain(values: Any) -> Any:
    return fx.node.map_aggregate(values, lambda v: v.value if isinstance(v, _Traced) else v)


def _unit_roundoff(x: Tensor) -> float:
    """Of the products and sums that a model does on inputs like these."""
    backends = torch.backends
    if x.is_cuda and x.dtype == torch.float32 and (backends.cuda.matmul.allow_tf32 or backends.cudnn.allow_tf32):
        return _TF32
    return torch.finfo(x.dtype).eps / 2


# --- one rule per kind of layer: what torch is called with, as a layer ---------------------------------------------


@dataclass(frozen=True)
class _Site:
    """Where a rule is applied.

    Args:
        shape: of one row of the output.
        call: the function itself, with the arguments that the rule gets.
    """

    name: str
    shape: tuple[int, ...]
    unit: float
    call: Callable[..., Any]

    def affine(
        self, x: _Traced, linear: LinearMap, offset: Tensor | None = None, offset_size: Tensor | None = None
    ) -> Affine:
        """A layer with one input."""
        size = offset.abs() if offset is not None and offset_size is None else offset_size
        return Affine(self.name, (x.at,), self.shape, (linear,), self.unit, offset, size)

    def same_shape(self, x: _Traced) -> None:
        """Refuse broadcasting that changes the traced value's shape."""
        if x.shape != self.shape:
            raise _Unknown(f"it stretches {x.shape} to {self.shape}")


def _constant(value: Any) -> Tensor:
    if isinstance(value, _Traced) or not isinstance(value, Tensor | int | float):
        raise _Unknown("it combines its input with something else than a constant")
    return torch.as_tensor(value).detach().to(DTYPE)


def _per_row(value: Any, x: _Traced) -> Tensor:
    """A constant that broadcasts to a row of `x` from its first dimension on."""
    constant = _constant(value)
    if constant.dim() == len(x.shape) + 1 and len(constant) == 1:
        constant = constant[0]
    if constant.dim() > len(x.shape):
        raise _Unknown("it combines its input with a constant for each row")
    return constant.reshape(*[1] * (len(x.shape) - constant.dim()), *constant.shape)


def _linear(site: _Site, x: _Traced, weight: Tensor, bias: Tensor | None = None) -> Layer:
    return site.affine(
        x, Dense(_constant(weight)), None if bias is None else _constant(bias).reshape(*[1] * (len(x.shape) - 1), -1)
    )


def _matmul(site: _Site, x: _Traced, other: Tensor) -> Layer:
    weight = _constant(other)
    if weight.dim() != 2 or not isinstance(x, _Traced):
        raise _Unknown("it is no product of the input with a matrix on its right")
    return site.affine(x, Dense(weight.T.contiguous()))


def _convolution(
    site: _Site, x: _Traced, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Layer:  # fmt: skip
    weight = _constant(weight)
    d = weight.dim() - 2
    stride, dilation = _each(stride, d), _each(dilation, d)
    if padding == "same":
        reach = [step * (k - 1) for step, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(r % 2 for r in reach):
            raise _Unknown("padding 'same' of an even kernel")
        padding = [r // 2 for r in reach]
    padding = _each(0 if padding == "valid" else padding, d)
    linear = Convolution(weight, x.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return site.affine(x, linear, None if bias is None else _constant(bias).reshape(-1, *[1] * d))


def _normalised(
    site: _Site, x: _Traced, mean: Tensor | None, var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Layer:  # fmt: skip
    if training or mean is None or var is None:
        raise _Unknown("its statistics depend on the batch")
    factor = 1 / (_constant(var) + eps).sqrt()
    if weight is not None:
        factor = factor * _constant(weight)
    shift = _constant(mean) * factor
    added = torch.zeros_like(shift) if bias is None else _constant(bias)
    factor, offset, size = (
        v.reshape(-1, *[1] * (len(x.shape) - 1)) for v in (factor, added - shift, added.abs() + shift.abs())
    )
    # Inverse deviation, its product with the weight, and the shift are rounded too, at most once each.
    return site.affine(x, Scaling(factor, terms=8), offset, size)


def _relu(site: _Site, x: _Traced, inplace: bool = False) -> Layer:
    return Relu(site.name, (x.at,), site.shape)


def _max_pool(
    site: _Site, x: _Traced, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Layer:  # fmt: skip
    size = x.shape[1:]
    kernel, padding, dilation = (_each(v, len(size)) for v in (kernel_size, padding, dilation))
    stride = kernel if stride is None or stride == [] else _each(stride, len(size))
    at, inside = window_positions(size, site.shape[1:], kernel, stride, padding, dilation)
    device = x.value.device
    return MaxPool(site.name, (x.at,), site.shape, at.to(device), inside.to(device), x.shape)


def _copied(site: _Site, x: _Traced, *args: Any, **kwargs: Any) -> Layer:
    """Elements moved or selected, each row alike."""
    return site.affine(x, Positive(lambda h: site.call(h, *args, **kwargs), x.shape, terms=1))


def _reshaped(site: _Site, x: _Traced, *args: Any, **kwargs: Any) -> Layer:
    """A new shape; what it was called with may hold the number of rows."""
    return site.affine(
        x, Copy() if x.shape == site.shape else Positive(lambda h: h.reshape(len(h), *site.shape), x.shape, terms=1)
    )


def _averaged(site: _Site, x: _Traced, *args: Any, **kwargs: Any) -> Layer:
    """An average or a sum over part of each row."""
    terms = math.prod(x.shape[1:]) if len(x.shape) > 1 else math.prod(x.shape)
    return site.affine(x, Positive(lambda h: site.call(h, *args, **kwargs), x.shape, max(2, terms)))


def _padded(site: _Site, x: _Traced, pad: Any, mode: str = "constant", value: float | None = None) -> Layer:
    if mode != "constant" or value:
        raise _Unknown("padding with something else than zeros")
    return _copied(site, x, pad)


def _dropped(site: _Site, x: _Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Layer:
    if training:
        raise _Unknown("dropout is on")
    return _reshaped(site, x)


def _added(site: _Site, x: Any, other: Any, *, alpha: Any = 1) -> Layer:
    if alpha != 1:
        raise _Unknown("a sum with a factor")
    return _combined(site, x, other, 1.0)


def _subtracted(site: _Site, x: Any, other: Any, *, alpha: Any = 1) -> Layer:
    if alpha != 1:
        raise _Unknown("a difference with a factor")
    return _combined(site, x, other, -1.0)


def _combined(site: _Site, x: Any, other: Any, sign: float) -> Layer:
    """``x + sign · other``."""
    if isinstance(x, _Traced) and isinstance(other, _Traced):
        for part in (x, other):
            site.same_shape(part)
        maps = (Copy(), Copy() if sign > 0 else Scaling(-1.0))
        return Affine(site.name, (x.at, other.at), site.shape, maps, site.unit)
    if isinstance(x, _Traced):
        site.same_shape(x)
        return site.affine(x, Copy(), sign * _per_row(other, x))
    site.same_shape(other)
    return site.affine(other, Copy() if sign > 0 else Scaling(-1.0), _per_row(x, other))


def _multiplied(site: _Site, x: Any, other: Any) -> Layer:
    if not isinstance(x, _Traced):
        x, other = other, x
    site.same_shape(x)
    return site.affine(x, Scaling(_per_row(other, x)))


def _divided(site: _Site, x: Any, other: Any) -> Layer:
    if not isinstance(x, _Traced):
        raise _Unknown("it divides by its input")
    site.same_shape(x)
    return site.affine(x, Scaling(1 / _per_row(other, x)))


def _negated(site: _Site, x: _Traced) -> Layer:
    return site.affine(x, Scaling(-1.0))


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    """``3`` or ``(3,)`` or ``(3, 3)`` for every dimension."""
    found = (value,) if isinstance(value, int) else tuple(value)
    return found * dimensions if len(found) == 1 else found


def _convolution_module(site: _Site, m: Any, x: _Traced) -> Layer:
    if m.padding_mode != "zeros":
        raise _Unknown(f"padding mode '{m.padding_mode}'")
    return _convolution(site, x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _norm_module(site: _Site, m: Any, x: _Traced) -> Layer:
    return _normalised(site, x, m.running_mean, m.running_var, m.weight, m.bias, m.training, eps=m.eps)


def _max_pool_module(site: _Site, m: Any, x: _Traced) -> Layer:
    return _max_pool(site, x, m.kernel_size, m.stride, m.padding, m.dilation)


def _dropout_module(site: _Site, m: Any, x: _Traced) -> Layer:
    return _dropped(site, x, training=m.training)


_MODULES: dict[type, Callable[..., Layer]] = {
    nn.Linear: lambda site, m, x: _linear(site, x, m.weight, m.bias),
    nn.ReLU: lambda site, m, x: _relu(site, x),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution_module),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _norm_module),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _max_pool_module),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _dropout_module),
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.Identity), lambda site, m, x: _reshaped(site, x)),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.PixelShuffle, nn.PixelUnshuffle), lambda site, m, x: _copied(site, x)),
    **dict.fromkeys(
        (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        lambda site, m, x: _averaged(site, x),
    ),
}  # fmt: skip

_METHODS: dict[str, Callable[..., Layer]] = {
    "relu": _relu, "relu_": _relu, "matmul": _matmul, "add": _added, "add_": _added, "sub": _subtracted, "sub_": _subtracted,
    "mul": _multiplied, "mul_": _multiplied, "div": _divided, "div_": _divided, "neg": _negated,
    "mean": _averaged, "sum": _averaged,
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "clone", "detach", "to", "float", "double"), _reshaped),
    **dict.fromkeys(("permute", "transpose", "movedim"), _copied),
}  # fmt: skip

_FUNCTIONS: dict[Any, Callable[..., Layer]] = {
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, operator.matmul), _matmul),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
    F.batch_norm: _normalised,
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, F.relu_), _relu),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), _max_pool),
    **dict.fromkeys(
        (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, torch.mean, torch.sum),
        _averaged,
    ),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.clone), _reshaped),
    **dict.fromkeys((torch.permute, torch.transpose, torch.movedim, operator.getitem), _copied),
    F.pad: _padded,
    F.dropout: _dropped,
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _added),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub), _subtracted),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), _multiplied),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), _divided),
    **dict.fromkeys((operator.neg, torch.neg), _negated),
}  # fmt: skip
