"""JUnit XML: its counts, its statuses, its characters."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from audit.report import render
from audit.run_folder import Run


def suites_of(run: Run) -> ET.Element:
    """The parsed report."""
    return ET.fromstring(render("junit", run))


def test_counts_are_those_of_the_elements(situation: tuple[str, Run]) -> None:
    for suite in suites_of(situation[1]):
        cases = suite.findall("testcase")
        for key, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[key]) == len(suite.findall(f"testcase/{element}"))
        assert int(suite.attrib["tests"]) == len(cases)
        assert all(len(list(case)) <= 1 for case in cases)


def test_both_schemas_hold(situation: tuple[str, Run]) -> None:
    """What the Ant (Windy Road) and Jenkins xUnit schemas ask for, element by element."""
    root = suites_of(situation[1])
    assert root.tag == "testsuites"
    assert not root.attrib
    for i, suite in enumerate(root):
        children = [child.tag for child in suite]
        assert children == ["properties", *["testcase"] * (len(children) - 3), "system-out", "system-err"]
        assert set(suite.attrib) == {
            "name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time",
        }  # fmt: skip
        assert suite.attrib["id"] == str(i)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
        assert re.fullmatch(r"\d+\.\d{3}", suite.attrib["time"])
        for case in suite.findall("testcase"):
            assert set(case.attrib) == {"name", "classname", "time"}
            for value in (case.attrib["name"], case.attrib["classname"], suite.attrib["name"]):
                assert value
                assert value == " ".join(value.split())
            for told in case:
                assert set(told.attrib) == {"type", "message"}
        assert [p.attrib["name"] for p in suite.findall("properties/property")] == [
            "scenario", "run", "verdict", "seed", "models",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "element", "kind"),
    [
        ("fail", "failure", "fail"),
        ("inconclusive", "failure", "inconclusive"),
        ("error", "error", "error"),
        ("void", "error", "void"),
        ("absent", "error", "not_applicable"),
        ("waived", "skipped", "waived"),
        ("interrupted", "error", "interrupted"),
        ("unstarted", "error", "interrupted"),
        ("damaged", "error", "damaged"),
    ],
)
def test_what_becomes_of_a_status(situation_run: Callable[[str], Run], name: str, element: str, kind: str) -> None:
    root = suites_of(situation_run(name))
    assert kind in [told.attrib["type"] for told in root.iter(element)]


def test_a_pass_is_a_bare_case(situation_run: Callable[[str], Run]) -> None:
    (case,) = suites_of(situation_run("pass")).iter("testcase")
    assert not list(case)
    assert case.attrib["name"] == "robust_accuracy >= 0.6"
    assert case.attrib["classname"] == "digits-release.robustness.evasion"


def test_an_optional_gate_that_does_not_apply_is_skipped(situation_run: Callable[[str], Run]) -> None:
    root = suites_of(situation_run("absent"))
    (case,) = [case for case in root.iter("testcase") if "dp_accounting" in case.attrib["classname"]]
    assert [child.tag for child in case] == ["skipped"]


def test_numbers_without_a_gate_are_no_cases(rich: Run) -> None:
    names = [case.attrib["name"] for case in suites_of(rich).iter("testcase")]
    assert len(names) == 11
    assert not any(name.startswith(("precision", "recall", "f1")) for name in names)


def test_seconds_are_counted_once(rich: Run) -> None:
    root = suites_of(rich)
    by_case = sum(float(case.attrib["time"]) for case in root.iter("testcase"))
    assert by_case == pytest.approx(sum(float(suite.attrib["time"]) for suite in root))
    assert by_case > 0


def test_control_characters_go_and_the_rest_stays(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    s.add(
        make.finding(
            estimate=make.Proportion(k=1, n=9), required=">= 0.6", message="a\x00b\x1bc\ufffe <é 漢 😀> ]]>\nnew"
        )
    )
    (told,) = suites_of(s.finish()).iter("failure")
    assert "a\ufffdb\ufffdc\ufffd <é 漢 😀> ]]>\nnew" in (told.text or "")
