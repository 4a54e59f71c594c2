"""Other rules for the way back: a forward pass in which some operations are replaced, however the model calls them.

As a module, as a function, as a tensor's method, again and again or in place: each call comes by here, which hooks on modules cannot
promise. What does not come by (compiled code, an operation of another name) stays in autograd's graph under its own name, where
`_linear_graph.nonlinear_steps` finds it. Nothing of the model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from audit.explainers._linear_graph import nonlinear_steps
from audit.parameters import NotApplicable

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

Rule = Callable[[Callable[..., Any], "Tensor", tuple[Any, ...], dict[str, Any]], "Tensor"]
"""The operation, its first argument, its other arguments and its options → what takes the answer's place."""

ELEMENTWISE = frozenset(
    {
        "abs", "arctan", "atan", "celu", "clamp", "clip", "cos", "elu", "erf", "exp", "expm1", "gelu", "hardsigmoid", "hardswish",
        "hardtanh", "leaky_relu", "log", "log1p", "log_sigmoid", "logsigmoid", "mish", "pow", "prelu", "reciprocal", "relu", "relu6",
        "rsqrt", "selu", "sigmoid", "silu", "sin", "softplus", "softsign", "sqrt", "square", "tanh",
    }
)  # fmt: skip
"""Functions of one number that take each element by itself."""


@contextmanager
def overridden(rules: Mapping[str, Rule]) -> Iterator[None]:
    """Inside, an operation called by one of the names, with a tensor first, follows its rule; a name ends before the underscore of
    an operation in place, whose rule is given a copy, and whose answer takes the place of what it was given.
    """
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    class Overriding(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            rule = rules.get(getattr(func, "__name__", "").strip("_"))
            if rule is None:
                return func(*args, **kwargs)
            if not args and "input" in kwargs:
                args = (kwargs.pop("input"),)
            fed, others = args[0], args[1:]
            if not isinstance(fed, Tensor) or not fed.is_floating_point():
                return func(*args, **kwargs)
            if not _in_place(func, fed, others, kwargs):
                return rule(func, fed, others, kwargs)
            return fed.copy_(rule(lambda x, *a, **k: func(x.clone(), *a, **k), fed.clone(), others, kwargs))

    with Overriding():
        yield


def _in_place(func: Callable[..., Any], fed: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation writes its answer over what it is given: by its name, by its options, or by trying."""
    import torch

    name = func.__name__
    if name not in ELEMENTWISE:
        return name.endswith("_") and not name.startswith("__")
    if not (args or kwargs):
        return False
    with torch.no_grad():
        copy = fed.detach().clone()
        func(copy, *args, **kwargs)
    return copy._version > 0


def require_linear(model: AuditedModel, answer: Tensor, explainer: str, allowed: frozenset[str] = frozenset()) -> None:
    """Refuse a model of which a step is neither linear nor replaced by a rule.

    Raises:
        NotApplicable: names the steps.
    """
    left = nonlinear_steps(answer, allowed)
    if left:
        raise NotApplicable(
            f"{explainer} has no rule for {', '.join(left[:5])} in model '{model.name}': use integrated_gradients, or a Shapley explainer"
        )


def line_through(fed: Tensor, answer: Tensor, slope: Tensor) -> Tensor:
    """The answer, with `slope` as its derivative by what was fed, element by element."""
    return answer.detach() + slope.detach() * (fed - fed.detach())
