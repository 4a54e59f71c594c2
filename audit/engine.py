"""Plan → run → judge: the way from a scenario to a verdict."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from audit import __version__
from audit.bridges.global_generators import seeded
from audit.context import Context
from audit.contradictions import contradictions
from audit.executors.local import execute
from audit.finding import Measurement, Metric, Outcome, Severity, part_name
from audit.judge import Compare, judge
from audit.judge.verdicts import verdict
from audit.model import Capability
from audit.parameters import UserError
from audit.plan import Plan, Step, bind
from audit.run_folder import FolderTaken, Recorded, Run, RunWriter, safe_name
from audit.scenario import ScenarioFile, parse, read
from audit.stored import Report, audit_home, comparison, conclusion, find_run, today

if TYPE_CHECKING:
    from audit.data import AuditData
    from audit.model import AuditedModel
    from audit.registry.card import ModelCard

PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "pandas", "captum", "shap", "adversarial-robustness-toolbox", "opacus",
    "xgboost-cpu", "lightgbm", "onnxruntime", "skops", "safetensors",
)  # fmt: skip


class Opener(Protocol):
    """Where models come from; the registry, or a mapping from Python."""

    def get(self, ref: str) -> ModelCard | None:
        """What is known of a model before it is opened; None where nothing is."""

    def open(self, ref: str) -> AuditedModel:
        """The loaded model."""

    def members(self, card: ModelCard) -> frozenset[str] | None:
        """Ids of the rows a model was trained on; None where they are not known."""


class Observer:
    """What a caller may want to see of a run; every method may be overridden."""

    def started(self, path: Path, steps: Sequence[Step]) -> None:
        """The run folder exists."""

    def loading(self, what: str) -> None:
        """A model or the data is being loaded."""

    def step_started(self, step: Step) -> None:
        """A check begins."""

    def progress(self, step: Step, done: int, total: int, what: str) -> None:
        """A check has done `done` of `total`."""

    def measured(self, step: Step, measurement: Measurement) -> None:
        """A check yielded a number."""

    def step_ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
        """A check ended."""


def run(
    scenario: Path | str | ScenarioFile,
    *,
    home: Path | str | None = None,
    models: Opener | Mapping[str, AuditedModel] | None = None,
    data: AuditData | None = None,
    model: str | Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    explore: bool = False,
    fail_on: Severity = Severity.LOW,
    out: Path | str | None = None,
    observer: Observer | None = None,
) -> Report:
    """Run a scenario and judge it.

    Args:
        scenario: a file, or one already read.
        home: see `audit_home`.
        models: where models come from instead of the registry in `home`: a mapping from the scenario's names to loaded models.
        data: audit data instead of what the scenario's source reads.
        model: model reference(s) instead of the scenario's.
        overrides: as ``--set``.
        explore: allow a scenario without gates.
        out: the run folder to make; default below ``home/runs``.

    Raises:
        UserError: the scenario, model reference or data is wrong; nothing was run.
    """
    home = audit_home(home)
    observer = observer or Observer()
    overrides = list(overrides)
    if model is not None:
        overrides.append(f"model=[{', '.join([model] if isinstance(model, str) else model)}]")
    file = scenario if isinstance(scenario, ScenarioFile) else read(scenario)
    if overrides:
        file = parse(file.text, file.origin, file.base, overrides)
    plan = bind(file)
    if not plan.gated and not explore:
        raise UserError(
            f"{file.origin}: nothing is gated, so nothing could fail: add 'require:' to a check, or explore with --explore"
        )
    if not plan.scenario.model:
        raise UserError(f"{file.origin}: no model: name one with 'model: NAME' or --model NAME")
    opener = (
        models
        if models is not None and hasattr(models, "open")
        else _Given(models)
        if models is not None
        else _registry(home)
    )
    return _Session(plan, home, opener, data, observer).run(fail_on, Path(out) if out else None)  # type: ignore[arg-type]


def _registry(home: Path) -> Opener:
    from audit.registry.store import Registry

    return Registry(home)


class _Given:
    """Models handed over from Python."""

    def __init__(self, models: Mapping[str, AuditedModel]) -> None:
        self._models = models

    def get(self, ref: str) -> ModelCard | None:
        if ref not in self._models:
            raise UserError(f"no model '{ref}' was given; given: {', '.join(self._models) or 'none'}")
        return None

    def open(self, ref: str) -> AuditedModel:
        from audit.model import AuditedModel

        given = self._models[ref]
        if not isinstance(given, AuditedModel):
            raise UserError(
                f"model '{ref}' is a {type(given).__name__}: hand over audit.from_model(it, data), or register its file by `audit model add`"
            )
        return given

    def members(self, card: ModelCard) -> frozenset[str] | None:
        return None


@dataclass
class _Session:
    """One run in the making."""

    plan: Plan
    home: Path
    opener: Opener
    given: AuditData | None
    observer: Observer
    _models: dict[str, AuditedModel] = field(default_factory=dict)
    _data: dict[str, AuditData] = field(default_factory=dict)
    _raw: AuditData | None = None

    def run(self, fail_on: Severity, out: Path | None) -> Report:
        """Run every step with the scenario's threads; the process gets its own back."""
        with _fixed_threads(self.plan.scenario.threads) as threads:
            return self._run(fail_on, out, threads)

    def _run(self, fail_on: Severity, out: Path | None, threads: int) -> Report:
        scenario = self.plan.scenario
        refs = list(dict.fromkeys([step.model for step in self.plan.steps] + list(scenario.models.values())))
        cards = {ref: self.opener.get(ref) for ref in refs}
        first = self.plan.steps[0].model
        self._open(first)
        self._fitted(first)
        started = datetime.datetime.now(datetime.UTC)
        manifest = {
            "audit": __version__,
            "scenario": scenario.name,
            "description": scenario.description,
            "scenario_sha256": hashlib.sha256(self.plan.file.text.encode()).hexdigest(),
            "origin": Path(self.plan.file.origin).name,
            "started": started.isoformat(timespec="seconds"),
            "seed": scenario.seed,
            "threads": threads,
            "models": {ref: self._describe_model(ref, cards[ref]) for ref in refs},
            "data": self._describe_data(),
            "steps": [step.name for step in self.plan.steps],
            "checks": sorted({step.entry.check for step in self.plan.steps}),
            "platform": {
                "python": platform.python_version(),
                "system": platform.system(),
                "machine": platform.machine(),
            },
            "packages": _versions(),
        }
        timings: dict[str, Any] = {"steps": {}}
        begun = time.monotonic()
        with self._writer(out, started, manifest) as writer:
            path = writer.path
            self.observer.started(path, self.plan.steps)
            for step in self.plan.steps:
                self.observer.step_started(step)
                outcome, seconds = self._step(step, cards[step.model], writer)
                writer.record(_recorded(step, outcome=outcome))
                timings["steps"][step.name] = round(seconds, 3)
                self.observer.step_ended(step, outcome, seconds)
            stored = Run(path)
            findings = judge(
                self.plan,
                stored.recorded,
                today=today(),
                compare=self._baseline(stored),
                contradictions=contradictions(stored),
            )
            result = verdict(findings, fail_on)
            timings["total"] = round(time.monotonic() - begun, 3)
            writer.describe(models={ref: self._describe_model(ref, cards[ref]) for ref in refs})
            facts = {
                "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                **conclusion(result, fail_on),
            }
            writer.finish(findings, timings, facts)
        return Report(path, tuple(findings), result)

    def _writer(self, out: Path | None, started: datetime.datetime, manifest: Mapping[str, Any]) -> RunWriter:
        """The folder named, or one named by time and scenario; runs that start in the same second get numbers."""
        if out is not None:
            return RunWriter(out, manifest, self.plan.file.text)
        stem = f"{started:%Y%m%d-%H%M%S}-{safe_name(self.plan.scenario.name)}"
        for number in itertools.count(1):
            with contextlib.suppress(FolderTaken):
                path = self.home / "runs" / (stem if number == 1 else f"{stem}-{number}")
                return RunWriter(path, manifest, self.plan.file.text)
        raise AssertionError("numbers do not end")

    def _open(self, ref: str) -> AuditedModel:
        if ref not in self._models:
            self.observer.loading(f"model {ref}")
            self._models[ref] = self.opener.open(ref)
        return self._models[ref]

    def _fitted(self, ref: str) -> AuditData:
        if ref not in self._data:
            if self._raw is None:
                name = str(self.plan.scenario.data.get("source"))
                if self.given is None:
                    self.observer.loading(f"data {name}")
                self._raw = self.given or self.plan.source.load(self.plan.file.base, name)
            model = self._open(ref)
            self._refuse_contamination(ref, self._raw)
            self._data[ref] = self._raw.fit_to(model.spec, model.classes, model.name)
        return self._data[ref]

    def _refuse_contamination(self, ref: str, data: AuditData) -> None:
        """Hold the split against the rows that the registry knows the model was trained on."""
        card = self.opener.get(ref)
        members = self.opener.members(card) if card is not None else None
        if not members:
            return
        seen = sum(row in members for row in data.test.ids)
        given = data.train.ids if data.train is not None else ()
        strangers = sum(row not in members for row in given)
        hint = "give data.split the share, seed and stratification that the model was trained with"
        if seen:
            raise UserError(
                f"data '{data.source}': {seen} of {len(data.test)} test rows are among those that model {ref} was trained on: {hint}"
            )
        if 0 < strangers < len(given):
            raise UserError(
                f"data '{data.source}': {strangers} of {len(given)} rows given as members are none of those that model {ref} was trained on: {hint}"
            )

    def _describe_model(self, ref: str, card: ModelCard | None) -> dict[str, Any]:
        if card is not None:
            return card.model_dump(mode="json")
        if ref not in self._models:
            return {}
        model = self._models[ref]
        return {
            "name": model.name, "digest": model.digest, "task": model.task, "classes": list(model.classes), "output": model.output,
            "spec": model.spec.model_dump(mode="json"), "capabilities": sorted(model.capabilities),
        }  # fmt: skip

    def _describe_data(self) -> dict[str, Any]:
        data = self._raw
        if data is None:
            return {}
        return {
            "source": data.source,
            "parameters": {k: v for k, v in self.plan.scenario.data.items() if k != "source"},
            "digest": data.digest,
            "classes": list(data.classes),
            "rows": {
                name: len(part)
                for name, part in (("test", data.test), ("train", data.train), ("population", data.population))
                if part is not None
            },
            "groups": sorted(data.test.groups),
            "notes": list(data.notes),
        }

    def _step(self, step: Step, card: ModelCard | None, writer: RunWriter) -> tuple[Outcome, float]:
        known = frozenset(card.capabilities) if card is not None else None
        if known is not None and (
            absent := self._absent(step, known | {Capability.TRAIN_DATA}, card.task if card else None)
        ):
            return Outcome(status="not_applicable", message=absent), 0.0
        late: list[Outcome] = []

        def work() -> None:
            model, data = self._open(step.model), self._fitted(step.model)
            offered = model.capabilities | ({Capability.TRAIN_DATA} if data.train is not None else frozenset())
            if absent := self._absent(step, offered, model.task):
                late.append(Outcome(status="not_applicable", message=absent))
                return
            deadline = time.monotonic() + step.entry.timeout if step.entry.timeout else None
            context = Context(
                seed=self.plan.scenario.seed,
                check_id=step.entry.id,
                step=step.name,
                writer=writer,
                open_model=self._named_model,
                report_progress=lambda done, total, what: self.observer.progress(step, done, total, what),
                deadline=deadline,
                base=self.plan.file.base,
                cache=self.home / "cache",
            )
            seen: set[str] = set()
            # A model may draw from the global generators: each check finds them alike, whatever ran before it.
            with seeded(context.number("global") % 2**32):
                for measurement in step.check.run(model, data, context):
                    _verify(measurement, step.metrics, seen)
                    writer.record(_recorded(step, measurement=measurement))
                    self.observer.measured(step, measurement)

        def log(text: str) -> None:
            with (writer.path / "errors.log").open("a", encoding="utf-8") as errors:
                errors.write(f"--- {step.name}\n{text}\n")

        outcome, seconds = execute(work, step.entry.timeout, log)
        return (late[0] if late else outcome), seconds

    def _absent(self, step: Step, offered: frozenset[Capability], task: str | None) -> str:
        if task is not None and task not in step.check.tasks:
            return f"{step.entry.check} is for {' or '.join(sorted(step.check.tasks))}, model {step.model} does {task}"
        missing = sorted(step.check.requirements() - offered)
        if not missing:
            return ""
        owner = (
            "the data gives no rows that the model was trained on (train_data)"
            if missing == [Capability.TRAIN_DATA]
            else f"model {step.model} does not offer {', '.join(missing)}"
        )
        return f"{step.entry.check} needs {', '.join(missing)}: {owner}"

    def _named_model(self, name: str) -> AuditedModel:
        if name not in self.plan.scenario.models:
            raise UserError(
                f"the scenario names no model '{name}' below 'models:'; it names: {', '.join(self.plan.scenario.models) or 'none'}"
            )
        return self._open(self.plan.scenario.models[name])

    def _baseline(self, ours: Run) -> Compare | None:
        named = self.plan.scenario.baseline
        return comparison(ours, find_run(named, self.home)) if named else None


@contextmanager
def _fixed_threads(wanted: int | None) -> Iterator[int]:
    """The scenario's number of threads, or what torch takes by itself (OMP_NUM_THREADS, else the cores)."""
    import torch

    before = torch.get_num_threads()
    threads = wanted or before
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def _recorded(step: Step, measurement: Measurement | None = None, outcome: Outcome | None = None) -> Recorded:
    return Recorded(
        step=step.name,
        id=step.entry.id,
        check=step.entry.check,
        model=step.model,
        cell=dict(step.cell),
        measurement=measurement,
        outcome=outcome,
    )


def _verify(measurement: Measurement, metrics: Mapping[str, Metric], seen: set[str]) -> None:
    """Refuse what a check did not declare, or yields twice."""
    declared = metrics.get(measurement.metric)
    if declared is None:
        raise TypeError(f"the check yielded the metric '{measurement.metric}', which it does not declare")
    if measurement.estimate.kind not in declared.kinds:
        raise TypeError(
            f"metric '{measurement.metric}' came as {measurement.estimate.kind}, declared is {' or '.join(declared.kinds)}"
        )
    part = part_name(measurement.metric, measurement.dims)
    if part in seen:
        raise TypeError(f"the check yielded {part} twice")
    seen.add(part)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
