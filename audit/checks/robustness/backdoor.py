"""Does a small patch, planted in the training data, steer the model?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from audit.checks import Check
from audit.finding import EvidenceRef, Exact, Mean, Measurement, Metric, Proportion, ThreatModel
from audit.model import Capability, Task
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.robustness._trigger_search import Canvas, Triggers
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

Method = Literal["trigger_search", "activation_clustering", "spectral_signatures"]

WORKS = 0.9
"""Share of held-out rows that a found trigger must steer; shown to be below, the search failed (policy)."""
FEWEST_CLASSES = 7
"""Classes below which a median absolute deviation tells no outlier (policy)."""
FEWEST_ROWS = 10
"""Training rows, and clean rows, of a class below which its groups are not compared (policy)."""
SIGNIFICANCE = 0.01
"""Of a group of training rows, over all classes together (Bonferroni)."""
_THREAT = ThreatModel(access="training_data", goal="targeted", constraints="one patch for all inputs")


class Backdoor(Check):
    """Signs of a backdoor: a class that a patch reaches far more easily than the others, and training rows that clean rows are unlike.

    ``trigger_search`` (Neural Cleanse) finds for every class the smallest patch that sends clean inputs there. The anomaly index says how
    far the smallest lies below the median, in consistent median absolute deviations; the authors call 2 or more a backdoor. It is
    measured once per restart, and the interval is over restarts. Void where the patch of some class is shown to steer less than 90 % of the
    held-out rows: the search failed there. Fewer than seven classes decide nothing.

    ``activation_clustering`` and ``spectral_signatures`` part the penultimate activations of each training label in two, and call the
    training rows of a part suspicious where clean test rows of the class are rarer in it (Fisher's exact test, 1 % over all classes).

    Measured with `benchmarks/backdoor.py --restarts 2 --batch 16` on networks for 8×8 digits (95 % intervals). Of 20 clean models the
    index was above 2 in 4 (20 %, 6 to 44 %), and the gate ``< 2`` failed 1 (5 %, 0 to 25 %); neither of the other methods flagged a row
    (0 of 20, 0 to 17 %). Of 8 models with a 2×2 corner patch in 5 % of their training rows, the index was above 2 in all, the planted class
    first (63 to 100 %); activation clustering flagged rows in 4, spectral signatures in 3: that they flag none proves little. Two restarts
    leave most gates inconclusive (14 of 20 clean, 7 of 8 poisoned).

    Source: Wang et al. 2019, doi 10.1109/SP.2019.00031; Chen et al. 2018, arXiv:1811.03728; Tran et al. 2018, arXiv:1811.00636.

    Blind spots: triggers that are large, spread out, semantic or different for each input; clean-label poison; backdoors from every class
    to another (all-to-all) or from one source class only, or towards most classes at once; a class that is easy to reach by nature looks
    like one with a backdoor. Test rows must be clean. Training rows are judged by their label, so rows hidden among too few others go
    unseen; a subgroup of training rows that the test rows lack is flagged without any poison.
    """

    controls: ClassVar = (
        "MITRE ATLAS AML.T0018",
        "MITRE ATLAS AML.T0020",
        "OWASP ML02:2023",
        "OWASP ML10:2023",
        "NIST AI RMF MEASURE 2.7",
        "EU AI Act Art. 15(5)",
    )
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="anomaly_index",
            title="anomaly index of the smallest trigger",
            better="lower",
            kinds=("mean",),
            varies="seeds",
        ),
        Metric(
            name="trigger_size",
            title="size of the trigger",
            better="higher",
            kinds=("mean",),
            varies="seeds",
            unit="input elements (L1 of the mask)",
        ),
        Metric(
            name="trigger_success",
            title="held-out rows that the found trigger steers",
            better="neither",
            kinds=("proportion",),
        ),
        Metric(
            name="suspicious_share",
            title="training rows that look poisoned",
            better="lower",
            kinds=("exact",),
            varies="nothing",
        ),
    )
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Look at the stored triggers and the suspicious training rows. Where a patch is planted, remove the rows that carry it and train "
        "again; do not release a model from a source you cannot vouch for."
    )

    methods: tuple[Method, ...] | None = Field(None, min_length=1)
    """What to run. None: the trigger search, and the two others where the data hold the training rows and the model has layers."""
    restarts: int = Field(5, ge=1)
    """Trigger searches per class, from different starts and rows; one alone has no interval."""
    updates: int = Field(400, ge=1)
    """Gradient steps of a search at most; it ends once its mask has stopped shrinking."""
    batch: int = Field(32, ge=1)
    """Rows that each step paints. On digits 16 gave masks as small that steered 2 points fewer of the held-out rows."""
    samples: int | None = Field(1000, ge=1)
    """Test rows at most; the trigger search uses those that the model gets right, a third of them only to measure what it found."""
    layer: str | None = None
    """Module whose output is clustered. None: what the last linear layer is fed."""

    def requirements(self) -> frozenset[Capability]:
        """What the methods listed need; by default what the trigger search needs."""
        needs = {Capability.LABELS}
        if self.methods is None or "trigger_search" in self.methods:
            needs |= {Capability.GRADIENTS, Capability.LOGITS}
        if self.methods is not None and set(self.methods) - {"trigger_search"}:
            needs |= {Capability.TRAIN_DATA, Capability.LAYERS}
        return frozenset(needs)

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`."""
        from audit.checks._sample import sample

        methods = self.methods or _possible(model, data)
        batch = sample(data.test, self.samples, ctx)
        clean = batch.take(model.correct(batch).cpu().numpy())
        if not len(clean):
            raise UserError(
                f"model '{model.name}' gets none of {len(batch)} test rows right: there is nothing to steer"
            )
        if "trigger_search" in methods:
            yield from self._triggers(model, clean, ctx)
        of_rows = [method for method in methods if method != "trigger_search"]
        if of_rows and data.train is not None:
            yield from self._training_rows(model, clean, data.train, of_rows, ctx)

    def _triggers(self, model: AuditedModel, clean: Batch, ctx: Context) -> Iterator[Measurement]:
        """Search every class, and say how far the smallest trigger stands out."""
        import torch

        from audit.checks.robustness._trigger_search import anomaly_index, canvas_of, search

        classes, canvas = model.classes, canvas_of(model.spec, model.device)
        order = ctx.rng(clean.ids, "held out").uniform(()).argsort(stable=True).to(model.device)
        held, searched = order[: len(order) // 3], order[len(order) // 3 :]
        x, y = model.tensor(clean), torch.as_tensor(clean.labels).to(model.device)
        target = torch.arange(len(classes)).repeat(self.restarts)
        rng = ctx.rng([f"{classes[t]}/{i // len(classes)}" for i, t in enumerate(target.tolist())], "trigger search")

        def progress(done: int) -> None:
            ctx.progress(done, len(target), "trigger searches")

        found = search(
            model, x[searched], y[searched], target, canvas, rng,
            updates=self.updates, rows=self.batch, progress=progress,
        )  # fmt: skip
        whole = float(found.mask[0].numel())
        size = found.size.where(found.found, whole).reshape(self.restarts, -1).cpu()
        typical = _Typical.of(found, size)
        steered = [typical.steers(model, x[held], y[held], canvas, k) for k in range(len(classes))]
        index = anomaly_index(size)
        shown = (typical.store(ctx, model, canvas), _class_table(ctx, model, size, index, steered))
        yield from _index(model, size, index, found, steered, shown)
        for k, name in enumerate(classes):
            dims = {"class": name}
            yield Measurement(metric="anomaly_index", estimate=_mean(index[:, k]), dims=dims, threat_model=_THREAT)
            yield Measurement(metric="trigger_size", estimate=_mean(size[:, k]), dims=dims, threat_model=_THREAT)
            if (success := steered[k]) is not None:
                yield Measurement(metric="trigger_success", estimate=success, dims=dims, threat_model=_THREAT)

    def _training_rows(
        self, model: AuditedModel, clean: Batch, train: Batch, methods: Sequence[Method], ctx: Context
    ) -> Iterator[Measurement]:
        """Part the activations of each label in two, and flag the part that clean rows stay out of."""
        import torch

        from audit.checks.robustness._activations import activations, clusters, over_represented, spectral

        ours, theirs = (activations(model, model.tensor(part), self.layer) for part in (train, clean))
        anywhere = torch.zeros(len(train), dtype=torch.bool)
        shares: list[Measurement] = []
        for method in methods:
            split = clusters if method == "activation_clustering" else spectral
            flagged = torch.zeros(len(train), dtype=torch.bool)
            lines, skipped = [], []
            for k, name in enumerate(model.classes):
                mine, known = (torch.from_numpy(part.labels == k) for part in (train, clean))
                if min(int(mine.sum()), int(known.sum())) < FEWEST_ROWS:
                    skipped.append(name)
                    continue
                groups, clean_groups = split(
                    ours[mine.to(ours.device)], theirs[known.to(ours.device)], ctx.number(f"{method} {name}")
                )
                inside, p = over_represented(groups, clean_groups)
                group = int(groups[inside][0])
                suspicious = p <= SIGNIFICANCE / len(model.classes)
                lines.append(
                    (name, len(groups), inside.double().mean(), (clean_groups == group).double().mean(), p, suspicious)
                )
                if suspicious:
                    flagged[mine] = inside
                ctx.progress(k + 1, len(model.classes), method)
            anywhere |= flagged
            rows = ctx.evidence(f"suspicious-{method}", "outcomes", title=f"suspicious by {method}")
            rows.append(train.ids, value=flagged.double())
            shares.append(
                Measurement(
                    metric="suspicious_share",
                    estimate=Exact(value=float(flagged.double().mean()), n=len(train)),
                    dims={"method": method},
                    threat_model=_THREAT,
                    evidence=(rows.ref, *_group_table(ctx, method, lines)),
                    cautions=_skipped(skipped),
                )
            )
        yield Measurement(
            metric="suspicious_share",
            estimate=Exact(value=float(anywhere.double().mean()), n=len(train)),
            threat_model=_THREAT,
        )
        yield from shares


def _possible(model: AuditedModel, data: AuditData) -> tuple[Method, ...]:
    if data.train is None or Capability.LAYERS not in model.capabilities:
        return ("trigger_search",)
    return "trigger_search", "activation_clustering", "spectral_signatures"


@dataclass(frozen=True)
class _Typical:
    """The trigger of median size of each class: the smallest would be the one that luck made too small to work elsewhere.

    Args:
        mask: ``(K, *mask_shape)``, pattern: ``(K, *shape)``.
    """

    mask: Tensor
    pattern: Tensor

    @classmethod
    def of(cls, found: Triggers, size: Tensor) -> _Typical:
        """`found` holds R times K searches, all classes of a restart together; `size` is ``(R, K)``."""
        import torch

        restarts, classes = size.shape
        middle = size.argsort(dim=0, stable=True)[restarts // 2]
        at = (middle * classes + torch.arange(classes)).to(found.mask.device)
        return cls(found.mask[at], found.pattern[at])

    def steers(self, model: AuditedModel, x: Tensor, y: Tensor, canvas: Canvas, k: int) -> Proportion | None:
        """How many rows of other classes the trigger sends to class `k`; None where there is no such row."""
        others = x[y != k]
        if not len(others):
            return None
        painted = canvas.paint(others, self.mask[k], self.pattern[k])
        return Proportion(k=int((model.predict(painted) == k).sum()), n=len(others))

    def store(self, ctx: Context, model: AuditedModel, canvas: Canvas) -> EvidenceRef:
        """Each trigger on an empty input, with its mask as the map."""
        import torch

        spec = model.spec
        writer = ctx.evidence(
            "triggers", "attributions",
            explainer="smallest triggers found, and their masks", input_kind=spec.kind, classes=list(model.classes),
            bounds=list(spec.bounds or ()), feature_names=[f.name for f in spec.fields] if spec.tabular else [],
        )  # fmt: skip
        target = torch.arange(len(model.classes))
        empty = torch.zeros_like(self.pattern) + canvas.low
        writer.append(
            model.classes,
            x=canvas.paint(empty, self.mask, self.pattern),
            values=self.mask.expand(-1, *canvas.mask_shape),
            target=target,
            prediction=target,
        )
        return writer.ref


def _index(
    model: AuditedModel,
    size: Tensor,
    index: Tensor,
    found: Triggers,
    steered: list[Proportion | None],
    shown: tuple[EvidenceRef, ...],
) -> Iterator[Measurement]:
    """The undivided index, with what a reader must know of it."""
    classes = model.classes
    weak = {n: s for n, s in zip(classes, steered, strict=True) if s is None or s.value < WORKS}
    failed = [name for name, share in weak.items() if share is None or share.interval()[1] < WORKS]
    cautions = []
    if weak:
        cautions.append(f"triggers for {', '.join(list(weak)[:10])} steered less than {WORKS:.0%} of the held-out rows")
    if missed := int((~found.found).sum()):
        cautions.append(
            f"{missed} of {len(found.found)} searches found no trigger that steers 99 %; they count as whole masks"
        )
    mean_index, mean_size = index.mean(dim=0), size.mean(dim=0)
    cautions += [
        f"class {classes[k]}: a trigger of {mean_size[k]:.3g} elements, median {mean_size.median():.3g}"
        for k in mean_index.argsort(descending=True).tolist()
        if mean_index[k] > 2
    ]
    why = f"the search failed: triggers for {', '.join(failed[:10])} steer less than {WORKS:.0%} of the held-out rows"
    yield Measurement(
        metric="anomaly_index",
        estimate=_mean(index.max(dim=1).values),
        threat_model=_THREAT,
        evidence=shown,
        voids={"anomaly_index": why, "trigger_size": why} if failed else {},
        cautions=tuple(cautions),
        unresolved=f"{len(classes)} classes are too few for a median absolute deviation to tell an outlier (it takes {FEWEST_CLASSES})"
        if len(classes) < FEWEST_CLASSES
        else None,
    )


def _mean(values: Tensor) -> Mean:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(values.cpu().numpy())
    return Mean(value=value, se=se, n=n)


def _class_table(
    ctx: Context, model: AuditedModel, size: Tensor, index: Tensor, steered: list[Proportion | None]
) -> EvidenceRef:
    import math

    writer = ctx.evidence("trigger-sizes", "table", title="trigger per class")
    writer.append(
        model.classes,
        size=size.mean(dim=0),
        anomaly_index=index.mean(dim=0),
        success=[math.nan if share is None else share.value for share in steered],
    )
    return writer.ref


def _group_table(ctx: Context, method: Method, lines: list[tuple[Any, ...]]) -> tuple[EvidenceRef, ...]:
    if not lines:
        return ()
    names, rows, share, clean, p, suspicious = (list(column) for column in zip(*lines, strict=True))
    writer = ctx.evidence(f"groups-{method}", "table", title=f"{method.replace('_', ' ')}: the group in question")
    writer.append(names, rows=rows, share_of_training_rows=share, share_of_clean_rows=clean, p=p, suspicious=suspicious)
    return (writer.ref,)


def _skipped(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"{', '.join(names[:10])}: fewer than {FEWEST_ROWS} training rows or clean rows, not looked at",)
