"""Does an explanation stay where the input hardly moves?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field

from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._explaining import (
    AttributionEvidence,
    ExplanationCheck,
    build_explainer,
    explain,
    explain_changed,
)
from audit.checks.explanation._per_row import kept_rows, row_mean
from audit.finding import Measurement, Metric
from audit.parameters import parse_real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.context import Context
    from audit.data import AuditData
    from audit.explainers import Explainer
    from audit.model import AuditedModel

_ELEMENTS = 1 << 24
"""Most input elements explained in one call: 111 inputs of 3x224x224."""


class Sensitivity(ExplanationCheck):
    """How far a map moves where the input hardly does.

    Max-sensitivity is the largest relative change of the map, ``|map(x + d) − map(x)| / |map(x)|`` in Euclidean norm, over inputs
    x + d within `radius` of the input in every element; beside it the average change.

    d is drawn evenly from the box of `radius` times each element's range (of its bounds, else of the background rows), and x + d
    is kept inside the bounds; categories and missing values stay. The explained class stays that of x, and a random explainer
    draws the same numbers for x and for x + d: what changes is the input alone. 0 is the gradient of a linear model; 1 is a
    change as large as the map itself.

    For every explainer of inputs with something between their values; costs `draws` times the explanations. A reader of an
    unstable map reads an accident of the last bits: two inputs that look the same get different reasons.

    Source: Yeh et al. 2019, arXiv:1901.09392 (max-sensitivity, by sampling); Bhatt et al. 2020, arXiv:2005.00631 (average
    sensitivity).
    Blind spots: the largest of `draws` random changes is a lower bound of the supremum, and grows with `draws`: compare numbers of
    equal draws and radius, and see explanation.stability_under_attack for a search. A constant map has 0. Where the model itself
    changes within the radius, a faithful map must change too.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="max_sensitivity", title="max-sensitivity of the attribution", better="lower", kinds=("mean",)),
        Metric(
            name="average_sensitivity", title="average sensitivity of the attribution", better="lower", kinds=("mean",)
        ),
    )
    remedy: ClassVar[str] = (
        "Average the map over noisy copies of the input (smoothgrad), or train the model to be smoother (adversarial training, "
        "weight decay, softplus for ReLU); do not show maps of single inputs where their neighbours' differ."
    )

    radius: Annotated[float, BeforeValidator(parse_real)] = Field(default=0.02, gt=0, le=1)
    """Largest change of an element, as a share of its range."""
    draws: int = Field(default=10, ge=1)
    """Random changes per row."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`."""
        import torch

        name, explainer = build_explainer(self.explainer)
        subject = self.subject(model, data, ctx)
        evidence = AttributionEvidence(ctx, model, subject, name, explainer, self.keep)
        changes = []
        for rows, found in explain(explainer, model, subject, ctx):
            changes.append(self._changes(explainer, model, subject, rows, found.values.double(), ctx))
            evidence.add(rows, found, max_sensitivity=changes[-1].amax(dim=1))
            ctx.progress(rows.stop, len(subject.batch), "rows explained")
        relative = torch.cat(changes)
        places, ids, left_out = kept_rows(relative.isfinite().all(dim=1), subject.batch.ids, "have a map of zeros")
        cautions = (*subject.cautions, *left_out)
        for metric, values in (
            ("max_sensitivity", relative[places].amax(dim=1)),
            ("average_sensitivity", relative[places].mean(dim=1)),
        ):
            yield row_mean(ctx, metric, values, ids, cautions=cautions, shown=evidence.refs)

    def _changes(
        self, explainer: Explainer, model: AuditedModel, subject: Subject, rows: slice, values: Tensor, ctx: Context
    ) -> Tensor:
        """Relative change of each row's map under each draw, ``(N, draws)`` float64; NaN or infinite where the map is 0 and moves."""
        import torch

        from audit.checks.explanation._ranges import inside, ranges

        x, ids = subject.x[rows], subject.batch.ids[rows]
        reach = (self.radius * ranges(model.spec, subject.background)).to(x)
        drawn = ctx.rng(ids, "perturbations").uniform((self.draws, *x.shape[1:]), -1.0, 1.0).to(x)
        change = []
        for pair in torch.split(torch.arange(len(x) * self.draws, device=x.device), max(1, _ELEMENTS // x[0].numel())):
            row, draw = pair // self.draws, pair % self.draws
            moved = inside(x[row] + reach * drawn[row, draw], model.spec)
            found = explain_changed(explainer, model, subject, rows.start + row, moved, ctx).values.double()
            change.append(torch.linalg.vector_norm((found - values[row]).flatten(1), dim=1).cpu())
        size = torch.linalg.vector_norm(values.flatten(1), dim=1).cpu()[:, None]
        difference = torch.cat(change).reshape(len(x), self.draws)
        return torch.where(difference == 0, 0.0, difference / size)
