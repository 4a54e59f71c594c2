"""Can training rows be read off the model?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from audit.checks import Check
from audit.checks._sample import sample
from audit.checks.privacy._blind import BLIND_AUC, blind_control
from audit.finding import EvidenceRef, Exact, Mean, Measurement, Metric, Proportion, RankAuc, ThreatModel
from audit.model import Capability, Task
from audit.names import unknown
from audit.parameters import NotApplicable, Real

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel
    from audit.privacy.inversion import Distance, Inversions, Nearness, Range

MOST_CLASSES = 20
FEWEST_IN_A_MEAN = 10
"""Members whose mean shows none of them."""


class ModelInversion(Check):
    """Whether what the model is led to, class by class, lies nearer to its training rows than to others.

    From a uniform start, inputs climb the model's probability of a class by gradients, its own or estimated from its answers, within the
    input's range, no further from the start than it takes, and with little total variation. ``member_auc`` is the chance that of a member
    and a held-out row of the class the member is nearer to the class's inversions: 0.5 where nothing leaks, for then the two are exchangeable. ``nearest_is_member``: of as many members as held-out rows,
    the share of members among the rows that are nearest to an inversion, each row counted once; 0.5 again. ``similarity_to_mean`` is the
    structural similarity of each class's best inversion and the mean of its members; ``reached`` the share of climbs that the model gives
    to their class: where it is below one half, the attack failed, and decides nothing.

    The blind control comes with it: where inputs alone tell members from test rows, nearness means nothing.

    Source: Fredrikson, Jha & Ristenpart 2015, doi 10.1145/2810103.2813677; priors: Simonyan et al. 2014, arXiv:1312.6034,
    Mahendran & Vedaldi 2015, arXiv:1412.0035; estimated gradients: Ilyas et al. 2018, arXiv:1804.08598; structural similarity: Wang et al. 2004, doi 10.1109/TIP.2003.819861.
    Blind spots: likeness to the class mean proves no leak: a class of near-identical rows (one person's face, one printed digit) looks like
    itself however the model was trained, and its look may be the secret all the same; only nearness to members over held-out rows
    speaks of training. A lower bound: generative priors (Zhang et al. 2020, arXiv:1911.07135) invert deep networks that this climb leaves as
    noise. Nearness is of pixels or columns, not of meaning.
    """

    controls: ClassVar = ("MITRE ATLAS AML.T0024.001", "OWASP ML03:2023", "NIST AI RMF MEASURE 2.10")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="member_auc", title="inversions nearer to members than to held-out rows", better="lower", kinds=("rank_auc",)),
        Metric(name="nearest_is_member", title="rows nearest to an inversion that are members", better="lower", kinds=("proportion",)),
        Metric(
            name="similarity_to_mean", title="structural similarity to the class mean", better="neither", kinds=("mean", "exact"),
            varies="nothing",
        ),
        Metric(name="reached", title="climbs that reached their class", better="neither", kinds=("proportion",)),
        BLIND_AUC,
    )  # fmt: skip
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.TRAIN_DATA, Capability.PROBABILITIES})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Classes of few members are remembered by their rows: merge them or gather more, regularise, stop earlier, or train with DP-SGD; "
        "keep the weights secret and answer with labels; then audit again on the same split."
    )

    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Classes to invert; None: those with members and held-out rows, at most the 20 with the most members."""
    images: Annotated[int, Field(ge=1)] = 8
    """Inversions of each class."""
    steps: Annotated[int, Field(ge=1)] = 200
    """Steps of each climb."""
    step: Annotated[Real, Field(gt=0, le=1)] = 0.05
    """Size of a step (Adam's), as a share of the input's range."""
    start: Annotated[Real, Field(ge=0, le=1)] = 0.5
    """Where climbs start, as a share of the range; a little noise makes them differ."""
    decay: Annotated[Real, Field(ge=0)] = 1.0
    """Weight of the mean squared distance from the start: what the class does not need stays as it was."""
    total_variation: Annotated[Real, Field(ge=0)] = 0.1
    """Weight of the mean difference between neighbouring pixels, both as shares of the range; smoother pictures, less detail."""
    directions: Annotated[int, Field(ge=1)] | None = None
    """Ask the model for scores only: each step's gradient is estimated from so many pairs of answers; None: the model's own gradients."""
    distance: Literal["auto", "correlation", "euclidean"] = "auto"
    """How rows are compared: by ``correlation``, which brightness and contrast do not change, or ``euclidean``; ``auto``: the second for tables."""
    samples: Annotated[int, Field(ge=20)] | None = 5000
    """Members, and held-out rows, at most to compare with; None: all."""
    show_members: bool = False
    """Whether evidence holds the member nearest to each class's best inversion, and means of fewer than 10 members; else its row id alone."""

    def requirements(self) -> frozenset[Capability]:
        """Gradients, too, unless they are estimated."""
        return self.needs | (frozenset() if self.directions else frozenset({Capability.GRADIENTS}))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield the control, then nearness and likeness, undivided and by class.

        Raises:
            NotApplicable: texts, tables with categories, or no class with members and held-out rows.
            UserError: no such class.
        """
        _require_numbers(model)
        assert data.train is not None  # TRAIN_DATA is among the requirements
        ctx.progress(0, self.steps, "blind control")
        yield blind_control(model, data.train, data.test, ctx, ("member_auc", "nearest_is_member"))
        members, held_out = (sample(rows, self.samples, ctx) for rows in (data.train, data.test))
        classes, cautions = self._classes(model, members, held_out)
        valid = _range(model, held_out)
        found = self._climb(model, classes, valid, ctx)
        parts = [self._class(model, index, found, members, held_out, valid) for index in classes]
        evidence = (self._evidence(model, parts, valid, ctx),)
        threat = ThreatModel(
            access="black_box_scores" if self.directions else "white_box", goal="reconstruction",
            bounds=model.spec.bounds, units=model.spec.units, queries=self.steps * 2 * (self.directions or 1),
            constraints="knows no row; climbs from a uniform start",
        )  # fmt: skip
        for measurement in self._measured(parts, int(found.reached.sum()), len(found.u), ctx):
            yield measurement.model_copy(update={"threat_model": threat, "cautions": cautions, "evidence": evidence})

    def _classes(self, model: AuditedModel, members: Batch, held_out: Batch) -> tuple[list[int], tuple[str, ...]]:
        """Classes to invert, and what is left out."""
        import numpy as np

        counts = [np.bincount(rows.labels, minlength=len(model.classes)) for rows in (members, held_out)]
        present = np.flatnonzero(np.minimum(*counts))
        said = []
        if self.classes is None:
            most = present[np.argsort(-counts[0][present], kind="stable")][:MOST_CLASSES]
            chosen = sorted(most.tolist())
            if len(present) > MOST_CLASSES:
                said.append(
                    f"the {MOST_CLASSES} of {len(present)} classes with the most members; name others by 'classes'"
                )
        else:
            if strange := [name for name in self.classes if name not in model.classes]:
                raise unknown("class", strange[0], list(model.classes))
            wanted = [model.classes.index(name) for name in self.classes]
            chosen = [index for index in wanted if index in present]
            if lost := [model.classes[index] for index in wanted if index not in present]:
                said.append(f"left out, for lack of members or held-out rows: {', '.join(lost[:5])}")
        if not chosen:
            raise NotApplicable("no class has members and held-out rows to compare an inversion with")
        return chosen, tuple(said)

    def _climb(self, model: AuditedModel, classes: Sequence[int], valid: Range, ctx: Context) -> Inversions:
        import torch

        from audit.privacy.inversion import Prior, invert

        target = torch.tensor(classes).repeat_interleave(self.images)
        names = [f"{index}-{number}" for index in classes for number in range(self.images)]
        noise = ctx.rng(names, "start").normal(model.spec.shape)
        return invert(
            model, target, noise, valid, Prior(self.start, self.decay, self.total_variation), steps=self.steps,
            step=self.step, directions=self.directions, seed=ctx.number("directions"), progress=lambda done: ctx.progress(done, self.steps, "climbing"),
        )  # fmt: skip

    def _class(
        self, model: AuditedModel, index: int, found: Inversions, members: Batch, held_out: Batch, valid: Range
    ) -> _Class:
        """One class's inversions beside its rows."""
        from audit.privacy.inversion import nearness

        distance: Distance = "euclidean" if model.spec.tabular else "correlation"
        if self.distance != "auto":
            distance = self.distance
        mine = found.take(found.target == index)
        own, others = (rows.take(rows.labels == index) for rows in (members, held_out))
        inside, outside = (valid.share(model.tensor(rows)).nan_to_num(nan=0.5) for rows in (own, others))
        near = nearness(mine.u, inside, outside, distance)
        likeness = _similarity(mine.u[mine.best], inside.mean(dim=0)) if model.spec.kind == "image" else None
        return _Class(index, model.classes[index], mine, own, others, near, likeness)

    def _measured(self, parts: list[_Class], reached: int, climbs: int, ctx: Context) -> Iterator[Measurement]:
        """Every number, the undivided ones first."""
        from audit.privacy.inversion import pooled_auc
        from audit.stats import mean_and_se

        failed = None
        if reached < climbs / 2:
            failed = f"the attack failed: {climbs - reached} of {climbs} climbs did not reach their class"

        def auc(value: float, among: list[_Class], **dims: str) -> Measurement:
            members, held_out = sum(len(part.own) for part in among), sum(len(part.others) for part in among)
            estimate = RankAuc(value=value, n_pos=members, n_neg=held_out)
            return Measurement(metric="member_auc", estimate=estimate, dims=dims, unresolved=failed)

        yield auc(pooled_auc([part.near for part in parts]), parts)
        rng = ctx.generator("as many of each")
        nearest = [part.near.nearest_members(rng) for part in parts]
        share = Proportion(k=sum(k for k, _ in nearest), n=sum(n for _, n in nearest))
        yield Measurement(metric="nearest_is_member", estimate=share, unresolved=failed)
        yield Measurement(metric="reached", estimate=Proportion(k=reached, n=climbs))
        alike = {part.name: part.similarity for part in parts if part.similarity is not None}
        if alike:
            value, se, n = mean_and_se(list(alike.values()))
            yield Measurement(metric="similarity_to_mean", estimate=Mean(value=value, se=se, n=n))
        for part in parts:
            yield auc(part.near.auc, [part], **{"class": part.name})
        for name, value in alike.items():
            yield Measurement(metric="similarity_to_mean", estimate=Exact(value=value), dims={"class": name})

    def _evidence(self, model: AuditedModel, parts: list[_Class], valid: Range, ctx: Context) -> EvidenceRef:
        """Each class's best inversion beside the mean of its members and the nearest rows, in the input's own units.

        Means of few members, which show them, and the nearest members are left out unless they were asked for.
        """
        import numpy as np

        def mean(part: _Class) -> NDArray[Any]:
            found: NDArray[Any] = part.own.x.astype(np.float32).mean(axis=0)
            return found if self.show_members or len(part.own) >= FEWEST_IN_A_MEAN else np.full_like(found, np.nan)

        inside, outside = (np.array(rows) for rows in zip(*(part.nearest for part in parts), strict=True))
        shown = {"nearest_member": np.stack([p.own.x[i] for p, i in zip(parts, inside, strict=True)])} if self.show_members else {}  # fmt: skip
        best = [part.found.best for part in parts]
        writer = ctx.evidence(
            "inversions", "reconstruction", title="what the model is led to, by class", input_kind=model.spec.kind,
            classes=list(model.classes), feature_names=[field.name for field in model.spec.fields],
            parameters={"distance": self.distance, "decay": self.decay, "total_variation": self.total_variation, "steps": self.steps},
        )  # fmt: skip
        writer.append(
            [part.name for part in parts],
            label=np.array([part.index for part in parts]),
            x=np.stack([valid.input(p.found.u[i]).squeeze(0).cpu().numpy() for p, i in zip(parts, best, strict=True)]),
            probability=np.array([float(p.found.probability[i]) for p, i in zip(parts, best, strict=True)]),
            similarity=np.array([np.nan if part.similarity is None else part.similarity for part in parts]),
            class_mean=np.stack([mean(part) for part in parts]),
            nearest_held_out=np.stack([p.others.x[i] for p, i in zip(parts, outside, strict=True)]),
            **shown,
            members=np.array([len(part.own) for part in parts]),
            held_out=np.array([len(part.others) for part in parts]),
            member_id=[p.own.ids[i] for p, i in zip(parts, inside, strict=True)],
            member_distance=np.array([p.near.member[i, b] for p, i, b in zip(parts, inside, best, strict=True)]),
            held_out_distance=np.array([p.near.held_out[i, b] for p, i, b in zip(parts, outside, best, strict=True)]),
        )
        return writer.ref


@dataclass(frozen=True)
class _Class:
    """A class with its inversions, its members and held-out rows, and how near those are.

    Args:
        similarity: structural similarity of the best inversion and the mean of the members; None where it means nothing.
    """

    index: int
    name: str
    found: Inversions
    own: Batch
    others: Batch
    near: Nearness
    similarity: float | None

    @property
    def nearest(self) -> tuple[int, int]:
        """The member and the held-out row that are nearest to the best inversion."""
        best = self.found.best
        return int(self.near.member[:, best].argmin()), int(self.near.held_out[:, best].argmin())


def _similarity(inversion: Tensor, mean: Tensor) -> float | None:
    from audit.privacy.inversion import structural_similarity

    return structural_similarity(*(image.double().cpu().numpy() for image in (inversion, mean)))


def _require_numbers(model: AuditedModel) -> None:
    """Raise `NotApplicable` where gradients have no input to climb in."""
    strange = {field.kind for field in model.spec.fields} - {"image", "series", "number"}
    if strange:
        raise NotApplicable(
            f"privacy.model_inversion climbs in numbers; the input of model '{model.name}' holds {', '.join(sorted(strange))}"
        )


def _range(model: AuditedModel, rows: Batch) -> Range:
    """The valid range of the input; of a part without bounds, what rows span."""
    import torch

    from audit.privacy.inversion import Range

    x = model.tensor(rows)
    spread = (0,) if model.spec.tabular else tuple(range(x.ndim))
    low, high = x.nan_to_num(torch.inf).amin(spread, keepdim=True), x.nan_to_num(-torch.inf).amax(spread, keepdim=True)
    for column, field in enumerate(model.spec.fields):
        if field.bounds is not None:
            low[:, column], high[:, column] = field.bounds
    return Range(low, torch.where(high > low, high, low + 1))
