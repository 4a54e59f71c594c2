"""Shapley values of linear models, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.explainers import Attribution
from audit.explainers._completeness import completeness_gap
from audit.explainers._game import RemovalExplainer
from audit.explainers._passes import rows_per_pass
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, OutputSpace
    from audit.rng import ExampleRng

_MIXTURES = 4
"""Mixtures of a row and what stands for absent on which a net must be affine."""
_MORE_MIXTURES = 60
"""Further ones where a step of the net could bend: what two features do together is missed by a mixture in three of four cases."""
_ROUNDING = 2e-5
"""Largest deviation from affine, of the sum of the absolute effects: float32 in a net of a few layers."""


class LinearShap(RemovalExplainer):
    """Coefficient × (value − mean of what stands for absent): the Shapley values of a model that is linear in its features.

    From the model's own coefficients where it is a linear or logistic model of scikit-learn, also behind steps that keep each
    column to itself (scalers; a column's value is then the step's answer to it). Else from the gradient, where the score is affine:
    gradients of all rows agree, and mixtures of each row with absent values score as they should. Refused for any other model.
    A logistic model is explained in its margin or logits. Correlated columns keep their own coefficients, however unstable those are.
    `error` is the gap between the sum and the difference of scores.

    Source: Štrumbelj & Kononenko 2014, doi 10.1007/s10115-013-0679-x; Lundberg & Lee 2017, arXiv:1705.07874, corollary 1.
    """

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            NoClosedForm: the model is not linear.
            UserError: background rows are needed and there are none.
        """
        x = x.detach()
        absent = self.absent_rows(model, x, background)
        by_native = model.native is not None
        found = self._native(model, x, target, absent) if by_native else _affine(model, x, target, absent, rng)
        values, base, score, space = found
        return Attribution(
            values.reshape(x.shape), target, space, base_value=base, score=score,
            error=completeness_gap(values, score, base),
            method=f"linear, {self.shown(model.spec, absent.shape[1])}",
        )  # fmt: skip

    def _native(
        self, model: AuditedModel, x: Tensor, target: Tensor, absent: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, OutputSpace]:
        import torch

        from audit.bridges.linear_models import linear_shapley

        rows, aims, others = (part.detach().cpu().numpy() for part in (x, target, absent[0]))
        found = linear_shapley(model, rows, aims, others)
        values, base, score = (
            torch.tensor(part, dtype=torch.float64, device=x.device)
            for part in (found.values, found.base_value, found.score)
        )
        return values, base, score, found.space


def _affine(
    model: AuditedModel, x: Tensor, target: Tensor, absent: Tensor, rng: ExampleRng
) -> tuple[Tensor, Tensor, Tensor, OutputSpace]:
    """Values ``(N, *shape)``, base values and scores ``(N,)`` of a net that shows itself affine."""

    from audit.bridges.global_generators import seeded
    from audit.bridges.native_models import NoClosedForm
    from audit.explainers._passes import library_seed

    if any(field.kind in ("category", "text", "tokens", "id") for field in model.spec.fields):
        raise NoClosedForm(f"model '{model.name}' is fed codes: there is no line between two of them")
    if Capability.GRADIENTS not in model.capabilities:
        raise NoClosedForm(f"model '{model.name}' has neither coefficients nor gradients to tell whether it is linear")
    if model.output not in ("logit", "margin", "value"):
        raise NoClosedForm(f"model '{model.name}' answers a {model.output}, which is not linear: audit its logits")
    with seeded(library_seed(rng)):
        slope, score, bends = _slopes(model, x, target)
        distance = x.double() - absent.double().mean(dim=1)
        values = slope * distance
        base = score - values.flatten(1).sum(dim=1)
        mixtures = (_MIXTURES, _MORE_MIXTURES) if bends else (_MIXTURES,)
        if not _one_slope(target, slope) or not all(
            _is_affine(model, x, target, absent, slope, score, number, rng) for number in mixtures
        ):
            raise NoClosedForm(f"model '{model.name}': its {model.output} is not linear in the input")
    return values, base, score, model.output


def _slopes(model: AuditedModel, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Gradients ``(N, *shape)`` and scores ``(N,)``, float64, and whether a step on the way is not known to be linear."""
    import torch

    from audit.explainers._linear_graph import nonlinear_steps

    slopes, scores, bends = [], [], False
    step = rows_per_pass(model, gradients=True)
    for part, aim in zip(torch.split(x, step), torch.split(target, step), strict=True):
        inputs = part.clone().requires_grad_()
        with torch.enable_grad():
            score = model.target_score(inputs, aim)
        slope = torch.zeros_like(inputs)  # of a score that is constant
        if score.requires_grad:
            bends = bends or bool(nonlinear_steps(score))
            (slope,) = torch.autograd.grad(score.sum(), inputs, materialize_grads=True)
        slopes.append(slope.double())
        scores.append(score.detach().double())
    found = torch.cat(scores)
    model.check_finite(found)
    return torch.cat(slopes), found, bends


def _one_slope(target: Tensor, slope: Tensor) -> bool:
    """Whether rows of one target share their slope."""
    import torch

    for aim in torch.unique(target):
        same = slope[target == aim]
        if float((same - same[0]).abs().max()) > _ROUNDING * float(same.abs().max()):
            return False
    return True


def _is_affine(
    model: AuditedModel,
    x: Tensor,
    target: Tensor,
    absent: Tensor,
    slope: Tensor,
    score: Tensor,
    mixtures: int,
    rng: ExampleRng,
) -> bool:
    """Whether so many mixtures of each row score what the slope says.

    A mixture takes each value from the row or from one of its absent rows by coin, the first from the absent row alone: the inputs
    that the game is about.
    """
    import torch

    coins = rng.fork(f"{mixtures} mixtures").uniform((mixtures, *x.shape[1:])).to(x.device) < 0.5
    coins[:, 0] = False
    other = rng.fork(f"{mixtures} absent rows").integers(absent.shape[1], (mixtures,)).to(x.device)
    every = torch.arange(len(x), device=x.device)[:, None]
    mixed = torch.where(coins, x[:, None], absent[every, other])
    moved = slope[:, None] * (mixed.double() - x[:, None].double())
    step = rows_per_pass(model, gradients=False)
    with torch.no_grad():
        parts = zip(
            torch.split(mixed.flatten(0, 1), step), torch.split(target.repeat_interleave(mixtures), step), strict=True
        )
        scores = torch.cat([model.target_score(part, aim).double() for part, aim in parts])
    off = scores.reshape(len(x), mixtures) - score[:, None] - moved.flatten(2).sum(dim=2)
    effects = moved.abs().flatten(2).sum(dim=2) + score.abs()[:, None]
    return bool((off.abs() <= _ROUNDING * effects.clamp_min(torch.finfo(x.dtype).tiny)).all())
