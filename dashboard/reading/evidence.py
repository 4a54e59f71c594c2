"""Evidence of a run as the pages look for it: which rows have maps, which were attacked; of a row shown, only its own bytes are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from audit.finding import EvidenceRef
from audit.parameters import UserError
from audit.report._attribution import AttributionReader, without_rounding
from audit.report._evidence import DAMAGE, bounds_of, facts_of, fields_of
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import clean, mapping
from audit.run_folder import Evidence

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIEWS = 8
"""Runs whose evidence is kept indexed."""
Role = Literal["own", "moved", "random"]
"""A map of the row itself, of the row as an attack on the map left it, or of a model with random weights."""
Fate = Literal["broken", "withstood", "untried"]
"""What the attacks of the run came to: an untried row was wrong without them, or no attack took it."""
BEFORE, AFTER = "before", ("after", "after-same-class")
"""Evidence of a row and of what an attack made of it; the latter for its own answer, and for the one that the row had."""
QUALITY, CURVE = "quality_", "curve_"
COLUMNS = ("target", "prediction", "label", "confidence")
"""What is kept of every row."""


@dataclass(frozen=True)
class Piece:
    """One stored piece of evidence, and the step that it belongs to."""

    step: str
    check: str
    model: str
    cell: Mapping[str, str]
    ref: EvidenceRef

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.ref.path.rsplit("/", 1)[-1]


def pieces(view: RunView, kind: str, family: str = "") -> list[Piece]:
    """Every piece of a kind, of the checks whose names begin so, in the order in which the steps ran."""
    about = {record.step: record for record in view.recorded}
    return [
        Piece(step, known.check, known.model, known.cell, ref)
        for ref, step in view.evidence
        if ref.kind == kind and (known := about.get(step)) is not None and known.check.startswith(family)
    ]


def opened(view: RunView, piece: Piece, problems: list[str]) -> Evidence | None:
    """The evidence; None, and a line among the problems, where it cannot be read or holds no row."""
    try:
        evidence = view.run.evidence(piece.ref)
        if not isinstance(evidence.meta, dict):
            raise UserError(f"evidence {piece.ref.path}/meta.json is damaged: no mapping")
        return evidence if len(evidence) else None
    except DAMAGE as error:
        problems.append(said(view, piece, error))
        return None


def said(view: RunView, piece: Piece, error: Exception) -> str:
    """Damage in a line, without the folders of this machine."""
    return told(
        view.local(str(error) if isinstance(error, UserError) else f"{piece.ref.path}: {type(error).__name__}: {error}")
    )


# --- maps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapSeries:
    """One series of attributions.

    Args:
        label: the explainer, with what tells it from others of its name in this run.
        fields: the columns of a table, or an input's one field, as the model's input spec has them.
        columns: what is known of every row in a number: target, prediction, label, confidence.
    """

    piece: Piece
    label: str
    role: Role
    evidence: Evidence
    reader: AttributionReader
    bounds: tuple[float, float] | None
    fields: Sequence[Mapping[str, Any]]
    columns: Mapping[str, NDArray[Any]]

    @property
    def units(self) -> str:
        """Of an input with one field; empty where it has none."""
        return clean(self.fields[0].get("units") or "") if len(self.fields) == 1 else ""

    @cached_property
    def places(self) -> dict[str, int]:
        """Position of each row by its id."""
        return {row: position for position, row in enumerate(self.evidence.ids)}


@dataclass(frozen=True)
class Quality:
    """A number on how good a map is, and the check that measured it."""

    name: str
    value: float
    check: str


@dataclass(frozen=True)
class Map:
    """What an explainer says of one row for one class.

    Args:
        row: the stored fields; large ones are read when they are used.
        quality: of every check that looked at this very map.
        curves: deletion and insertion of this very row, by name; empty where no check followed them.
    """

    series: MapSeries
    row: Mapping[str, Any]
    quality: tuple[Quality, ...]
    curves: Mapping[str, NDArray[np.float64]]

    @property
    def label(self) -> str:
        """The explainer."""
        return self.series.label

    @property
    def target(self) -> int:
        """The class explained."""
        return int(self.row["target"])


@dataclass(frozen=True)
class Moved:
    """A row and what an attack made of it, each with its map by the same explainer.

    Args:
        before: the row, for the class that it is answered as.
        after: the attacked row, for the class that it is answered as, and where that is another, for the row's own.
    """

    before: Map
    after: tuple[Map, ...]

    @property
    def changed(self) -> bool:
        """Whether the attack changed the answer; a value that moved within the attack's tolerance is the same."""
        first, second = (np.asarray(one.row["prediction"]) for one in (self.before, self.after[0]))
        return first.dtype.kind in "iub" and int(first) != int(second)


@dataclass(frozen=True)
class Rows:
    """The rows that any explainer of a run explained, each once, in the order of the first series that holds them.

    Args:
        label, prediction: class or value; None where no label is stored.
        confidence: probability of the predicted class, NaN where it is not known.
    """

    ids: tuple[str, ...]
    label: NDArray[Any] | None
    prediction: NDArray[Any]
    confidence: NDArray[np.float64]
    fate: tuple[Fate, ...]

    @cached_property
    def right(self) -> NDArray[np.bool_] | None:
        """Whether the prediction is the label; None of a regression, and where no label is stored."""
        if self.label is None or self.label.dtype.kind not in "iub" or self.prediction.dtype.kind not in "iub":
            return None
        equal: NDArray[np.bool_] = self.label == self.prediction
        return equal


@dataclass
class Maps:
    """Every map of one model in a run."""

    series: list[MapSeries]
    fates: Mapping[str, Fate] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def of_role(self, role: Role) -> list[MapSeries]:
        """Series of a kind."""
        return [series for series in self.series if series.role == role]

    @cached_property
    def explainers(self) -> list[str]:
        """Labels of the explainers, the one with most rows first."""
        rows = Counter[str]()
        for series in self.of_role("own"):
            rows[series.label] = max(rows[series.label], len(series.evidence))
        return [label for label, _ in rows.most_common()]

    @cached_property
    def rows(self) -> Rows:
        """The gallery."""
        first: dict[str, tuple[MapSeries, int]] = {}
        for series in self.of_role("own"):
            for position, row in enumerate(series.evidence.ids):
                first.setdefault(row, (series, position))

        def column(name: str) -> list[Any]:
            return [series.columns[name][at] if name in series.columns else None for series, at in first.values()]

        labels, confidence = column("label"), column("confidence")
        return Rows(
            ids=tuple(first),
            label=None if any(label is None for label in labels) else np.asarray(labels),
            prediction=np.asarray(column("prediction")),
            confidence=np.asarray([np.nan if value is None else value for value in confidence], dtype=np.float64),
            fate=tuple(self.fates.get(row, "untried") for row in first),
        )

    @cached_property
    def attacked(self) -> frozenset[str]:
        """Rows whose maps were attacked, with the maps before."""
        own = self._before
        moved = [series for series in self.of_role("moved") if series.piece.step in own]
        return frozenset(row for series in moved for row in series.places if row in own[series.piece.step].places)

    @cached_property
    def _before(self) -> dict[str, MapSeries]:
        """By step, the maps of rows before an attack."""
        return {series.piece.step: series for series in self.series if series.piece.name == BEFORE}

    def of(self, row: str, role: Role = "own") -> list[Map]:
        """Every map of a row: one per explainer and class."""
        found: dict[tuple[str, int], list[tuple[MapSeries, int]]] = {}
        for series in self.of_role(role):
            if (at := series.places.get(row)) is not None:
                found.setdefault((series.label, int(series.columns["target"][at])), []).append((series, at))
        return [_joined(same) for same in found.values()]

    def moved(self, row: str) -> list[Moved]:
        """What the attacks of a run made of a row, one for each step that stored maps of it."""
        moved: dict[str, dict[str, MapSeries]] = {}
        for series in self.of_role("moved"):
            if row in series.places:
                moved.setdefault(series.piece.step, {})[series.piece.name] = series
        return [
            Moved(
                _joined([(before, before.places[row])]),
                tuple(_joined([(parts[name], parts[name].places[row])]) for name in AFTER if name in parts),
            )
            for step, parts in moved.items()
            if (before := self._before.get(step)) is not None and row in before.places
        ]


def _joined(same: Sequence[tuple[MapSeries, int]]) -> Map:
    """One map, with what every check that stored it says about it."""
    series, at = same[0]
    quality: dict[tuple[str, str], Quality] = {}
    curves: dict[str, NDArray[np.float64]] = {}
    for other, place in same:
        stored = other.evidence
        for name in sorted(name for name in stored.fields if name.startswith(QUALITY)):
            told = clean(name.removeprefix(QUALITY)).replace("_", " ")
            known = Quality(told, float(stored.cell(place, name)), other.piece.check)
            if not np.isnan(known.value):  # a number that could not be had of this row
                quality.setdefault((known.name, known.check), known)
        drawn = [name for name in stored.fields if name.startswith(CURVE)]
        if not curves:
            curves = {
                name.removeprefix(CURVE): np.asarray(stored.cell(place, name), dtype=np.float64) for name in drawn
            }
    small = [name for name in series.evidence.fields if not name.startswith((QUALITY, CURVE))]
    row = without_rounding({name: series.evidence.cell(at, name) for name in small})
    return Map(series, row, tuple(quality.values()), curves)


@lru_cache(maxsize=VIEWS)
def maps(view: RunView, model: str) -> Maps:
    """The maps of a model, indexed: of each row a few numbers, none of the maps themselves."""
    problems: list[str] = []
    found = [
        (piece, evidence)
        for piece in pieces(view, "attributions", "explanation.")
        if piece.model == model and (evidence := opened(view, piece, problems)) is not None
    ]
    labels = _labels([evidence for _, evidence in found])
    series = []
    for (piece, evidence), label in zip(found, labels, strict=True):
        try:
            series.append(_series(view, piece, evidence, label))
        except DAMAGE as error:
            problems.append(said(view, piece, error))
    return Maps(series, fates(view, model, problems), problems)


def _series(view: RunView, piece: Piece, evidence: Evidence, label: str) -> MapSeries:
    bounds, fields = bounds_of(view, evidence, piece.step), fields_of(view, piece.step)
    reader = AttributionReader(evidence.meta, bounds, fields)
    known = [name for name in evidence.fields if name in COLUMNS]
    columns: dict[str, NDArray[Any]] = {name: evidence.column(name).reshape(len(evidence)) for name in known}
    role: Role = "moved" if piece.name in AFTER else "random" if piece.name.endswith("-randomised") else "own"
    return MapSeries(piece, label, role, evidence, reader, bounds, fields, columns)


def _labels(found: Sequence[Evidence]) -> list[str]:
    """Explainers by name; where two of a name have other parameters, with those that differ."""
    about = [(clean(e.meta.get("explainer", "explainer")), mapping(e.meta.get("parameters"))) for e in found]
    labels = []
    for name, parameters in about:
        others = [other for same, other in about if same == name]
        varied = {key: value for key, value in parameters.items() if any(o.get(key) != value for o in others)}
        told = ", ".join(facts_of(varied))
        labels.append(f"{name} ({told})" if told else name)
    return labels


# --- attacks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """One series of adversarial, corrupted or counterfactual rows.

    Args:
        label: the attack, and the cell of the matrix where there are several.
        by: empty of an attack, ``corruption`` or ``counterfactual``.
    """

    piece: Piece
    label: str
    by: str
    evidence: Evidence
    bounds: tuple[float, float] | None

    @property
    def meta(self) -> Mapping[str, Any]:
        """What holds of the whole series."""
        return self.evidence.meta


@lru_cache(maxsize=VIEWS)
def examples(view: RunView, model: str) -> tuple[list[Examples], list[str]]:
    """Every series of changed rows of a model, and what of them cannot be read."""
    problems: list[str] = []
    found = []
    for piece in pieces(view, "adversarial"):
        if piece.model != model or (evidence := opened(view, piece, problems)) is None:
            continue
        told = [
            str(evidence.meta.get("attack") or piece.name),
            *(f"{k} {v}" for k, v in piece.cell.items() if k != "model"),
        ]
        try:
            bounds = bounds_of(view, evidence, piece.step)
        except DAMAGE as error:
            problems.append(said(view, piece, error))
            continue
        found.append(Examples(piece, clean(" · ".join(told)), str(evidence.meta.get("by", "")), evidence, bounds))
    return found, problems


def fates(view: RunView, model: str, problems: list[str]) -> dict[str, Fate]:
    """What the attacks within eps made of each row that the model gets right: broken by any of them, or withstood all."""
    clean_rows = {p.step: p for p in pieces(view, "outcomes", "robustness.evasion") if p.name == "clean"}
    found: dict[str, Fate] = {}
    for piece in pieces(view, "outcomes", "robustness.evasion"):
        if piece.model != model or piece.name != "outcomes" or piece.step not in clean_rows:
            continue
        right, robust = (_flags(view, each, problems) for each in (clean_rows[piece.step], piece))
        for row, held in robust.items():
            if right.get(row):
                found[row] = "broken" if not held or found.get(row) == "broken" else "withstood"
    return found


def _flags(view: RunView, piece: Piece, problems: list[str]) -> dict[str, bool]:
    if (evidence := opened(view, piece, problems)) is None:
        return {}
    try:
        return dict(zip(evidence.ids, (evidence.column("value") > 0.5).tolist(), strict=True))
    except DAMAGE as error:
        problems.append(said(view, piece, error))
        return {}


def per_class(view: RunView, piece: Piece, clean_piece: Piece, problems: list[str]) -> dict[int, tuple[int, int]]:
    """Of each class: rows that the model gets right, and how many of them were broken."""
    right, robust = (opened(view, each, problems) for each in (clean_piece, piece))
    if right is None or robust is None or "label" not in right.fields or right.ids != robust.ids:
        return {}
    try:
        label, correct, held = right.column("label"), right.column("value") > 0.5, robust.column("value") > 0.5
    except DAMAGE as error:
        problems.append(said(view, piece, error))
        return {}
    return {
        int(one): (int(inside.sum()), int((inside & ~held).sum()))
        for one in np.unique(label)
        if (inside := correct & (label == one)).any()
    }


def safely(view: RunView, piece: Piece, draw: Callable[[Evidence], None], problems: list[str]) -> None:
    """Draw a piece of evidence; damage becomes a line among the problems."""
    if (evidence := opened(view, piece, problems)) is None:
        return
    try:
        draw(evidence)
    except DAMAGE as error:
        problems.append(said(view, piece, error))


def models_of(found: Sequence[Piece]) -> list[str]:
    """Models of some pieces, each once."""
    return list(dict.fromkeys(piece.model for piece in found))
