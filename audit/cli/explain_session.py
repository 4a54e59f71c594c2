"""Explaining inputs chunk by chunk: every one is written as it comes, with what each explainer says and how good that is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.checks.explanation._explaining import Subject, explain
from audit.context import Context
from audit.numbers import show
from audit.parameters import UserError
from audit.report._attribution import AttributionReader
from audit.report._explanation_page import ExplanationFolder, Method
from audit.report._words import clean
from audit.run_folder import Evidence, RunWriter

if TYPE_CHECKING:
    from torch import Tensor

    from audit.cli.explain_inputs import Inputs
    from audit.data import Batch
    from audit.explainers import Attribution, Explainer
    from audit.model import AuditedModel

_MAX_LINES = 40
"""Lines printed."""
_CHUNK = 32
"""Most inputs explained before they are written."""

Explanation = tuple[dict[str, Any], dict[str, Any]]
"""Fields and meta of attribution evidence."""


@dataclass(frozen=True)
class Asked:
    """What the model answers to some inputs.

    Args:
        answers: as the model gives them, in its output space.
        score: ``(N,)`` of the explained class, in the model's output space.
        chances: ``(N,)`` probability of the predicted class, where the model gives any.
    """

    subject: Subject
    answers: Tensor
    score: Tensor
    chances: Tensor | None


@dataclass(frozen=True)
class Session:
    """Explains inputs and says what it found.

    Args:
        ref: what the user calls the model.
        chosen: the explainers by their labels.
        background: rows that stand for "absent"; None where none are known.
        target: the class to explain; None for the predicted one.
        quality: measure deletion and insertion gains.
        language: of the page.
    """

    model: AuditedModel
    ref: str
    chosen: Sequence[tuple[str, str, Explainer]]
    background: Batch | None
    target: int | None
    quality: bool
    seed: int
    language: str = "en"

    def run(self, inputs: Inputs, out: Path) -> None:
        """Explain, write, and print what was found.

        Raises:
            UserError: an explainer does not fit the model or its input, or the folder cannot be written.
        """
        from audit.cli.terminal import show as print_parts

        methods = [
            Method(label, name, one.model_dump(mode="json"), summary(type(one))) for label, name, one in self.chosen
        ]
        folder = ExplanationFolder(out, self._about(), methods, len(inputs), inputs.notes, self.language)
        lines: list[tuple[str, ...]] = []
        finished = False
        try:
            with _progress(len(inputs)) as advance, tempfile.TemporaryDirectory() as scratch:
                for first in range(0, len(inputs), _CHUNK):
                    part = inputs.take(range(first, min(first + _CHUNK, len(inputs))))
                    for line in self._chunk(part, folder, Path(scratch) / str(first)):
                        lines += line
                        advance()
            finished = True
        finally:
            folder.close(finished)
            if lines:
                notes = [f"note: {note}" for note in inputs.notes]
                print_parts([_table(lines), *notes, f"wrote {folder.path / 'index.html'}"])

    def explained(self, part: Inputs, scratch: Path) -> tuple[Asked, list[list[Explanation]]]:
        """What the model answers to some inputs, and what each explainer says of each.

        Args:
            scratch: a folder to make for temporary files.

        Raises:
            UserError: an explainer does not fit the model or its input.
        """
        asked = self._ask(part)
        with RunWriter(scratch, {"scenario": "explain"}, "") as writer:
            found = []
            for number, (_, _, one) in enumerate(self.chosen):
                ctx = Context(
                    seed=self.seed, check_id="", step=f"explainer {number}", writer=writer, open_model=no_other
                )
                found.append([*self._rows(one, part, asked, ctx, writer)])
        return asked, found

    def _chunk(self, part: Inputs, folder: ExplanationFolder, scratch: Path) -> Iterator[list[tuple[str, ...]]]:
        """Explain some inputs with every explainer; what is printed of each as it is written."""
        asked, found = self.explained(part, scratch)
        for i, name in enumerate(part.names):
            rows = [of_one[i] for of_one in found]
            said, facts = self.said(part, asked, i)
            stem = folder.add(name, said, rows, facts)
            lines: list[tuple[str, ...]] = []
            for (label, _, _), (row, meta) in zip(self.chosen, rows, strict=True):
                reader = AttributionReader(meta, folder.bounds, folder.about["spec"]["fields"])
                parts = reader.strongest(row)
                told = ", ".join(
                    f"{one.name}{f' = {one.value}' if one.value else ''} ({one.amount:+.3g})" for one in parts
                )
                lines.append(
                    (name, said, label, told or "nothing", f"{stem}.*") if not lines else ("", "", label, told, "")
                )
            yield lines

    def _ask(self, part: Inputs) -> Asked:
        import torch

        model, x = self.model, self.model.tensor(part.batch)
        answers = model.scores(x)
        model.check_finite(answers)
        chances = None
        if model.task == "regression":
            prediction, aim = answers.reshape(len(x)), torch.zeros(len(x), dtype=torch.int64)
        else:
            prediction = model.labels_of(answers)
            aim = prediction if self.target is None else torch.full_like(prediction, self.target)
            if model.output != "label":
                chances = model.probabilities_of(answers).gather(1, prediction[:, None]).squeeze(1)
        background = model.tensor(self.background) if self.background is not None else x[:0]
        subject = Subject(part.batch, x, prediction, aim, background, ())
        return Asked(subject, answers, model.target_of(answers, aim), chances)

    def _rows(
        self, one: Explainer, part: Inputs, asked: Asked, ctx: Context, writer: RunWriter
    ) -> Iterator[Explanation]:
        """Of every row."""
        gains = self._gains(one, asked.subject, ctx, writer) if self.quality else {}
        try:
            for rows, found in explain(one, self.model, asked.subject, ctx):
                for i in range(rows.start, rows.stop):
                    row = self._row(found, part, asked, rows, i)
                    yield row | {name: column[i] for name, column in gains.items()}, self._meta(one, found)
        except UserError as error:
            if self.background is None and "background" in str(error):
                raise UserError(f"{error}; give some with --background") from error
            raise

    def _row(self, found: Attribution, part: Inputs, asked: Asked, rows: slice, i: int) -> dict[str, Any]:
        import numpy as np

        from audit.explainers._completeness import completeness_gap, relative_gap

        at, subject = i - rows.start, asked.subject
        row: dict[str, Any] = {
            "x": subject.x[i], "values": found.values[at], "target": subject.target[i], "prediction": subject.prediction[i],
            "score": found.score[at] if found.score is not None else asked.score[i],
        }  # fmt: skip
        for name in ("base_value", "error", "parts"):
            if (values := getattr(found, name)) is not None:
                row[name] = values[at]
        if found.features is not None:
            row["feature"] = found.features.number[at].int()
        if found.base_value is not None and found.score is not None:
            score, base = found.score[at : at + 1], found.base_value[at : at + 1]
            row["quality_relative_gap"] = relative_gap(
                completeness_gap(found.values[at : at + 1], score, base), score, base
            )[0]
        arrays = {name: np.asarray(value.detach().cpu()) for name, value in row.items()}
        if part.labelled:
            arrays["label"] = np.asarray(part.batch.labels[i])
        return {**arrays, "id": np.array(part.batch.ids[i]), "method": np.array(found.method)}

    def _gains(self, one: Explainer, subject: Subject, ctx: Context, writer: RunWriter) -> dict[str, Any]:
        """Deletion and insertion gain of every row, as explanation.faithfulness measures them."""
        from audit.checks.explanation.faithfulness import Faithfulness
        from audit.data import AuditData, Batch

        n = len(subject.batch)
        labels = (subject.prediction if self.model.task == "regression" else subject.target).cpu().numpy()
        test = Batch(subject.batch.x, labels, subject.batch.ids)
        data = AuditData("inputs", test, self.model.spec, self.model.classes, population=self.background)
        name = next(name for _, name, other in self.chosen if other is one)
        check = Faithfulness(
            explainer={name: one.model_dump(mode="json", exclude_unset=True)},
            samples=n, keep=n, target="label", background=max(1, len(subject.background)),
        )  # fmt: skip
        refs = {ref.path: ref for measured in check.run(self.model, data, ctx) for ref in measured.evidence}
        (ref,) = [ref for ref in refs.values() if ref.kind == "attributions"]
        evidence = Evidence(writer.path / ref.path)
        return {name: evidence.column(name) for name in ("quality_deletion_gain", "quality_insertion_gain")}

    def _meta(self, one: Explainer, found: Attribution) -> dict[str, Any]:
        spec = self.model.spec
        return {
            "kind": "attributions",
            "explainer": next(name for _, name, other in self.chosen if other is one),
            "parameters": one.model_dump(mode="json"),
            "input_kind": spec.kind,
            "feature_names": [field.name for field in spec.fields] if spec.tabular else [],
            "classes": list(self.model.classes),
            "unit": found.features.unit if found.features is not None else "",
            "part_names": list(found.part_names),
            "space": found.space,
        }

    def _about(self) -> dict[str, Any]:
        model = self.model
        return {
            "model": self.ref, "digest": model.digest, "task": model.task, "classes": list(model.classes), "output": model.output,
            "spec": model.spec.model_dump(mode="json"), "seed": self.seed,
            "background": self.background.digest if self.background is not None else None,
        }  # fmt: skip

    def said(self, part: Inputs, asked: Asked, i: int) -> tuple[str, dict[str, Any]]:
        """What the model said of an input: in words, and for the manifest."""
        model, subject = self.model, asked.subject
        facts: dict[str, Any] = {"id": part.batch.ids[i], "score": float(asked.score[i])}
        if model.task == "regression":
            true = f"true {show(float(part.batch.labels[i]))}, " if part.labelled else ""
            return f"{true}predicted {show(facts['score'])}", facts | {"prediction": facts["score"]}
        answer, aim = (model.classes[int(column[i])] for column in (subject.prediction, subject.target))
        facts |= {"prediction": answer, "target": aim}
        said = f"predicted {answer}"
        if part.labelled:
            facts["label"] = model.classes[int(part.batch.labels[i])]
            said = f"true {facts['label']}, {said}"
        if asked.chances is not None:
            facts["probability"] = float(asked.chances[i])
            said += f" ({100 * facts['probability']:.3g} %)"
        known = aim == answer and model.output == "probability"
        tail = "" if known else f", explained {aim}: {model.output} {show(facts['score'])}"
        return clean(said + tail), facts


def summary(explainer: type[Explainer]) -> str:
    """What an explainer's values mean: the first paragraph of its documentation."""
    return " ".join((explainer.__doc__ or "").split("\n\n")[0].split("Source:")[0].replace("`", "").split())


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on a person's terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("explaining", total=total)
        yield lambda: bar.advance(task)


def no_other(name: str) -> AuditedModel:
    """Where nothing but the model itself is at hand."""
    raise UserError(f"there is no other model '{name}' here")


def _table(lines: Sequence[tuple[str, ...]]) -> Any:
    """What was found, of the first inputs."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("input", "model", "explainer", "contributes most", "written", box=None, pad_edge=False)
    for line in lines[:_MAX_LINES]:
        table.add_row(*map(escape, line))
    if len(lines) > _MAX_LINES:
        table.add_row(f"… {len(lines) - _MAX_LINES:,} further lines stand in manifest.json")
    return table
