"""Two stored runs, number by number: what got better, what got worse, and what so much data cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from audit.finding import LEVEL, Bound, Exact, Finding, Status
from audit.numbers import show
from audit.pairing import Difference, PairedDifference, independent_difference, paired_difference
from audit.parameters import UserError
from audit.run_folder import Run
from audit.stored import outcomes

MEANINGLESS = (Status.VOID, Status.ERROR, Status.NOT_APPLICABLE)
TOLERANCE = 1e-9
"""By which the mean of stored outcomes may miss the number that was reported, for rounding."""

Key = tuple[str, str | None, tuple[tuple[str, str], ...], str]


class Judgement(StrEnum):
    """What became of a number, in the order in which a reader wants to know."""

    WORSE = "worse"
    BETTER = "better"
    CHANGED = "changed"
    """It differs, and neither direction is the better one."""
    UNTOLD = "untold"
    """The interval of the difference holds zero."""
    SAME = "same"
    """The same number, or the same outcome on every example."""
    INCOMPARABLE = "incomparable"


@dataclass(frozen=True)
class Change:
    """One number in two runs.

    Args:
        before, after: its findings; None where a run lacks it.
        difference: after minus before; None where none can be given.
        paired: whether the difference is over the same examples, one by one.
        why: why there is no difference, or what a reader must know of it.
    """

    before: Finding | None
    after: Finding | None
    judgement: Judgement
    difference: Difference | None = None
    paired: bool = False
    why: str = ""

    @property
    def finding(self) -> Finding:
        """The newer of the two that is there."""
        found = self.after or self.before
        if found is None:
            raise ValueError("a change of nothing")
        return found

    @property
    def status_changed(self) -> bool:
        """Whether a gate went from one status to another."""
        statuses = {finding.status for finding in (self.before, self.after) if finding is not None and finding.gated}
        return len(statuses) > 1


@dataclass(frozen=True)
class Flip:
    """An example whose outcome is not the same in both runs."""

    row: str
    before: float
    after: float


def changes(before: Run, after: Run) -> list[Change]:
    """Every number of either run, those of the newer one first, in its order; what both hold is compared in pairs where it can be.

    A number answers to another of the same entry, metric, part and cell; models that only one run has answer to one another.
    """
    shared = _names(before) & _names(after)
    old, new = _by_key(before.findings, shared), _by_key(after.findings, shared)
    compared = [_change(before, after, old.get(key), finding) for key, finding in new.items()]
    return compared + [_change(before, after, finding, None) for key, finding in old.items() if key not in new]


def flips(before: Run, after: Run, change: Change) -> list[Flip]:
    """Examples that both runs hold and that came out differently.

    Raises:
        UserError: the stored outcomes cannot be read.
    """
    old, new = _outcomes(before, change.before), _outcomes(after, change.after)
    if old is None or new is None:
        return []
    return [Flip(row, old[row], value) for row, value in new.items() if row in old and old[row] != value]


def _names(run: Run) -> set[str]:
    return {finding.model.split("@")[0] for finding in run.findings}


def _by_key(findings: Iterable[Finding], shared: set[str]) -> dict[Key, Finding]:
    """One finding per number, the gated one first."""
    found: dict[Key, Finding] = {}
    for finding in sorted(findings, key=lambda f: not f.gated):
        found.setdefault(_key(finding, shared), finding)
    order = {_key(finding, shared): i for i, finding in reversed(list(enumerate(findings)))}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


def _key(finding: Finding, shared: set[str]) -> Key:
    dims = tuple(sorted((name, value) for name, value in finding.dims.items() if name != "model"))
    model = finding.model.split("@")[0]
    return finding.step.split("[")[0], finding.metric, dims, model if model in shared else ""


def _change(before: Run, after: Run, old: Finding | None, new: Finding | None) -> Change:
    if old is None or new is None:
        return Change(old, new, Judgement.INCOMPARABLE, why=f"only in {(before if new is None else after).name}")
    for finding in (old, new):
        if finding.estimate is None or finding.status in MEANINGLESS:
            return Change(old, new, Judgement.INCOMPARABLE, why=finding.message)
    difference, paired = _difference(before, after, old, new)
    why = _otherwise(old, new)
    if difference is None:
        return Change(
            old, new, Judgement.INCOMPARABLE, why="; ".join(filter(None, ("a one-sided bound has no difference", why)))
        )
    same = old.estimate == new.estimate or _nothing(difference)
    judgement = Judgement.SAME if same else _judged(difference, new.better)
    return Change(old, new, judgement, difference, paired, why)


def _difference(before: Run, after: Run, old: Finding, new: Finding) -> tuple[Difference | None, bool]:
    theirs, ours = _outcomes(before, old), _outcomes(after, new)
    if theirs is not None and ours is not None and (paired := paired_difference(ours, theirs)) is not None:
        return paired, True
    if (
        isinstance(old.estimate, Bound)
        or isinstance(new.estimate, Bound)
        or old.estimate is None
        or new.estimate is None
    ):
        return None, False
    n = min(getattr(old.estimate, "n", None) or 0, getattr(new.estimate, "n", None) or 0)
    values = new.estimate.value, old.estimate.value
    return independent_difference(values, new.estimate.interval(LEVEL), old.estimate.interval(LEVEL), n), False


def _outcomes(run: Run, finding: Finding | None) -> dict[str, float] | None:
    """The outcomes that a number is the mean of, by row; None where it is none of any, or they cannot be read."""
    if finding is None or finding.estimate is None or isinstance(finding.estimate, (Bound, Exact)):
        return None
    try:
        found = outcomes(run, finding.evidence)
    except UserError:
        return None
    if not found or abs(sum(found.values()) / len(found) - finding.estimate.value) > TOLERANCE + 1e-6 * abs(
        finding.estimate.value
    ):
        return None
    return found


def _nothing(difference: Difference) -> bool:
    """Whether two numbers are surely one: no outcome differs, or both are without sampling error and equal."""
    if isinstance(difference, PairedDifference):
        return not difference.differing
    return difference.low == difference.high == 0


def _judged(difference: Difference, better: str) -> Judgement:
    low, high = difference.low, difference.high
    if low <= 0 <= high:
        return Judgement.UNTOLD
    if better == "neither":
        return Judgement.CHANGED
    return Judgement.BETTER if (low > 0) == (better == "higher") else Judgement.WORSE


def _otherwise(old: Finding, new: Finding) -> str:
    """What was not asked in the same way: parameters that are not equal make two numbers answers to two questions."""
    named = sorted(set(old.params) | set(new.params))
    differing = [name for name in named if old.params.get(name) != new.params.get(name)]
    told = [f"{name} {_written(old.params.get(name))} → {_written(new.params.get(name))}" for name in differing]
    return f"asked differently: {', '.join(told)}" if told else ""


def _written(value: Any) -> str:
    return show(value) if isinstance(value, float) else str(value)


def tally(found: Sequence[Change]) -> Mapping[Judgement, int]:
    """How many numbers came to each judgement."""
    return {judgement: sum(change.judgement is judgement for change in found) for judgement in Judgement}
