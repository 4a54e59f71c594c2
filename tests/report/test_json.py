"""The JSON report against its own schema, and against what the run holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from audit.finding import Finding
from audit.report import render
from audit.report.json import schema
from audit.run_folder import Run


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """Of the published schema."""
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_every_run_is_valid(validator: jsonschema.Draft202012Validator, situation: tuple[str, Run]) -> None:
    validator.validate(json.loads(render("json", situation[1])))


def test_the_rich_run_is_valid_and_whole(validator: jsonschema.Draft202012Validator, rich: Run) -> None:
    report = json.loads(render("json", rich))
    validator.validate(report)
    assert tuple(Finding.model_validate(f) for f in report["findings"]) == rich.findings
    assert {e["kind"]: e["rows"] for e in report["evidence"]} == {
        "confusion_matrix": 1,
        "curve": 10,
        "adversarial": 40,
        "roc": 1601,
        "attributions": 64,
    }
    assert report["verdict"]["exit_code"] == 3
    assert report["problems"] == []


@pytest.mark.parametrize("change", ["drop", "add", "retype"])
def test_the_schema_refuses_what_is_no_report(
    validator: jsonschema.Draft202012Validator, rich: Run, change: str
) -> None:
    report = json.loads(render("json", rich))
    if change == "drop":
        del report["findings"][0]["status"]
    elif change == "add":
        report["unheard_of"] = 1
    else:
        report["verdict"]["word"] = "fine"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(report)


def test_an_unjudged_run_tells_what_it_measured(situation_run: Callable[[str], Run]) -> None:
    report = json.loads(render("json", situation_run("interrupted")))
    assert report["state"] == "interrupted"
    assert report["verdict"]["exit_code"] == 130
    assert report["verdict"]["word"] == "interrupted"
    assert report["findings"] == []
    assert [r["measurement"]["metric"] for r in report["unjudged"]] == ["robust_accuracy"]


def test_a_running_run_has_no_exit_code(stored: Callable[..., Any], make: Any) -> None:
    made = stored()
    assert json.loads(render("json", Run(made.writer.path)))["verdict"] == {
        "word": "running",
        "sentence": "0 of 4 checks have ended",
        "exit_code": None,
        "counts": {},
    }
    made.close()


def test_missing_evidence_is_named(rich: Run) -> None:
    (rich.path / "evidence" / "robustness.evasion" / "pgd" / "meta.json").unlink()
    report = json.loads(render("json", rich))
    broken = [e for e in report["evidence"] if e["rows"] is None]
    assert [e["path"] for e in broken] == ["evidence/robustness.evasion/pgd"]
    assert "evidence/robustness.evasion/pgd" in broken[0]["problem"]
    assert report["problems"] == [broken[0]["problem"]]
