"""How a report says things: statuses, verdicts, threat models, in words that a release manager reads once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from audit.finding import Bound, Finding, Severity, Status, ThreatModel
from audit.gate import Gate
from audit.language import gettext as _
from audit.numbers import show, show_interval
from audit.parameters import UserError
from audit.report._told import told


@dataclass(frozen=True)
class StatusWords:
    """A status for a reader: never by colour alone."""

    icon: str
    word: str
    meaning: str


STATUS = {
    Status.PASS: StatusWords(
        "✓", "pass", "Every value that the data leave plausible (the 95 % interval) meets the gate."
    ),
    Status.FAIL: StatusWords(
        "✗", "fail", "Every value that the data leave plausible misses the gate; more data would not change that."
    ),
    Status.INCONCLUSIVE: StatusWords(
        "?", "inconclusive", "This much data cannot tell whether the gate is met. That is no pass."
    ),
    Status.VOID: StatusWords(
        "∅", "void", "A control shows that the number does not measure what its name says. Nothing is known here."
    ),
    Status.ERROR: StatusWords("!", "error", "This could not be measured or judged. Nothing is known here."),
    Status.NOT_APPLICABLE: StatusWords(
        "–", "not applicable", "The model or the data lacks what the check needs. Nothing is known here."
    ),
    Status.INFO: StatusWords("i", "info", "Measured without a gate: it cannot fail the audit."),
    Status.WAIVED: StatusWords("w", "waived", "The gate is missed, and somebody answers for that until a date."),
}

VERDICTS = {  # word of the verdict -> (the status whose looks it takes, headline)
    "pass": (Status.PASS, "Passed"),
    "fail": (Status.FAIL, "Failed"),
    "error": (Status.ERROR, "No verdict"),
    "inconclusive": (Status.INCONCLUSIVE, "Inconclusive"),
    "explored": (Status.INFO, "Measured, not judged"),
    "interrupted": (Status.ERROR, "Interrupted: no verdict"),
    "running": (Status.INCONCLUSIVE, "Still running: no verdict yet"),
    "damaged": (Status.ERROR, "Damaged run: no verdict"),
}

BOUND_HELD = "A one-sided bound: the audit did not show that the gate is missed, and it could have shown it."
ACCESS = {
    "white_box": "white box (weights and gradients)",
    "black_box_scores": "black box, sees scores",
    "black_box_labels": "black box, sees labels only",
    "training_data": "holds training data",
    "artefact": "holds the model file",
}
GOALS = {
    "untargeted": "any wrong answer",
    "targeted": "a chosen wrong answer",
    "membership": "to tell whether a row was trained on",
    "reconstruction": "to reconstruct training rows",
}
DIMS = (
    "accountant",
    "after",
    "attack",
    "baseline",
    "class",
    "column",
    "concept",
    "corruption",
    "family",
    "feature",
    "features",
    "fpr",
    "group",
    "guesses",
    "interaction",
    "kind",
    "layer",
    "loss",
    "method",
    "pair",
    "perturbation",
    "queries",
    "rows",
    "severity",
    "value",
)
"""What the parts of a metric are told apart by."""
SEVERITIES = tuple(sorted(Severity, key=lambda severity: -severity.rank))

# the order in which statuses explain a verdict: what makes one impossible first, as the exit codes do
_ORDER = (
    Status.ERROR,
    Status.VOID,
    Status.FAIL,
    Status.INCONCLUSIVE,
    Status.NOT_APPLICABLE,
    Status.WAIVED,
    Status.PASS,
    Status.INFO,
)


def by_weight(finding: Finding) -> tuple[int, int]:
    """Sort key: what explains the verdict first, then the more severe."""
    return _ORDER.index(finding.status), -finding.severity.rank


def gate_of(finding: Finding) -> Gate | None:
    """The gate behind a finding; None where there is none that this version reads."""
    try:
        return Gate.parse(finding.required) if finding.required else None
    except UserError:
        return None


def value_of(finding: Finding) -> str:
    """The measured value with its unit; a dash where there is none."""
    if finding.estimate is None:
        return "–"
    return show(finding.estimate.value) + (f" {_(finding.unit)}" if finding.unit else "")


def interval_of(finding: Finding) -> str:
    """The interval that was judged; empty for a number without sampling error."""
    if finding.interval is None or finding.estimate is None:
        return ""
    low, high = finding.interval
    gate = gate_of(finding)
    if gate is not None and gate.baseline:
        return _("difference {interval}").format(interval=show_interval(low, high))
    return "" if low == high else show_interval(low, high)


def level_of(finding: Finding) -> str:
    """``95 %``: the confidence behind the interval."""
    level = finding.estimate.level if isinstance(finding.estimate, Bound) else finding.level
    return f"{level * 100:.4g} %"


def n_of(finding: Finding) -> str:
    """How many units the interval is over; a dash where that means nothing."""
    n = getattr(finding.estimate, "n", None)
    return f"{n:,}" if n is not None else "–"


def part_of(finding: Finding) -> str:
    """Which part of the metric and which cell of the matrix a finding speaks of, in words."""
    return _(", ").join(f"{dim_of(key)} {value_of_dim(key, value)}" for key, value in finding.dims.items())


def dim_of(key: str) -> str:
    """What parts are told apart by: ``attack``, ``class`` … as a reader says it."""
    return _(key) if key in DIMS else key


def value_of_dim(key: str, value: str) -> str:
    """A part by what tells it apart; names stay as they are."""
    return told(value) if key == "pair" else value


def meaning_of(finding: Finding) -> str:
    """What a status says, in a sentence for somebody who did not write the scenario."""
    if finding.status is Status.PASS and isinstance(finding.estimate, Bound):
        return _(BOUND_HELD)
    if finding.status is Status.WAIVED and finding.waiver:
        return _("The gate is missed, and {owner} answers for that until {expires}.").format(
            owner=finding.waiver.get("owner", _("nobody")), expires=finding.waiver.get("expires", _("no date"))
        )
    return _(STATUS[finding.status].meaning)


def threat_rows(threat: ThreatModel) -> list[tuple[str, str]]:
    """A threat model as (what, value)."""
    units = f" {_(threat.units)}" if threat.units else ""
    rows = [
        (_("access"), _(ACCESS.get(threat.access, threat.access))),
        (_("seeks"), _(GOALS.get(threat.goal, threat.goal))),
    ]
    if threat.norm is not None:
        rows.append((_("norm"), threat.norm))
    if threat.eps is not None:
        rows.append(("eps", f"{show(threat.eps)}{units}"))
    if threat.realised is not None:
        rows.append((_("largest change made"), f"{show(threat.realised)}{units}"))
    if threat.bounds is not None:
        rows.append((_("bounds"), f"{show_interval(*threat.bounds)}{units if threat.norm is not None else ''}"))
    if threat.queries is not None:
        rows.append((_("queries per example"), _("at most {value}").format(value=f"{threat.queries:,}")))
    if threat.constraints:
        rows.append((_("constraints"), told(threat.constraints)))
    return rows


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def clean(text: Any) -> str:
    """Text without control characters, lone surrogates or direction overrides: safe on a terminal and in XML."""
    return _CONTROL.sub("\ufffd", str(text))


def mapping(value: Any) -> dict[str, Any]:
    """A stored mapping; an empty one where a damaged folder holds something else."""
    return value if isinstance(value, dict) else {}


def count(value: Any) -> str:
    """A stored count with thousands separators."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def plain_value(value: Any) -> str:
    """A parameter's value as a reader writes it."""
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if value is None:
        return "–"
    if isinstance(value, float):
        return show(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain_value(item)}" for key, item in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_value(item) for item in value) or "–"
    return str(value)
