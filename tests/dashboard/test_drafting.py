"""Editing a scenario: values change, comments and layout stay, forms say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.names import available
from audit.parameters import UserError
from audit.scenario import parse
from audit.scenario.problems import Problem, ScenarioError
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
    assert [(entry.place, entry.id, entry.check, entry.known) for entry in found] == [
        (0, "preflight.model_contract", "preflight.model_contract", True),
        (1, "robustness.evasion", "robustness.evasion", True),
        (2, "more", "robustness.evasion", True),
        (3, "robustness.evasoin", "robustness.evasoin", False),
        (4, "3", "3", False),
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
    assert list(beside) == ["id", "severity", "timeout", "optional"]
    assert [field.name for field in drafting.fields_of_scenario()][:4] == ["name", "description", "data", "seed"]
    assert (known["attacks"].several, known["attacks"].open, "pgd" in known["attacks"].options) == (True, True, True)
    attacks = {field.name: field for field in drafting.fields("privacy.membership_inference")}["attacks"]
    assert (attacks.several, attacks.open, attacks.options[0]) == (True, False, "loss")
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


def test_an_item_of_a_list_is_a_line_and_back() -> None:
    value = ["pgd", {"square": {"queries": 300}}, 3]
    assert drafting.items(value) == ["pgd", "square: {queries: 300}", "3"]
    assert [drafting.item(line) for line in drafting.items(value)] == value
    assert drafting.items(None) == []
    assert drafting.item("[pgd") == "[pgd"


def test_a_text_that_yaml_would_read_otherwise_keeps_its_quotes() -> None:
    assert drafting.written("true").strip("\"'") == "true" != drafting.written("true")
    assert drafting.written("[pgd") == "[pgd"
    assert drafting.understood(drafting.written("3")) == "3"


def test_gates_are_lines_of_a_form_and_back() -> None:
    text = TEXT.replace('">= 0.80"}', '[">= 0.80", "< baseline - 0.1"], "attack_success[attack=pgd]": nonsense}')
    entry = drafting.entries(text)[1]
    assert [(line.key, line.number, line.comparison, line.threshold) for line in entry.gates] == [
        ("robust_accuracy", 0, ">=", "0.80"),
        ("robust_accuracy", 1, "<", "baseline - 0.1"),
        ("attack_success[attack=pgd]", 0, "", "nonsense"),
    ]
    first, second, third = entry.gates
    at = ("checks", 1, "require")
    assert drafting.gates_edited(entry, first, "> 0.5") == {(*at, first.key): ["> 0.5", second.said]}
    assert drafting.gates_edited(entry, first, None) == {(*at, first.key): second.said}
    assert drafting.gates_edited(entry, third, None) == {(*at, third.key): REMOVED}
    new = drafting.GateLine("robust_accuracy", 2, "<=", "1")
    assert drafting.gates_edited(entry, new, new.said) == {(*at, new.key): [first.said, second.said, "<= 1"]}


def test_several_values_of_a_parameter_are_tried_and_one_again() -> None:
    entry = drafting.entries(TEXT)[1]
    swept = drafting.changed(TEXT, drafting.sweeps_edited(entry, ["eps", "norm"]))
    found = parse(swept).scenario.checks[1]
    assert found.matrix == {"eps": ("8/255",), "norm": ("linf",)}
    assert "eps" not in found.params
    entry = drafting.entries(swept)[1]
    assert entry.swept == {"eps": ["8/255"], "norm": ["linf"]}
    found = parse(drafting.changed(swept, drafting.sweeps_edited(entry, []))).scenario.checks[1]
    assert (found.matrix, found.params["eps"], found.params["norm"]) == ({}, "8/255", "linf")


def test_one_more_check_has_an_id_of_its_own() -> None:
    once = drafting.with_check(TEXT, "robustness.corruptions")
    again = drafting.with_check(drafting.with_check(once, "robustness.evasion"), "robustness.evasion")
    assert [entry.id for entry in parse(again).scenario.checks][3:] == [
        "robustness.corruptions",
        "robustness.evasion-2",
        "robustness.evasion-3",
    ]


def test_problems_are_found_at_their_field_alone() -> None:
    broken = TEXT.replace("eps: 8/255", "eps: -1").replace("square: {queries: 300}", "square: {querys: 300}")
    with pytest.raises(ScenarioError) as told:
        drafting.plan_of(broken)
    problems = told.value.problems
    assert [one.message for one in drafting.problems_at(problems, (*EVASION, "eps"))] == [
        "input should be greater than 0, got -1"
    ]
    assert "querys" in drafting.problems_at(problems, (*EVASION, "attacks"))[0].message
    assert drafting.problems_at(problems, ("checks", 2)) == []
    assert drafting.problems_at(problems, ("checks", 1)) == list(problems)
    gated = [
        Problem("wrong", path="checks[1].require.recall[class=3]"),
        Problem("worse", path="checks[1].require.recall"),
    ]
    assert drafting.problems_at(gated, ("checks", 1, "require", "recall")) == gated[1:]


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
