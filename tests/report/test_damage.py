"""A damaged or unfinished run folder: the report names the file, shows the rest, and never says passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.report import render
from audit.report._view import RunView
from audit.run_folder import Run
from audit.stored import rejudge

PGD = "evidence/robustness.evasion/pgd"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


UNNOTICED = {("measurements.jsonl", "missing"), ("measurements.jsonl", "cut"), ("timings.json", "missing")}
"""Nothing that a report says rests on these; what is left of them reads."""
DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "no meta": ("meta.json", Path.unlink),
    "meta cut": ("meta.json", _truncate),
    "meta no mapping": ("meta.json", lambda p: p.write_text("[1]") and None),
    "no index": ("index.jsonl", Path.unlink),
    "index without fields": ("index.jsonl", lambda p: p.write_text('{"chunk": 0, "ids": ["a"]}\n') and None),
    "index no JSON": ("index.jsonl", lambda p: p.write_text("{]\n") and None),
    "no array": ("00000.adversarial.npy", Path.unlink),
    "array cut": ("00000.x.npy", _truncate),
    "array empty": ("00000.label.npy", lambda p: p.write_bytes(b"") and None),
    "array of text": ("00000.x.npy", lambda p: p.write_text("no numpy here") and None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_evidence_costs_its_own_block_only(pictured: Run, name: str) -> None:
    file, damage = DAMAGE[name]
    damage(pictured.path / PGD / file)
    text = render("html", Run(pictured.path))
    assert "Cannot be shown:" in text
    assert PGD in text.split("Cannot be shown:", 1)[1][:300]
    assert "Confusion matrix" in text
    assert text.count("Cannot be shown:") == 1
    assert "Attributions: integrated_gradients" in text


def test_evidence_outside_the_folder_is_not_opened(stored: Callable[..., Any], make: Any, tmp_path: Path) -> None:
    outside = stored("outside")
    make.confusion(outside)
    s = stored("inside")
    ref = make.EvidenceRef(path="../outside/evidence/performance.classification/confusion", kind="confusion_matrix")
    s.add(make.finding(estimate=make.Proportion(k=5, n=5), evidence=(ref,)))
    assert "leaves the run folder" in render("html", s.finish())
    outside.close()


@pytest.mark.parametrize("name", ["findings.jsonl", "scenario.yaml", "measurements.jsonl", "timings.json"])
@pytest.mark.parametrize("how", ["missing", "cut", "garbage"])
def test_no_damage_to_a_failed_run_makes_it_pass(situation_run: Callable[[str], Run], name: str, how: str) -> None:
    run = situation_run("fail")
    path = run.path / name
    if how == "missing":
        path.unlink()
    elif how == "cut":
        _truncate(path)
    else:
        path.write_text('{"no": "record"}\n]\n')
    view = RunView(Run(run.path))
    expected = ("damaged", 3) if name == "findings.jsonl" else ("fail", 1)
    assert (view.verdict.word, view.verdict.exit_code) == expected
    assert bool(view.problems) == ((name, how) not in UNNOTICED)
    for report in ("html", "json", "junit", "markdown", "sarif"):
        render(report, Run(run.path))


def test_lost_findings_are_noticed(stored: Callable[..., Any], make: Any) -> None:
    """Whole lines gone: what is left parses, and would pass."""
    s = stored()
    good, bad = make.Proportion(k=540, n=540), make.Proportion(k=1, n=540)
    s.add(make.finding(estimate=good, required=">= 0.6"), make.finding(metric="other", estimate=bad, required=">= 0.6"))
    run = s.finish()
    lines = (run.path / "findings.jsonl").read_text().splitlines(keepends=True)
    (run.path / "findings.jsonl").write_text(lines[0])
    view = RunView(Run(run.path))
    assert view.verdict.word == "damaged"
    assert "1 pass instead of 1 fail, 1 pass" in view.problems[0]
    (run.path / "findings.jsonl").write_text("".join(lines))
    assert RunView(Run(run.path)).verdict.word == "fail"


def test_fail_on_is_that_of_the_run(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    s.add(
        make.finding(estimate=make.Proportion(k=540, n=540), required=">= 0.6"),
        make.finding(metric="other", estimate=make.Proportion(k=1, n=9), required=">= 0.6", severity=make.Severity.LOW),
    )
    view = RunView(s.finish(fail_on=make.Severity.HIGH))
    assert (view.verdict.word, view.verdict.exit_code) == ("pass", 0)
    assert "1 failed below severity high" in view.verdict.sentence


def test_a_run_judged_again_is_not_taken_for_damaged(tmp_path: Path, plugin_run: Run) -> None:
    stricter = tmp_path / "stricter.yaml"
    stricter.write_text(plugin_run.scenario_text.replace(">= 0.5", "<= 0.5"))
    assert RunView(plugin_run).verdict.word == "pass"
    rejudge(plugin_run, stricter, write=True)
    view = RunView(Run(plugin_run.path))
    assert (view.verdict.word, view.problems) == ("fail", [])
    assert json.loads((plugin_run.path / "manifest.json").read_text())["verdict"]["word"] == "fail"


@pytest.fixture
def plugin_run(tmp_path: Path) -> Run:
    """A real run of a check that needs no more than numbers, through the engine."""
    import torch
    from toys import audited, batch, data

    from audit.engine import run
    from audit.scenario import parse

    text = """\
name: judged-again
model: toy
data: {source: sklearn.digits}
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.5"}
"""
    x = torch.arange(40, dtype=torch.float32).reshape(40, 1) - 20
    model = audited(lambda rows: torch.cat([-rows, rows], dim=1), (1,), kind="series")
    rows = data(batch(x.numpy(), (x[:, 0] > 0).long().numpy()), kind="series")
    return run(parse(text), models={"toy": model}, data=rows, out=tmp_path / "real").stored
