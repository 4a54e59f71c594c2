"""Layer-wise relevance propagation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from audit.attacks._gradients import frozen_parameters
from audit.explainers import Attribution, Explainer
from audit.explainers._completeness import completeness_gap
from audit.explainers._gradients import refuse_codes
from audit.explainers._overrides import line_through, overridden, require_linear
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_LAYERS = ("conv1d", "conv2d", "conv3d", "linear")
_THROUGH_ZERO = (
    "celu", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu", "relu", "relu6", "selu", "silu", "softsign", "tanh",
)  # fmt: skip
"""Activations that are 0 at 0: what reaches one as relevance leaves it unchanged."""
_WINNERS = frozenset({"MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "Max", "Amax"})
"""Maxima: all relevance to the largest, as their own gradient has it."""


class Lrp(Explainer):
    """The score is handed down layer by layer, to each input of a unit in proportion to what it added to the unit's answer.

    Computed as gradient × input with the layers' derivatives replaced, so that sums, shortcuts and scaling on the way follow the same
    rule, whether modules or functions (captum's implementation takes twice the relevance over a shortcut, and divides it by a
    scale). Where no unit has a bias the values add up to the score; what biases add is handed to nobody, and `error` is
    that, beside what epsilon swallows: the gap between sum and score. A network with a step that no rule is known for (attention,
    recurrent gates, softmax, layer normalisation) is refused.

    With the epsilon rule and a small epsilon, networks of rectified layers are explained as by gradient × input, noise included.

    Source: Bach et al. 2015, doi 10.1371/journal.pone.0130140; as a modified gradient: Montavon et al. 2019, doi
    10.1007/978-3-030-28954-6_10; Ancona et al. 2018, arXiv:1711.06104.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = True

    rule: Literal["epsilon", "gamma"] = "epsilon"
    """``epsilon`` in every layer; or ``gamma``: positive weights count (1 + gamma) times, which steadies maps of images."""
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the size of every unit's answer that relevance is divided by, in the answer's units; swallows weak relevance."""
    gamma: float = Field(default=0.25, gt=0)
    """Of the gamma rule: how much positive weights gain."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Rows per pass; by default what memory allows (10 of 3x224x224), at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. The background is not used; the base value is 0.

        Raises:
            UserError: the input has category columns.
            NotApplicable: the network has a step without a rule.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "lrp")
        x = x.detach()
        values, score = torch.empty_like(x), x.new_empty(len(x))
        rows = self.internal_batch or rows_per_pass(model, gradients=True)
        with frozen_parameters(model), seeded(library_seed(rng)):
            for first in range(0, len(x), rows):
                part = slice(first, first + rows)
                values[part], score[part] = self._relevance(model, x[part], target[part])
        model.check_finite(score)
        base = torch.zeros_like(score)
        return Attribution(
            values, target, model.output, base_value=base, score=score, error=completeness_gap(values, score, base),
            method=f"{self.rule} rule",
        )  # fmt: skip

    def _relevance(self, model: AuditedModel, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(N, *shape)`` and scores ``(N,)``."""
        import torch

        gamma = self.gamma if self.rule == "gamma" else 0.0
        rules = dict.fromkeys(_LAYERS, partial(_layer, self.epsilon, gamma)) | dict.fromkeys(_THROUGH_ZERO, _activation)
        with torch.enable_grad(), overridden(rules):
            fed = x.clone().requires_grad_()
            score = model.target_score(fed, target)
        require_linear(model, score, "lrp", _WINNERS)
        if not score.requires_grad:
            return torch.zeros_like(x), score
        (multiplier,) = torch.autograd.grad(score.sum(), fed, allow_unused=True)
        return torch.zeros_like(x) if multiplier is None else multiplier * x, score.detach()


def _layer(
    epsilon: float, gamma: float, func: Callable[..., Any], fed: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The layer, with the relevance of each unit divided by its answer plus epsilon, and handed down along the rule's weights."""
    import torch

    answer: Tensor = func(fed, *args, **kwargs)
    along = answer
    if gamma:
        weight = kwargs["weight"] if "weight" in kwargs else args[0]
        favoured = weight + gamma * weight.clamp(min=0)
        along = func(fed, favoured, *args[1:], **kwargs) if args else func(fed, **{**kwargs, "weight": favoured})
    size = along.detach()
    share = answer.detach() / torch.where(size < 0, size - epsilon, size + epsilon)
    return answer.detach() + share * (along - size)


def _activation(func: Callable[..., Any], fed: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The activation as a factor of what it is given."""
    import torch

    answer = func(fed.detach(), *args, **kwargs)
    return line_through(fed, answer, torch.where(fed.detach() == 0, 0.0, answer / fed.detach()))
