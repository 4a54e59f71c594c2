"""What a run comes to, from its findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from audit.finding import Finding, Severity, Status


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
        f"every gate passed ({len(gated)} of {len(gated)})",
        dict(sorted(counts.items())),
        len(failed) - len(hard),
    )
    if broken or absent:
        parts = [
            (len([f for f in broken if f.status is Status.ERROR]), "broke"),
            (counts["void"], "means nothing" if counts["void"] == 1 else "mean nothing"),
            (len(absent), "could not apply"),
        ]
        return replace(
            made,
            exit_code=3,
            word="error",
            sentence="no verdict: " + ", ".join(f"{n} {what}" for n, what in parts if n),
        )
    if hard:
        return replace(made, exit_code=1, word="fail", sentence=f"{len(hard)} of {len(gated)} gates failed")
    if undecided:
        return replace(
            made,
            exit_code=4,
            word="inconclusive",
            sentence=f"{len(undecided)} of {len(gated)} gates cannot be decided with this much data",
        )
    if not gated:
        return replace(made, word="explored", sentence="measured only: nothing was gated")
    passed = sum(f.status is Status.PASS for f in gated)
    if not passed + counts["waived"] + made.softened:
        return replace(
            made, exit_code=3, word="error", sentence="no verdict: none of the gates applied to this model and data"
        )
    rest = [
        f"{n} {what}"
        for n, what in (
            (counts["waived"], "waived"),
            (made.softened, f"failed below severity {fail_on}"),
            (len(gated) - passed - counts["waived"] - made.softened, "did not apply"),
        )
        if n
    ]
    return replace(
        made, sentence=made.sentence if not rest else f"{passed} of {len(gated)} gates passed, {', '.join(rest)}"
    )
