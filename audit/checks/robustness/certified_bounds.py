"""Certified accuracy: how many inputs provably stay right, by bounds of the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.checks import Check
from audit.checks._sample import sample
from audit.checks._standards import ADVERSARIAL_INPUTS
from audit.checks.robustness._inputs import declared_bounds, require_inside
from audit.finding import EvidenceRef, Measurement, Metric, Proportion, ThreatModel
from audit.model import Capability, Task
from audit.parameters import NotApplicable, Real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.certificates._layers import Layer
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel


class CertifiedBounds(Check):
    """Certified accuracy: the share of test rows that are right and provably stay right within `eps`, whatever the attack.

    For every other class the difference of logits is bounded from below over all inputs in the ball and the declared bounds; where each
    bound is above 0 the row is certified. ``method=ibp`` propagates intervals (Gowal et al. 2018, arXiv:1810.12715), ``method=crown``
    linear bounds (Zhang et al. 2018, arXiv:1811.00866; max-pooling after Boopathy et al. 2019, arXiv:1811.12395), every intermediate bound
    and the margin itself the tighter of both methods; the undivided number takes the best per row. Rows that the model gets wrong are
    not certified.

    The bounds hold for the model as it computes in floating point: each layer's own rounding, bounded a priori, is set aside (Higham
    2002, §3.1), and the model's answers to the clean rows are held against the bounds before anything counts. Feed-forward networks
    of linear, convolution, ReLU, pooling and fixed normalisation layers, sums and constant scales; of anything else the finding
    names the layer.

    In a run that attacks the same model too, no certified row may have an adversarial example: where one has, both numbers are void.

    Source: Zhang et al. 2018, arXiv:1811.00866; Gowal et al. 2018, arXiv:1810.12715.

    Blind spots: a lower bound, often far below the truth on networks that were not trained for it: a row that is not certified may
    still be robust. It speaks of this norm and eps only, and of the distribution no further than the test rows do. Convolutions that
    a library computes by Winograd's or the Fourier transform may round worse than what is set aside.
    """

    controls: ClassVar = ADVERSARIAL_INPUTS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="certified_accuracy",
            title="certified accuracy",
            better="higher",
            kinds=("proportion",),
            floor_of="robust_accuracy",
        ),
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LAYERS, Capability.LOGITS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Train with the bounds in the loss (interval bound propagation, CROWN-IBP) at this norm and eps, or lower eps: a network that was "
        "trained without them is rarely certified beyond a small one."
    )

    methods: tuple[Literal["ibp", "crown"], ...] = Field(("ibp", "crown"), min_length=1)
    """Bounds to compute: ``ibp`` costs a few forward passes; ``crown`` is tighter and costs a pass back for every neuron whose sign is open."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """How a perturbation is measured."""
    eps: Real = Field(gt=0)
    """Largest perturbation, in the norm and in the units that the user feeds."""
    samples: int | None = Field(None, ge=1)
    """Certify at most this many test rows; which ones depends on the seed and the rows alone, and more samples contain the fewer. None: all."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        import torch

        from audit.certificates.margins import certified_margins, rows_at_once

        bounds = declared_bounds(model)
        batch = sample(data.test, self.samples, ctx)
        x, y = model.tensor(batch), torch.as_tensor(batch.labels).to(model.device)
        require_inside(x, bounds, model, data)
        scores = model.outputs(batch)
        correct = model.labels_of(scores) == y
        layers = _layers(model, x, scores)
        margins = {name: torch.full((len(x),), torch.nan, dtype=torch.float64) for name in self.methods}
        for rows in correct.nonzero().flatten().split(rows_at_once(layers)):  # type: ignore[no-untyped-call]
            found = certified_margins(
                layers, x[rows], y[rows], self.norm, self.eps, bounds, crown="crown" in self.methods
            )
            for name, values in margins.items():
                values[rows.cpu()] = found[name].cpu()
            ctx.progress(int(rows[-1]) + 1, len(x), self.norm)

        table = ctx.evidence("margins", "table", title="lower bound of the label's margin within eps")
        table.append(batch.ids, label=y, **{f"margin_{name}": values for name, values in margins.items()})
        certified = {name: values > 0 for name, values in margins.items()}
        best = torch.stack(list(certified.values())).any(dim=0)
        yield self._share(best, {}, table.ref, model, batch, ctx)
        for name, rows in certified.items():
            yield self._share(rows, {"method": name}, table.ref, model, batch, ctx)

    def _share(
        self,
        certified: Tensor,
        dims: dict[str, str],
        table: EvidenceRef,
        model: AuditedModel,
        batch: Batch,
        ctx: Context,
    ) -> Measurement:
        outcomes = ctx.evidence("-".join(("outcomes", *dims.values())), "outcomes")
        outcomes.append(batch.ids, value=certified.double())
        threat = ThreatModel(
            access="white_box", norm=self.norm, eps=self.eps, bounds=model.spec.bounds, units=model.spec.units
        )
        return Measurement(
            metric="certified_accuracy",
            estimate=Proportion(k=int(certified.sum()), n=len(certified)),
            dims=dims,
            threat_model=threat,
            evidence=(outcomes.ref, table),
        )


def _layers(model: AuditedModel, x: Tensor, scores: Tensor) -> tuple[Layer, ...]:
    """The model's layers, proven to be the model on the rows themselves.

    Raises:
        NotApplicable: a layer is not known, or the model answers something else than its layers do.
    """
    import torch

    from audit.certificates._tracing import traced_layers
    from audit.certificates.margins import contain, rows_at_once

    if model.module is None:
        raise NotApplicable(f"bounds need the torch module of model '{model.name}'")
    layers = traced_layers(model.module, x)
    for rows in torch.arange(len(x), device=x.device).split(rows_at_once(layers)):  # type: ignore[no-untyped-call]
        if not bool((held := contain(layers, x[rows], scores[rows])).all()):
            raise NotApplicable(
                f"model '{model.name}' answers something else than the layers of its module do, first on row "
                f"{int(rows[~held][0])}: bounds of the module say nothing about it"
            )
    return layers
