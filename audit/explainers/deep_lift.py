"""DeepLIFT, rescale rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from audit.attacks._gradients import frozen_parameters
from audit.explainers import Attribution, Explainer
from audit.explainers._baselines import Baseline, baseline_rows, default_baseline
from audit.explainers._completeness import TOLERANCE, completeness_gap, relative_gap
from audit.explainers._gradients import refuse_codes
from audit.explainers._overrides import ELEMENTWISE, line_through, overridden, require_linear
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability
from audit.parameters import NotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng

_POOLS = ("max_pool1d", "max_pool2d", "max_pool3d")
_TINY = 1e-7
"""Distance from the baseline below which the derivative takes the place of the slope."""


@dataclass(frozen=True)
class _Call:
    """What an operation was given for the baseline, and what it answered."""

    name: str
    fed: Tensor
    answer: Tensor


class DeepLift(Explainer):
    """What each element adds to the difference from a baseline, each activation handing its own difference down in proportion.

    One pass each for inputs and baselines, and one back in which every nonlinear function has the slope of the line between its
    two answers (rescale rule) and a max pool hands down what its maxima differ by. The values add up to score − base value: `error`
    is the gap. Unlike integrated gradients it depends on how the network computes its answer, not on the answer alone.

    The rules follow the operations, not the modules: activations used twice, called as functions or in place are explained
    rightly, where captum's implementation gives other values without a word (its issues 1082 and 1104). A network with a step that
    no rule is known for (products of two answers: attention, recurrent gates; softmax; layer normalisation) is refused,
    and so is one whose values do not add up.

    Source: Shrikumar et al. 2017, arXiv:1704.02685; as a modified gradient: Ancona et al. 2018, arXiv:1711.06104.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    complete: ClassVar[bool] = True

    baseline: Literal["auto"] | Baseline = "auto"
    """What the input is compared with: zero, black (the lower bound), mean (of background rows), blur, a number; auto takes black
    for an image with bounds, else mean."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Rows per pass; by default what memory allows (10 of 3x224x224), at most the model's micro-batch."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`.

        Raises:
            UserError: the input has category columns, or the baseline does not fit it.
            NotApplicable: the network has a step without a rule, or its values do not add up.
            NonFiniteOutput: the model answers NaN or infinite for an input or its baseline.
        """
        import torch

        from audit.bridges.global_generators import seeded

        refuse_codes(model, "deep_lift")
        x = x.detach()
        baseline = default_baseline(model.spec) if self.baseline == "auto" else self.baseline
        start = baseline_rows(baseline, x, background, model.spec)
        values, base, score = torch.empty_like(x), x.new_empty(len(x)), x.new_empty(len(x))
        rows = self.internal_batch or rows_per_pass(model, gradients=True)
        with frozen_parameters(model), seeded(library_seed(rng)):
            for first in range(0, len(x), rows):
                part = slice(first, first + rows)
                values[part], score[part], base[part] = _rescaled(model, x[part], start[part], target[part])
        model.check_finite(score)
        model.check_finite(base)
        gap = completeness_gap(values, score, base)
        _refuse_what_does_not_add_up(model, relative_gap(gap, score, base))
        return Attribution(
            values,
            target,
            model.output,
            base_value=base,
            score=score,
            error=gap,
            method=f"rescale rule from {baseline}",
        )


def _rescaled(model: AuditedModel, x: Tensor, start: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values ``(N, *shape)``, scores and base values ``(N,)``."""
    import torch

    names, seen = [*ELEMENTWISE, *_POOLS], list[_Call]()
    with torch.no_grad(), overridden(dict.fromkeys(names, partial(_note, seen))):
        base = model.target_score(start.clone(), target)
    rule = partial(_rescale, model, iter(seen))
    with torch.enable_grad(), overridden(dict.fromkeys(names, rule)):
        fed = x.clone().requires_grad_()
        score = model.target_score(fed, target)
    require_linear(model, score, "deep_lift")
    if not score.requires_grad:
        return torch.zeros_like(x), score, base
    (multiplier,) = torch.autograd.grad(score.sum(), fed, allow_unused=True)
    values = torch.zeros_like(x) if multiplier is None else multiplier * (x - start)
    return values, score.detach(), base


def _note(
    seen: list[_Call], func: Callable[..., Any], fed: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The operation itself; what it is given and answers for the baseline is noted."""
    answer: Tensor = func(fed, *args, **kwargs)
    seen.append(_Call(func.__name__, fed.clone(), answer.clone()))
    return answer


def _rescale(
    model: AuditedModel,
    seen: Iterator[_Call],
    func: Callable[..., Any],
    fed: Tensor,
    args: tuple[Any, ...],
    kwargs: Any,
) -> Tensor:
    """The operation with its slope from the baseline to the input as derivative."""
    import torch

    before = next(seen, None)
    if before is None or (before.name, before.fed.shape) != (func.__name__, fed.shape):
        raise NotApplicable(f"deep_lift: model '{model.name}' takes another way for the baseline than for the input")
    if any(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in (*args, *kwargs.values())):
        raise NotApplicable(f"deep_lift has no rule for {before.name} of two answers in model '{model.name}'")
    if before.name in _POOLS:
        return _handed_to_maxima(before, fed, args, kwargs)
    with torch.enable_grad():
        at = fed.detach().clone().requires_grad_()
        answer = func(at, *args, **kwargs)
        (derivative,) = torch.autograd.grad(answer.sum(), at)
    distance = fed.detach() - before.fed
    slope = torch.where(distance.abs() < _TINY, derivative, (answer.detach() - before.answer) / distance)
    return line_through(fed, answer, slope)


def _handed_to_maxima(before: _Call, fed: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A max pool: a rise of the maximum is due to what is largest now, a fall to what was largest for the baseline.

    With o and r the two maxima, the larger of them minus r goes to the input's maximum, o minus the larger of them to the
    baseline's; the two add up to o − r.
    """
    import torch

    pool, dims = getattr(torch.nn.functional, before.name), int(before.name[-2])
    options = {**kwargs, "return_indices": True}
    answer: Tensor
    answer, now = pool(fed.detach(), *args, **options)
    _, then = pool(before.fed, *args, **options)
    distance = fed.detach() - before.fed
    moved = torch.where(distance.abs() < _TINY, 0.0, 1 / distance) * (fed - fed.detach())
    larger = torch.maximum(answer, before.answer)
    rise, fall = (
        amount * moved.flatten(-dims).gather(-1, place.flatten(-dims)).reshape(answer.shape)
        for amount, place in ((larger - before.answer, now), (answer - larger, then))
    )
    return answer + rise + fall


def _refuse_what_does_not_add_up(model: AuditedModel, gap: Tensor) -> None:
    if bool((gap > TOLERANCE).any()):
        raise NotApplicable(
            f"deep_lift: the values of {int((gap > TOLERANCE).sum())} of {len(gap)} rows do not add up, for something in model "
            f"'{model.name}' depends on the input unseen: use integrated_gradients"
        )
