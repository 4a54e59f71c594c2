"""Integrated gradients, with as many steps as completeness asks for."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from audit.explainers import Attribution, Explainer
from audit.explainers._baselines import Baseline, baseline_rows, default_baseline
from audit.explainers._completeness import TOLERANCE, completeness_gap, relative_gap
from audit.explainers._gradients import refuse_codes
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

Method = Literal["gausslegendre", "riemann_middle"]


class IntegratedGradients(Explainer):
    """Gradient averaged along the straight line from a baseline to the input, times their difference.

    Completeness is measured for every row: rows whose values miss score − base value by more than 1 % of it are done again with
    twice the steps, up to `max_steps`; `error` is the gap that is left.

    Source: Sundararajan et al. 2017, arXiv:1703.01365.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = True

    steps: int = Field(default=50, ge=1)
    """Points on the line at first."""
    max_steps: int = Field(default=1024, ge=1)
    """Points on the line at most."""
    method: Method = "gausslegendre"
    """Quadrature along the line."""
    baseline: Literal["auto"] | Baseline = "auto"
    """Where the line starts: zero, black (the lower bound), mean (of background rows), blur, a number; auto takes black for an
    image with bounds, else mean."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Rows per pass; by default what memory allows (10 of 3x224x224), at most the model's micro-batch."""

    @model_validator(mode="after")
    def _steps_in_order(self) -> IntegratedGradients:
        if self.max_steps < self.steps:
            raise ValueError(f"max_steps={self.max_steps} is less than steps={self.steps}")
        return self

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            UserError: the input has category columns, or the baseline does not fit it.
            NonFiniteOutput: the model answers NaN or infinite for an input or its baseline.
        """
        import torch

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "integrated_gradients")
        x = x.detach()
        baseline = default_baseline(model.spec) if self.baseline == "auto" else self.baseline
        start = baseline_rows(baseline, x, background, model.spec)
        rows = self.internal_batch or rows_per_pass(model, gradients=True)
        with seeded(library_seed(rng)):
            score, base = self._scores(model, x, target, rows), self._scores(model, start, target, rows)
            values = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
            gap = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            active, steps, largest = torch.arange(len(x), device=x.device), self.steps, self.steps
            while len(active):
                largest = steps
                found = self._integrate(model, x[active], start[active], target[active], steps, rows)
                values[active] = found
                gap[active] = completeness_gap(found, score[active], base[active])
                if steps >= self.max_steps:
                    break
                left = relative_gap(gap[active], score[active], base[active])
                active = active[~(left <= TOLERANCE)]  # NaN is incomplete
                steps = min(2 * steps, self.max_steps)
        method = f"{self.method} from {baseline}, {self.steps} to {largest} steps"
        return Attribution(values, target, model.output, base_value=base, score=score, error=gap, method=method)

    def _scores(self, model: AuditedModel, x: Tensor, target: Tensor, rows: int) -> Tensor:
        import torch

        with torch.no_grad():
            parts = [
                model.target_score(part, aim).double()
                for part, aim in zip(torch.split(x, rows), torch.split(target, rows), strict=True)
                if len(part)
            ]
        scores = torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.float64)
        model.check_finite(scores)
        return scores

    def _integrate(
        self, model: AuditedModel, x: Tensor, start: Tensor, target: Tensor, steps: int, rows: int
    ) -> Tensor:
        """Quadrature over every (row, step) pair, packed into passes of `rows` pairs whatever rows they belong to."""
        import torch

        points, weights = (torch.from_numpy(part).to(x.device) for part in _quadrature(self.method, steps))
        difference = x - start
        total = torch.zeros((len(x), x[0].numel()), dtype=torch.float64, device=x.device)
        spread = (-1, *[1] * (x.ndim - 1))
        for first in range(0, len(x) * steps, rows):
            pair = torch.arange(first, min(first + rows, len(x) * steps), device=x.device)
            row, step = pair // steps, pair % steps
            along = (start[row] + points[step].to(x.dtype).reshape(spread) * difference[row]).requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(model.target_score(along, target[row]).sum(), along)
            total.index_add_(0, row, gradient.flatten(1).double() * weights[step, None])
        return total.reshape(x.shape) * difference.double()


@cache
def _quadrature(method: Method, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points in 0..1 and their weights, which add up to 1."""
    import numpy as np
    from scipy.special import roots_legendre

    if method == "riemann_middle":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    points, weights = roots_legendre(steps)
    return (1 + points) / 2, weights / 2
