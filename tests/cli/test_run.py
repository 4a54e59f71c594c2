"""``audit run`` and what follows it, on a registered model and real data, as a user types it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from audit.names import available
from audit.report import render
from audit.stored import find_run, rejudge

Audit = Callable[..., Any]

SCENARIO = """\
name: threshold
model: tumours
data: {source: sklearn.breast_cancer, split: {test: 0.5, stratify: true}}
seed: 1
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.8"}
    severity: medium
  - toy.coins: {k: 90}
    require: {heads: ">= 0.6"}
"""


@pytest.fixture
def scenario(tmp_path: Path, audit: Audit) -> Path:
    """A scenario file, and its model in the registry: a tumour is malignant where its mean radius is large."""
    model = tmp_path / "threshold.json"
    model.write_text('{"threshold": 15.0}')
    assert audit("model", "trust", model).code == 0
    made = audit(
        "model", "add", "tumours", model, "--loader", "threshold_json", "--input", "number", "--features", "mean radius",
        "--classes", "benign,malignant", "--output", "margin", "--task", "classification",
    )  # fmt: skip
    assert made.code == 0, made.err
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    return path


def test_a_pass_from_file_to_reports(audit: Audit, scenario: Path, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"report.{name}" for name in ("json", "junit", "sarif", "markdown")}
    told = audit(
        "run", scenario, "--html", "--out", tmp_path / "run", *(str(w) for n, p in paths.items() for w in (f"--{n}", p))
    )
    assert told.code == 0, told.err
    assert "Passed" in told.out
    assert "performance.classification/accuracy >= 0.8" in told.out
    assert json.loads(paths["json"].read_text())["verdict"]["word"] == "pass"
    assert json.loads(paths["sarif"].read_text())["version"] == "2.1.0"
    assert len(ElementTree.parse(paths["junit"]).getroot().findall(".//testcase")) == 2
    assert paths["markdown"].read_text().startswith("## ")
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    listed = audit("list")
    assert listed.code == 0
    assert "no runs" in listed.out, "a run elsewhere is not below the home"
    assert audit("show", tmp_path / "run").out.count("pass") >= 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 0),
        (("--set", "toy.coins.k=10"), 1),
        (("--set", "toy.coins.k=10", "--set", "toy.coins.severity=low", "--fail-on", "medium"), 0),
        (("--set", "toy.coins.k=60"), 4),
        (("--set", "toy.coins.then=raise"), 3),
        (("--set", "toy.coins.k=10", "--set", "toy.coins.then=raise"), 3),
        (("--set", "toy.coins.needs_gradients=true"), 3),
        (("--set", "toy.coins.needs_gradients=true", "--set", "toy.coins.optional=true"), 0),
        (("--set", "toy.coins.then=interrupt"), 130),
        (("--model", "absent"), 2),
        (("--set", "toy.coin.k=3"), 2),
        (("--set", "toy.coins.k=many"), 2),
        (("--fail-on", "dire"), 2),
        (("--json", "/nowhere/at/all.json"), 2),
        (("--bogus",), 2),
    ],
)
def test_exit_codes(audit: Audit, scenario: Path, words: tuple[str, ...], code: int) -> None:
    told = audit("run", scenario, *words)
    assert told.code == code, told.out + told.err
    assert "Traceback" not in told.err + told.out
    if code == 2 and "--bogus" not in words:
        assert told.err.splitlines()[-1].startswith("error: ")
    if code == 130:
        assert "what was measured so far is in" in told.err


def test_nothing_gated(audit: Audit, scenario: Path) -> None:
    scenario.write_text(SCENARIO.split("    require: {accuracy")[0])
    assert audit("run", scenario).code == 2
    assert audit("run", scenario, "--explore").code == 0


def test_validate_names_line_field_and_nearest(audit: Audit, scenario: Path) -> None:
    assert "valid: 2 checks, 2 steps, 2 gates" in audit("validate", scenario).out
    scenario.write_text(SCENARIO.replace("accuracy:", "acuracy:").replace("{k: 90}", "{kk: 90}"))
    told = audit("validate", scenario)
    assert told.code == 2
    lines = told.err.splitlines()
    assert any(":7:15:" in line and "did you mean 'accuracy'" in line for line in lines)
    assert any(":9:17:" in line and "did you mean 'k'" in line for line in lines)


def test_judge_again_gives_the_same_findings_and_other_gates_others(
    audit: Audit, scenario: Path, tmp_path: Path
) -> None:
    audit("run", scenario)
    stored = find_run("latest")
    told = audit("judge", "latest", "--json")
    assert told.code == 0
    assert told.out == (stored.path / "findings.jsonl").read_text()
    strict = tmp_path / "strict.yaml"
    strict.write_text(SCENARIO.replace(">= 0.6", ">= 0.99"))
    assert audit("judge", "latest", "--gates", strict).code == 1
    assert audit("judge", "latest").code == 0, "nothing was written without --write"
    assert audit("judge", "latest", "--gates", strict, "--write").code == 1


def test_every_report_format_of_a_stored_run(audit: Audit, scenario: Path) -> None:
    audit("run", scenario)
    stored = find_run("latest")
    for name in available("reports"):
        assert audit("report", "--format", name).code == 0
        assert audit("report", "--format", name, "--out", "-").out.strip() == render(name, stored).strip()
    told = audit("report", "--format", "pdf")
    assert (told.code, "known: html" in told.err) == (2, True)
    assert audit("show", "nothing-like-it").code == 2


def test_one_model_swept_by_two_references(audit: Audit, scenario: Path) -> None:
    told = audit("run", scenario, "--model", "tumours@1", "--model", "tumours@latest")
    assert told.code == 0, told.err
    assert len(find_run("latest").manifest["steps"]) == 4


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_a_random_moment_leaves_a_folder_that_every_reader_opens(
    scenario: Path, tmp_path: Path, seed: int
) -> None:
    lines = [f"  - toy.coins: {{k: 90, parts: {{a: 1, b: 2}}}}\n    id: coins-{i}\n" for i in range(400)]
    scenario.write_text(SCENARIO + "".join(lines))
    out = tmp_path / "run"
    command = [sys.executable, "-c", "from audit.cli import main; main()", "run", str(scenario), "--out", str(out)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    waited = time.monotonic() + 90
    while not (out / "measurements.jsonl").exists() and time.monotonic() < waited:
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 0.4))
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = find_run(out)
    assert stored.state in ("interrupted", "finished")
    for name in available("reports"):
        assert render(name, stored)
    if stored.state == "interrupted":
        assert rejudge(stored).exit_code == 3
    for record in stored.recorded:
        for ref in record.measurement.evidence if record.measurement else ():
            evidence = stored.evidence(ref)
            assert all(evidence.row(i).keys() == set(evidence.fields) for i in range(len(evidence)))


def test_terminated_and_interrupted_runs_say_so(scenario: Path, tmp_path: Path) -> None:
    scenario.write_text(SCENARIO.replace("{k: 90}", "{k: 90, then: hang}"))
    for number in (signal.SIGINT, signal.SIGTERM):
        out = tmp_path / f"run-{number}"
        # A suite that runs in the background hands on that SIGINT is to be ignored.
        start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from audit.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", start, "run", str(scenario), "--out", str(out)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        waited = time.monotonic() + 90
        while time.monotonic() < waited and not (
            (out / "measurements.jsonl").exists() and "heads" in (out / "measurements.jsonl").read_text()
        ):
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert find_run(out).manifest["state"] == "interrupted"


def test_a_full_disk_is_one_line(audit: Audit, scenario: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-c", "from audit.cli import main; main()", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
    assert "Traceback" not in done.stderr
