"""Audits started from the dashboard: ``audit run`` in a session of its own, which neither the browser nor the dashboard takes along.

Each has a folder ``HOME/audits/NAME`` with the scenario as it was started, what it printed, and a lock that it holds while it lives; its
run folder is ``HOME/runs/NAME``. Whoever opens the folder sees the same: nothing is known by this process alone.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from audit.cli.followed import FOLLOWED
from audit.finding import Outcome
from audit.parameters import UserError
from audit.plan import bind
from audit.run_folder import Run, locked, safe_name
from audit.scenario import parse, read
from dashboard.working.worker import import_path

State = Literal["starting", "running", "finished", "interrupted", "failed"]
"""``failed`` is one that ended before it had a run folder."""
SCENARIO, LOG, FACTS, NOW = "scenario.yaml", "log.txt", "audit.json", "now.json"
LOCK, CANCELLED = ".lock", "cancelled"
TAIL = 20_000
"""Characters of what it printed that are shown."""
LAUNCH = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from audit.cli import main; main()"
"""A shell that starts the dashboard in the background has it ignore SIGINT, and whoever it starts: this one must hear it."""


@dataclass(frozen=True)
class Progress:
    """How far an audit is.

    Args:
        steps: planned, in order.
        ended: step → how it ended.
        measured: numbers so far.
    """

    steps: Sequence[str]
    ended: Mapping[str, Outcome]
    measured: int

    @property
    def current(self) -> str | None:
        """The first step that has not ended."""
        return next((step for step in self.steps if step not in self.ended), None)


@dataclass(frozen=True)
class Now:
    """What an audit does at this moment.

    Args:
        step: at hand.
        since: when it began, by the clock; None where nothing is known.
        done, total: how far it is; `total` is 0 where it does not say.
        what: it does.
        took: step → seconds, of those that ended.
    """

    step: str = ""
    since: float | None = None
    done: int = 0
    total: int = 0
    what: str = ""
    took: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Started:
    """An audit that was started here.

    Args:
        path: its folder below ``HOME/audits``.
    """

    path: Path

    @property
    def name(self) -> str:
        """Of this folder and of the run folder."""
        return self.path.name

    @property
    def run_path(self) -> Path:
        """Where the run lies once there is one."""
        return self.path.parent.parent / "runs" / self.name

    @property
    def alive(self) -> bool:
        """Whether its process holds the lock."""
        return locked(self.path / LOCK)

    @property
    def state(self) -> State:
        """``starting`` before there is a run folder; where there never was one it was stopped or killed, or it failed and its log says why."""
        alive = self.alive  # before the run folder is read: what has ended since is read as ended
        try:
            found = Run(self.run_path).state
        except UserError:
            return "starting" if alive else "interrupted" if self.cancelled or self._said_nothing else "failed"
        return "running" if found != "finished" and alive else found

    @property
    def _said_nothing(self) -> bool:
        """Whether it printed no reason for its end: somebody killed it."""
        return all(line.startswith("loading ") for line in self.log().splitlines())

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return (self.path / CANCELLED).exists()

    @property
    def facts(self) -> dict[str, Any]:
        """How it was started: process, scenario, model, time."""
        try:
            return dict(json.loads((self.path / FACTS).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / FACTS} cannot be read: {error}") from error

    def log(self) -> str:
        """What it printed, the end of it."""
        try:
            return (self.path / LOG).read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()
        except OSError:
            return ""

    @property
    def started(self) -> datetime.datetime | None:
        """When it was started; None where that cannot be told."""
        try:
            return datetime.datetime.fromisoformat(str(self.facts["started"]))
        except (KeyError, ValueError, UserError):
            return None

    @property
    def seconds(self) -> float | None:
        """How long it has run, or ran: until its last sign of life."""
        if (began := self.started) is None:
            return None
        if self.alive:
            return time.time() - began.timestamp()
        signs = [self.path / LOG, self.path / NOW, self.run_path / "manifest.json"]
        return max(0.0, max(path.stat().st_mtime for path in signs if path.exists()) - began.timestamp())

    def now(self) -> Now:
        """What it does, as it said last; nothing before its first step."""
        try:
            return Now(**json.loads((self.path / NOW).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Now()

    def progress(self) -> Progress:
        """Steps planned and done.

        Raises:
            UserError: the scenario or the measurements cannot be read.
        """
        measurements = self.run_path / "measurements.jsonl"
        size = measurements.stat().st_size if measurements.exists() else 0
        return _progress(self.path / SCENARIO, self.run_path, size)

    def stop(self, *, at_once: bool = False) -> None:
        """Tell it to stop, as Ctrl-C would: what was measured stays, and the run folder says interrupted.

        Args:
            at_once: end it where it stands instead.
        """
        if self.alive:
            (self.path / CANCELLED).touch()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(self.facts["process"]), signal.SIGKILL if at_once else signal.SIGINT)


def start(home: Path, text: str, *, model: str | None = None, explore: bool = False) -> Started:
    """Start an audit of a scenario; it goes on by itself.

    Args:
        text: the scenario; paths in it are absolute, for it is stored elsewhere than it was written.
        model: instead of the scenario's.
        explore: allow a scenario without gates.

    Raises:
        UserError: the scenario is wrong, or the folder cannot be written.
    """
    plan = bind(parse(text))
    home = home.resolve()
    path = _folder(home, plan.scenario.name)
    command = [
        sys.executable, "-P", "-c", LAUNCH, "run", str(path / SCENARIO),
        "--home", str(home), "--out", str(home / "runs" / path.name),
        *(["--model", model] if model else []), *(["--explore"] if explore else []),
    ]  # fmt: skip
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(import_path()),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "140",
        FOLLOWED: str(path / NOW),
    }
    try:
        (path / SCENARIO).write_text(text, encoding="utf-8")
        facts = {
            "scenario": plan.scenario.name,
            "model": model or ", ".join(plan.scenario.model),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        _launch(path, command, surroundings, facts)
    except OSError as error:
        raise UserError(f"the audit cannot be started in {path}: {error.strerror}") from error
    return Started(path)


def _launch(path: Path, command: Sequence[str], surroundings: Mapping[str, str], facts: Mapping[str, str]) -> None:
    with (path / LOCK).open("w") as lock, (path / LOG).open("wb") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the process inherits it, and with its end it opens
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=[lock.fileno()], env=surroundings,
        )  # fmt: skip
        known = {"process": process.pid, **facts}
        (path / FACTS).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    threading.Thread(target=process.wait, daemon=True).start()  # nobody else would bury it


def _folder(home: Path, scenario: str) -> Path:
    """A folder that is nobody's, named by time and scenario as runs are."""
    stem = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{safe_name(scenario)}"
    for number in itertools.count(1):
        path = home / "audits" / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{path} cannot be made: {error.strerror}") from error
        if not (home / "runs" / path.name).exists():
            return path
        path.rmdir()
    raise AssertionError("numbers do not end")


def found(home: Path, name: str) -> Started:
    """One by its name.

    Raises:
        UserError: there is none.
    """
    path = home / "audits" / name
    if Path(name).name != name or not (path / FACTS).is_file():
        raise UserError(f"there is no audit '{name}' in {home / 'audits'}")
    return Started(path.resolve())


def every(home: Path) -> list[Started]:
    """All that were started here, the newest first."""
    root = home / "audits"
    names = sorted((path.name for path in root.iterdir()), reverse=True) if root.is_dir() else []
    return [Started((root / name).resolve()) for name in names if (root / name / FACTS).is_file()]


@lru_cache(maxsize=64)
def _progress(scenario: Path, run: Path, size: int) -> Progress:
    """Kept until the measurements grow."""
    try:
        model = json.loads((scenario.parent / FACTS).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError):
        model = ""
    overrides = [f"model=[{model}]"] if model else []
    steps = [step.name for step in bind(read(scenario, overrides)).steps]
    recorded = Run(run).recorded if size else ()
    ended = {one.step: one.outcome for one in recorded if one.outcome is not None}
    return Progress(steps, ended, sum(one.measurement is not None for one in recorded))
