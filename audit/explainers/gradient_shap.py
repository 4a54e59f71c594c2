"""Gradient SHAP: integrated gradients averaged over background rows as baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from audit.attacks._gradients import frozen_parameters
from audit.explainers import Attribution, Explainer
from audit.explainers._gradients import gradient, refuse_codes, scores
from audit.explainers._layout import channels_last
from audit.explainers._passes import library_seed, passes, rows_per_gradient
from audit.model import Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class GradientShap(Explainer):
    """Expected gradients: integrated gradients with every background row as baseline, averaged, by drawing baselines and points on
    their lines together. They are Shapley values of a linear model, or of any where features act one by one; of others they
    are Aumann–Shapley values, which change features together.

    The values add up to the score minus the mean score of the background rows, but for the error of drawing; `error` is the
    standard error over the draws, of the row's element where it is largest. Baselines come round evenly and their points are
    stratified along the line, so the true error is smaller than that.

    Source: Erion et al. 2021, doi 10.1038/s42256-021-00343-w; Lundberg & Lee 2017, arXiv:1705.07874.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = True

    samples: int = Field(default=100, ge=2)
    """Draws per row: a baseline and a point on the line from it."""
    background: int = Field(default=100, ge=1)
    """Background rows used, the first ones given."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Draws per pass; by default as many as memory and the cache allow, at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            UserError: the input has category columns, or there are no background rows.
            NonFiniteOutput: the model answers NaN or infinite for an input or a background row.
        """
        import torch

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "gradient_shap")
        if not len(background):
            raise UserError("gradient_shap needs background rows, and the data gave none")
        x, others = x.detach(), background[: self.background].to(x)
        values = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        error = torch.empty(len(x), dtype=torch.float64, device=x.device)
        with channels_last(model) as fast, frozen_parameters(fast), seeded(library_seed(rng)):
            score, base = scores(model, x, target), _base_value(model, others, target)
            rows = self.internal_batch or rows_per_gradient(model, x)
            for block, parts in passes(len(x), self.samples, rows):
                start, share = _draws(rng.take(range(len(x))[block]), self.samples, len(others))
                start, share = start.to(x.device), share.to(x).reshape(*share.shape, *[1] * (x.ndim - 1))
                drawn = torch.empty((len(start), self.samples, *x.shape[1:]), dtype=x.dtype, device=x.device)
                for part in parts:
                    distance = x[block, None] - others[start[:, part]]
                    along = torch.addcmul(x[block, None], share[:, part], distance, value=-1)
                    slopes = gradient(
                        fast.target_score, along.flatten(0, 1), target[block].repeat_interleave(along.shape[1])
                    )
                    torch.mul(slopes.reshape(along.shape), distance, out=drawn[:, part])
                deviation, mean = torch.std_mean(drawn, dim=1)
                values[block] = mean.double()
                error[block] = deviation.flatten(1).amax(dim=1).double() / self.samples**0.5
        return Attribution(
            values, target, model.output, base_value=base, score=score, error=error,
            method=f"expected gradients, {self.samples} draws from {len(others)} background rows",
        )  # fmt: skip


def _base_value(model: AuditedModel, background: Tensor, target: Tensor) -> Tensor:
    """Mean score of the background rows for each row's target, ``(N,)`` float64."""
    import torch

    answer = model.scores(background)
    model.check_finite(answer)
    means = torch.empty(len(target), dtype=torch.float64, device=answer.device)
    for aim in torch.unique(target):
        means[target == aim] = model.target_of(answer, aim.expand(len(background))).double().mean()
    return means


def _draws(rng: ExampleRng, samples: int, others: int) -> tuple[Tensor, Tensor]:
    """Which background row each draw starts from, and how far from the input it is: ``(N, S)`` in 0..M-1 and in 0..1.

    Background rows in a random order, over and over. Each has its points in equal parts of the line, one in each, and within such a
    part the points of different rows are spread evenly, too; every point by itself is uniform.
    """
    import torch

    visits = -(-samples // others)
    order = rng.uniform((others,)).argsort(dim=1)
    part = rng.uniform((others, visits)).argsort(dim=2).transpose(1, 2)
    within = (rng.uniform((visits, others)).argsort(dim=2) + rng.uniform((visits, others))) / others
    share = ((part + within) / visits).flatten(1)
    return order[:, torch.arange(samples) % others], share[:, :samples]
