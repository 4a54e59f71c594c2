"""The verdict on a terminal and in a log."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from audit.report._console import render, render_findings
from audit.report._view import RunView
from audit.run_folder import Run


def shown(run: Run, *, terminal: bool, width: int = 100, everything: bool = False) -> str:
    """What is printed."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    for part in render(run, everything=everything):
        console.print(part, soft_wrap=not terminal)
    return out.getvalue()


def test_every_run_ends_with_its_verdict(situation: tuple[str, Run]) -> None:
    view = RunView(situation[1])
    for terminal in (True, False):
        text = shown(situation[1], terminal=terminal, width=200)
        assert view.verdict.headline in text.splitlines()[-1]
        assert not set(text) & {"\x00", "\x1b", "\u202e"}


def test_a_log_has_one_whole_line_per_gate(rich: Run) -> None:
    lines = shown(rich, terminal=False, width=20).splitlines()
    assert "✗ fail: robustness.evasion/robust_accuracy >= 0.6: 0.4593 (0.4166 to 0.5023, n = 540)" in lines
    assert sum(line.startswith("✓ pass: ") for line in lines) == 5


@pytest.mark.parametrize("width", [50, 80, 119, 120, 160])
def test_a_terminal_has_a_table_that_loses_no_name(rich: Run, width: int) -> None:
    flat = "".join(shown(rich, terminal=True, width=width).split())
    for word in ("✗fail", "robustness.evasion/robust_accuracy", ">=baseline-0.01", "0.4593", "0.4166to0.5023", "1,080"):
        assert word in flat


def test_everything_adds_the_numbers_without_a_gate(rich: Run) -> None:
    assert "f1 macro" not in shown(rich, terminal=False)
    text = shown(rich, terminal=False, width=160, everything=True)
    assert "f1 macro" in text
    assert "0.9259 (0.8211 to 0.9794)" in text


def test_why_is_told(rich: Run) -> None:
    text = shown(rich, terminal=False)
    assert "caution: robust accuracy: A single restart was used" in text
    assert "void: tpr at 1 percent fpr: the number means nothing: members are told apart" in text


def test_a_bound_that_passes_is_not_called_proven(rich: Run) -> None:
    lines = [line for line in shown(rich, terminal=False).splitlines() if line.startswith("not falsified: ")]
    assert len(lines) == 1
    assert "does not falsify <= 3; it could have shown as much as 5.6" in lines[0]


def test_an_unjudged_run_says_so(situation_run: Callable[[str], Run]) -> None:
    text = shown(situation_run("interrupted"), terminal=False)
    assert "1 numbers were measured and not judged" in text
    assert text.splitlines()[-1].startswith("! Interrupted: no verdict: the run stopped when 1 of 4 checks had ended")


def test_findings_before_they_are_stored(rich: Run) -> None:
    from audit.judge.verdicts import verdict

    out = io.StringIO()
    for part in render_findings(rich.findings, verdict(rich.findings)):
        Console(file=out, width=200).print(part)
    assert out.getvalue() == shown(rich, terminal=False, width=200)
