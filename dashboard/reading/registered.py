"""Registered models as the dashboard reads them, and what the stored runs of each tested."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from audit.finding import Status
from audit.registry.card import ModelCard
from audit.registry.store import Registry
from dashboard.reading import stored
from dashboard.reading.stored import RunSummary

KEPT = 512
JUDGED = ("pass", "fail", "error", "inconclusive")
"""Words of a verdict; a run without one was interrupted, is damaged or only measured."""
NO_RESULT = (Status.ERROR, Status.NOT_APPLICABLE)
"""Findings that measured nothing."""


def cards(home: Path) -> list[ModelCard]:
    """Every version of every model, by name, the newest version first.

    Raises:
        UserError: the registry cannot be read.
    """
    return Registry(home).list()


Version = tuple[str, int | None, str]
"""Name, version and digest."""


def by_version(runs: Sequence[RunSummary]) -> dict[Version, list[RunSummary]]:
    """The runs that audited each version, in their order."""
    found: dict[Version, list[RunSummary]] = {}
    for run in runs:
        for version in dict.fromkeys((model.name, model.version, model.digest) for model in run.models):
            found.setdefault(version, []).append(run)
    return found


def version_of(card: ModelCard) -> Version:
    """As the runs know it."""
    return card.name, card.version, card.digest


def runs_of(card: ModelCard, runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Runs that audited this very version, the newest first."""
    return by_version(runs).get(version_of(card), [])


def telling(runs: Sequence[RunSummary]) -> RunSummary | None:
    """Of a version's runs, the newest that came to a verdict; without one, the newest; None where there is none."""
    return next((run for run in runs if run.word in JUDGED), runs[0] if runs else None)


def verdicts(runs: Sequence[RunSummary]) -> dict[str, RunSummary]:
    """The newest run of each scenario that came to a verdict, by scenario."""
    found: dict[str, RunSummary] = {}
    for run in runs:
        if run.word in JUDGED:
            found.setdefault(run.scenario, run)
    return found


@dataclass(frozen=True)
class Tested:
    """What became of a check over several runs of a model.

    Args:
        run: the newest that measured something; without one, the newest that tried.
        statuses: how many findings of that run had each status.
    """

    run: RunSummary
    statuses: Mapping[str, int]

    @property
    def measured(self) -> bool:
        """Whether it came to a number that means something."""
        return any(status not in (*NO_RESULT, Status.VOID) for status in self.statuses)


def tested(card: ModelCard, runs: Sequence[RunSummary]) -> dict[str, Tested]:
    """What every check that was tried on a version came to, by check; its newest result counts."""
    refs = {run.name: {m.ref for m in run.models if (m.name, m.version) == (card.name, card.version)} for run in runs}
    found: dict[str, Tested] = {}
    for run in runs:
        for (check, model), statuses in _statuses(run.path, stored.stamp(run.path)).items():
            if model in refs[run.name] and (check not in found or not found[check].measured):
                now = Tested(run, dict(statuses))
                if check not in found or now.measured:
                    found[check] = now
    return found


@lru_cache(maxsize=KEPT)
def _statuses(path: Path, stamp: stored.Stamp) -> dict[tuple[str, str], dict[str, int]]:
    """Findings of a run by check and model, counted by status; none where they cannot be read: the list of runs says so."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    try:
        lines = (path / "findings.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines:
            known = json.loads(line)
            counts = found.setdefault((str(known["check"]), str(known["model"])), {})
            counts[str(known["status"])] = counts.get(str(known["status"]), 0) + 1
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found
