"""The engine from a scenario's text to a run folder, with checks of a plug-in package."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import Linear, audited, batch, data

from audit.engine import Observer, run
from audit.finding import canonical_json
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.run_folder import Run, RunWriter
from audit.scenario import parse
from audit.stored import Report, find_run, rejudge, stored_runs

MODEL = audited(Linear([3.0, 4.0], -5.0), (2,), kind="series")
DATA = data(
    batch(np.array([[3, 4], [0, 0], [1, 1], [0.5, 0.5]], dtype=np.float32), np.array([1, 0, 1, 0])), kind="series"
)


def scenario(*checks: str, top: str = "") -> str:
    return f"name: coins\nmodel: toy\ndata: {{source: given}}\nseed: 3\n{top}checks:\n" + "".join(
        f"  - {c}\n" for c in checks
    )


def go(text: str, tmp_path: Path, model: AuditedModel = MODEL, **options: Any) -> Report:
    return run(parse(text), home=tmp_path, models={"toy": model, "other": model}, data=DATA, **options)


GATED = '{toy.coins: {k: 90}, require: {heads: ">= 0.6"}}'


def test_from_text_to_verdict(tmp_path: Path) -> None:
    report = go(scenario(GATED), tmp_path)
    assert (report.exit_code, report.verdict.word) == (0, "pass")
    stored = report.stored
    assert stored.state == "finished"
    assert stored.manifest["verdict"]["exit_code"] == 0
    assert [f.status for f in stored.findings] == [f.status for f in report.findings] == ["pass", "info", "info"]
    assert stored.findings == report.findings
    assert {"seed": 3, "threads": stored.manifest["threads"]}.items() <= stored.manifest.items()
    assert stored.manifest["data"]["rows"] == {"test": 4}
    assert find_run("latest", tmp_path).path == stored.path
    assert [r.name for r in stored_runs(tmp_path) if isinstance(r, Run)] == [stored.name]


@pytest.mark.parametrize(
    ("then", "wanted"),
    [
        ("raise", "RuntimeError: the coin rolled away (in _then, checks.py:"),
        ("nan", "ValidationError"),
        ("undeclared", "does not declare"),
        ("twice", "twice"),
        ("wrong_kind", "declared is exact"),
        ("user_error", "three sides: bring another"),
    ],
)
def test_whatever_a_check_does_is_an_error_with_its_reason(tmp_path: Path, then: str, wanted: str) -> None:
    report = go(
        scenario(f'{{toy.coins: {{k: 90, then: {then}}}, require: {{heads: ">= 0.6"}}}}', "toy.control"), tmp_path
    )
    assert report.exit_code == 3
    assert [f.status for f in report.findings] == ["pass", "error", "info"], (
        "what was measured before stays, the next check runs"
    )
    assert wanted in report.findings[1].message
    if then == "raise":
        assert "Traceback" in (report.path / "errors.log").read_text()


def test_a_hang_ends_at_its_timeout(tmp_path: Path) -> None:
    start = time.monotonic()
    report = go(scenario('{toy.coins: {k: 90, then: hang}, require: {heads: ">= 0.6"}, timeout: 0.3}'), tmp_path)
    assert time.monotonic() - start < 20
    assert [f.status for f in report.findings] == ["pass", "error"]
    assert "time budget of 0.3 s" in report.findings[1].message


def test_nothing_gated_is_refused_without_explore(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--explore"):
        go(scenario("toy.coins"), tmp_path)
    assert not (tmp_path / "runs").exists()
    report = go(scenario("toy.coins"), tmp_path, explore=True)
    assert (report.exit_code, report.verdict.word) == (0, "explored")


def test_capabilities_are_matched_before_anything_runs(tmp_path: Path) -> None:
    blind = audited(lambda x: x.flatten(1)[:, :1].repeat(1, 2), (2,), kind="series", gradients=False)
    text = scenario('{toy.coins: {needs_gradients: true}, require: {heads: ">= 0.6"}}')
    report = go(text, tmp_path, blind)
    assert report.exit_code == 3
    assert (report.findings[0].status, "gradients" in report.findings[0].message) == ("not_applicable", True)


def test_interruption_leaves_a_readable_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(scenario('{toy.coins: {k: 90, then: interrupt}, require: {heads: ">= 0.6"}}'), tmp_path)
    stored = find_run("latest", tmp_path)
    assert stored.state == "interrupted"
    assert stored.recorded[0].measurement is not None
    assert rejudge(stored).exit_code == 3


def test_a_kill_leaves_a_readable_run(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
import test_engine as t
t.go(t.scenario('{{toy.coins: {{k: 90, then: kill}}, require: {{heads: ">= 0.6"}}}}'), Path({str(tmp_path)!r}))
"""
    path = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    stored = find_run("latest", tmp_path)
    assert (stored.manifest["state"], stored.state) == ("running", "interrupted")
    assert len(stored.recorded) == 1


def test_a_running_run_says_so(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "r", {}, "") as writer:
        assert Run(writer.path).state == "running"
    assert Run(tmp_path / "r").state == "interrupted"


def test_judging_again_gives_the_same_findings(tmp_path: Path) -> None:
    report = go(scenario(GATED, "{toy.control: {voids: {'toy.coins:mean': broken}}}"), tmp_path)
    assert rejudge(report.stored).findings == report.findings
    other = tmp_path / "strict.yaml"
    other.write_text(scenario(GATED.replace("0.6", "0.99")))
    strict = rejudge(report.stored, other)
    assert (report.exit_code, strict.findings[0].status) == (3, "fail")
    other.write_text(scenario('{toy.coins: {}, id: elsewhere, require: {heads: "> 0"}}'))
    with pytest.raises(UserError, match="none of its checks was measured"):
        rejudge(report.stored, other)


def test_two_runs_and_another_order_are_byte_identical(tmp_path: Path) -> None:
    second = "{toy.coins: {k: 40, parts: {a: 1, b: 2}}, id: second, require: {mean: '< 100'}}"
    a, b = (go(scenario(GATED, second), tmp_path) for _ in range(2))
    for name in ("measurements.jsonl", "findings.jsonl"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes()
    c = go(scenario(second, GATED), tmp_path)

    def by_step(report: Report) -> dict[str, list[str]]:
        lines: dict[str, list[str]] = {}
        for record in report.stored.recorded:
            lines.setdefault(record.step, []).append(canonical_json(record.model_dump(mode="json")))
        return lines

    assert by_step(a) == by_step(c)
    seeded = go(scenario(GATED, second).replace("seed: 3", "seed: 4"), tmp_path)
    assert by_step(a) != by_step(seeded), "the seed reaches the numbers"


def test_sweeps(tmp_path: Path) -> None:
    text = scenario(
        '{toy.coins: {}, matrix: {k: [90, 10]}, require: {"heads": ">= 0.6", "heads[k=10]": "< 0.6"}}'
    ).replace("model: toy", "model: [toy, other]")
    report = go(text, tmp_path)
    gated = [(f.step, f.required, f.status) for f in report.findings if f.gated]
    assert len(gated) == 6
    assert {s for s in gated if "k=10" in s[0] and "model=toy" in s[0]} == {
        ("toy.coins[k=10,model=toy]", ">= 0.6", "fail"),
        ("toy.coins[k=10,model=toy]", "< 0.6", "pass"),
    }


def test_a_baseline_is_compared_in_pairs(tmp_path: Path) -> None:
    first = go(scenario("{toy.coins: {outcomes: [1, 1, 0, 1], k: 3, n: 4}, require: {heads: '>= 0'}}"), tmp_path)
    gates = "{toy.coins: {outcomes: [1, 1, 0, 1], k: 3, n: 4}, require: {heads: '>= baseline - 0.9'}}"
    again = go(scenario(gates, top=f"baseline: {first.stored.name}\n"), tmp_path)
    assert again.findings[0].status == "pass", again.findings[0].message
    assert "4 pairs" in again.findings[0].message
    tight = go(scenario(gates.replace("0.9", "0.1"), top=f"baseline: {first.stored.name}\n"), tmp_path)
    assert tight.findings[0].status == "inconclusive"
    with pytest.raises(UserError, match="no run 'nowhere'"):
        go(scenario(gates, top="baseline: nowhere\n"), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("manifest.json", "", "manifest.json cannot be read"),
        ("manifest.json", "[]", "a JSON mapping is expected"),
        ("manifest.json", '{"format": 99}', "another version"),
        ("measurements.jsonl", '{"step": 1}\n', "measurements.jsonl:1 is damaged"),
        ("measurements.jsonl", "{not json}\n", "measurements.jsonl:1 is damaged"),
        ("findings.jsonl", '{"id": "x"}\n', "findings.jsonl:1 is damaged"),
    ],
)
def test_damage_is_one_line_with_the_file(tmp_path: Path, name: str, content: str, wanted: str) -> None:
    report = go(scenario(GATED), tmp_path)
    (report.path / name).write_text(content)

    def read_all() -> None:
        stored = Run(report.path)
        _ = stored.recorded, stored.findings

    with pytest.raises(UserError, match=wanted) as caught:
        read_all()
    assert "\n" not in str(caught.value)


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    report = go(scenario(GATED), tmp_path)
    path = report.path / "measurements.jsonl"
    text = path.read_text()
    for cut in range(0, len(text), 37):
        path.write_text(text[:cut])
        assert len(Run(report.path).recorded) == text[:cut].count("\n")


def test_the_observer_sees_every_step(tmp_path: Path) -> None:
    seen: list[str] = []

    class Watching(Observer):
        def step_started(self, step: Any) -> None:
            seen.append(step.name)

        def step_ended(self, step: Any, outcome: Any, seconds: float) -> None:
            seen.append(f"{step.name} {outcome.status}")

    go(scenario(GATED, "toy.control"), tmp_path, observer=Watching())
    assert seen == ["toy.coins", "toy.coins completed", "toy.control", "toy.control completed"]


def test_wrong_models_and_data_are_one_line_before_anything_is_made(tmp_path: Path) -> None:
    for text, wanted in (
        (scenario(GATED).replace("model: toy", "model: absent"), "no model 'absent'"),
        (scenario(GATED).replace("model: toy\n", ""), "no model: name one"),
    ):
        with pytest.raises(UserError, match=wanted):
            go(text, tmp_path)
    with pytest.raises(UserError, match="handed over from Python"):
        run(parse(scenario(GATED)), home=tmp_path, models={"toy": MODEL})
    wide = audited(Linear([1.0] * 3, 0.0), (3,), kind="series")
    with pytest.raises(UserError, match=r"shape \(2,\), model 'toy' wants \(3,\)"):
        go(scenario(GATED), tmp_path, wide)
    assert not (tmp_path / "runs").exists()


def test_the_run_folder_is_taken_once(tmp_path: Path) -> None:
    go(scenario(GATED), tmp_path, out=tmp_path / "r")
    with pytest.raises(UserError, match="exists already"):
        go(scenario(GATED), tmp_path, out=tmp_path / "r")
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["state"] == "finished"


def test_runs_that_start_in_the_same_second_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr("audit.engine.datetime.datetime", Stopped)
    names = [go(scenario(GATED), tmp_path).path.name for _ in range(3)]
    assert names == ["20260102-030405-coins", "20260102-030405-coins-2", "20260102-030405-coins-3"]


def test_a_model_that_is_not_wrapped_is_refused_in_one_line(tmp_path: Path) -> None:
    raw: Any = {"toy": object()}
    with pytest.raises(UserError, match="model 'toy' is a object"):
        run(parse(scenario(GATED)), home=tmp_path, models=raw, data=DATA)
