"""Stored evidence as blocks of a page: pictures, charts, tables. Damage ends one block with a line, never the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from audit.finding import EvidenceRef
from audit.language import gettext as _
from audit.numbers import show
from audit.parameters import UserError
from audit.report import _charts, _samples
from audit.report._about import title_of
from audit.report._attribution import AttributionReader
from audit.report._images import Picture, planes, scale_bar
from audit.report._sample import Sample
from audit.report._samples import Budget
from audit.report._table_changes import TableChanges, columns_of, header
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import clean, mapping, plain_value
from audit.run_folder import Evidence

MAX_CLASSES = 20
"""A larger confusion matrix shows the classes that occur; where those are more still, the commonest confusions."""
MAX_TABLE = 30
DAMAGE = (UserError, KeyError, IndexError, ValueError, TypeError, OSError, OverflowError)
"""What reading arrays that are not what their index says can raise."""
SAMPLED = ("attributions", "adversarial", "reconstruction")
KINDS = {
    "attributions": "attributions",
    "adversarial": "adversarial examples",
    "reconstruction": "reconstructions",
    "confusion_matrix": "confusion matrix",
    "curve": "curve",
    "roc": "ROC curve",
    "outcomes": "outcomes per row",
    "table": "table",
}


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: per true class its row of (count, share of the row, whether it is right)."""

    classes: tuple[str, ...]
    rows: list[tuple[str, list[tuple[str, float, bool]]]]
    note: str = ""


@dataclass
class Block:
    """One piece of evidence as a page shows it."""

    anchor: str
    kind: str
    step: str
    path: str
    title: str = ""
    facts: list[str] = field(default_factory=list)
    shown: str = ""
    """How many of how many rows are shown."""
    problem: str = ""
    charts: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    legend: tuple[str, Picture, str] | None = None
    """Palette with the words at its ends."""
    key: tuple[str, str] | None = None
    """The same of texts and series, whose shades follow the page: words for against and for."""
    table: Table | None = None
    matrix: Matrix | None = None


def blocks(view: RunView) -> list[Block]:
    """Every piece of evidence of a run, in order."""
    budget, left = Budget(), sum(ref.kind in SAMPLED for ref, _ in view.evidence)
    out = []
    for number, (ref, step) in enumerate(view.evidence, 1):
        block = Block(f"evidence-{number}", _(KINDS.get(ref.kind, clean(ref.kind))), step, ref.path)
        try:
            _fill(block, view, ref, budget.share(max(1, left)), number)
        except DAMAGE as error:
            said = str(error) if isinstance(error, UserError) else f"{ref.path}: {type(error).__name__}: {error}"
            block = Block(block.anchor, block.kind, step, ref.path, block.title, problem=view.problem(said))
        left -= ref.kind in SAMPLED
        budget.spend(block.samples)
        out.append(block)
    return out


def _fill(block: Block, view: RunView, ref: EvidenceRef, budget: Budget, number: int) -> None:
    evidence = view.run.evidence(ref)
    if not isinstance(evidence.meta, dict):
        raise UserError(f"evidence {ref.path}/meta.json is damaged: no mapping")
    if not len(evidence):
        raise UserError(f"evidence {ref.path} holds no rows")
    name = ref.path.rsplit("/", 1)[-1].replace("_", " ")
    title = evidence.meta.get({"attributions": "explainer", "adversarial": "attack"}.get(ref.kind, "title"))
    block.title = told(clean(title or name)) if ref.kind != "outcomes" else _outcome(view, block.step, ref)
    match ref.kind:
        case "attributions":
            _attributions(block, evidence, view, budget, number)
        case "adversarial":
            _adversarial(block, evidence, view, budget)
        case "reconstruction":
            block.facts += facts_of(mapping(evidence.meta.get("parameters")))
            bounds = bounds_of(view, evidence, block.step)
            block.samples, block.shown = _samples.reconstructions(evidence, bounds, budget, number)
        case "confusion_matrix":
            block.matrix, block.table = _confusion(evidence)
        case "curve":
            _curve(block, evidence, number)
        case "roc":
            line = _charts.Series(_("this model"), *(_floats(evidence, name) for name in ("fpr", "tpr")))
            block.charts.append(
                _charts.roc([line], title=_("ROC curve: {name}").format(name=block.title), number=number)
            )
        case "outcomes":
            values = _floats(evidence, "value")
            block.facts.append(_("{n} rows, mean {mean}").format(n=f"{len(values):,}", mean=show(float(values.mean()))))
        case _:
            block.table = _table(evidence)


def _outcome(view: RunView, step: str, ref: EvidenceRef) -> str:
    """The metric whose outcomes are stored, and of which part."""
    metric, _dash, part = ref.path.rsplit("/", 1)[-1].partition("-")
    checks = [record.check for record in view.recorded if record.step == step]
    title = clean(title_of(checks[0] if checks else "", metric))
    return _("{title} ({part})").format(title=title, part=clean(part)) if part else title


def _attributions(block: Block, evidence: Evidence, view: RunView, budget: Budget, number: int) -> None:
    meta = evidence.meta
    block.facts += facts_of(mapping(meta.get("parameters")))
    reader = AttributionReader(meta, bounds_of(view, evidence, block.step), fields_of(view, block.step))
    block.facts += _method(evidence, reader)
    block.samples, block.shown = _samples.attributions(evidence, reader, budget)
    block.legend, block.key = legend_of(reader.kind, bool(reader.classes))
    if reader.kind in ("image", "text", "series"):
        return
    if names := list(_texts(meta.get("feature_names"))):
        import numpy as np

        values = np.abs(evidence.column("values").reshape(len(evidence), -1))
        mean = values.mean(axis=0)
        if len(mean) == len(names):
            top = np.argsort(-mean, kind="stable")[:15]
            block.charts.append(
                _charts.bars(
                    {names[i]: float(mean[i]) for i in top},
                    title=_("Mean size of each feature's contribution: {name}").format(name=block.title),
                    label=_("mean |contribution| over {n} rows").format(n=f"{len(values):,}"),
                    number=number,
                )
            )


def legend_of(kind: str, classification: bool) -> tuple[tuple[str, Picture, str] | None, tuple[str, str] | None]:
    """The palette's legend of maps, or the words at the ends of the shades of texts and series."""
    against, forward = (
        (_("speaks against the class"), _("speaks for it")) if classification else (_("lowers"), _("raises the value"))
    )
    if kind == "image":
        return _legend(against, _("{end}; the ends are each map's own scale").format(end=forward)), None
    ends = _("{end}; the ends are each row's own scale").format(end=forward)
    return None, (against, ends) if kind in ("text", "series") else None


def _adversarial(block: Block, evidence: Evidence, view: RunView, budget: Budget) -> None:
    block.kind = {"corruption": _("corrupted rows"), "counterfactual": _("counterfactuals")}.get(
        str(evidence.meta.get("by", "")), block.kind
    )
    meta = evidence.meta
    units = f" {_(str(meta['units']))}" if meta.get("units") else ""
    eps = f"{show(float(meta['eps']))}{units}" if isinstance(meta.get("eps"), (int, float)) else None
    block.facts += facts_of({"norm": meta.get("norm"), "eps": eps})
    table = _table_changes(block, evidence, view) if meta.get("input_kind") == "table" else None
    block.samples, block.shown = _samples.adversarial(evidence, bounds_of(view, evidence, block.step), budget, table)
    if str(meta.get("input_kind", "")) == "image" and not _colour(evidence):
        block.legend = _legend(_("made darker"), _("made brighter"))


def fields_of(view: RunView, step: str) -> list[Mapping[str, Any]]:
    """The fields of the audited model's input; none where a step is of several models."""
    models = sorted({record.model for record in view.recorded if record.step == step})
    return columns_of(view.models.get(models[0], {})) if len(models) == 1 else []


def _method(evidence: Evidence, reader: AttributionReader) -> list[str]:
    """How the values were found, where all rows agree, and what one value stands for."""
    methods = sorted(set(evidence.column("method").astype(str).tolist())) if "method" in evidence.fields else []
    return [
        *([told(methods[0])] if len(methods) == 1 and methods[0] else []),
        *([_("per {unit}").format(unit=_(reader.unit))] if reader.unit else []),
    ]


def _table_changes(block: Block, evidence: Evidence, view: RunView) -> TableChanges:
    """Changed cells by the columns of the audited model; a summary of them becomes the block's table."""
    changes = TableChanges(evidence, fields_of(view, block.step))
    rows = changes.summary()
    block.table = Table(
        header(),
        rows[:MAX_TABLE],
        _left_out(len(rows), _("{n} of {all} columns are shown; the evidence folder holds all.")),
    )
    return changes


def _legend(low: str, high: str) -> tuple[str, Picture, str]:
    said = _("Palette: blue {low}, white is zero, red {high}.").format(low=low, high=high)
    return low, Picture(scale_bar(), said, "", 180, 10, True), high


def facts_of(facts: Mapping[str, Any]) -> list[str]:
    """Parameters as a reader writes them; those without a value are left out."""
    return [
        f"{key.replace('_', ' ')} {plain_value(value)}"
        for key, value in facts.items()
        if value not in (None, "", [], {})
    ]


def _texts(value: Any) -> Iterator[str]:
    yield from (clean(item) for item in value) if isinstance(value, list) else ()


def bounds_of(view: RunView, evidence: Evidence, step: str) -> tuple[float, float] | None:
    """Black and white of a picture: the evidence's own bounds, else those of the audited model's input."""
    own = evidence.meta.get("bounds")
    models = {f.model for f in view.findings if f.step == step} | {r.model for r in view.recorded if r.step == step}
    for found in [own, *(_field_bounds(view.models.get(model, {})) for model in sorted(models))]:
        if isinstance(found, list) and len(found) == 2 and all(isinstance(v, (int, float)) for v in found):
            return float(found[0]), float(found[1])
    return None


def _field_bounds(facts: dict[str, Any]) -> Any:
    fields = mapping(facts.get("spec")).get("fields")
    return mapping(fields[0]).get("bounds") if isinstance(fields, list) and len(fields) == 1 else None


def _colour(evidence: Evidence) -> bool:
    return planes(evidence.row(0)["x"]).ndim == 3


def _floats(evidence: Evidence, name: str) -> Any:
    import numpy as np

    return np.asarray(evidence.column(name), dtype=np.float64).reshape(len(evidence))


def lines_of(evidence: Evidence) -> list[_charts.Series]:
    """The lines of a ``curve``, each from left to right."""
    import numpy as np

    x, y = _floats(evidence, "x"), _floats(evidence, "y")
    low, high = (_floats(evidence, name) if name in evidence.fields else None for name in ("low", "high"))
    named = evidence.column("series").astype(str) if "series" in evidence.fields else np.full(len(x), "")
    series = []
    for name in dict.fromkeys(named.tolist()):
        rows = np.flatnonzero(named == name)
        rows = rows[np.argsort(x[rows], kind="stable")]
        band = [None if side is None else side[rows] for side in (low, high)]
        series.append(_charts.Series(told(clean(name)), x[rows], y[rows], *band))
    return series


def _curve(block: Block, evidence: Evidence, number: int) -> None:
    meta, series = evidence.meta, lines_of(evidence)
    labels = {key: told(str(meta.get(f"{key}_label") or key)) for key in ("x", "y")}
    block.charts.append(
        _charts.curve(
            series,
            title=_("{name}: {y} over {x}").format(name=block.title, **labels),
            x_label=labels["x"],
            y_label=labels["y"],
            x_scale=str(meta.get("x_scale", "linear")),
            y_scale=str(meta.get("y_scale", "linear")),
            number=number,
        )
    )
    names = (*((_("series"),) if len(series) > 1 else ()), labels["x"], labels["y"], _("interval"))
    cells: list[tuple[str, ...]] = []
    for line in series:
        for i in range(len(line.x)):
            interval = (
                "–"
                if line.low is None or line.high is None
                else _("{low} to {high}").format(low=_cell(line.low[i]), high=_cell(line.high[i]))
            )
            cells.append((*((line.name,) if len(series) > 1 else ()), _cell(line.x[i]), _cell(line.y[i]), interval))
    block.table = Table(names, cells[:MAX_TABLE], _left_out(len(cells)))


def _table(evidence: Evidence) -> Table:
    names = evidence.fields
    columns = [evidence.column(name) for name in names]
    if wide := [name for name, column in zip(names, columns, strict=True) if column.ndim != 1]:
        names = tuple(name for name in names if name not in wide)
        columns = [column for column in columns if column.ndim == 1]
    ids = evidence.ids
    rows = [(clean(ids[i]), *(_cell(column[i]) for column in columns)) for i in range(min(len(ids), MAX_TABLE))]
    note = _left_out(len(ids))
    if wide:
        hidden = _("Not shown, for they hold more than one number per row: {names}.")
        note = f"{note} {hidden.format(names=', '.join(map(clean, wide)))}".strip()
    return Table((_("row"), *(told(clean(name).replace("_", " ")) for name in names)), rows, note)


def _left_out(total: int, said: str = "") -> str:
    """A line on what a table of `MAX_TABLE` lines leaves out; rows where nothing else is `said`."""
    said = said or _("{n} of {all} rows are shown; the evidence folder holds all.")
    return said.format(n=MAX_TABLE, all=f"{total:,}") if total > MAX_TABLE else ""


def _cell(value: Any) -> str:
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, float):
        return "–" if math.isnan(item) else show(item)
    return f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else clean(plain_value(item))


def _confusion(evidence: Evidence) -> tuple[Matrix | None, Table | None]:
    import numpy as np

    counts = np.asarray(evidence.row(0)["counts"]).astype(np.int64)  # stored as small as they are, without a sign
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"counts of shape {counts.shape} are no confusion matrix")
    given = list(_texts(evidence.meta.get("classes")))
    classes = given if len(given) == len(counts) else [str(i) for i in range(len(counts))]
    occurring: Sequence[int] = range(len(counts))
    note = ""
    if len(counts) > MAX_CLASSES:
        occurring = [int(i) for i in np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))]
        note = _("{n} of {all} classes occur and are shown.").format(n=len(occurring), all=f"{len(counts):,}")
    if len(occurring) > MAX_CLASSES:
        wrong = counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_TABLE]
        pairs = [divmod(int(i), len(counts)) for i in order if wrong.flat[i] > 0]
        rows = [(classes[true], classes[said], f"{int(wrong[true, said]):,}") for true, said in pairs]
        confused = int((wrong > 0).sum())
        note = _("The {n} commonest of {all} confusions between {classes} classes.").format(
            n=len(rows), all=f"{confused:,}", classes=f"{len(counts):,}"
        )
        return None, Table((_("true class"), _("predicted as"), _("rows")), rows, note)
    totals = counts.sum(axis=1)
    body = [
        (
            classes[i],
            [
                (f"{int(counts[i, j]):,}", float(counts[i, j] / totals[i]) if totals[i] else 0.0, i == j)
                for j in occurring
            ],
        )
        for i in occurring
    ]
    return Matrix(tuple(classes[i] for i in occurring), body, note), None
