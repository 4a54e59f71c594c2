"""Explainers: model, inputs and targets in; attributions of the inputs' shape out. One file per method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from audit.model import Capability, OutputSpace
from audit.names import build_named
from audit.parameters import Parameters

if TYPE_CHECKING:
    from torch import Tensor

    from audit.explainers._features import Features
    from audit.model import AuditedModel
    from audit.rng import ExampleRng


@dataclass(frozen=True)
class Attribution:
    """What an explainer found.

    Args:
        values: ``(N, *shape)``: how much each input element adds to the target's score.
        target: ``(N,)`` int64 class that was explained (0 for a regression).
        space: the output space the values are in (``logit``, ``probability``, ``value``).
        base_value: ``(N,)`` score at the baseline or background; None for methods without one (a gradient).
        score: ``(N,)`` score of the explained input; None with `base_value`.
        error: ``(N,)`` the method's own error estimate (standard error, completeness gap); None where it has none.
        method: how the values were found, where the method had a choice (``Tree SHAP, interventional``).
        features: what was given one value, where that is more than an element: words, tokens, superpixels; a feature's value is
            spread evenly over its elements, so that sums stay what they are.
        parts: ``(N, P)`` values of what has no place in the input (frequency bands); they add up to the same as `values`.
        part_names: one name for each of them.
    """

    values: Tensor
    target: Tensor
    space: OutputSpace
    base_value: Tensor | None = None
    score: Tensor | None = None
    error: Tensor | None = None
    method: str = ""
    features: Features | None = None
    parts: Tensor | None = None
    part_names: tuple[str, ...] = ()


class Explainer(Parameters, ABC):
    """Base of every explainer; its fields are its parameters."""

    needs: ClassVar[frozenset[Capability]]
    complete: ClassVar[bool]
    """Whether values plus base value are meant to add up to the score (the completeness axiom)."""
    slopes: ClassVar[bool] = False
    """Whether values are slopes, score per unit of the input, and not contributions to the score."""

    @abstractmethod
    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """Explain rows.

        Args:
            x: ``(N, *shape)`` inputs in the user's units.
            target: ``(N,)`` int64 class to explain; ignored for a regression.
            background: ``(M, *shape)`` rows that stand for "no information", for methods that need a baseline.
            rng: one stream per row.
        """


def usual(capabilities: Collection[Capability]) -> str | None:
    """The explainer to begin with, by what a model offers; None where it gives labels or tokens alone."""
    if Capability.GRADIENTS in capabilities:
        return "integrated_gradients"
    if Capability.EMBEDDINGS in capabilities:
        return "layer_integrated_gradients"
    return "shap_values" if {Capability.PROBABILITIES, Capability.VALUES} & set(capabilities) else None


def build(spec: str | dict[str, Any]) -> tuple[str, Explainer]:
    """An explainer from a scenario: a name or ``{name: {parameter: value}}``.

    Raises:
        UserError: no such explainer, or a parameter is wrong.
    """
    return build_named("explainers", spec)
