"""Saliency: the gradient of the target's score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from audit.explainers import Attribution, Explainer
from audit.explainers._gradients import refuse_codes
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class Saliency(Explainer):
    """How strongly the target's score answers to each input element: its gradient there.

    A slope at one point: it does not add up to the score, and is 0 where the model is saturated. Source: Simonyan et al. 2013,
    arXiv:1312.6034.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = False
    slopes: ClassVar[bool] = True

    absolute: bool = True
    """Size of the effect; false keeps its sign."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Rows per pass; by default what memory allows (10 of 3x224x224), at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. The background is not used.

        Raises:
            UserError: the input has category columns.
        """
        from audit.bridges.captum import saliency

        refuse_codes(model, "saliency")
        rows = self.internal_batch or rows_per_pass(model, gradients=True)
        values = saliency(model.target_score, x, target, internal_batch=rows, seed=library_seed(rng))
        return Attribution(values.abs() if self.absolute else values, target, model.output)
