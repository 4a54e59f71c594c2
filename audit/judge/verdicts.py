"""What a run comes to, from its findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from audit.finding import Finding, Severity, Status
from audit.language import gettext as _
from audit.language import ngettext


@dataclass(frozen=True)
class Verdict:
    """What a run comes to.

    Args:
        exit_code: 0 pass, 1 fail, 3 no verdict can be given, 4 inconclusive.
        word: ``pass``, ``fail``, ``error`` or ``inconclusive``; ``explored`` where nothing was gated.
        counts: findings by status.
        softened: failed gates below the ``--fail-on`` severity.
    """

    exit_code: int
    word: str
    sentence: str
    counts: Mapping[str, int]
    softened: int = 0


def verdict(findings: Sequence[Finding], fail_on: Severity = Severity.LOW) -> Verdict:
    """The first that applies: something broke or means nothing (3), a gate failed (1), a gate is undecided (4), every gate passed (0)."""
    counts = Counter(str(f.status) for f in findings)
    gated = [f for f in findings if f.gated]
    failed = [f for f in findings if f.status is Status.FAIL]
    hard = [f for f in failed if f.severity.rank >= fail_on.rank]
    broken = [f for f in findings if f.status in (Status.ERROR, Status.VOID)]
    absent = [f for f in gated if f.status is Status.NOT_APPLICABLE and not f.optional]
    undecided = [f for f in findings if f.status is Status.INCONCLUSIVE]
    made = Verdict(
        0,
        "pass",
        _("every gate passed ({n} of {n})").format(n=len(gated)),
        dict(sorted(counts.items())),
        len(failed) - len(hard),
    )
    if broken or absent:
        parts = [
            (len([f for f in broken if f.status is Status.ERROR]), _("{n} broke")),
            (counts["void"], ngettext("{n} means nothing", "{n} mean nothing", counts["void"])),
            (len(absent), _("{n} could not apply")),
        ]
        return replace(
            made,
            exit_code=3,
            word="error",
            sentence=_("no verdict: {reasons}").format(reasons=_joined(parts)),
        )
    if hard:
        sentence = _("{n} of {all} gates failed").format(n=len(hard), all=len(gated))
        return replace(made, exit_code=1, word="fail", sentence=sentence)
    if undecided:
        return replace(
            made,
            exit_code=4,
            word="inconclusive",
            sentence=_("{n} of {all} gates cannot be decided with this much data").format(
                n=len(undecided), all=len(gated)
            ),
        )
    if not gated:
        return replace(made, word="explored", sentence=_("measured only: nothing was gated"))
    passed = sum(f.status is Status.PASS for f in gated)
    if not passed + counts["waived"] + made.softened:
        reasons = _("none of the gates applied to this model and data")
        return replace(made, exit_code=3, word="error", sentence=_("no verdict: {reasons}").format(reasons=reasons))
    rest = _joined(
        [
            (counts["waived"], _("{n} waived")),
            (made.softened, _("{n} failed below severity {severity}")),
            (len(gated) - passed - counts["waived"] - made.softened, _("{n} did not apply")),
        ],
        severity=_(str(fail_on)),
    )
    passing = _("{n} of {all} gates passed, {rest}").format(n=passed, all=len(gated), rest=rest)
    return replace(made, sentence=passing if rest else made.sentence)


def _joined(parts: Sequence[tuple[int, str]], **named: str) -> str:
    """What is said of each count that is not zero, one after the other."""
    return _(", ").join(said.format(n=n, **named) for n, said in parts if n)
