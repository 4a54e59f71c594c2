"""S modules of one structure, run as one; the way that was taken is proven against each module alone."""

from __future__ import annotations

import contextlib
import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-5
"""Of outputs, gradients and running statistics, relative to the largest of the tensor."""
_NOTHING = 1e-6
"""Of the largest gradient: that of a bias before batch normalisation is 0 but for rounding."""
STACK_BYTES = 16 << 20
"""Policy: largest tensor of a stack's step. Larger ones leave the processor's cache, and above 32 MB glibc maps and clears their
pages anew for every operation: a stack four times as high was slower than modules one after another."""


class Stack(ABC):
    """S modules under training.

    Args:
        base: one of them, for its structure; its weights are left alone.
        tensors: parameters and buffers by name, ``(S, …)`` each, as `stacked_tensors` gives them.
    """

    name: str
    """Of the way, in words."""

    def __init__(self, base: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.base = copy.deepcopy(base)
        self.count = len(next(iter(tensors.values())))
        trainable = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
        self.tensors = {  # in the module's order, which is an optimiser's, whatever order they come in
            name: tensors[name].detach().clone().requires_grad_(name in trainable) for name in named_tensors(base)
        }
        """The state of all modules, ``(S, …)`` each; those in training are leaves."""

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimiser moves."""
        return [tensor for tensor in self.tensors.values() if tensor.requires_grad]

    def train(self, on: bool = True) -> None:
        """Training or evaluation mode."""
        self.base.train(on)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Answers ``(S, B, …)`` to a batch of each module's own, ``(S, B, …)``."""

    def state(self) -> dict[str, Tensor]:
        """A view of every tensor as it is now, ``(S, …)``."""
        return {name: tensor.detach() for name, tensor in self.tensors.items()}


class Vmapped(Stack):
    """Any module without control flow that looks at data, by ``torch.func.vmap``; every module draws its own dropout."""

    name = "vectorised over the modules"

    def __call__(self, x: Tensor) -> Tensor:
        """See `Stack.__call__`."""

        def one(state: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return torch.func.functional_call(self.base, state, (inputs,))  # type: ignore[no-any-return]

        with _plain_attention():
            return torch.vmap(one, randomness="different")(self.tensors, x)


class Alone(Stack):
    """Modules one after another, each with tensors of its own: whatever they do."""

    name = "one after another"

    def __init__(self, base: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(base, {name: tensor[:0] for name, tensor in tensors.items()})
        self.count = len(next(iter(tensors.values())))
        self.modules = [copy.deepcopy(self.base) for _ in range(self.count)]
        with torch.no_grad():
            for place, module in enumerate(self.modules):
                for name, own in named_tensors(module).items():
                    own.copy_(tensors[name][place])

    @property
    def parameters(self) -> list[Tensor]:
        """See `Stack.parameters`; one module after another."""
        return [own for module in self.modules for own in module.parameters() if own.requires_grad]

    def train(self, on: bool = True) -> None:
        """See `Stack.train`."""
        for module in self.modules:
            module.train(on)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Stack.__call__`."""
        return torch.stack([module(part) for module, part in zip(self.modules, x, strict=True)])

    def state(self) -> dict[str, Tensor]:
        """See `Stack.state`; a copy."""
        return stacked_tensors(self.modules)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def stacked_tensors(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of modules of one structure, ``(S, …)`` each."""
    found = [named_tensors(module) for module in modules]
    return {name: torch.stack([state[name].detach() for state in found]) for name in found[0]}


def way_for(modules: Sequence[nn.Module], x: Tensor) -> type[Stack]:
    """The first way, from the fastest to the one that always works, that does to every module what it does alone.

    Args:
        modules: two or more as they begin, in training mode.
        x: ``(S, B, …)`` rows for each of them, two or more.
    """
    from audit.privacy._stacked_layers import Layered

    for way in (Layered, Vmapped):
        if proven(way, modules, x):
            return way
    return Alone


def proven(way: type[Stack], modules: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether outputs, gradients and running statistics are each module's own, in training, and outputs in evaluation.

    It is tried in double precision, where a difference is a mistake and no rounding, unless the modules insist on their own. Dropout is off; what draws in some other way
    is compared in evaluation mode only, gradients included.
    """
    known, fed = _in_double([_without_dropout(module) for module in modules], x)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")  # vmap that runs one after another
        try:
            found = list(_comparisons(way, known, fed))
        except (
            Exception
        ):  # someone else's forward in a way it was not written for may raise anything: the next way is tried
            return False
    return all(_close(*pair) for pair in found)


def _comparisons(
    way: type[Stack], modules: Sequence[nn.Module], x: Tensor
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """What the stack gives and what each module gives alone, tensors of one kind together."""
    for training in (True, False):
        for module in modules:
            module.train(training)
        if training and _draws(modules[0], x[0]):
            continue
        stack, alone = (kind(modules[0], stacked_tensors(modules)) for kind in (way, Alone))
        for one in (stack, alone):
            one.train(training)
        out, expected = stack(x), alone(x)
        yield [out], [expected]
        weights = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(0))
        mine = _gradients(stack.parameters, (out * weights).sum())
        own = _gradients(alone.parameters, (expected * weights).sum())
        yield mine, [torch.stack(own[place :: len(mine)]) for place in range(len(mine))]
        after, wanted = stack.state(), alone.state()
        yield from (([after[name]], [wanted[name]]) for name in wanted)
    with torch.no_grad():  # as they are asked after training, in evaluation mode: the same inputs to all
        yield [stack(x[:1].expand(len(modules), *x.shape[1:]))], [torch.stack([module(x[0]) for module in modules])]


def _gradients(parameters: Sequence[Tensor], value: Tensor) -> list[Tensor]:
    if not parameters or not value.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))


def _close(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether each differs by `TOLERANCE` of its largest at most, and by rounding alone where all of it is small."""
    if [one.shape for one in found] != [one.shape for one in expected]:
        return False
    pairs = [(a.detach(), b.detach()) for a, b in zip(found, expected, strict=True) if b.numel()]
    least = _NOTHING * max((float(b.abs().max()) for _, b in pairs), default=0.0)
    return all(
        bool((a - b).abs().max() <= TOLERANCE * max(float(b.abs().max()), least)) for a, b in pairs
    )  # not of NaN


def _without_dropout(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention | nn.RNNBase):
            part.dropout = 0.0
    return module


def _in_double(modules: list[nn.Module], x: Tensor) -> tuple[list[nn.Module], Tensor]:
    """Modules and rows in double precision; as they are where a module casts to a precision by itself."""
    double, fed = [copy.deepcopy(module).double() for module in modules], x.double() if x.is_floating_point() else x
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(double[0])(fed[0])
    except RuntimeError:
        return modules, x
    return double, fed


def _draws(module: nn.Module, x: Tensor) -> bool:
    """Whether two passes differ: chance is left."""
    with torch.no_grad():
        first, second = (copy.deepcopy(module)(x) for _ in range(2))
    return not torch.equal(first, second)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by operations that can be vectorised, not by fused ones."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def stack_height(module: nn.Module, x: Tensor) -> int:
    """How many modules a stack may hold so that its largest tensor stays within `STACK_BYTES`; 1 or more.

    Args:
        x: one module's batch ``(B, …)``.
    """
    largest = max((tensor.nbytes for tensor in (*module.parameters(), *module.buffers(), x)), default=1)
    seen = _Largest()  # type: ignore[no-untyped-call]
    with seen, torch.no_grad(), torch.random.fork_rng(devices=[]):
        copy.deepcopy(module)(x)
    return max(1, STACK_BYTES // max(1, int(largest), seen.size))


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of the largest tensor that is made inside."""

    size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        made = [leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.size = max(self.size, *made, 0)
        return out
