"""Editing a scenario: values change, comments and layout stay, forms say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.names import available
from audit.parameters import UserError
from audit.scenario import parse
from dashboard.working import drafting
from dashboard.working.drafting import REMOVED

TEXT = """\
# May it go out?
name: digits
model: digits-cnn
data: {source: csv, path: rows/digits.csv, label: digit}   # as it was trained
checks:
  - preflight.model_contract

  # How robust?
  - robustness.evasion: {attacks: [pgd, square: {queries: 300}], eps: 8/255}
    require: {robust_accuracy: ">= 0.80"}
  - robustness.evasion: {eps: 1}
    id: more
"""
EVASION = ("checks", 1, "robustness.evasion")


def test_nothing_changed_is_the_text_itself() -> None:
    assert drafting.changed(TEXT, {}) == TEXT


def test_a_value_changes_and_the_rest_stays() -> None:
    found = drafting.changed(
        TEXT,
        {
            (*EVASION, "eps"): "4/255",
            (*EVASION, "samples"): 50,
            ("checks", 1, "require", "attack_success"): "<= 0.1",
            ("checks", 0, "preflight.model_contract", "samples"): 8,
            ("model",): "digits-cnn@2",
        },
    )
    expected = (
        TEXT.replace("eps: 8/255}", "eps: 4/255, samples: 50}")
        .replace('">= 0.80"}', '">= 0.80", attack_success: <= 0.1}')
        .replace("- preflight.model_contract\n", "- preflight.model_contract: {samples: 8}\n")
        .replace("model: digits-cnn\n", "model: digits-cnn@2\n")
    )
    assert " ".join(found.split()) == " ".join(expected.split())
    assert "# How robust?" in found


def test_values_and_checks_are_taken_out_and_added() -> None:
    found = drafting.changed(
        TEXT,
        {
            ("checks", 1, "require", "robust_accuracy"): REMOVED,
            (*EVASION, "attacks"): REMOVED,
            (*EVASION, "norm"): REMOVED,
            ("checks", 1, "matrix", "eps"): REMOVED,
            ("checks", 0): REMOVED,
            ("checks", 2): REMOVED,
        },
        ["robustness.corruptions"],
    )
    checks = parse(found).scenario.checks
    assert [(entry.check, entry.params, entry.require) for entry in checks] == [
        ("robustness.evasion", {"eps": "8/255"}, {}),
        ("robustness.corruptions", {}, {}),
    ]
    assert "require" not in found


def test_the_checks_of_a_scenario_are_told_where_they_can_be() -> None:
    found = drafting.entries(TEXT + "  - robustness.evasoin: {}\n  - 3\n")
    assert [(entry.place, entry.id, entry.check) for entry in found] == [
        (0, "preflight.model_contract", "preflight.model_contract"),
        (1, "robustness.evasion", "robustness.evasion"),
        (2, "more", "robustness.evasion"),
    ]
    assert found[1].written["eps"] == "8/255"
    assert drafting.entries("name: empty\n") == []
    with pytest.raises(UserError, match="no valid YAML"):
        drafting.entries("name: [")


def test_fields_are_those_of_the_code() -> None:
    known = {field.name: field for field in drafting.fields("robustness.evasion")}
    assert known["norm"].options == ["linf", "l2", "l1"]
    assert known["sequential"].options == ["true", "false"]
    assert (known["samples"].whole, known["samples"].low, known["samples"].default) == (True, 1, None)
    assert (known["keep"].low, known["keep"].default) == (0, 64)
    assert not known["eps"].whole
    assert known["eps"].about == "Largest perturbation, in the norm and in the units that the user feeds. > 0"
    beside = {field.name: field for field in drafting.fields_beside()}
    assert list(beside) == ["severity", "matrix", "timeout", "optional"]
    assert beside["severity"].options == ["low", "medium", "high", "critical"]
    for check in available("checks"):
        assert all(field.about for field in drafting.fields(check)), check


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (None, ""), (3, "3"), ("8/255", "8/255"), ("> 0", "'> 0'"), (True, "true"), ("字", "字"),
        ([1, {"pgd": {"steps": 3}}], "[1, pgd: {steps: 3}]"), ({"a": [0.5, None]}, "{a: [0.5, null]}"),
    ],
)  # fmt: skip
def test_a_value_is_a_line_and_back(value: object, line: str) -> None:
    assert " ".join(drafting.written(value).replace('"', "'").split()) in (
        line,
        line.replace("null", ""),
        line.strip("'"),
    )
    if value is not None:
        assert drafting.understood(drafting.written(value)) == value


def test_what_is_no_yaml_is_left_for_the_check_to_refuse() -> None:
    assert drafting.understood("[pgd") == "[pgd"
    assert drafting.understood(">= 0.8") == ">= 0.8"


def test_files_are_named_wherever_the_scenario_is_stored(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "digits.csv").write_text("digit\n1\n")
    (tmp_path / "digit").mkdir()
    found = drafting.with_whole_paths(TEXT, tmp_path)
    expected = TEXT.replace("rows/digits.csv", str(tmp_path / "rows" / "digits.csv"))
    assert found.split() == expected.split()
    assert drafting.with_whole_paths(TEXT, tmp_path / "rows") == TEXT
