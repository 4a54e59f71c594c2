"""Why a run came to its verdict, for a list of many runs: of its findings only those that speak against it are read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from audit.finding import Finding, Status
from audit.report._words import by_weight
from dashboard.reading import stored
from dashboard.reading.stored import RunSummary, Stamp

LOUD = (Status.ERROR, Status.VOID, Status.FAIL, Status.INCONCLUSIVE, Status.NOT_APPLICABLE)
"""Statuses that keep a run from passing."""
MARKS = tuple(f'"status":"{status}"' for status in LOUD)
"""As a line of findings.jsonl holds them."""
SPOKEN = ("fail", "error", "inconclusive")
"""Verdicts that some finding explains."""


def against(summary: RunSummary) -> tuple[Finding, ...]:
    """What keeps a run from passing, that which explains the verdict first; nothing where it passed or cannot be read."""
    if summary.word not in SPOKEN:
        return ()
    return _against(summary.path, stored.stamp(summary.path))


@lru_cache(maxsize=stored.SUMMARIES)
def _against(path: Path, stamp: Stamp) -> tuple[Finding, ...]:
    try:
        lines = (path / "findings.jsonl").read_text(encoding="utf-8").splitlines()
        found = [Finding.model_validate_json(line) for line in lines if any(mark in line for mark in MARKS)]
    except (OSError, ValueError):
        return ()
    return tuple(sorted(filter(_speaks_against, found), key=by_weight))


def _speaks_against(finding: Finding) -> bool:
    broken = finding.status in (Status.ERROR, Status.VOID)
    excused = finding.status is Status.NOT_APPLICABLE and finding.optional
    return finding.status in LOUD and (finding.gated or broken) and not excused
