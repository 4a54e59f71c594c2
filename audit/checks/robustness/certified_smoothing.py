"""Certified accuracy of the smoothed classifier: what noise proves about a model that only answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from audit.checks import Check
from audit.checks._sample import sample
from audit.checks._standards import ADVERSARIAL_INPUTS
from audit.checks.robustness._inputs import declared_bounds, require_inside
from audit.finding import EvidenceRef, Mean, Measurement, Metric, Proportion, Resampled, ThreatModel
from audit.model import Capability, Task
from audit.parameters import Real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.certificates.smoothing import Smoothed
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

_CURVE_POINTS = 101


class CertifiedSmoothing(Check):
    """Certified accuracy of the smoothed classifier: the share of test rows that it gets right, provably, everywhere within an l2 radius.

    The smoothed classifier gives the class that the model gives most often to copies of the input with Gaussian noise of standard
    deviation `sigma` on every element. `n0` copies name the class, `n` fresh ones bound its probability from below at confidence
    1 - `alpha` (Clopper-Pearson, one-sided), and the radius is sigma times the normal quantile of that bound; where the bound is not
    above one half it abstains. Abstentions and wrong classes are not certified; all rows count.

    The certificate speaks of the smoothed classifier only: a deployment that answers with the model itself, without the noise and the
    vote, has none of it.

    Source: Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918; average certified radius: Zhai et al. 2020, arXiv:2001.02378.

    Blind spots: nothing is said of the model without noise. Each row's certificate fails with a probability of at most alpha, which
    the interval over rows does not contain. l2 only; radii beyond what `n` copies can show are never certified, however robust the
    classifier is. On a model that was not trained with such noise the radii are small.
    """

    controls: ClassVar = ADVERSARIAL_INPUTS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="certified_accuracy", title="certified accuracy, smoothed", better="higher", kinds=("proportion",)),
        Metric(name="smoothed_accuracy", title="accuracy of the smoothed classifier", better="higher", kinds=("proportion",)),
        Metric(name="abstention", title="share of rows it abstains on", better="lower", kinds=("proportion",)),
        Metric(name="mean_radius", title="mean certified radius", better="higher", kinds=("mean",), unit="l2, input units"),
        Metric(name="median_radius", title="median certified radius", better="higher", kinds=("resampled",), unit="l2, input units"),
    )  # fmt: skip
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Train on inputs with Gaussian noise of this sigma, or adversarially on the smoothed classifier (SmoothAdv, MACER); more copies "
        "(n) raise the largest radius that can be shown."
    )

    sigma: Real = Field(gt=0)
    """Standard deviation of the noise on every element, in the units that the user feeds."""
    radius: Real = Field(gt=0)
    """The l2 radius of the undivided certified accuracy, in input units."""
    radii: tuple[Real, ...] = ()
    """Further radii, each a part of its own: ``certified_accuracy[radius=0.5]``."""
    n0: int = Field(100, ge=1)
    """Noisy copies of each row that name the class."""
    n: int = Field(1000, ge=1)
    """Noisy copies of each row that bound its probability; the paper takes 100,000."""
    alpha: Real = Field(0.001, gt=0, lt=0.5)
    """Probability with which the certificate of a row may fail."""
    samples: int | None = Field(None, ge=1)
    """Certify at most this many test rows; which ones depends on the seed and the rows alone, and more samples contain the fewer. None: all."""

    @model_validator(mode="after")
    def _radius_in_reach(self) -> CertifiedSmoothing:
        from statistics import NormalDist

        if any(not radius > 0 for radius in self.radii):
            raise ValueError("radii must be above 0")
        reach = max(0.0, self.sigma * NormalDist().inv_cdf(self.alpha ** (1 / self.n)))
        if not self.radius <= reach:
            raise ValueError(
                f"radius {self.radius:g} is out of reach: with sigma {self.sigma:g}, n {self.n} and alpha {self.alpha:g} no radius above "
                f"{reach:.4g} can be certified: raise n or sigma"
            )
        return self

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        import torch

        from audit.certificates.smoothing import Smoothed, certify
        from audit.stats import bootstrap_replicates, mean_and_se

        batch = sample(data.test, self.samples, ctx)
        x, y = model.tensor(batch), torch.as_tensor(batch.labels)
        require_inside(x, declared_bounds(model), model, data)
        parts = []
        for at, found in certify(model, x, self.sigma, self.n0, self.n, self.alpha, ctx.rng(batch.ids, "noise")):
            parts.append(found)
            ctx.progress(at.stop, len(x), f"sigma {self.sigma:g}")
        smoothed = Smoothed(
            *(torch.cat([getattr(p, name) for p in parts]) for name in ("label", "radius", "top", "count"))
        )
        right = smoothed.label == y
        table = self._table(smoothed, y, batch, ctx)
        reached = torch.where(right, smoothed.radius, 0.0)
        curve = self._curve(reached, ctx)

        yield self._certified(self.radius, {}, reached, model, batch, (table, curve), ctx)
        for radius in dict.fromkeys(self.radii):
            yield self._certified(radius, {"radius": f"{radius:.6g}"}, reached, model, batch, (table,), ctx)
        outcomes = ctx.evidence("outcomes-smoothed", "outcomes")
        outcomes.append(batch.ids, value=right.double())
        yield Measurement(
            metric="smoothed_accuracy", estimate=_share(right), evidence=(outcomes.ref,), cautions=self._caution()
        )
        yield Measurement(metric="abstention", estimate=_share(smoothed.label < 0), evidence=(table,))
        value, se, n = mean_and_se(reached.numpy())
        yield Measurement(
            metric="mean_radius", estimate=Mean(value=value, se=se, n=n), evidence=(table,), cautions=self._caution()
        )
        replicates = bootstrap_replicates(_medians, [reached.numpy()], seed=ctx.number("median"), vectorized=True)
        yield Measurement(
            metric="median_radius",
            estimate=Resampled(value=float(_medians(reached.numpy())), replicates=tuple(map(float, replicates)), n=n),
            evidence=(table,),
            cautions=self._caution(),
        )

    def _certified(
        self, radius: float, dims: dict[str, str], reached: Tensor, model: AuditedModel, batch: Batch,
        evidence: tuple[EvidenceRef, ...], ctx: Context,
    ) -> Measurement:  # fmt: skip
        """The share of rows that are right and certified at least that far."""
        held = reached >= radius
        outcomes = ctx.evidence("-".join(("outcomes", *dims.values())), "outcomes")
        outcomes.append(batch.ids, value=held.double())
        threat = ThreatModel(
            access="white_box",
            norm="l2",
            eps=radius,
            units=model.spec.units,
            constraints=f"against the smoothed classifier, with noise of sigma {self.sigma:g}",
        )
        return Measurement(
            metric="certified_accuracy",
            estimate=_share(held),
            dims=dims,
            threat_model=threat,
            evidence=(outcomes.ref, *evidence),
            cautions=self._caution(),
        )

    def _caution(self) -> tuple[str, ...]:
        return (
            f"speaks of the smoothed classifier only: the class most often given to copies with noise of sigma {self.sigma:g}, not the "
            f"model's own answer; each row's certificate fails with probability at most {self.alpha:g}",
        )

    def _table(self, smoothed: Smoothed, y: Tensor, batch: Batch, ctx: Context) -> EvidenceRef:
        table = ctx.evidence("radii", "table", title="certified radius per row")
        table.append(
            batch.ids,
            label=y,
            smoothed_label=smoothed.label,
            radius=smoothed.radius,
            abstains=smoothed.label < 0,
            selected=smoothed.top,
            copies_given_it=smoothed.count,
        )
        return table.ref

    def _curve(self, reached: Tensor, ctx: Context) -> EvidenceRef:
        """Certified accuracy over the radius, up to where no row can be certified any more."""
        import torch

        from audit.certificates.smoothing import largest_radius
        from audit.stats import clopper_pearson

        radii = torch.linspace(0, largest_radius(self.n, self.alpha, self.sigma), _CURVE_POINTS, dtype=torch.float64)
        held = ((reached > 0) & (reached >= radii[:, None])).sum(dim=1)
        ends = torch.tensor([clopper_pearson(int(k), len(reached)) for k in held], dtype=torch.float64)
        curve = ctx.evidence(
            "curve",
            "curve",
            title="certified accuracy",
            x_label="l2 radius in input units",
            y_label="certified accuracy, smoothed",
        )
        curve.append(
            [f"{radius:.6g}" for radius in radii], x=radii, y=held / len(reached), low=ends[:, 0], high=ends[:, 1]
        )
        return curve.ref


def _share(flags: Tensor) -> Proportion:
    return Proportion(k=int(flags.sum()), n=len(flags))


def _medians(values: Any) -> Any:
    """Over the last dimension."""
    import numpy as np

    return np.median(values, axis=-1)
