"""What every check of explanations does first: choose rows, targets and background, and run an explainer in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from audit.explainers import Attribution, Explainer, build
from audit.explainers._passes import rows_per_pass
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.finding import EvidenceRef
    from audit.model import AuditedModel
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
        raise UserError(f"explainer '{name}'{f', {where}' if where else ''}: {first['msg']}") from error


@dataclass(frozen=True)
class Subject:
    """The rows whose explanations are checked.

    Args:
        x: ``(N, *shape)``.
        prediction: ``(N,)`` predicted class, or value of a regression.
        target: ``(N,)`` int64 class to explain; 0 for a regression.
        background: ``(M, *shape)`` rows that stand for "absent".
        cautions: what a reader must know about them.
    """

    batch: Batch
    x: Tensor
    prediction: Tensor
    target: Tensor
    background: Tensor
    cautions: tuple[str, ...]


def choose(
    model: AuditedModel, data: AuditData, ctx: Context, *, samples: int, background: int, target: Target
) -> Subject:
    """Draw test rows and background rows, the same whatever order the data come in.

    The background is drawn from the population, else the members, else the test rows themselves.

    Raises:
        UserError: the inputs are text, or the model gives neither scores, labels nor values.
    """
    import torch

    if model.spec.kind in ("text", "tokens", "id") or model.output == "tokens":
        raise UserError(f"explanations of {model.spec.kind} inputs and {model.output} outputs are not measured")
    chosen = _draw(data.test.ids, samples, ctx, "samples")
    batch = data.test.take(chosen)
    answers = model.outputs(data.test)[torch.as_tensor(chosen)]
    if model.task == "regression":
        model.check_finite(answers)
        prediction = answers.reshape(len(chosen))
        aim = torch.zeros(len(chosen), dtype=torch.int64, device=prediction.device)
    else:
        prediction = model.labels_of(answers)
        aim = prediction if target == "prediction" else torch.as_tensor(batch.labels).to(prediction.device, torch.int64)
    source = next((part for part in (data.population, data.train) if part is not None and len(part)), None)
    cautions = (
        () if source is not None else ("absent features take their values from the test rows: no others are known",)
    )
    source = source if source is not None else data.test
    rows = source.take(_draw(source.ids, background, ctx, "background"))
    return Subject(batch, model.tensor(batch), prediction, aim, model.tensor(rows), cautions)


def _draw(ids: tuple[str, ...], n: int, ctx: Context, purpose: str) -> list[int]:
    """Positions of `n` ids, chosen by the ids alone and nested as n grows; in the order of the data."""
    from audit.rng import key

    ranked = sorted(range(len(ids)), key=lambda i: (key(ctx.seed, ctx.check_id, ids[i], purpose), ids[i]))
    return sorted(ranked[:n])


def explain(
    explainer: Explainer, model: AuditedModel, subject: Subject, ctx: Context
) -> Iterator[tuple[slice, Attribution]]:
    """Attributions of the subject's rows, chunk by chunk.

    Raises:
        ArithmeticError: a value is NaN or infinite.
        ValueError: the explainer gave another shape than the inputs'.
    """
    import torch

    chunk = min(_CHUNK, rows_per_pass(model, gradients=True))
    for first in range(0, len(subject.batch), chunk):
        rows = slice(first, min(first + chunk, len(subject.batch)))
        x, ids = subject.x[rows], subject.batch.ids[rows]
        found = explainer.run(model, x, subject.target[rows], subject.background, ctx.rng(ids, "explainer"))
        name = type(explainer).__name__
        if found.values.shape != x.shape:
            raise ValueError(f"{name} gave values of shape {tuple(found.values.shape)} for inputs of {tuple(x.shape)}")
        for what, part in (("values", found.values), ("base values", found.base_value), ("scores", found.score)):
            if part is not None and not bool(torch.isfinite(part).all()):
                raise ArithmeticError(f"{name} gave NaN or infinite {what} in rows {first} to {rows.stop - 1}")
        yield rows, found


class AttributionEvidence:
    """Stores the first `keep` attributions of a check."""

    def __init__(
        self, ctx: Context, model: AuditedModel, subject: Subject, name: str, explainer: Explainer, keep: int
    ) -> None:
        self._subject, self._keep = subject, keep
        self._writer: EvidenceWriter = ctx.evidence(
            "attributions",
            "attributions",
            explainer=name,
            parameters=explainer.model_dump(mode="json"),
            input_kind=model.spec.kind,
            classes=list(model.classes),
            feature_names=[field.name for field in model.spec.fields] if model.spec.tabular else [],
        )

    @property
    def refs(self) -> tuple[EvidenceRef, ...]:
        """A reference, where anything is kept."""
        return (self._writer.ref,) if self._keep else ()

    def add(self, rows: slice, found: Attribution) -> None:
        """Store what of a chunk is within the first `keep` rows."""
        subject, stop = self._subject, min(rows.stop, self._keep)
        if stop <= rows.start:
            return
        rows, part = slice(rows.start, stop), slice(0, stop - rows.start)
        known = {"score": found.score, "base_value": found.base_value, "error": found.error}
        self._writer.append(
            subject.batch.ids[rows],
            x=subject.x[rows],
            values=found.values[part],
            target=subject.target[rows],
            prediction=subject.prediction[rows],
            label=subject.batch.labels[rows],
            method=[found.method] * (stop - rows.start),
            **{field: values[part] for field, values in known.items() if values is not None},
        )
