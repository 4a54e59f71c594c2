"""Does an explanation foretell how the score moves when the input does?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from audit.checks._few_rows import few_rows
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import AttributionEvidence, ExplanationCheck, build_explainer, explain
from audit.checks.explanation._per_row import row_mean
from audit.checks.explanation._perturbations import Perturbation
from audit.explainers._baselines import Baseline
from audit.finding import Measurement, Metric, Resampled
from audit.parameters import UserError, parse_real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.checks.explanation._perturbations import Perturbing
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Attribution
    from audit.model import AuditedModel, OutputSpace

_WORST = 1e6
"""Largest ratio of a resample whose rows all stay where they are."""


class Infidelity(ExplanationCheck):
    """How far the changes in score that a map foretells are from those that come, when the input changes at random.

    Infidelity is the mean squared difference between the drop that the map foretells for a change I of the input, ``sum(I · map)``,
    and the drop ``f(x) − f(x − I)`` that comes; normalised, as a share of the mean squared drop: 0 for a map that foretells
    every drop, 1 for a map of zeros, more for one that misleads.

    Changes: ``gaussian`` noise of `noise` times each element's range; ``noisy_baseline``, the baseline with that noise in place of
    the input; ``removal``, the baseline in place of a random square of an image, window of a series, or of random words or columns.
    Inputs stay inside their bounds. The undivided number is the mean over the kinds. f is the output that the map is in.

    Slopes (a gradient) foretell by I itself; contributions (integrated gradients, Shapley values, anything times input) are
    slopes times (x − baseline) and foretell by I / (x − baseline), so that what is removed takes its whole contribution along.
    Elements at their baseline have no contribution, and get no noise. With `optimal_scaling` each row's map is first
    multiplied by the number that suits it best, for explainers whose values have no scale.

    For every explainer with signs. A reader of an unfaithful map who acts on it is surprised by what the model then says.

    Source: Yeh et al. 2019, arXiv:1901.09392 (infidelity, noisy baseline, square removal, optimal scaling).
    Blind spots: changed inputs may be of a kind the model never saw; a change of many elements at once asks for what a linear map
    cannot tell of a model that is not linear, so 0 is out of reach there and explainers are compared, by the same changes, rather
    than judged alone. The raw number is in squared units of the score.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="infidelity", title="infidelity of the attribution", better="lower", kinds=("mean",),
            unit="squared score",
        ),
        Metric(
            name="normalised_infidelity", title="infidelity as a share of the change in score", better="lower",
            kinds=("resampled",),
        ),
    )  # fmt: skip
    remedy: ClassVar[str] = (
        "Take an explainer that suits the size of change that readers think of: gradients for small ones, integrated gradients or "
        "Shapley values for removals, from the baseline that stands for absence here; look at the rows with the largest numbers."
    )

    perturbations: tuple[Perturbation, ...] = ()
    """Kinds of change: gaussian, noisy_baseline, removal. By default gaussian and removal; of texts, removal."""
    noise: Annotated[float, BeforeValidator(parse_real)] = Field(default=0.1, gt=0)
    """Standard deviation of noise as a share of each element's range (of its bounds, else of the background rows)."""
    size: Annotated[float, BeforeValidator(parse_real)] = Field(default=0.25, gt=0, le=1)
    """Of a removal: side of the square as a share of the image's shorter one, length of the window, share of words or columns."""
    draws: int = Field(default=50, ge=2)
    """Random changes of each kind per row."""
    baseline: Literal["auto"] | Baseline = "auto"
    """What stands for absence: zero, black (the lower bound), mean (of background rows), blur, a number; blank or unknown of a text.
    auto takes black for an image with bounds, blank for a text, else mean. It should be the explainer's own."""
    contributions: bool | None = None
    """Whether values are contributions, not slopes; by default what the explainer says of itself (gradients are slopes)."""
    optimal_scaling: bool = False
    """Scale each row's map by what suits it best before it foretells."""

    @model_validator(mode="after")
    def _perturbations_differ(self) -> Infidelity:
        if len(set(self.perturbations)) < len(self.perturbations):
            raise UserError(f"perturbations must be different ones, got {', '.join(self.perturbations)}")
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`."""
        import torch

        name, explainer = build_explainer(self.explainer)
        subject = self.subject(model, data, ctx)
        contributions = not explainer.slopes if self.contributions is None else self.contributions
        perturbing = self._perturbing(model, subject, contributions)
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        parts, signed = [], False
        spaces: set[OutputSpace] = set()
        for rows, found in explain(explainer, model, subject, ctx):
            parts.append(torch.stack([self._errors(model, subject, rows, found, each, ctx) for each in perturbing], 1))
            signed, spaces = signed or bool((found.values < 0).any()), spaces | {found.space}
            evidence.add(rows, found, infidelity=parts[-1][:, :, 0].mean(dim=1))
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        errors = torch.cat(parts)
        cautions = (*subject.cautions, *_cautions(model, name, signed, spaces))
        kinds = [each.kind for each in perturbing]
        for columns, dims in (
            (list(range(len(kinds))), {}),
            *(([place], {"perturbation": kind}) for place, kind in enumerate(kinds)),
        ):
            some = errors[:, columns]
            yield row_mean(
                ctx, "infidelity", some[:, :, 0].mean(dim=1), subject.batch.ids, dims=dims, cautions=cautions,
                shown=() if dims else evidence.refs,
            )  # fmt: skip
            yield Measurement(
                metric="normalised_infidelity", estimate=_ratio(some, ctx), dims=dims, cautions=cautions,
                unresolved=few_rows(len(some)),
            )  # fmt: skip

    def _perturbing(self, model: AuditedModel, subject: Subject, contributions: bool) -> list[Perturbing]:
        from audit.checks.explanation._perturbations import Perturbing, refuse_slopes_of_codes
        from audit.checks.explanation._ranges import ranges

        if not contributions:
            refuse_slopes_of_codes(model.spec)
        text = model.spec.kind == "text"
        kinds: tuple[Perturbation, ...] = self.perturbations or (("removal",) if text else ("gaussian", "removal"))
        width = subject.x.new_zeros(()) if kinds == ("removal",) else ranges(model.spec, subject.background)
        return [Perturbing(kind, model.spec, self.noise * width, self.size, contributions) for kind in kinds]

    def _errors(
        self,
        model: AuditedModel,
        subject: Subject,
        rows: slice,
        found: Attribution,
        perturbing: Perturbing,
        ctx: Context,
    ) -> Tensor:
        """Mean squared error and mean squared drop of each row, ``(N, 2)`` float64."""
        import torch

        from audit.explainers._baselines import baseline_rows, default_baseline
        from audit.explainers._features import features_of

        x, target = subject.x[rows], subject.target[rows]
        name = default_baseline(model.spec) if self.baseline == "auto" else self.baseline
        baseline = baseline_rows(name, x, subject.background, model.spec)
        values = found.values.double().to(x.device)[:, None]
        before = _scores(model, x, target, found.space)
        foretold, dropped = [], []
        rng = ctx.rng(subject.batch.ids[rows], perturbing.kind)
        for drawn in perturbing.draws(x, baseline, features_of(x, model.spec), self.draws, rng):
            foretold.append((drawn.weight * values).flatten(2).sum(dim=2))
            each = target.repeat_interleave(drawn.x.shape[1])
            after = _scores(model, drawn.x.flatten(0, 1), each, found.space).reshape(drawn.x.shape[:2])
            dropped.append(before[:, None] - after)
        predicted, actual = torch.cat(foretold, dim=1), torch.cat(dropped, dim=1)
        if self.optimal_scaling:
            power = predicted.square().sum(dim=1, keepdim=True)
            predicted = predicted * torch.where(power > 0, (predicted * actual).sum(dim=1, keepdim=True) / power, 0.0)
        return torch.stack([(predicted - actual).square().mean(dim=1), actual.square().mean(dim=1)], dim=1).cpu()


def _scores(model: AuditedModel, x: Tensor, target: Tensor, space: OutputSpace) -> Tensor:
    """The target's score in the space of the map, ``(N,)`` float64; Tree SHAP's are in logits or margins of probabilities."""
    import torch

    from audit.explainers._passes import rows_per_pass

    def score(part: Tensor, aim: Tensor) -> Tensor:
        if space == model.output or model.output in ("label", "value"):
            return model.target_score(part, aim)
        logits = model.logits(part)
        own = logits.gather(1, aim[:, None]).squeeze(1)
        return own - logits.gather(1, 1 - aim[:, None]).squeeze(1) if space == "margin" else own

    rows = rows_per_pass(model, gradients=False)
    with torch.no_grad():
        parts = zip(torch.split(x, rows), torch.split(target, rows), strict=True)
        found = torch.cat([score(*part).double() for part in parts])
    model.check_finite(found)
    return found


def _ratio(errors: Tensor, ctx: Context) -> Resampled:
    """Squared errors over squared drops, both summed over rows, and the mean of that over kinds; resampled over rows.

    Args:
        errors: ``(N, K, 2)``.
    """
    import numpy as np

    from audit.stats import bootstrap_replicates

    def ratio(rows: np.ndarray) -> np.ndarray:
        error, drop = np.moveaxis(rows.sum(axis=-3), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(error == 0, 0.0, np.minimum(error / drop, _WORST))
        return np.asarray(found.mean(axis=-1))

    rows = errors.numpy()
    if not (rows[:, :, 1].sum(axis=0) > 0).all():
        raise ArithmeticError("the score never moves when the input is changed: there is nothing to foretell")
    replicates = bootstrap_replicates(ratio, [rows], 2000, seed=ctx.number("bootstrap"), vectorized=True)
    return Resampled(value=float(ratio(rows)), replicates=tuple(replicates.tolist()), n=len(rows))


def _cautions(model: AuditedModel, name: str, signed: bool, spaces: set[OutputSpace]) -> Iterator[str]:
    if not signed:
        yield f"no value of {name} is negative: sizes cannot foretell which way the score moves"
    if model.output == "label":
        yield "the model gives labels only: its score is 1 while the label stays, else 0"
    if "logit" in spaces and model.output == "probability":
        yield "the values are of logits, the model gives probabilities: their logarithms are foretold"
