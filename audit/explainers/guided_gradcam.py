"""Guided Grad-CAM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from audit.attacks._gradients import frozen_parameters
from audit.explainers import Attribution, Explainer
from audit.explainers._feature_maps import class_activation, map_layer
from audit.explainers._gradients import gradient, refuse_codes
from audit.explainers._overrides import overridden
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability
from audit.parameters import NotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class GuidedGradcam(Explainer):
    """Grad-CAM, sharpened by guided backpropagation: their product, element by element.

    Guided backpropagation passes only what is positive back through each rectifier (called as module, function or in place). It draws
    the input's edges, much the same whatever the model has learnt: maps of this kind fail randomisation checks, and are shown
    because they are widely used. They do not add up to the score.

    Source: Selvaraju et al. 2017, arXiv:1610.02391; Springenberg et al. 2015, arXiv:1412.6806; why not to trust it: Adebayo et al. 2018,
    arXiv:1810.03292; Nie et al. 2018, arXiv:1805.07039.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LAYERS})
    complete: ClassVar[bool] = False

    layer: str | None = None
    """The layer of Grad-CAM, by its name in the module; by default the last that answers with maps, as in `gradcam`."""
    upsampling: Literal["linear", "nearest"] = "linear"
    """How the layer's map is drawn over the input: linearly along each axis (bilinear for images), or in blocks."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Rows per pass; by default what memory allows (10 of 3x224x224), at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. The background is not used.

        Raises:
            UserError: the input has category columns, or the layer is not one with maps.
            NotApplicable: the model has no layer with maps, or no rectifier.
        """
        import torch

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "guided_gradcam")
        x = x.detach()
        if not len(x):
            return Attribution(torch.zeros_like(x), target, model.output)
        rows = self.internal_batch or rows_per_pass(model, gradients=True)
        with frozen_parameters(model), seeded(library_seed(rng)):
            layer = self.layer or map_layer(model, x, "guided_gradcam")
            parts = [
                self._product(model, layer, part, aim)
                for part, aim in zip(torch.split(x, rows), torch.split(target, rows), strict=True)
            ]
        return Attribution(torch.cat(parts), target, model.output, method=f"layer {layer}")

    def _product(self, model: AuditedModel, layer: str, x: Tensor, target: Tensor) -> Tensor:
        coarse = class_activation(model, layer, x, target, "guided_gradcam", self.upsampling)
        fine = _guided_backpropagation(model, x, target)
        return fine * coarse.reshape(len(x), *[1] * (x.ndim - coarse.ndim), *coarse.shape[1:])


def _guided_backpropagation(model: AuditedModel, x: Tensor, target: Tensor) -> Tensor:
    """The gradient of the target's score, ``(N, *shape)``, of which every rectifier passes back only what is positive.

    Raises:
        NotApplicable: there is no rectifier to guide.
    """
    calls = 0

    def rectifier(func: Callable[..., Any], fed: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        nonlocal calls
        calls += 1
        answer: Tensor = func(fed, *args, **kwargs)
        if answer.requires_grad:
            answer.register_hook(lambda slope: slope.clamp(min=0))  # type: ignore[no-untyped-call]
        return answer

    with overridden({"relu": rectifier}):
        found = gradient(model.target_score, x.clone(), target)
    if not calls:
        raise NotApplicable(f"guided_gradcam needs rectifiers (ReLU), and model '{model.name}' has none: use gradcam")
    return found
