"""Markdown: first the verdict, every gate in a row, nothing that turns into markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from audit.report import render
from audit.report.markdown import MAX_ROWS, escape
from audit.run_folder import Run


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The body rows of the table below a heading, split at unescaped bars."""
    body = text.split(f"### {heading}\n", 1)[1].split("\n###", 1)[0]
    lines = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("pass", "## ✅ Passed: digits-release"),
        ("fail", "## ❌ Failed: digits-release"),
        ("inconclusive", "## ❔ Inconclusive: digits-release"),
        ("void", "## ⚠️ No verdict: digits-release"),
        ("interrupted", "## ⚠️ Interrupted: no verdict: digits-release"),
        ("damaged", "## ⚠️ Damaged run: no verdict: digits-release"),
        ("explored", "## ℹ️ Measured, not judged: digits-release"),
    ],
)
def test_the_verdict_comes_first(situation_run: Callable[[str], Run], name: str, start: str) -> None:
    assert render("markdown", situation_run(name)).splitlines()[0] == start


def test_every_gate_has_a_row(rich: Run) -> None:
    rows = rows_of(render("markdown", rich), "Gates")
    assert len(rows) == 10
    assert {len(row) for row in rows} == {7}
    fail = next(row for row in rows if "fail" in row[0])
    assert fail == [
        "❌ fail",
        "robustness.evasion/robust_accuracy",
        r"\>= 0.6",
        "0.4593",
        "0.4166 to 0.5023 (95 %)",
        "540",
        "critical",
    ]


def test_what_to_do_cautions_and_waivers_are_told(rich: Run) -> None:
    text = render("markdown", rich)
    assert "what to do: Train on adversarial examples" in text
    assert "caution: A single restart was used" in text
    assert rows_of(text, "Waivers") == [
        ["privacy.membership_inference/advantage", "Ada Lovelace", "retrained next sprint", "2099-12-31", "in force"]
    ]


def test_nothing_in_a_name_becomes_markup(situation_run: Callable[[str], Run], make: Any) -> None:
    text = render("markdown", situation_run("nasty"))
    assert not re.search(r"(?<!\\)<(?!details>|summary>|/summary>|/details>|b>|/b>)", text)
    assert {len(row) for row in rows_of(text, "Gates")} == {7}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a|b", r"a\|b"),
        ("<b>", r"\<b\>"),
        ("robust_accuracy", "robust_accuracy"),
        ("_x_", r"\_x\_"),
        ("two\nlines", "two lines"),
        ("ping @team", "ping @\u200bteam"),
        ("cnn@1", "cnn@1"),
        ("**`$[", r"\*\*\`\$\["),
    ],
)
def test_escape(text: str, said: str) -> None:
    assert escape(text) == said


def test_a_thousand_gates_fit_a_summary(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    good = make.Proportion(k=540, n=540)
    s.add(*(make.finding("a.b", "m", good, ">= 0.6", dims={"class": str(i)}) for i in range(1000)))
    text = render("markdown", s.finish())
    assert len(rows_of(text, "Gates")) == MAX_ROWS
    assert f"… and {1000 - MAX_ROWS} more gates" in text
    assert len(text.encode()) < 200_000
