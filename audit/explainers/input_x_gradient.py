"""Gradient times input."""

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


class InputXGradient(Explainer):
    """The gradient of the target's score times the input: what each element does at its present value, to first order.

    Measured against 0, whatever 0 means in the input's units: an element that is 0 gets nothing. It adds up to the score for a
    linear model without an intercept and for networks of rectified layers without biases, and to nothing in particular for others;
    where the model is saturated it is 0. Source: Shrikumar et al. 2016, arXiv:1605.01713; Ancona et al. 2018, arXiv:1711.06104.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = False

    internal_batch: int | None = Field(default=None, ge=1)
    """Rows per pass; by default what memory allows (10 of 3x224x224), at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. The background is not used.

        Raises:
            UserError: the input has category columns.
        """
        from audit.bridges.captum import input_x_gradient

        refuse_codes(model, "input_x_gradient")
        rows = self.internal_batch or rows_per_pass(model, gradients=True)
        values = input_x_gradient(model.target_score, x, target, internal_batch=rows, seed=library_seed(rng))
        return Attribution(values, target, model.output)
