"""SARIF against the schema that npm's @microsoft/jest-sarif carries, and against what readers do with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from audit.report import render
from audit.run_folder import Run


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft4Validator:
    """Of SARIF 2.1.0 rtm.5; formats (URI, date-time) checked where a checker is installed."""
    found = json.loads((Path(__file__).parent / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
    return jsonschema.Draft4Validator(found, format_checker=jsonschema.FormatChecker())


def log_of(run: Run) -> dict[str, Any]:
    """The run object of the log."""
    return json.loads(render("sarif", run))["runs"][0]  # type: ignore[no-any-return]


def test_every_run_is_valid(validator: jsonschema.Draft4Validator, situation: tuple[str, Run]) -> None:
    validator.validate(json.loads(render("sarif", situation[1])))


def test_the_rich_run_is_valid(validator: jsonschema.Draft4Validator, rich: Run) -> None:
    validator.validate(json.loads(render("sarif", rich)))


def test_the_schema_can_refuse(validator: jsonschema.Draft4Validator, rich: Run) -> None:
    log = json.loads(render("sarif", rich))
    log["runs"][0]["results"][0]["level"] = "high"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(log)


def test_passed_gates_are_no_results(rich: Run) -> None:
    log = log_of(rich)
    statuses = [result["properties"]["status"] for result in log["results"]]
    assert sorted(statuses) == ["error", "fail", "inconclusive", "void", "waived"]
    assert log["properties"]["counts"]["pass"] == 5
    watched = {rule["id"] for rule in log["tool"]["driver"]["rules"]}
    assert "performance.classification/accuracy" in watched


@pytest.mark.parametrize(
    ("severity", "status", "level"),
    [
        ("critical", "fail", "error"),
        ("high", "fail", "error"),
        ("medium", "fail", "warning"),
        ("low", "fail", "note"),
        ("high", "inconclusive", "warning"),
        ("low", "inconclusive", "note"),
        ("low", "error", "error"),
        ("low", "void", "error"),
    ],
)
def test_levels(stored: Callable[..., Any], make: Any, severity: str, status: str, level: str) -> None:
    s = stored()
    s.add(
        make.finding(
            estimate=make.Proportion(k=1, n=9),
            required=">= 0.6",
            status=make.Status(status),
            severity=make.Severity(severity),
        )
    )
    assert [result["level"] for result in log_of(s.finish())["results"]] == [level]


def test_results_point_to_their_rule_and_line(rich: Run) -> None:
    log = log_of(rich)
    rules = log["tool"]["driver"]["rules"]
    for result in log["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert len(rules[result["ruleIndex"]]["help"]["text"]) > 20
    found = next(r for r in log["results"] if r["ruleId"] == "robustness.evasion/robust_accuracy")
    place = found["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "digits.yaml"
    line = rich.scenario_text.splitlines()[place["region"]["startLine"] - 1]
    assert "robust_accuracy" in line


def test_fingerprints_follow_the_gate_and_not_the_number(stored: Callable[..., Any], make: Any) -> None:
    prints = []
    for k in (100, 101):
        s = stored(f"run{k}")
        s.add(
            make.finding(estimate=make.Proportion(k=k, n=540), required=">= 0.6"),
            make.finding(metric="other", estimate=make.Proportion(k=k, n=540), required=">= 0.6"),
        )
        prints.append([r["partialFingerprints"]["assayFinding/v1"] for r in log_of(s.finish())["results"]])
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 2


def test_waivers_suppress(rich: Run) -> None:
    waived = [r for r in log_of(rich)["results"] if "suppressions" in r]
    assert [r["properties"]["status"] for r in waived] == ["waived"]
    assert waived[0]["suppressions"] == [
        {
            "kind": "external",
            "status": "accepted",
            "justification": "retrained next sprint (Ada Lovelace, until 2099-12-31)",
            "properties": {"owner": "Ada Lovelace", "expires": "2099-12-31"},
        }
    ]


@pytest.mark.parametrize(
    ("name", "successful", "exit_code"),
    [
        ("pass", True, 0),
        ("fail", True, 1),
        ("inconclusive", True, 4),
        ("error", False, 3),
        ("void", True, 3),
        ("absent", True, 3),
        ("interrupted", False, 130),
        ("unstarted", False, 130),
        ("damaged", False, 3),
    ],
)
def test_invocations(situation_run: Callable[[str], Run], name: str, successful: bool, exit_code: int) -> None:
    log = log_of(situation_run(name))
    (invocation,) = log["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (successful, exit_code)
    assert bool(log["results"]) == (exit_code != 0)  # an upload without results closes every alert there was


def test_missing_optional_gates_are_no_results(situation_run: Callable[[str], Run]) -> None:
    assert [r["ruleId"] for r in log_of(situation_run("absent"))["results"]] == ["robustness.evasion/robust_accuracy"]
