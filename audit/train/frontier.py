"""Utility against privacy: one training for each epsilon and one without, every model audited alike, all in one table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SkipValidation

from audit.data import AuditData, Batch
from audit.datasets import Rows, Source
from audit.engine import Observer as AuditObserver
from audit.engine import run
from audit.finding import Status, canonical_json, part_name
from audit.parameters import UserError
from audit.plan import bind
from audit.privacy.frontier_table import CSV, JSON, Frontier, Number, Point, as_csv, read_frontier
from audit.privacy.rdp import rdp_epsilon
from audit.registry.importing import import_callable, source_digest
from audit.registry.store import Registry
from audit.scenario import parse
from audit.scenario.marked_yaml import dump_yaml
from audit.train.training import Observer as TrainingObserver
from audit.train.training import Trained, train
from audit.train.training_file import Privacy, Training, TrainingFile
from audit.whole_file import write_whole

if TYPE_CHECKING:
    from audit.stored import Report

FPRS = (0.01, 0.001)
"""False positive rates at which the share of members found is stated."""
_MEMBERSHIP = "privacy.membership_inference"
_UTILITY = {"cross_entropy": ("performance.classification", "accuracy"), "mse": ("performance.regression", "rmse")}
"""Loss → the check that measures what a model is good for, and its headline."""


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
    settings = {"references": references} if "rmia" in frontier.attacks else {}
    settings |= {"shadows": shadows} if {"lira", "lira_offline"} & {*frontier.attacks} else {}
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


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
