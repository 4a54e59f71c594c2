"""Integrated gradients, with as many steps as completeness asks for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from audit.attacks._gradients import frozen_parameters
from audit.explainers import Attribution, Explainer
from audit.explainers._baselines import Baseline, baseline_rows, default_baseline
from audit.explainers._gradients import gradient, refuse_codes, scores
from audit.explainers._layout import channels_last
from audit.explainers._linear_start import LinearStart, linear_start
from audit.explainers._passes import library_seed, passes, rows_per_gradient
from audit.explainers._quadrature import Method, quadrature, until_complete
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class IntegratedGradients(Explainer):
    """Gradient averaged along the straight line from a baseline to the input, times their difference.

    Completeness is measured for every row: rows whose values miss score − base value by more than 1 % of it are done again with
    twice the steps, up to `max_steps`; `error` is the gap that is left.

    Source: Sundararajan et al. 2017, arXiv:1703.01365.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = True

    steps: int = Field(default=50, ge=1)
    """Points on the line at first; a third as many are complete for most rows of small networks, with errors three times as large."""
    max_steps: int = Field(default=1024, ge=1)
    """Points on the line at most."""
    method: Method = "gausslegendre"
    """Quadrature along the line."""
    baseline: Literal["auto"] | Baseline = "auto"
    """Where the line starts: zero, black (the lower bound), mean (of background rows), blur, a number; auto takes black for an
    image with bounds, else mean."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Points per pass; by default as many as memory and the cache allow, at most the model's micro-batch."""

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

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "integrated_gradients")
        x = x.detach()
        baseline = default_baseline(model.spec) if self.baseline == "auto" else self.baseline
        start = baseline_rows(baseline, x, background, model.spec)
        with channels_last(model) as fast, frozen_parameters(fast), seeded(library_seed(rng)):
            score, base = scores(model, x, target), scores(model, start, target)
            rows = self.internal_batch or rows_per_gradient(model, x)
            cut = linear_start(fast, x, start, target)

            def integrate(some: Tensor, steps: int) -> Tensor:
                mean = self._mean_gradient(fast, cut, x[some], start[some], target[some], steps, rows)
                return mean * (x - start)[some].double()

            values, gap, largest = until_complete(integrate, score, base, self.steps, self.max_steps)
        method = f"{self.method} from {baseline}, {self.steps} to {largest} steps"
        return Attribution(values, target, model.output, base_value=base, score=score, error=gap, method=method)

    def _mean_gradient(
        self,
        model: AuditedModel,
        cut: LinearStart | None,
        x: Tensor,
        start: Tensor,
        target: Tensor,
        steps: int,
        rows: int,
    ) -> Tensor:
        """Gradient averaged along each row's line by quadrature, ``(N, *shape)`` float64, in passes of at most `rows` points."""
        import torch

        points, weights = (torch.from_numpy(part).to(x) for part in quadrature(self.method, steps))
        mean = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        for block, parts in passes(len(x), steps, rows):
            at, origin, score = x[block], start[block], model.target_score
            if cut is not None:
                with torch.enable_grad():
                    fed = at.clone().requires_grad_()
                    entered = cut.enter(fed)
                at, origin = entered.detach(), cut.enter(origin)
                score = partial(cut.score, like=x[:1])
            summed = torch.zeros_like(at, dtype=torch.float64)
            for part in parts:
                along = _between(origin, at, points[part])
                aim = target[block].repeat_interleave(len(points[part]))
                slopes = gradient(score, along, aim).reshape(len(at), -1, *at.shape[1:])
                summed += torch.einsum(
                    "s,ns...->n...", weights[part].to(slopes), slopes
                )  # in its own type within a pass
            if cut is not None:
                (back,) = torch.autograd.grad(entered, fed, summed.to(entered))
                summed = back.double()
            mean[block] = summed
        return mean


def _between(start: Tensor, end: Tensor, points: Tensor) -> Tensor:
    """Points on the line of each row, ``(N × S, …)``."""
    share = points.reshape(-1, *[1] * (start.ndim - 1))
    return (start[:, None] + share * (end - start)[:, None]).flatten(0, 1)
