"""Audits started from the dashboard: they finish without it, are followed, stopped, and say why they failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import registered

from audit.parameters import UserError
from audit.run_folder import Run
from dashboard.working import audits

QUICK = """\
name: quick
model: iris
data: {source: sklearn.iris, split: {test: 0.5, seed: 0}}
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.8"}
  - robustness.corruptions: {samples: 5}
"""
SLOW = """\
name: slow
model: digits
data: {source: sklearn.digits, split: {test: 0.3, seed: 0}}
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.8"}
  - robustness.evasion: {attacks: [pgd: {steps: 1000}], eps: 1, samples: 20}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("audits")
    yield registered.make(folder)
    sys.path.remove(str(folder))


def until(met: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_an_audit_runs_to_its_end_without_whoever_started_it(home: Path) -> None:
    """Started by a process that ends at once, as a dashboard that is closed."""
    code = f"from pathlib import Path\nfrom dashboard.working import audits\nprint(audits.start(Path({str(home)!r}), {QUICK!r}).name)"
    path = os.pathsep.join(filter(None, sys.path))
    starter = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    one = audits.found(home, starter.stdout.strip())
    assert one.state in ("starting", "running")
    until(lambda: not one.alive)
    assert one.state == "finished", one.log()
    assert Run(one.run_path).manifest["verdict"]["counts"]
    progress = one.progress()
    assert progress.steps == ["performance.classification", "robustness.corruptions"]
    assert progress.current is None
    assert progress.measured == sum(record.measurement is not None for record in Run(one.run_path).recorded)
    assert "PASS" in one.log().upper()
    assert list(one.now().took) == progress.steps
    assert all(0 <= seconds <= one.seconds for seconds in one.now().took.values())
    assert audits.every(home)[0] == one


def test_a_running_audit_is_followed_and_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a dashboard that itself ignores SIGINT, as one does that a shell started in the background."""
    monkeypatch.setenv("MOODY_SECONDS", "0.03")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        one = audits.start(home, SLOW, model="digits@1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert one.state == "starting"
    assert one.progress().current == "performance.classification"
    until(lambda: one.state == "running" and bool(one.progress().ended))
    progress = one.progress()
    assert (progress.current, progress.ended["performance.classification"].status) == (
        "robustness.evasion",
        "completed",
    )
    until(lambda: one.now().total > 0)
    now = one.now()
    assert (now.step, "pgd" in now.what, now.done <= now.total) == ("robustness.evasion", True, True)
    assert now.since <= time.time()
    assert "performance.classification" in now.took
    assert not one.cancelled
    one.stop()
    until(lambda: not one.alive)
    assert one.cancelled
    assert (one.state, Run(one.run_path).state) == ("interrupted", "interrupted")
    assert "interrupted" in one.log()
    one.stop()  # there is nobody left to tell


def test_one_that_will_not_stop_is_ended_at_once(home: Path) -> None:
    one = audits.start(home, SLOW)
    one.stop(at_once=True)
    until(lambda: not one.alive)
    assert one.cancelled
    assert one.state == "interrupted"  # before it had a run folder
    assert one.log() == ""


def test_one_that_somebody_kills_is_interrupted_and_another_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOODY_SECONDS", "0.03")
    killed, other = audits.start(home, SLOW, model="digits@1"), audits.start(home, QUICK)
    until(lambda: killed.state == "running")
    os.kill(int(killed.facts["process"]), signal.SIGKILL)
    until(lambda: not killed.alive)
    assert (killed.state, killed.cancelled) == ("interrupted", False)
    until(lambda: not other.alive)
    assert other.state == "finished"
    assert killed.name != other.name


def test_one_that_cannot_start_says_why(home: Path) -> None:
    one = audits.start(home, QUICK.replace("model: iris", "model: irris"))
    assert one.facts["model"] == "irris"
    until(lambda: not one.alive)
    assert one.state == "failed"
    assert "there is no model 'irris'; did you mean 'iris'?" in one.log()


def test_a_wrong_scenario_starts_nothing(home: Path) -> None:
    before = audits.every(home)
    with pytest.raises(UserError, match="did you mean 'samples'"):
        audits.start(home, QUICK.replace("samples", "sampels"))
    assert audits.every(home) == before


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "audits").write_text("a file where the folder belongs")
    with pytest.raises(UserError, match="cannot be made: Not a directory"):
        audits.start(tmp_path, QUICK)
    assert audits.every(tmp_path) == []


def test_facts_that_are_damaged_hide_no_audit(home: Path) -> None:
    one = audits.every(home)[0]
    kept = (one.path / audits.FACTS).read_bytes()
    (one.path / audits.FACTS).write_text("{")
    try:
        assert (one.started, one.seconds) == (None, None)
        with pytest.raises(UserError, match=r"audit\.json cannot be read"):
            _ = one.facts
    finally:
        (one.path / audits.FACTS).write_bytes(kept)


def test_names_are_those_of_folders_here(home: Path, tmp_path: Path) -> None:
    assert audits.every(tmp_path) == []
    for name in ("nothing", "../home", ""):
        with pytest.raises(UserError, match="there is no audit"):
            audits.found(home, name)
