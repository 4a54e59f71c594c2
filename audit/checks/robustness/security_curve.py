"""Accuracy against the size of the perturbation, down to chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from audit.checks import Check
from audit.checks._standards import ADVERSARIAL_INPUTS
from audit.checks.robustness._attack_list import AttackSpec, built, capabilities, require_norm, strongest_access
from audit.checks.robustness._attacked import Rows
from audit.checks.robustness._controls import whole_range
from audit.checks.robustness._distances import Distances
from audit.checks.robustness._inputs import declared_bounds
from audit.checks.robustness._victim import CLEAN_ACCURACY, QUERIES, Victim, require_one_answer, share
from audit.finding import LEVEL, Bound, EvidenceRef, Mean, Measurement, Metric, Resampled, ThreatModel
from audit.model import Capability, Task
from audit.parameters import Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.finding import Estimate
    from audit.model import AuditedModel

REPLICATES = 2000


class SecurityCurve(Check):
    """How accuracy falls as the perturbation grows: the whole curve, the area under it, the median distance of an adversarial example.

    The distance of a row is the size of its smallest perturbation that any attack found and that the model confirmed, asked again: 0
    where the model errs anyway. Accuracy at eps is the share of rows with a distance beyond it, so the curve falls by construction, and
    a success counts at every larger eps. Attacks that seek the nearest example (``fmn``, ``fab_t``) run once, without an eps, and give
    the curve at every eps at once; others run at each eps of the grid, on the rows that are left there.

    ``robust_accuracy[eps=…]`` at each eps of the grid; `area`: the mean over all rows of the share of 0 … largest eps that they withstand,
    which is the area under the curve divided by the largest eps; ``median_distance`` over the rows that the model gets right, with a
    bootstrap interval; where more than half of them were never broken it is a lower bound, from order statistics, that decides nothing.

    Void where the controls of ``robustness.evasion`` say so, held at the median distance, and where a white-box attack without an eps
    leaves more rows than chance does: with the whole input range allowed any input may become one of another class, so accuracy must
    come down to 0 unless the model is constant.

    Source: Biggio & Roli 2018, arXiv:1712.03141; Carlini et al. 2019, arXiv:1902.06705, section 4.3.

    Blind spots: every distance is an upper bound on the true one, as good as the attacks listed; nothing is said of other norms or of
    changes that are no small perturbation. The band around the curve is for each eps by itself, not for all at once. The nearest example
    of a randomised model lies where the next answer may be another: give such a model, beside `eot`, attacks with an eps.
    """

    controls: ClassVar = ADVERSARIAL_INPUTS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="robust_accuracy", title="robust accuracy", better="higher", kinds=("proportion",)),
        CLEAN_ACCURACY,
        Metric(
            name="accuracy_at_largest_eps", title="accuracy at the largest eps", better="higher", kinds=("proportion",)
        ),
        Metric(name="area", title="area under the security curve", better="higher", kinds=("mean",)),
        Metric(name="median_distance", title="median minimal distance", better="higher", kinds=("resampled", "bound")),
        QUERIES,
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Look at the rows with the smallest distances first; train on adversarial examples of this norm at the eps where the curve "
        "falls. Where the number is void, remove what hides the gradient instead."
    )

    attacks: tuple[AttackSpec, ...] = Field(("fmn",), min_length=1)
    """Attacks by name, each with its parameters where they differ from the defaults: ``[fmn, fab_t, {pgd: {steps: 100}}]``."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """How a perturbation is measured."""
    eps: tuple[Real, ...] | None = Field(None, min_length=1)
    """The grid, in the norm and in the units that the user feeds. None: evenly spaced up to where accuracy has come down to chance, 1 /
    classes; that takes an attack that seeks the nearest example."""
    points: int = Field(20, ge=2)
    """How many eps there are in a grid that is not given."""
    queries: int | None = Field(None, ge=1)
    """Cap on the adversary's queries per row and run of an attack: rows through the model, forward."""
    eot: int = Field(1, ge=1)
    """Answers of a randomised model that are averaged whenever it is asked, by the attacks and by the judging alike."""
    samples: int | None = Field(None, ge=1)
    """Attack at most this many test rows; which ones depends on the seed and the rows alone, and more samples contain the fewer. None: all."""
    keep: int = Field(16, ge=0)
    """Adversarial examples stored as evidence, per attack and eps that it runs at."""

    @field_validator("attacks")
    @classmethod
    def _known(cls, attacks: tuple[AttackSpec, ...]) -> tuple[AttackSpec, ...]:
        built(attacks)
        return attacks

    @field_validator("eps")
    @classmethod
    def _rising(cls, eps: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if eps is not None and not all(a < b for a, b in zip((0.0, *eps), eps, strict=False)):
            raise UserError(f"eps must rise, from more than 0: got {list(eps)}")
        return eps

    @model_validator(mode="after")
    def _attacks_fit(self) -> SecurityCurve:
        attacks = built(self.attacks)
        require_norm(attacks, self.norm)
        if self.eps is None and not any(attack.minimal for attack in attacks.values()):
            raise UserError(
                f"attack '{next(iter(attacks))}' needs an eps: give the grid, `eps: [..]`, or an attack that seeks the nearest "
                "example, such as fmn"
            )
        if "points" in self.model_fields_set and self.eps is not None:
            raise UserError("points says how long a grid is that is not given: leave it out beside eps")
        require_one_answer(self.queries, self.eot)
        return self

    def requirements(self) -> frozenset[Capability]:
        """What the attacks need, too."""
        return self.needs | capabilities(built(self.attacks))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        bounds = declared_bounds(model)
        victim = Victim.of(model, data, self.samples, ctx, eot=self.eot)
        victim.require_inside(bounds, data)
        yield victim.measured(ctx)

        attacks = victim.fitted(built(self.attacks), data, ctx)
        access = strongest_access(attacks)
        threat = ThreatModel(access=access, norm=self.norm, bounds=bounds, units=model.spec.units, queries=self.queries)
        right = victim.right
        rows = victim.rows(threat, ctx)
        whole = whole_range(rows)
        found = Distances(rows.take(right), attacks, self.keep)
        found.without_eps()
        grid = self.eps or _grid(found.distance, len(rows), len(model.classes), whole, self.points)
        found.at_each(grid)
        limit = whole if found.minimal else grid[-1]
        why, cautions = found.judged(victim.scores[right], victim.varied, grid[-1], limit)
        curve = _Curve(rows, right, found, grid, limit)
        drawn, listed = curve.drawn(), curve.listed()
        every = (
            *curve.accuracies(drawn, outcomes=self.eps is not None),
            curve.area((drawn, listed, *found.examples), given=self.eps is not None),
            *curve.median(listed, ctx.number("median distance")),
            *curve.price(),
        )
        for measured in every:
            voids = dict.fromkeys(_JUDGED, why) if why and measured.metric == "area" else {}
            yield measured.model_copy(update={"cautions": (*cautions, *measured.cautions), "voids": voids})


_JUDGED = ("robust_accuracy", "accuracy_at_largest_eps", "area", "median_distance")


@dataclass(frozen=True)
class _Curve:
    """The curve and what is read from it.

    Args:
        rows: all rows, attacked or not.
        right: ``(R,)`` positions of those that the model gets right.
        found: their distances.
        grid: rising.
        limit: how far the attacks looked.
    """

    rows: Rows
    right: Tensor
    found: Distances
    grid: Sequence[float]
    limit: float

    @property
    def distance(self) -> Tensor:
        """``(N,)`` float64: 0 where the model errs anyway, infinite where nothing was found."""
        whole = self.found.distance.new_zeros(len(self.rows))
        whole[self.right] = self.found.distance
        return whole

    def accuracies(self, drawn: EvidenceRef, *, outcomes: bool) -> Iterator[Measurement]:
        """Accuracy at every eps, and at the last by its own name."""
        for eps in self.grid:
            evidence: tuple[EvidenceRef, ...] = (drawn,)
            if outcomes:
                writer = self.rows.ctx.evidence(f"outcomes-eps={eps:g}", "outcomes")
                writer.append(self.rows.ids, value=(self.distance > eps).double())
                evidence = (writer.ref, drawn)
            measured: dict[str, Any] = {
                "estimate": share(self.distance > eps),
                "threat_model": self._threat(eps),
                "evidence": evidence,
            }
            yield Measurement(metric="robust_accuracy", dims={"eps": f"{eps:g}"}, **measured)
        yield Measurement(metric="accuracy_at_largest_eps", **measured)

    def area(self, stored: tuple[EvidenceRef, ...], *, given: bool) -> Measurement:
        """Mean share of the range of the grid, given or found, that a row withstands."""
        from audit.stats import mean_and_se

        largest = self.grid[-1]
        share = self.distance.clamp_max(largest) / largest
        writer = self.rows.ctx.evidence("outcomes-area", "outcomes")
        writer.append(self.rows.ids, value=share)
        value, se, n = mean_and_se(share.cpu().numpy())
        return Measurement(
            metric="area",
            estimate=Mean(value=value, se=se, n=n),
            threat_model=self._threat(largest),
            evidence=(writer.ref, *stored),
            cautions=()
            if given
            else (f"over eps from 0 to {largest:g}, this model's own range: give eps to compare models",),
        )

    def median(self, listed: EvidenceRef, seed: int) -> Iterator[Measurement]:
        """Of the rows that the model gets right; nothing where there are none."""
        n = len(self.found.distance)
        if not n:
            return
        unbroken = int((self.found.distance > self.limit).sum())
        measured: dict[str, Any] = {"threat_model": self._threat(None), "evidence": (listed,)}
        if 2 * unbroken >= n:
            measured["unresolved"] = (
                f"{unbroken} of {n} rows were never broken, up to {self.limit:g}: the median lies beyond what was looked at"
            )
        elif unbroken:
            measured["cautions"] = (f"{unbroken} of {n} rows were never broken; they count as {self.limit:g}",)
        yield Measurement(
            metric="median_distance", estimate=_median(self.found.distance, self.limit, unbroken, seed), **measured
        )

    def price(self) -> Iterator[Measurement]:
        """Queries per attacked row, all attacks together."""
        from audit.stats import mean_and_se

        if len(self.found.rows):
            value, se, n = mean_and_se(self.found.queries.cpu().numpy())
            yield Measurement(metric="queries", estimate=Mean(value=value, se=se, n=n), threat_model=self._threat(None))

    def drawn(self) -> EvidenceRef:
        """The curve with the interval at each eps."""
        points = [0.0, *self.grid]
        shares = [share(self.distance > eps) for eps in points]
        low, high = zip(*(share.interval() for share in shares), strict=True)
        units = f", {self.rows.threat.units}" if self.rows.threat.units else ""
        writer = self.rows.ctx.evidence(
            "curve",
            "curve",
            title="security curve",
            x_label=f"eps ({self.rows.threat.norm}{units})",
            y_label="accuracy",
        )
        writer.append(
            [f"{eps:g}" for eps in points],
            x=points,
            y=[share.value for share in shares],
            low=list(low),
            high=list(high),
        )
        return writer.ref

    def listed(self) -> EvidenceRef:
        """Every row's distance and the attack that found it."""
        by = [""] * len(self.rows)
        for at, name in zip(self.right.tolist(), self.found.by, strict=True):
            by[at] = name
        writer = self.rows.ctx.evidence("distances", "table", title="distances", units=self.rows.threat.units)
        writer.append(self.rows.ids, label=self.rows.y, distance=self.distance, found_by=by)
        return writer.ref

    def _threat(self, eps: float | None) -> ThreatModel:
        """With the largest perturbation that counts at an eps; None: at any."""
        sizes = self.distance[(self.distance > 0) & (self.distance <= (self.limit if eps is None else eps))]
        realised = float(sizes.max()) if len(sizes) else None
        return self.rows.threat.model_copy(update={"eps": eps, "realised": realised})


def _median(distance: Tensor, limit: float, unbroken: int, seed: int) -> Estimate:
    """The median of ``(R,)`` distances, those never broken at the limit.

    Where those are half or more: the order statistic that is below the median with 95 % (of R distances, how many lie below it is
    binomial with 1/2).
    """
    import numpy as np
    from scipy.stats import binom

    from audit.stats import bootstrap_replicates

    values = np.sort(distance.clamp_max(limit).cpu().numpy())
    n = len(values)
    if 2 * unbroken >= n:
        below = int(binom.ppf(1 - LEVEL, n, 0.5))
        return Bound(value=float(values[below - 1]) if below else 0.0, side="lower", level=LEVEL, n=n)
    drawn = bootstrap_replicates(
        lambda sample: np.median(sample, axis=1), [values], REPLICATES, seed=seed, vectorized=True
    )
    return Resampled(value=float(np.median(values)), replicates=tuple(drawn.tolist()), n=n)


def _grid(distance: Tensor, n: int, classes: int, whole: float, points: int) -> tuple[float, ...]:
    """Evenly spaced up to the least eps, to two digits, where at most 1 / classes of n rows stay right; where accuracy does not come
    down so far, up to the largest distance."""
    finite = distance[distance.isfinite()].sort().values
    to_break = max(1, len(distance) - n // classes)
    largest = float(finite[min(to_break, len(finite)) - 1]) if len(finite) else whole
    largest = min(_up_to_two_digits(largest), whole)
    return tuple(float(f"{largest * k / points:.6g}") for k in range(1, points + 1))


def _up_to_two_digits(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.6g}")
