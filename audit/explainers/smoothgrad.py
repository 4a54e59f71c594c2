"""SmoothGrad: the gradient averaged over noisy copies of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.attacks._gradients import frozen_parameters
from audit.explainers import Attribution, Explainer
from audit.explainers._gradients import gradient, refuse_codes
from audit.explainers._layout import channels_last
from audit.explainers._passes import library_seed, passes, rows_per_gradient
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng

Statistic = Literal["mean", "square", "variance"]


class Smoothgrad(Explainer):
    """The gradient of the target's score, averaged over copies of the input with Gaussian noise added.

    What is left is the slope of the score smoothed over the neighbourhood: it does not add up to the score, and answers for inputs
    that the model may never see (the noise is not clipped to the bounds). The noise of a row is its own, whatever rows it is
    explained with. `error` is the standard error over the noisy copies, of the row's element where it is largest.

    Source: Smilkov et al. 2017, arXiv:1706.03825; squares and variance: Adebayo et al. 2018, arXiv:1810.03307; Hooker et al. 2019,
    arXiv:1806.10758.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = False
    slopes: ClassVar[bool] = True

    samples: int = Field(default=50, ge=2)
    """Noisy copies of each row."""
    sigma: float = Field(default=0.15, gt=0)
    """Standard deviation of the noise, as a share of the input's range: of its bounds, where it has any; else of the row's own from
    smallest to largest element, or of each column's over the background rows in a table."""
    statistic: Statistic = "mean"
    """What is made of the copies' gradients: their mean, their mean square (SmoothGrad-squared) or their variance (VarGrad); of the
    last two every value is at least 0."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Noisy copies per pass; by default as many as memory and the cache allow, at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. The background gives the range of a table's columns that have no bounds.

        Raises:
            UserError: the input has category columns.
        """
        import torch

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "smoothgrad")
        x = x.detach()
        sigma = self.sigma * _range(x, background, model.spec)
        values, error = torch.empty_like(x), x.new_zeros(len(x), dtype=torch.float64)
        rows = self.internal_batch or rows_per_gradient(model, x)
        with channels_last(model) as fast, frozen_parameters(fast), seeded(library_seed(rng)):
            for block, parts in passes(len(x), self.samples, rows):
                noise = rng.take(range(len(x))[block]).normal((self.samples, *x.shape[1:])).to(x)
                noise = noise.mul_(sigma[block, None]).add_(x[block, None])
                for part in parts:
                    copies = noise[:, part].flatten(0, 1)
                    aim = target[block].repeat_interleave(part.stop - part.start)
                    slopes = gradient(fast.target_score, copies, aim)
                    noise[:, part] = slopes.reshape(noise[:, part].shape)
                values[block], deviation = _statistic(noise, self.statistic)
                error[block] = deviation.flatten(1).amax(dim=1).double()
        return Attribution(
            values, target, model.output, error=error, method=f"{self.statistic} of {self.samples} gradients"
        )


def _range(x: Tensor, background: Tensor, spec: InputSpec) -> Tensor:
    """How far the input's elements range, in a shape that broadcasts over `x`, one row of it per row of `x`."""
    import torch

    if not spec.tabular:
        own = x.flatten(1).amax(dim=1) - x.flatten(1).amin(dim=1)
        if spec.bounds is not None:
            own = torch.full_like(own, spec.bounds[1] - spec.bounds[0])
        return own.reshape(-1, *[1] * (x.ndim - 1))
    rows = torch.cat([background.to(x), x]) if not len(background) else background.to(x)
    known = rows.nan_to_num(nan=float("inf")).amin(dim=0), rows.nan_to_num(nan=float("-inf")).amax(dim=0)
    spans = (known[1] - known[0]).clamp_min(0.0)
    for column, field in enumerate(spec.fields):
        if field.bounds is not None:
            spans[column] = field.bounds[1] - field.bounds[0]
    return spans.expand_as(x)


def _statistic(slopes: Tensor, statistic: Statistic) -> tuple[Tensor, Tensor]:
    """The statistic over the copies of each row, and its standard error, ``(N, *shape)`` each.

    Args:
        slopes: ``(N, S, *shape)``.
    """
    import torch

    count = slopes.shape[1]
    if statistic == "variance":
        centred = slopes - slopes.mean(dim=1, keepdim=True)
        variance = centred.square().sum(dim=1) / (count - 1)
        fourth = centred.square().square().mean(dim=1)
        spread = fourth - variance.square() * (count - 3) / (count - 1)  # of a sample variance, times the sample's size
        return variance, (spread.clamp_min(0) / count).sqrt()
    of = slopes.square() if statistic == "square" else slopes
    deviation, mean = torch.std_mean(of, dim=1)
    return mean, deviation / count**0.5
