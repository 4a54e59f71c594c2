"""Utility against privacy: one training for each epsilon and one without, every model audited alike, all in one table.

The table is a look at the private rows of its own. Accuracy is measured on test rows, but which model is chosen by it says something
of all the trainings together, and the attacks' numbers are computed from the private rows themselves: see `Frontier.together`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SkipValidation, ValidationError

from audit.data import AuditData, Batch
from audit.datasets import Rows, Source
from audit.engine import Observer as AuditObserver
from audit.engine import run
from audit.finding import Status, canonical_json, part_name
from audit.parameters import Documented, UserError
from audit.plan import bind
from audit.privacy.rdp import rdp_epsilon
from audit.registry.importing import import_callable, source_digest
from audit.registry.store import Registry
from audit.scenario import parse
from audit.scenario.marked_yaml import dump_yaml
from audit.train.checkpoint import write_whole
from audit.train.training import Observer as TrainingObserver
from audit.train.training import Trained, train
from audit.train.training_file import Privacy, Training, TrainingFile

if TYPE_CHECKING:
    from audit.stored import Report

JSON, CSV = "frontier.json", "frontier.csv"
FPRS = (0.01, 0.001)
"""False positive rates at which the share of members found is stated."""
_MEMBERSHIP = "privacy.membership_inference"
_UTILITY = {"cross_entropy": ("performance.classification", "accuracy"), "mse": ("performance.regression", "rmse")}
"""Loss → the check that measures what a model is good for, and its headline."""


class Number(Documented):
    """One number of a model, as its audit measured it."""

    metric: str
    """``accuracy`` (``rmse`` of a regression), ``auc``, ``tpr_at_fpr`` or ``advantage``."""
    attack: str | None = None
    """Membership attack; None of the accuracy."""
    fpr: str | None = None
    """False positive rate of a ``tpr_at_fpr``."""
    value: float
    low: float | None
    """Ends of the 95 % interval; None where a side is open."""
    high: float | None
    n: int | None
    """Rows that it was measured on."""
    status: Literal["info", "inconclusive", "void"] = "info"
    """``inconclusive``: so few rows decide nothing; ``void``: a control shows that the number means nothing."""
    note: str = ""
    """Why it is not to be relied on."""

    @property
    def key(self) -> str:
        """``tpr_at_fpr[attack=loss,fpr=0.01]``."""
        return part_name(self.metric, {k: v for k, v in (("attack", self.attack), ("fpr", self.fpr)) if v is not None})


class Point(Documented):
    """One training and what its model shows."""

    name: str
    """``NAME-plain`` or ``NAME-eps-3``."""
    model: str
    """Reference in the registry."""
    digest: str
    """Of the model."""
    epsilon: float | None
    """Target; None without privacy."""
    spent: float | None = None
    """Epsilon that the ledger claims, at the frontier's delta."""
    noise_multiplier: float | None = None
    steps: int | None = None
    """Releases that the ledger holds."""
    history: tuple[tuple[float, float, int], ...] = ()
    """Sampling rate, noise multiplier and steps of every stretch."""
    run: str = ""
    """Stored run of its audit, below ``HOME/runs``; empty before it."""
    numbers: tuple[Number, ...] = ()
    training: str
    """Digest of all that determines the training; the same again is not trained again."""
    audited: str = ""
    """Digest of the scenario that it was audited by."""

    def number(self, metric: str, attack: str | None = None, fpr: str | None = None) -> Number | None:
        """The number of a metric, where it was measured."""
        wanted = (metric, attack, fpr)
        return next((n for n in self.numbers if (n.metric, n.attack, n.fpr) == wanted), None)


class Frontier(Documented):
    """What ``frontier.json`` holds; written anew after every model."""

    format: Literal[1] = 1
    name: str
    """Of the training file."""
    data: str
    """Its source."""
    members: int
    """Rows trained on."""
    non_members: int
    """Rows tested on."""
    delta: float
    epsilons: tuple[float, ...]
    """What was asked for, rising."""
    attacks: tuple[str, ...]
    """Membership attacks; none of a regression."""
    utility: str
    """Metric that says what a model is good for: ``accuracy`` or ``rmse``."""
    points: tuple[Point, ...] = ()
    """Models so far, by rising epsilon, the one without privacy last."""
    together: float | None = None
    """Epsilon of all the private trainings together, at `delta`, by Rényi composition: what whoever chooses among the models by their
    accuracy spends at most. The model without privacy and the attacks' numbers come on top, without a bound."""

    @property
    def finished(self) -> bool:
        """Whether every model is there and audited."""
        return len(self.points) == len(self.epsilons) + 1 and all(point.audited for point in self.points)

    @property
    def price(self) -> str:
        """What it costs to choose by this table, in words."""
        own = [f"{point.spent:.3g}" for point in self.points if point.spent is not None]
        if self.together is None:
            return ""
        return (
            f"Choosing by this table costs privacy: all its models saw the same private rows. Together the private trainings spend up to "
            f"epsilon {self.together:.3g} at delta {self.delta:g}, not the {own[-1]} of the last row alone; the model without privacy and the "
            "attacks' numbers come from the rows themselves, without any bound. Fix epsilon beforehand, or choose on other rows than "
            "those to be protected (Papernot & Steinke 2022, arXiv:2110.03620)."
        )


class Watcher(TrainingObserver):
    """Who watches a frontier, and each of its trainings; does nothing.

    Args:
        audit: who watches the audits.
    """

    audit: AuditObserver | None = None

    def training(self, name: str) -> None:
        """A model is about to be trained, or to go on."""

    def auditing(self, name: str) -> None:
        """A model is about to be audited."""

    def kept(self, point: Point) -> None:
        """A model is there from before."""

    def finished(self, point: Point) -> None:
        """A model was trained and audited."""


class _Read(Source):
    """Rows that were read once, for every training."""

    data: SkipValidation[Any]

    def read(self, base: Path) -> Rows:
        """There is nothing left to read: see `load`."""
        raise NotImplementedError

    def load(self, base: Path, name: str) -> AuditData:
        """The rows."""
        given: AuditData = self.data
        return given


@dataclass(frozen=True)
class _Variant:
    """One training of the frontier.

    Args:
        identity: digest of all that determines it.
        audit: digest of the scenario that its model is audited by.
    """

    file: TrainingFile
    epsilon: float | None
    identity: str
    audit: str

    @property
    def name(self) -> str:
        return self.file.training.name


def sweep(
    file: TrainingFile, registry: Registry, folder: Path, epsilons: Sequence[float], attacks: Sequence[str],
    *, references: int = 4, shadows: int = 16, watcher: Watcher | None = None,
) -> Frontier:  # fmt: skip
    """Train at each epsilon and without privacy, audit each model, and store the table after each.

    A model that is there from before, trained on the same rows in the same way, is not trained again; one that was interrupted goes on
    from its checkpoint. Attacks with shadow models train those once, for all models are trained by one recipe.

    Args:
        folder: keeps ``frontier.json``, ``frontier.csv``, and below it each training's own folder with its ledger.
        epsilons: targets at the file's delta.
        attacks: of `privacy.membership_inference`; passed over for a regression.
        references, shadows: of the attacks that need them.

    Raises:
        UserError: the file is not private or trains on nothing, an epsilon is no positive number, an attack is not known, or a training
            fails.
    """
    watcher, wanted = watcher or Watcher(), tuple(sorted({float(epsilon) for epsilon in epsilons}))
    training = file.training
    if training.dp is None:
        raise UserError(
            f"{file.origin}: 'dp: off' names no delta and no clipping: give it 'dp: {{epsilon: 8, delta: …}}'"
        )
    if not wanted or any(not (math.isfinite(epsilon) and epsilon > 0) for epsilon in wanted):
        given = ", ".join(f"{epsilon:g}" for epsilon in wanted) or "none"
        raise UserError(f"epsilons must be positive numbers such as 1,2,4,8, got {given}")
    data = file.source.load(file.base, str(training.data["source"]))
    if data.train is None:
        raise UserError(f"{file.origin}: data '{data.source}' names no rows to train on: add 'split: {{test: 0.3}}'")
    classifies = training.loss == "cross_entropy"
    frontier = Frontier(
        name=training.name, data=data.source, members=len(data.train), non_members=len(data.test), delta=training.dp.delta,
        epsilons=wanted, attacks=tuple(attacks) if classifies else (), utility=_UTILITY[training.loss][1],
    )  # fmt: skip
    settings = {"references": references, "shadows": shadows}
    bind(parse(_scenario(file, training.name, frontier, settings), "audit of the models", file.base))
    variants = list(_variants(replace(file, source=_Read(data=data)), data.train, registry, frontier, settings))
    points = _known(folder, variants, registry)
    for variant in variants:
        point = points.get(variant.name)
        if point is None:
            watcher.training(variant.name)
            made = train(variant.file, registry, folder / _below(variant, training.name), observer=watcher)
            point = points[variant.name] = _trained(variant, made)
            _store(_with(frontier, variants, points), folder)
        if point.audited:
            watcher.kept(point)
            continue
        watcher.auditing(variant.name)
        text = _scenario(file, point.model, frontier, settings)
        report = run(
            parse(text, "audit of the models", file.base), home=registry.home, data=data, explore=True, observer=watcher.audit,
        )  # fmt: skip
        point = points[variant.name] = point.model_copy(
            update={"run": report.path.name, "numbers": tuple(_numbers(report, frontier)), "audited": variant.audit}
        )
        _store(_with(frontier, variants, points), folder)
        watcher.finished(point)
    frontier = _with(frontier, variants, points)
    _store(frontier, folder)
    return frontier


def read_frontier(folder: Path) -> Frontier:
    """The frontier of a folder, whole or as far as it got.

    Raises:
        UserError: ``frontier.json`` is missing or damaged.
    """
    path = folder / JSON
    try:
        return Frontier.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged: delete it, and audit the models anew") from error


# --- the trainings -------------------------------------------------------------------------------------------------


def _variants(
    file: TrainingFile, members: Batch, registry: Registry, frontier: Frontier, settings: Mapping[str, int]
) -> Iterator[_Variant]:
    """The file at each epsilon, then without privacy."""
    training = file.training
    code = source_digest(import_callable(training.factory, registry.trust))
    targets: list[float | None] = [*frontier.epsilons, None]
    for epsilon in targets:
        name = f"{training.name}-{'plain' if epsilon is None else f'eps-{epsilon:g}'}"
        own = Training.model_validate({**dict(training), "name": name, "dp": _privacy(training, epsilon)})
        parts = {"training": own.what_is_trained, "rows": members.digest, "code": code}
        audit = _sha(_scenario(file, name, frontier, settings))
        yield _Variant(replace(file, training=own), epsilon, _sha(canonical_json(parts)), audit)


def _privacy(training: Training, epsilon: float | None) -> Privacy | None:
    """The file's own way of privacy, to another budget."""
    if training.dp is None or epsilon is None:
        return None
    return training.dp.model_copy(update={"epsilon": epsilon, "noise_multiplier": None, "max_epsilon": None})


def _below(variant: _Variant, name: str) -> str:
    """Folder of a training below the frontier's: ``plain``, ``eps-3``."""
    return variant.name.removeprefix(f"{name}-")


def _known(folder: Path, variants: Sequence[_Variant], registry: Registry) -> dict[str, Point]:
    """What an earlier sweep left of these variants, where it was trained like this and the registry still holds the model."""
    if not (folder / JSON).exists():
        return {}
    wanted = {variant.name: variant for variant in variants}
    known: dict[str, Point] = {}
    for point in read_frontier(folder).points:
        variant = wanted.get(point.name)
        if variant is None or point.training != variant.identity or not _held(point, registry):
            continue
        stale = point.audited != variant.audit
        known[point.name] = point.model_copy(update={"run": "", "numbers": (), "audited": ""}) if stale else point
    return known


def _held(point: Point, registry: Registry) -> bool:
    try:
        return registry.get(point.model).digest == point.digest
    except UserError:
        return False


def _trained(variant: _Variant, made: Trained) -> Point:
    """What is known of a model before its audit."""
    record = made.record
    private: dict[str, Any] = {}
    if record is not None and record.claim is not None:
        private = {
            "spent": record.claim.epsilon,
            "noise_multiplier": record.stretches[0].sigma,
            "steps": record.steps,
            "history": tuple(record.history),
        }
    return Point(
        name=variant.name, model=made.card.ref, digest=made.card.digest, epsilon=variant.epsilon, training=variant.identity, **private
    )  # fmt: skip


# --- their audits --------------------------------------------------------------------------------------------------


def _scenario(file: TrainingFile, model: str, frontier: Frontier, settings: Mapping[str, int]) -> str:
    """What every model is audited by; it gates nothing."""
    utility, _ = _UTILITY[file.training.loss]
    checks: list[dict[str, Any]] = [{utility: {}}]
    if frontier.attacks:
        checks.append({_MEMBERSHIP: {"attacks": list(frontier.attacks), "fprs": list(FPRS), **settings}})
    return dump_yaml(
        {"name": f"{frontier.name}-frontier", "model": model, "data": file.training.data, "checks": checks}
    )


def _numbers(report: Report, frontier: Frontier) -> Iterator[Number]:
    """The table's numbers out of a run.

    Raises:
        UserError: a check of the audit did not get to its end.
    """
    undecided = {
        (r.measurement.metric, part_name("", r.measurement.dims)): r.measurement.unresolved
        for r in report.stored.recorded
        if r.measurement is not None and r.measurement.unresolved
    }
    for finding in report.findings:
        if finding.status in (Status.ERROR, Status.NOT_APPLICABLE):
            raise UserError(f"the audit of {finding.model} broke off in {finding.check}: {finding.message}")
        attack, estimate, interval = finding.dims.get("attack"), finding.estimate, finding.interval
        wanted = (
            attack is not None
            if finding.check == _MEMBERSHIP
            else not finding.dims and finding.metric == frontier.utility
        )
        if not wanted or estimate is None or finding.metric is None:
            continue
        doubt = undecided.get((finding.metric, part_name("", finding.dims)))
        void = finding.status is Status.VOID
        low, high = interval or (None, None)
        yield Number(
            metric=finding.metric, attack=attack, fpr=finding.dims.get("fpr"), value=estimate.value, low=low, high=high,
            n=estimate.n, status="void" if void else "inconclusive" if doubt else "info",
            note=finding.message if void else doubt or "",
        )  # fmt: skip


# --- the table -----------------------------------------------------------------------------------------------------


def _with(frontier: Frontier, variants: Sequence[_Variant], points: Mapping[str, Point]) -> Frontier:
    """The frontier with the models that are there, and what all the private ones spend together."""
    there = tuple(points[variant.name] for variant in variants if variant.name in points)
    history = [stretch for point in there for stretch in point.history]
    together = rdp_epsilon(history, frontier.delta).epsilon if history else math.inf
    return frontier.model_copy(update={"points": there, "together": together if math.isfinite(together) else None})


def _store(frontier: Frontier, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / JSON, (frontier.model_dump_json(indent=1) + "\n").encode())
    write_whole(folder / CSV, as_csv(frontier).encode())


def as_csv(frontier: Frontier) -> str:
    """One line a model; a number takes three columns: itself and the ends of its interval."""
    keys = list(dict.fromkeys(number.key for point in frontier.points for number in point.numbers))
    head = ["model", "epsilon", "spent", "delta", "noise_multiplier", "steps"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *(f"{key}{end}" for key in keys for end in ("", " low", " high"))])
    for point in frontier.points:
        known = {number.key: number for number in point.numbers}
        cells: list[object] = []
        for key in keys:
            number = known.get(key)
            cells += ["", "", ""] if number is None else [number.value, number.low, number.high]
        delta = frontier.delta if point.spent is not None else None
        writer.writerow([point.model, point.epsilon, point.spent, delta, point.noise_multiplier, point.steps, *cells])
    return out.getvalue()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
