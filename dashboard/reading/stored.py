"""Stored runs as the dashboard reads them: a summary of each from its manifest alone, and a whole run when it is opened.

Everything is kept until its files change. Nothing here imports torch, and nothing is computed again.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from audit.finding import Finding
from audit.parameters import UserError
from audit.report._view import RunView
from audit.report._words import VERDICTS, clean, mapping
from audit.run_folder import Run
from audit.stored import audit_home
from dashboard.words import verdict_word

SUMMARIES = 4096
VIEWS = 8
"""How many are kept in memory."""
LONGEST = 500
"""Characters of a name in a list."""
MANY = 1_000_000_000
"""More findings than any run has."""
WATCHED = ("manifest.json", "findings.jsonl", "measurements.jsonl", "timings.json", "scenario.yaml")

Stamp = tuple[Any, ...]


def home() -> Path:
    """Where models, trust and runs live: ``AUDIT_HOME``, which ``audit dashboard --home`` sets."""
    return audit_home()


@dataclass(frozen=True)
class ModelName:
    """A model of a run.

    Args:
        ref: as the scenario names it.
        name, version: as the registry knows it; of a model that was handed over, the ref and None.
    """

    ref: str
    name: str
    version: int | None
    digest: str

    @property
    def shown(self) -> str:
        """``digits-cnn@1``."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True)
class RunSummary:
    """A run as a list shows it.

    Args:
        word: of the verdict, as `audit.report._view.RunVerdict`; ``interrupted``, ``running``, ``damaged`` included.
        counts: findings by status.
        checks: names of the checks that the scenario runs.
        seconds: from start to end; None where it has not ended.
        problem: what is wrong with the folder; empty where nothing is known to be.
    """

    path: Path
    word: str
    scenario: str = ""
    sentence: str = ""
    models: tuple[ModelName, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    started: datetime.datetime | None = None
    seconds: float | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name


def runs(home: Path) -> list[RunSummary]:
    """Every run below ``home/runs``, the newest first; a damaged one has its `problem`, and the others still open."""
    root = home / "runs"
    if not root.is_dir():
        return []
    found = [_summary(path, stamp(path)) for path in root.iterdir() if path.is_dir()]
    return sorted(found, key=_newest, reverse=True)


def run(home: Path, name: str) -> RunView:
    """A run as a reader sees it.

    Raises:
        UserError: there is no such run, or its manifest cannot be read.
    """
    path = home / "runs" / name
    if Path(name).name != name or not path.is_dir():
        raise UserError(f"there is no run '{name}' in {home / 'runs'}")
    return _view(path, _stamp(path, WATCHED))


def described(summary: RunSummary) -> str:
    """A run on one line, as a choice; what its name says already is not said again."""
    told = bool(summary.started) and f"{summary.started:%Y%m%d-%H%M}" in summary.name
    when = f"{summary.started:%Y-%m-%d %H:%M}" if summary.started and not told else ""
    scenario = summary.scenario if summary.scenario not in summary.name else ""
    models = ", ".join(model.shown for model in summary.models)
    return " · ".join(part for part in (verdict_word(summary.word), models, scenario, when, summary.name) if part)


def _newest(summary: RunSummary) -> tuple[float, str]:
    return summary.started.timestamp() if summary.started else 0.0, summary.name


def _stamp(path: Path, names: tuple[str, ...]) -> Stamp:
    """What changes when one of a folder's files does; of an unfinished run, whether it is still being written too."""
    stamp: list[Any] = []
    for name in names:
        try:
            stat = (path / name).stat()
            stamp.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            stamp.append(None)
    if stamp[1] is None:
        try:
            stamp.append(Run(path).state)
        except UserError:
            stamp.append("damaged")
    return tuple(stamp)


@lru_cache(maxsize=VIEWS)
def _view(path: Path, stamp: Stamp) -> RunView:
    return RunView(Run(path))


@lru_cache(maxsize=SUMMARIES)
def _summary(path: Path, stamp: Stamp) -> RunSummary:
    try:
        stored = Run(path)
    except UserError as error:
        return RunSummary(path, "damaged", problem=_without_folder(str(error), path))
    told = stored.manifest
    started, ended = (_time(told.get(key)) for key in ("started", "ended"))
    concluded = mapping(told.get("verdict"))
    word, problem = str(stored.state), ""
    if word == "finished":
        problem = _damage(path, told, concluded)
        word = "damaged" if problem else str(concluded["word"])
    return RunSummary(
        path=path,
        word=word,
        scenario=_brief(told.get("scenario", "")),
        sentence="" if problem else _brief(concluded.get("sentence", "")),
        models=tuple(_model(ref, facts) for ref, facts in mapping(told.get("models")).items()),
        counts={} if problem else _counts(concluded.get("counts")),
        checks=tuple(map(_brief, checks)) if isinstance(checks := told.get("checks"), list) else (),
        started=started,
        seconds=(ended - started).total_seconds() if started and ended and started <= ended else None,
        problem=problem,
    )


def _damage(path: Path, manifest: Mapping[str, Any], concluded: Mapping[str, Any]) -> str:
    """What is wrong with a finished run as far as its manifest and the length of its findings tell; opening it looks closer."""
    if concluded.get("word") not in list(VERDICTS):
        return "manifest.json names no verdict that this version knows"
    try:
        size = (path / "findings.jsonl").stat().st_size
    except OSError:
        return "findings.jsonl is missing"
    written = manifest.get("findings_bytes")
    return (
        f"findings.jsonl holds {size:,} bytes instead of {written:,}"
        if isinstance(written, int) and size != written
        else ""
    )


def stamp(path: Path) -> Stamp:
    """What changes when a run's manifest or findings do."""
    return _stamp(path, WATCHED[:2])


def _counts(stored: Any) -> dict[str, int]:
    """Findings by status; a number that can be no count is left out."""
    return {clean(k): n for k, n in mapping(stored).items() if isinstance(n, int) and 0 < n < MANY}


def _brief(text: Any) -> str:
    """A text as a list has room for it, whatever a damaged folder holds."""
    said = clean(text)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def _without_folder(text: str, path: Path) -> str:
    return clean(text.replace(f"{path}/", "").replace(str(path), path.name))


def _model(ref: str, facts: Any) -> ModelName:
    known = mapping(facts)
    version = known.get("version")
    return ModelName(
        clean(ref),
        _brief(known.get("name") or ref),
        version if isinstance(version, int) else None,
        str(known.get("digest", "")),
    )


def _time(text: Any) -> datetime.datetime | None:
    """A stored time in UTC; None where it is none."""
    try:
        found = datetime.datetime.fromisoformat(str(text))
        return found.astimezone(datetime.UTC) if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    except (ValueError, OverflowError):
        return None


def gates(summary: RunSummary) -> tuple[Finding, ...]:
    """The findings of a run that have a gate; none where they cannot be read. Numbers without a gate are not even parsed."""
    return _gates(summary.path, stamp(summary.path))


@lru_cache(maxsize=SUMMARIES)
def _gates(path: Path, stamp: Stamp) -> tuple[Finding, ...]:
    try:
        lines = (path / "findings.jsonl").read_text(encoding="utf-8").splitlines()
        return tuple(Finding.model_validate_json(line) for line in lines if '"required":' in line)
    except (OSError, ValueError):
        return ()
