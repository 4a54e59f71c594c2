"""Accuracy on inputs that nobody attacked and the world has damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from audit.checks import Check
from audit.finding import EvidenceRef, Mean, Measurement, Metric, Proportion, Resampled
from audit.model import Capability, Task
from audit.names import unknown
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel
    from audit.rng import ExampleRng

Families = Mapping[str, tuple[str, ...]]


class Corruptions(Check):
    """Accuracy under common corruptions at five severities: the mean over all corruptions and severities, and each part.

    Images: noise, blur, weather, digital and geometric families, with the published constants of ImageNet-C or CIFAR-10-C, whichever is
    nearer in size. Tables: missing values (where the model takes none, the column's median or commonest category), unit errors, swapped
    categories. Texts: typos, spaces, case, misread and lost characters. Series: noise, level, gaps.

    Each row is corrupted in every way, so its outcomes belong together: intervals are over rows. With a `reference`, ``mce`` is the mean
    over corruptions of this model's errors divided by the reference's; without one, ``accuracy_drop`` says what the corruptions cost.

    Source: Hendrycks & Dietterich 2019, arXiv:1903.12261.

    Blind spots: these corruptions only, each alone and synthetic; what a deployment really meets may be milder, other or both at once.
    A model trained on the same corruptions looks better than it is. Frost is drawn, not photographed; glass blur is left out; below 32
    pixels the same constants in pixels are more severe. No adversary: see `robustness.evasion`.
    """

    controls: ClassVar = ("NIST AI RMF MEASURE 2.5", "NIST AI RMF MEASURE 2.7", "EU AI Act Art. 15(4)")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="accuracy", title="accuracy under corruption", better="higher", kinds=("mean", "proportion")),
        Metric(name="clean_accuracy", title="accuracy without corruption", better="higher", kinds=("proportion",)),
        Metric(name="accuracy_drop", title="accuracy lost to corruption", better="lower", kinds=("mean",)),
        Metric(
            name="mce",
            title="mean corruption error",
            better="lower",
            kinds=("resampled",),
            unit="1 = errors of the reference",
        ),
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Augment the training data with the families that cost most, check how inputs are read and cleaned before the model, and refuse "
        "inputs whose quality is too low."
    )

    families: tuple[str, ...] | None = Field(None, min_length=1)
    """Families to measure. None: all of the input's kind."""
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field((1, 2, 3, 4, 5), min_length=1)
    """Severities to measure."""
    reference: str | None = None
    """A model that the scenario names under ``models``, whose errors are the unit of ``mce``."""
    samples: int | None = Field(None, ge=1)
    """Test rows at most; which ones depends on the seed and the rows alone. None: all."""
    keep: int = Field(4, ge=0)
    """Corrupted rows stored as evidence, per corruption, at the highest severity."""

    @field_validator("families")
    @classmethod
    def _known(cls, families: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = {name for of_kind in _all_families().values() for name in of_kind}
        for name in families or ():
            if name not in known:
                raise unknown("family of corruptions", name, sorted(known))
        return families

    @field_validator("severities")
    @classmethod
    def _once_each(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(severities)))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`."""
        import torch

        from audit.checks._sample import sample

        source = _source(model, data).limited(self.families, model)
        reference = _reference(self.reference, model, ctx)
        batch = sample(data.test, self.samples, ctx)
        clean = model.correct(batch).double().cpu()
        stored = ctx.evidence("clean", "outcomes")
        stored.append(batch.ids, value=clean)
        yield Measurement(metric="clean_accuracy", estimate=_share(clean), evidence=(stored.ref,))

        models = [model] if reference is None else [model, reference]
        right = torch.zeros((len(models), len(batch), len(source.names), len(self.severities)), dtype=torch.bool)
        examples = _Examples(ctx, model, self.keep)
        for done, name in enumerate(source.names):
            for rows in torch.arange(len(batch)).split(model.micro_batch):  # type: ignore[no-untyped-call]
                self._measure(models, batch, rows, source, done, right, examples, ctx)
            ctx.progress(done + 1, len(source.names), name)
        yield from self._numbers(right, clean, batch, source, examples, ctx)

    def _measure(
        self,
        models: list[AuditedModel],
        batch: Batch,
        rows: Tensor,
        source: _Source,
        position: int,
        right: Tensor,
        examples: _Examples,
        ctx: Context,
    ) -> None:
        """One corruption of some rows at every severity, asked of every model."""
        import torch

        part, name = batch.take(rows.numpy()), source.names[position]
        x, y = models[0].tensor(part), torch.as_tensor(part.labels)
        for column, severity in enumerate(self.severities):
            changed = source.corrupt(x, name, severity, ctx.rng(part.ids, name))
            for m, asked in enumerate(models):
                predicted = asked.predict(changed).cpu()
                right[m, rows, position, column] = predicted == y
                if m == 0 and severity == max(self.severities):
                    examples.add(f"{name}, severity {severity}", part, x, changed, predicted)

    def _numbers(
        self, right: Tensor, clean: Tensor, batch: Batch, source: _Source, examples: _Examples, ctx: Context
    ) -> Iterator[Measurement]:
        ours = right[0].double()
        per_row = ours.mean(dim=(1, 2))
        shown = (self._curve(ours, source, ctx), self._table(right, source, ctx), *examples.refs)
        outcomes = ctx.evidence("accuracy", "outcomes", title="accuracy over all corruptions")
        outcomes.append(batch.ids, value=per_row)
        yield Measurement(
            metric="accuracy", estimate=_share(per_row), evidence=(outcomes.ref, *shown), cautions=source.cautions
        )
        yield Measurement(metric="accuracy_drop", estimate=_mean(clean - per_row), cautions=source.cautions)
        if len(right) > 1:
            yield _mce(right, source, ctx)
        for family, members in source.families.items():
            at = [source.names.index(name) for name in members]
            yield _part({"family": family}, ours[:, at].mean(dim=(1, 2)))
            for column, severity in enumerate(self.severities):
                yield _part({"family": family, "severity": str(severity)}, ours[:, at, column].mean(dim=1))
        for column, severity in enumerate(self.severities):
            yield _part({"severity": str(severity)}, ours[:, :, column].mean(dim=1))
        for position, name in enumerate(source.names):
            yield _part({"corruption": name}, ours[:, position].mean(dim=1))

    def _curve(self, ours: Tensor, source: _Source, ctx: Context) -> EvidenceRef:
        """Accuracy of each family by severity, with 95 % intervals."""
        writer = ctx.evidence(
            "curve", "curve", title="corruptions", x_label="severity", y_label="accuracy", x_scale="linear", y_scale="linear"
        )  # fmt: skip
        for family, members in source.families.items():
            at = [source.names.index(name) for name in members]
            found = [_share(ours[:, at, column].mean(dim=1)) for column in range(len(self.severities))]
            ends = [estimate.interval() for estimate in found]
            writer.append(
                [f"{family} {severity}" for severity in self.severities],
                x=[float(severity) for severity in self.severities],
                y=[estimate.value for estimate in found],
                low=[max(0.0, low) for low, _ in ends],
                high=[min(1.0, high) for _, high in ends],
                series=[family] * len(found),
            )
        return writer.ref

    def _table(self, right: Tensor, source: _Source, ctx: Context) -> EvidenceRef:
        """Accuracy of each corruption by severity, the reference's mean beside it."""
        accuracy = right.double().mean(dim=1)
        columns = {f"severity_{s}": accuracy[0, :, column] for column, s in enumerate(self.severities)}
        if len(right) > 1:
            columns["mean_of_reference"] = accuracy[1].mean(dim=1)
        writer = ctx.evidence("accuracy-by-corruption", "table", title="accuracy by corruption and severity")
        writer.append(source.names, mean=accuracy[0].mean(dim=1), **columns)
        return writer.ref


# --- what an input can suffer ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """The corruptions of one kind of input, in the units that the user feeds."""

    families: Families
    corrupt: Callable[[Tensor, str, int, ExampleRng], Tensor]
    cautions: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [name for members in self.families.values() for name in members]

    def limited(self, families: tuple[str, ...] | None, model: AuditedModel) -> _Source:
        """Only some families.

        Raises:
            UserError: one is not of this kind of input.
        """
        if other := [name for name in families or () if name not in self.families]:
            raise UserError(
                f"model '{model.name}' is fed {model.spec.a_kind}, which knows no corruptions of family {', '.join(other)}; "
                f"it knows {', '.join(self.families)}"
            )
        chosen = {name: members for name, members in self.families.items() if families is None or name in families}
        return _Source(chosen, self.corrupt, self.cautions)


def _all_families() -> dict[str, Families]:
    from audit.checks.robustness._image_corruptions import FAMILIES as OF_IMAGES
    from audit.checks.robustness._series_corruptions import FAMILIES as OF_SERIES
    from audit.checks.robustness._table_corruptions import FAMILIES as OF_TABLES
    from audit.checks.robustness._text_corruptions import FAMILIES as OF_TEXTS

    return {"image": OF_IMAGES, "table": OF_TABLES, "series": OF_SERIES, "text": {name: (name,) for name in OF_TEXTS}}


def _source(model: AuditedModel, data: AuditData) -> _Source:
    """What the model's input can suffer.

    Raises:
        UserError: no corruptions are known for it, or an image declares no bounds.
    """
    makers = {"image": _of_images, "table": _of_tables, "series": _of_series, "text": _of_texts}
    if model.spec.kind not in makers:
        raise UserError(f"model '{model.name}': no corruptions are known for {model.spec.kind} inputs")
    return makers[model.spec.kind](model, data)


def _of_images(model: AuditedModel, data: AuditData) -> _Source:
    from audit.checks.robustness._image_corruptions import FAMILIES, corrupt
    from audit.checks.robustness._inputs import declared_bounds

    low, high = declared_bounds(model)
    shape = model.spec.shape
    if len(shape) not in (2, 3):
        raise UserError(f"model '{model.name}': an image has shape (H, W) or (C, H, W), not {shape}")

    def apply(x: Tensor, name: str, severity: int, rng: ExampleRng) -> Tensor:
        unit = ((x - low) / (high - low)).reshape(len(x), -1, *shape[-2:])
        return (low + (high - low) * corrupt(unit, name, severity, rng)).reshape(x.shape).clamp(low, high)

    return _Source(FAMILIES, apply)


def _of_tables(model: AuditedModel, data: AuditData) -> _Source:
    import torch

    from audit.checks.robustness._table_corruptions import applicable, corrupt, stand_ins

    spec = model.spec
    rows = model.tensor(data.train if data.train is not None else data.test)
    absent = torch.full((len(spec.fields),), torch.nan, dtype=rows.dtype, device=rows.device)
    cautions: tuple[str, ...] = ()
    if not _takes_missing(model, rows):
        absent = stand_ins(rows, spec)
        cautions = (
            "the model takes no missing values: they become the column's median or commonest category, as its user would have to do",
        )

    def apply(x: Tensor, name: str, severity: int, rng: ExampleRng) -> Tensor:
        return corrupt(x, name, severity, rng, spec, absent)

    return _Source(applicable(spec), apply, cautions)


def _takes_missing(model: AuditedModel, rows: Tensor) -> bool:
    """Whether the model answers a row with any one value missing."""
    import torch

    probe = rows[:1].repeat(rows.shape[1], 1).fill_diagonal_(torch.nan)
    try:
        model.predict(probe)
    except Exception:
        # Whatever a model of any library says to a missing value, it does not take it.
        return False
    return True


def _of_series(model: AuditedModel, data: AuditData) -> _Source:
    from audit.checks.robustness._series_corruptions import FAMILIES, corrupt

    bounds = model.spec.bounds

    def apply(x: Tensor, name: str, severity: int, rng: ExampleRng) -> Tensor:
        changed = corrupt(x, name, severity, rng)
        return changed if bounds is None else changed.clamp(*bounds)

    return _Source(FAMILIES, apply)


def _of_texts(model: AuditedModel, data: AuditData) -> _Source:
    from audit.checks.robustness._text_corruptions import FAMILIES, corrupt

    return _Source({name: (name,) for name in FAMILIES}, corrupt)


def _reference(name: str | None, model: AuditedModel, ctx: Context) -> AuditedModel | None:
    if name is None:
        return None
    found = ctx.model(name)
    if found.spec.shape != model.spec.shape or found.classes != model.classes:
        raise UserError(
            f"reference '{name}' takes {found.spec.shape} and knows {len(found.classes)} classes, model '{model.name}' takes "
            f"{model.spec.shape} and knows {len(model.classes)}: a reference must do the same task on the same inputs"
        )
    return found


# --- numbers -----------------------------------------------------------------------------------------------------


def _share(per_row: Tensor) -> Proportion | Mean:
    """Accuracy from each row's share of right answers ``(N,)``: exact where each row is all right or all wrong."""
    if bool(((per_row == 0) | (per_row == 1)).all()):
        return Proportion(k=int(per_row.sum()), n=len(per_row))
    return _mean(per_row)


def _mean(per_row: Tensor) -> Mean:
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(per_row.numpy())
    return Mean(value=value, se=se, n=n)


def _part(dims: dict[str, str], per_row: Tensor) -> Measurement:
    return Measurement(metric="accuracy", estimate=_share(per_row), dims=dims)


def _mce(right: Tensor, source: _Source, ctx: Context) -> Measurement:
    """Mean over corruptions of the errors of all severities together, divided by the reference's."""
    import numpy as np

    from audit.stats import bootstrap_replicates

    ours, theirs = (~right).sum(dim=3).double().numpy()

    def statistic(ours: Any, theirs: Any) -> Any:
        return (ours.sum(axis=-2) / np.maximum(theirs.sum(axis=-2), 1)).mean(axis=-1)

    faultless = [name for name, errors in zip(source.names, theirs.sum(axis=0), strict=True) if not errors]
    cautions = source.cautions
    if faultless:
        cautions = (*cautions, f"the reference makes no error under {', '.join(faultless)}; it is counted as one error")
    replicates = bootstrap_replicates(statistic, [ours, theirs], seed=ctx.number("mce"), vectorized=True)
    return Measurement(
        metric="mce",
        estimate=Resampled(value=float(statistic(ours, theirs)), replicates=tuple(replicates.tolist()), n=len(ours)),
        cautions=cautions,
    )


class _Examples:
    """Corrupted rows as evidence, the first `keep` of each corruption."""

    def __init__(self, ctx: Context, model: AuditedModel, keep: int) -> None:
        self._ctx, self._model, self._keep = ctx, model, keep
        self._left: dict[str, int] = {}
        self._writers: dict[str, Any] = {}

    @property
    def refs(self) -> tuple[EvidenceRef, ...]:
        return tuple(writer.ref for writer in self._writers.values())

    def add(self, title: str, part: Batch, x: Tensor, changed: Tensor, predicted: Tensor) -> None:
        """Store the first rows, as long as there is room for more of this title."""
        import torch

        taken = min(self._left.setdefault(title, self._keep), len(part))
        if not taken:
            return
        self._left[title] -= taken
        spec = self._model.spec
        if title not in self._writers:
            self._writers[title] = self._ctx.evidence(
                f"corrupted-{title}", "adversarial", attack=title, by="corruption", input_kind=spec.kind, units=spec.units,
                classes=list(self._model.classes), bounds=list(spec.bounds or ()),
                feature_names=[f.name for f in spec.fields] if spec.tabular else [],
            )  # fmt: skip
        self._writers[title].append(
            part.ids[:taken],
            x=x[:taken],
            adversarial=changed[:taken],
            label=torch.as_tensor(part.labels[:taken]),
            prediction=self._model.predict(x[:taken]),
            adversarial_prediction=predicted[:taken],
        )
