"""Judging: every status, its reason, and the exit code it leads to."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from audit.finding import (
    Bound,
    Estimate,
    Exact,
    Finding,
    Mean,
    Measurement,
    Outcome,
    Proportion,
    RankAuc,
    Resampled,
    Severity,
    Status,
)
from audit.gate import Gate
from audit.judge import judge
from audit.judge.decision import decide
from audit.judge.verdicts import verdict
from audit.pairing import PairedDifference, paired_difference
from audit.plan import Plan, bind
from audit.run_folder import Recorded
from audit.scenario import parse

TODAY = datetime.date(2026, 1, 15)
DONE = Outcome(status="completed")


def plan(require: str = '{heads: ">= 0.6"}', more: str = "", top: str = "") -> Plan:
    return bind(
        parse(
            f"name: t\nmodel: m\ndata: {{source: given}}\n{top}checks:\n  - toy.coins: {{}}\n    require: {require}\n{more}"
        )
    )


def record(
    estimate: Estimate | None = None,
    *,
    metric: str = "heads",
    step: str = "toy.coins",
    outcome: Outcome | None = None,
    **rest: Any,
) -> Recorded:
    check = step.split("[")[0]
    measurement = None if estimate is None else Measurement(metric=metric, estimate=estimate, **rest)
    return Recorded(step=step, id=check, check=check, model="m", measurement=measurement, outcome=outcome)


def one(require: str, *records: Recorded, ended: Outcome | None = DONE, **options: Any) -> Finding:
    rest = (record(outcome=ended),) if ended else ()
    findings = judge(plan(require), [*records, *rest], today=TODAY, **options)
    assert len(findings) == 1, findings
    return findings[0]


@pytest.mark.parametrize(
    ("estimate", "gate", "status"),
    [
        (Proportion(k=95, n=100), ">= 0.85", "pass"),  # interval .887165 to .983568
        (Proportion(k=95, n=100), ">= 0.88716", "pass"),
        (Proportion(k=95, n=100), ">= 0.88717", "inconclusive"),
        (Proportion(k=95, n=100), ">= 0.9", "inconclusive"),
        (Proportion(k=95, n=100), ">= 0.98357", "fail"),
        (Proportion(k=95, n=100), "< 0.98357", "pass"),
        (Proportion(k=0, n=100), "<= 0.0363", "pass"),
        (Proportion(k=20, n=20), ">= 0.9", "inconclusive"),
        (Mean(value=0.1, se=0.01, n=100), "> 0", "pass"),
        (Mean(value=0.1, se=0.06, n=100), "> 0", "inconclusive"),
        (Mean(value=-0.1, se=0.01, n=100), "> 0", "fail"),
        (Mean(value=5, se=0.0, n=1), "> 0", "inconclusive"),
        (RankAuc(value=0.5, n_pos=1000, n_neg=1000), "<= 0.55", "pass"),
        (RankAuc(value=0.5, n_pos=20, n_neg=20), "<= 0.55", "inconclusive"),
        (RankAuc(value=1.0, n_pos=100, n_neg=100), "<= 0.55", "fail"),
        (Resampled(value=0.5, replicates=tuple(0.4 + i / 1000 for i in range(200)), n=50), "> 0.3", "pass"),
        (Resampled(value=0.5, replicates=(0.5,) * 200, n=50), "> 0.3", "inconclusive"),
        (Exact(value=0), "== 0", "pass"),
        (Exact(value=1), "== 0", "fail"),
        (Bound(value=2, side="lower", level=0.95, n=100, ceiling=4.0), "<= 1", "fail"),
        (Bound(value=2, side="lower", level=0.95, n=100, ceiling=4.0), "<= 3", "pass"),
        (Bound(value=2, side="lower", level=0.95, n=100, ceiling=4.0), "<= 8", "inconclusive"),
        (Bound(value=2, side="lower", level=0.95, n=100), "<= 3", "inconclusive"),
        (Bound(value=2, side="lower", level=0.95, n=100), ">= 1", "pass"),
    ],
)
def test_the_whole_interval_decides(estimate: Estimate, gate: str, status: str) -> None:
    decision = decide(estimate, Gate.parse(gate))
    assert decision.status == status, decision.message


def test_inconclusive_names_an_n_that_would_decide() -> None:
    message = decide(Proportion(k=95, n=100), Gate.parse(">= 0.9")).message
    n = int(message.split("n = ")[-1].split(" ")[0].replace(",", ""))
    assert n > 100
    assert decide(Proportion(k=round(0.95 * n), n=n), Gate.parse(">= 0.9")).status == "pass"
    assert "no larger n" in decide(Proportion(k=90, n=100), Gate.parse(">= 0.9")).message


def test_a_gate_that_nothing_answers_is_an_error() -> None:
    assert one('{"heads[side=left]": "> 0.5"}', ended=DONE).status == "error"
    found = judge(
        plan('{"heads[side=left]": "> 0.5"}'), [record(Proportion(k=1, n=2)), record(outcome=DONE)], today=TODAY
    )
    assert [f.status for f in found] == ["error", "info"]
    assert "matches nothing" in found[0].message
    assert verdict(found).exit_code == 3


def test_parts_and_stars() -> None:
    records = [
        record(Proportion(k=k, n=100), dims={"side": side} if side else {})
        for side, k in (("left", 90), ("right", 10), ("", 50))
    ]
    records.append(record(outcome=DONE))
    stars = judge(plan('{"heads[*]": ">= 0.5"}'), records, today=TODAY)
    assert [(f.dims.get("side"), f.status) for f in stars] == [("left", "pass"), ("right", "fail"), (None, "info")]
    assert next(f.status for f in judge(plan('{"heads[side=right]": ">= 0.5"}'), records, today=TODAY)) == "fail"


def test_a_crash_keeps_what_was_measured_and_is_an_error() -> None:
    crash = Outcome(status="error", message="RuntimeError: boom")
    found = judge(
        plan('{heads: ">= 0.6", mean: "> 0"}'), [record(Proportion(k=90, n=100)), record(outcome=crash)], today=TODAY
    )
    assert [(f.status, f.metric) for f in found] == [("pass", "heads"), ("error", "mean"), ("error", None)]
    assert verdict(found).exit_code == 3


def test_an_unfinished_step_is_an_error_not_a_pass() -> None:
    found = judge(plan(), [record(Proportion(k=90, n=100))], today=TODAY)
    assert [f.status for f in found] == ["pass", "error"]
    assert "interrupted" in found[1].message
    assert verdict(judge(plan(), [], today=TODAY)).exit_code == 3


def test_not_applicable_fails_closed_unless_optional() -> None:
    absent = Outcome(status="not_applicable", message="no gradients")
    found = one('{heads: ">= 0.6"}', ended=absent)
    assert (found.status, verdict([found]).exit_code) == ("not_applicable", 3)
    optional = judge(plan(more="    optional: true\n  - toy.control: {}\n    require: {alarm: '== 0'}\n"), [
        record(outcome=absent), record(Exact(value=0), metric="alarm", step="toy.control"), record(outcome=DONE, step="toy.control")], today=TODAY)  # fmt: skip
    assert [f.status for f in optional] == ["not_applicable", "pass"]
    assert verdict(optional).exit_code == 0
    alone = judge(plan(more="    optional: true\n"), [record(outcome=absent)], today=TODAY)
    assert verdict(alone).exit_code == 3, "an audit in which no gate applied has not passed"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("heads", "pass"),
        ("toy.coins:heads", "void"),
        ("toy.coins:*", "void"),
        ("toy.coins:mean", "pass"),
        ("toy.other:*", "pass"),
    ],
)
def test_one_check_can_void_another(target: str, status: str) -> None:
    records = [
        record(Proportion(k=90, n=100)),
        record(outcome=DONE),
        record(Exact(value=1), metric="alarm", step="toy.control", voids={target: "the model is randomised"}),
        record(outcome=DONE, step="toy.control"),
    ]
    found = judge(plan(more="  - toy.control\n"), records, today=TODAY)
    assert found[0].status == status
    if status == "void":
        assert "randomised" in found[0].message
        assert "toy.control" in found[0].message
        assert verdict(found).exit_code == 3


def test_a_void_speaks_of_its_own_part_only() -> None:
    records = [
        record(Proportion(k=90, n=100), dims={"side": s}, voids={"heads": "masked"} if s == "left" else {})
        for s in ("left", "right")
    ]
    found = judge(plan('{"heads[*]": ">= 0.6"}'), [*records, record(outcome=DONE)], today=TODAY)
    assert [f.status for f in found] == ["void", "pass"]


def test_unresolved_numbers_decide_nothing() -> None:
    found = one('{heads: ">= 0.6"}', record(Proportion(k=90, n=100), unresolved="too few non-members"))
    assert found.status == "inconclusive"
    assert "too few" in found.message


def test_waivers_hold_until_their_day_and_for_failures_only() -> None:
    def waived(expires: str, k: int = 10) -> Finding:
        top = f"waivers: [{{finding: toy.coins/heads, owner: Ada, reason: known, expires: {expires}}}]\n"
        return judge(plan(top=top), [record(Proportion(k=k, n=100)), record(outcome=DONE)], today=TODAY)[0]

    assert waived("2026-01-15").status == "waived"
    assert waived("2026-01-15").waiver == {"owner": "Ada", "reason": "known", "expires": "2026-01-15"}
    assert verdict([waived("2026-01-15")]).exit_code == 0
    late = waived("2026-01-14")
    assert late.status == "fail"
    assert "lapsed" in late.message
    assert waived("2026-01-15", k=60).status == "inconclusive"
    assert waived("2026-01-15", k=90).status == "pass"


def test_holm_takes_back_what_many_gates_made_likely() -> None:
    # Two-sided p of 60/100 against one half is .0569 … and of 62/100 .0210: alone it passes, among four it does not.
    gates = '{heads: "> 0.5", "heads[side=a]": "> 0.5", "heads[side=b]": "> 0.5", "heads[side=c]": "> 0.5"}'
    records = [record(Proportion(k=62, n=100))] + [record(Proportion(k=55, n=100), dims={"side": s}) for s in "abc"]
    records.append(record(outcome=DONE))
    assert judge(plan(gates), records, today=TODAY)[0].status == "pass"
    corrected = judge(plan(gates, top="correction: holm\n"), records, today=TODAY)
    assert corrected[0].status == "inconclusive"
    assert "Holm" in corrected[0].message
    strong = [record(Proportion(k=90, n=100)), *records[1:]]
    assert judge(plan(gates, top="correction: holm\n"), strong, today=TODAY)[0].status == "pass"


def finding(status: str, severity: str = "high", required: str | None = "> 0", optional: bool = False) -> Finding:
    return Finding(
        id="x", step="x", check="x.x", params={}, model="m", status=Status(status), severity=Severity(severity), message="", required=required,
        optional=optional, fingerprint="f",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["pass"], 0),
        (["pass", "info"], 0),
        (["pass", "waived"], 0),
        (["waived"], 0),
        (["pass", "inconclusive"], 4),
        (["pass", "inconclusive", "fail"], 1),
        (["pass", "fail", "error"], 3),
        (["pass", "fail", "void"], 3),
        (["pass", "not_applicable"], 3),
    ],
)
def test_exit_codes_the_first_that_applies(statuses: list[str], code: int) -> None:
    assert verdict([finding(s) for s in statuses]).exit_code == code
    assert verdict([finding(s) for s in reversed(statuses)]).exit_code == code


def test_fail_on_softens_failures_below_a_severity_and_nothing_else() -> None:
    findings = [finding("pass"), finding("fail", "medium")]
    assert verdict(findings, Severity.MEDIUM).exit_code == 1
    softened = verdict(findings, Severity.HIGH)
    assert (softened.exit_code, softened.softened) == (0, 1)
    assert "below severity" in softened.sentence
    assert verdict([finding("error", "low")], Severity.CRITICAL).exit_code == 3
    assert verdict([finding("inconclusive", "low")], Severity.CRITICAL).exit_code == 4


def test_paired_difference_of_zeros_and_ones() -> None:
    ids = [str(i) for i in range(200)]
    base = {i: float(int(i) % 2) for i in ids}
    same = paired_difference(base, base)
    assert same is not None
    assert same.value == 0
    assert same.low < 0 < same.high, "no disagreement among 200 does not prove that there is none"
    assert same.high == pytest.approx(0.0217, abs=1e-3)  # Clopper–Pearson 0/200 at 97.5 %
    better = paired_difference(dict.fromkeys(ids, 1.0), base)
    assert better is not None
    assert better.value == 0.5
    # 100/200 and 0/200 at 97.5 % each: .4189 − .0217 and .5811 − 0
    assert (better.low, better.high) == pytest.approx((0.3972, 0.5811), abs=1e-4)
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


def test_a_baseline_gate_judges_the_paired_difference() -> None:
    top, gate = "baseline: run-1\n", '{heads: ">= baseline - 0.05"}'
    records = [record(Proportion(k=50, n=100)), record(outcome=DONE)]
    for difference, status in (
        (PairedDifference(0.0, -0.02, 0.02, 100, 3), "pass"),
        (PairedDifference(0.0, -0.07, 0.07, 100, 9), "inconclusive"),
        (PairedDifference(-0.2, -0.3, -0.1, 100, 30), "fail"),
        ("no shared example", "error"),
    ):
        found = judge(plan(gate, top=top), records, today=TODAY, compare=lambda record, d=difference: d)[0]  # type: ignore[misc]
        assert found.status == status
    assert judge(plan(gate, top=top), records, today=TODAY)[0].status == "error"


def test_fingerprints_name_the_subject_not_the_result() -> None:
    a = one('{heads: ">= 0.6"}', record(Proportion(k=90, n=100)))
    b = one('{heads: ">= 0.7"}', record(Proportion(k=10, n=100)))
    c = one('{mean: "> 0"}', record(Mean(value=1, se=0.1, n=9), metric="mean"))
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_two_gates_on_one_part_have_two_fingerprints_and_ids() -> None:
    found = judge(
        plan('{heads: [">= 0.5", ">= 0.6"]}'), [record(Proportion(k=90, n=100)), record(outcome=DONE)], today=TODAY
    )
    assert len({f.fingerprint for f in found}) == len({f.id for f in found}) == 2
