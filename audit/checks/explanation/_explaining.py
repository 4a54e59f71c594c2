"""What every check of explanations does first: choose rows, targets and background, and run an explainer in chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from audit.checks import Check
from audit.checks._sample import sample, shuffled
from audit.explainers import Attribution, Explainer, build
from audit.explainers._passes import rows_per_pass
from audit.names import resolve, unknown
from audit.parameters import UserError
from audit.rng import ExampleRng, key

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.finding import EvidenceRef
    from audit.model import AuditedModel, Capability
    from audit.run_folder import EvidenceWriter

Target = Literal["prediction", "label"]

_CHUNK = 32
"""Most rows explained between two reports of progress."""


def build_explainer(spec: str | dict[str, Any]) -> tuple[str, Explainer]:
    """As `audit.explainers.build`, with every mistake as one line.

    Raises:
        UserError: no such explainer, or a parameter is wrong.
    """
    try:
        return build(spec)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        name = spec if isinstance(spec, str) else next(iter(spec))
        if first["type"] == "extra_forbidden":
            known = list(resolve("explainers", name).model_fields)
            raise unknown(f"parameter of explainer '{name}' called", where, known) from error
        raise UserError(f"explainer '{name}'{f', {where}' if where else ''}: {first['msg']}") from error


class ExplanationCheck(Check):
    """Base of a check that looks at the attributions of one explainer."""

    explainer: str | dict[str, Any] = "integrated_gradients"
    """The explainer: a name, or ``{name: {parameter: value}}``."""
    samples: int = Field(default=256, ge=1)
    """Test rows explained; every check of explanations takes the same."""
    target: Target = "prediction"
    """The class explained: the predicted one, or the row's label."""
    background: int = Field(default=100, ge=1)
    """Background rows: of the population, else the members, else the test rows."""
    keep: int = Field(default=16, ge=0)
    """Attributions stored as evidence."""

    @model_validator(mode="after")
    def _explainer_fits(self) -> ExplanationCheck:
        build_explainer(self.explainer)
        return self

    def requirements(self) -> frozenset[Capability]:
        """What the explainer needs, beside what the check itself does."""
        return self.needs | build_explainer(self.explainer)[1].needs

    def subject(self, model: AuditedModel, data: AuditData, ctx: Context) -> Subject:
        """The rows explained, with targets and background."""
        return choose(model, data, ctx, samples=self.samples, background=self.background, target=self.target)


@dataclass(frozen=True)
class Subject:
    """The rows whose explanations are checked.

    Args:
        x: ``(N, *shape)``.
        prediction: ``(N,)`` predicted class, or value of a regression.
        target: ``(N,)`` int64 class to explain; 0 for a regression.
        background: ``(M, *shape)`` rows that stand for "absent".
        cautions: what a reader must know about them.
        confidence: ``(N,)`` float64 probability of the predicted class, 0 to 1; None of a model that gives none.
    """

    batch: Batch
    x: Tensor
    prediction: Tensor
    target: Tensor
    background: Tensor
    cautions: tuple[str, ...]
    confidence: Tensor | None = None

    @cached_property
    def digest(self) -> str:
        """Of the background rows: what an explanation depends on beside the row itself."""
        return _digest(self.background)


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def choose(
    model: AuditedModel, data: AuditData, ctx: Context, *, samples: int, background: int, target: Target
) -> Subject:
    """Draw test rows and background rows by seed and rows alone: every check of a run speaks of the same, in whatever order they come.

    The background is drawn from the population, else the members, else the test rows themselves.

    Raises:
        UserError: the model answers tokens.
    """
    import torch

    if model.output == "tokens":
        raise UserError(f"model '{model.name}' gives tokens, not a score to explain")
    batch = sample(data.test, samples, ctx)
    place = {row: i for i, row in enumerate(data.test.ids)}
    answers = model.outputs(data.test)[torch.as_tensor([place[row] for row in batch.ids])]
    if model.task == "regression":
        model.check_finite(answers)
        prediction = answers.reshape(len(batch))
        aim = torch.zeros(len(batch), dtype=torch.int64, device=prediction.device)
    else:
        prediction = model.labels_of(answers)
        aim = prediction if target == "prediction" else torch.as_tensor(batch.labels).to(prediction.device, torch.int64)
    source = next((part for part in (data.population, data.train) if part is not None and len(part)), None)
    cautions = (
        () if source is not None else ("absent features take their values from the test rows: no others are known",)
    )
    source = source if source is not None else data.test
    rows = source.take(
        shuffled(source.ids, ctx.seed)[:background]
    )  # in no order, so that the first few are a fair sample, too
    return Subject(
        batch, model.tensor(batch), prediction, aim, model.tensor(rows), cautions, model.confidence_of(answers)
    )


def explain(
    explainer: Explainer, model: AuditedModel, subject: Subject, ctx: Context, *, draw: int = 0
) -> Iterator[tuple[slice, Attribution]]:
    """Attributions of the subject's rows, chunk by chunk; the same explainer and rows are computed once a run, while they fit in memory.

    Args:
        draw: another number, other random streams of the explainer.

    Raises:
        ArithmeticError: a value is NaN or infinite.
        ValueError: the explainer gave another shape than the inputs'.
    """
    chunk = min(_CHUNK, rows_per_pass(model, gradients=True))
    for first in range(0, len(subject.batch), chunk):
        rows = slice(first, min(first + chunk, len(subject.batch)))
        x, ids, target = subject.x[rows], subject.batch.ids[rows], subject.target[rows]
        streams = _streams(ctx, ids, draw)
        made = (
            type(explainer).__name__,
            explainer.model_dump_json(),
            draw,
            target.tolist(),
            subject.digest,
            _digest(x),
            ids,
        )
        found = model.remembered(
            f"attributions {key(*made)}",
            16 * x.numel(),
            partial(explainer.run, model, x, target, subject.background, streams),
        )
        _check(found, x, type(explainer).__name__, rows)
        yield rows, found


def explain_changed(
    explainer: Explainer, model: AuditedModel, subject: Subject, rows: Tensor, x: Tensor, ctx: Context
) -> Attribution:
    """Attributions of changed copies of the subject's rows, for the targets and with the random streams of those rows.

    Args:
        rows: ``(K,)`` int64: the row that each copy is of.
        x: ``(K, *shape)``.

    Raises:
        ArithmeticError: a value is NaN or infinite.
        ValueError: the explainer gave another shape than the inputs'.
    """
    streams = _streams(ctx, [subject.batch.ids[i] for i in rows.tolist()], 0)
    found = explainer.run(model, x, subject.target[rows], subject.background, streams)
    _check(found, x, type(explainer).__name__, slice(int(rows.min()), int(rows.max()) + 1))
    return found


def _streams(ctx: Context, ids: Sequence[str], draw: int) -> ExampleRng:
    """An explainer's random streams: the same for every check of a run."""
    return ExampleRng(ctx.seed, "", ids, f"explainer {draw}")


def attributions(explainer: Explainer, model: AuditedModel, subject: Subject, ctx: Context, *, draw: int = 0) -> Tensor:
    """Values of every row at once, ``(N, *shape)`` float64 on the CPU, as `explain` gives them."""
    import torch

    parts = []
    for rows, found in explain(explainer, model, subject, ctx, draw=draw):
        parts.append(found.values.double().cpu())
        ctx.progress(rows.stop, len(subject.batch), "rows explained")
    return torch.cat(parts)


def _check(found: Attribution, x: Tensor, name: str, rows: slice) -> None:
    import torch

    if found.values.shape != x.shape:
        raise ValueError(f"{name} gave values of shape {tuple(found.values.shape)} for inputs of {tuple(x.shape)}")
    for what, part in (("values", found.values), ("base values", found.base_value), ("scores", found.score)):
        if part is not None and not bool(torch.isfinite(part).all()):
            raise ArithmeticError(f"{name} gave NaN or infinite {what} in rows {rows.start} to {rows.stop - 1}")


class AttributionEvidence:
    """Stores the first `keep` attributions of a check."""

    def __init__(
        self,
        ctx: Context,
        model: AuditedModel,
        subject: Subject,
        name: str,
        explainer: Explainer,
        keep: int,
        file: str = "attributions",
    ) -> None:
        self._ctx, self._model, self._subject, self._keep, self._file = ctx, model, subject, keep, file
        self._about = {"explainer": name, "parameters": explainer.model_dump(mode="json")}
        self._writer: EvidenceWriter | None = None

    @property
    def refs(self) -> tuple[EvidenceRef, ...]:
        """A reference, where anything was kept."""
        return (self._writer.ref,) if self._writer is not None else ()

    def _opened(self, found: Attribution) -> EvidenceWriter:
        if self._writer is None:
            spec = self._model.spec
            self._writer = self._ctx.evidence(
                self._file,
                "attributions",
                **self._about,
                input_kind=spec.kind,
                classes=list(self._model.classes),
                feature_names=[field.name for field in spec.fields] if spec.tabular else [],
                unit=found.features.unit if found.features is not None else "",
                part_names=list(found.part_names),
            )
        return self._writer

    def add(
        self, rows: slice, found: Attribution, curves: Mapping[str, Tensor] | None = None, **quality: Tensor
    ) -> None:
        """Store what of a chunk is within the first `keep` rows.

        Args:
            curves: lines that belong to each row's map, ``(N, K)`` at K points; stored as ``curve_NAME``.
            quality: numbers on how good each row's map is, ``(N,)``; stored as ``quality_NAME``, shown beside the map.
        """
        import torch

        subject, stop = self._subject, min(rows.stop, self._keep)
        if stop <= rows.start:
            return
        rows, part = slice(rows.start, stop), slice(0, stop - rows.start)
        known = {"score": found.score, "base_value": found.base_value, "error": found.error, "parts": found.parts}
        if found.features is not None:
            known["feature"] = found.features.number.to(torch.int32)
        known |= {f"quality_{name}": value for name, value in quality.items()}
        known |= {f"curve_{name}": values for name, values in (curves or {}).items()}
        self._opened(found).append(
            subject.batch.ids[rows],
            x=subject.x[rows],
            values=found.values[part],
            target=subject.target[rows],
            prediction=subject.prediction[rows],
            label=subject.batch.labels[rows],
            method=[found.method] * (stop - rows.start),
            **({} if subject.confidence is None else {"confidence": subject.confidence[rows]}),
            **{field: values[part] for field, values in known.items() if values is not None},
        )
