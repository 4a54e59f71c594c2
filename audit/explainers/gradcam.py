"""Grad-CAM."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.explainers import Attribution, Explainer
from audit.explainers._feature_maps import class_activation, map_layer, places
from audit.explainers._gradients import refuse_codes
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class Gradcam(Explainer):
    """Where in the input the last convolution sees what speaks for the target: its maps, weighted by their mean gradients.

    What speaks against the target is cut off at 0. The map is as coarse as the layer, and is drawn smoothly over the input; each
    place's value is spread evenly over its channels, so that their sum is the map. It does not add up to the score, and says
    where, not which pixel. The gradient is averaged over the map: a place may shine for what matters elsewhere.

    Source: Selvaraju et al. 2017, arXiv:1610.02391; where it misleads: Draelos & Carin 2020, arXiv:2011.08891.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LAYERS})
    complete: ClassVar[bool] = False

    layer: str | None = None
    """The layer's name in the module (``features.7``). By default the last that answers with maps: behind the last convolution, the
    last module whose maps are as large (its rectifier, its stage)."""
    upsampling: Literal["linear", "nearest"] = "linear"
    """How the layer's map is drawn over the input: linearly along each axis (bilinear for images), or in blocks."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Rows per pass; by default what memory allows (10 of 3x224x224), at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. The background is not used.

        Raises:
            UserError: the input has category columns, or the layer is not one with maps.
            NotApplicable: the model has no layer with maps.
        """
        import torch

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "gradcam")
        x = x.detach()
        if not len(x):
            return Attribution(torch.zeros_like(x), target, model.output)
        rows = self.internal_batch or rows_per_pass(model, gradients=True)
        with seeded(library_seed(rng)):
            layer = self.layer or map_layer(model, x, "gradcam")
            parts = [
                class_activation(model, layer, part, aim, "gradcam", self.upsampling)
                for part, aim in zip(torch.split(x, rows), torch.split(target, rows), strict=True)
            ]
        found = torch.cat(parts)
        features = places(x, found.ndim - 1)
        values = features.spread(found.flatten(1))
        return Attribution(values, target, model.output, method=f"layer {layer}", features=features)
