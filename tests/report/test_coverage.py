"""What was not tested is told, and what was is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from audit.names import available
from audit.report._about import about
from audit.report._view import RunView
from audit.run_folder import Run


def told(run: Run) -> dict[str, dict[str, str]]:
    """Kind → subject → text."""
    out: dict[str, dict[str, str]] = {}
    for gap in RunView(run).not_tested:
        out.setdefault(gap.kind, {})[gap.subject] = gap.text
    return out


def test_every_check_is_either_run_or_named(rich: Run) -> None:
    ran = set(RunView(rich).checks)
    named = set(told(rich).get("check", {}))
    others = {name for name in available("checks") if about(name).tasks in ((), ("regression",))}
    assert not named & ran
    assert named | ran | others >= set(available("checks"))
    assert not any("regression" in name for name in named)  # it has nothing to say of a classifier


def test_a_check_that_lacks_something_says_what(stored: Callable[..., Any]) -> None:
    models = {"m": {"task": "classification", "capabilities": ["labels"]}}
    text = "name: x\nmodel: m\ndata: {source: csv}\nchecks:\n  - performance.classification: {}\n"
    found = told(stored(text=text, models=models, data={"rows": {"test": 5}}).finish())["check"]
    assert "train_data" in found["privacy.membership_inference"]
    assert "do not offer" in found["privacy.membership_inference"]


def test_adversaries(rich: Run, situation_run: Callable[[str], Run]) -> None:
    found = told(rich)["adversary"]
    assert found["changes bounded in l2 or l1"] == "Only linf up to 2 grey levels was tried."
    assert "black box, sees scores" in found["adversaries with other access"]
    assert "targeted attacks" in found
    assert "membership inference" not in found
    nothing = told(situation_run("explored"))["adversary"]
    assert set(nothing) == {"adversarial inputs", "membership inference"}


def test_a_void_attack_is_no_attack(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    s.add(
        make.finding(estimate=make.Exact(value=1), required=">= 0.6", status=make.Status.VOID, threat_model=make.linf)
    )
    assert "adversarial inputs" in told(s.finish())["adversary"]


def test_every_norm_and_access_tried_leaves_fewer_gaps(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    for i, (norm, access, goal) in enumerate(
        [
            ("linf", "white_box", "untargeted"),
            ("l2", "black_box_scores", "targeted"),
            ("l1", "black_box_labels", "untargeted"),
        ]
    ):
        threat = make.linf.model_copy(update={"norm": norm, "access": access, "goal": goal})
        s.add(make.finding(metric=f"m{i}", estimate=make.Exact(value=1), threat_model=threat))
    found = told(s.finish())["adversary"]
    assert set(found) == {"larger or other changes", "membership inference"}


def test_data(rich: Run, stored: Callable[..., Any]) -> None:
    found = told(rich)["data"]
    assert set(found) == {"groups of people", "other data", "as it was read"}
    assert "540 test rows of sklearn.digits" in found["other data"]
    bare = told(stored(data={"source": "csv", "rows": {"test": 10}, "groups": ["sex"]}).finish())["data"]
    assert set(bare) == {"training rows", "other data"}


def test_steps_without_a_gate(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    good = make.Proportion(k=5, n=5)
    s.add(
        make.finding("a.gated", "m", good, ">= 0.1"),
        make.finding("a.gated", "other", good),
        make.finding("a.free", "m", good),
    )
    assert set(told(s.finish())["gate"]) == {"a.free"}


def test_what_could_not_apply(rich: Run) -> None:
    assert "privacy.dp_accounting" in told(rich)["not_applicable"]


@pytest.mark.parametrize("name", available("checks"))
def test_every_check_tells_its_source_and_blind_spots(name: str) -> None:
    found = about(name)
    assert found.summary
    assert found.blind_spots


def test_an_unknown_check_is_told_of_in_silence() -> None:
    assert about("no.such").summary == ""
    assert about("Not A Name").summary == ""


def test_waivers_say_what_they_do(stored: Callable[..., Any], make: Any) -> None:
    text = """\
name: x
model: m
data: {source: csv}
checks:
  - a.b: {}
    require: {used: "> 1", lapsed: "> 1", idle: "> 1"}
waivers:
  - {finding: a.b/used, owner: Ada, reason: r, expires: 2099-01-01}
  - {finding: a.b/lapsed, owner: Ada, reason: r, expires: 2001-01-01}
  - {finding: a.b/idle, owner: Ada, reason: r, expires: 2099-01-01}
  - {finding: a.b/typo, owner: Ada, reason: r, expires: 2099-01-01}
"""
    s = stored(text=text)
    low, high = make.Exact(value=0), make.Exact(value=2)
    waiver = {"owner": "Ada", "reason": "r", "expires": "2099-01-01"}
    s.add(
        make.finding("a.b", "used", low, "> 1", status=make.Status.WAIVED, waiver=waiver, message="misses"),
        make.finding("a.b", "lapsed", low, "> 1"),
        make.finding("a.b", "idle", high, "> 1"),
    )
    assert [(w.finding, w.effect) for w in RunView(s.finish()).waivers] == [
        ("a.b/used", "in force"),
        ("a.b/lapsed", "lapsed: the gate fails again"),
        ("a.b/idle", "not used: the finding is pass"),
        ("a.b/typo", "not used: no finding has this id"),
    ]
