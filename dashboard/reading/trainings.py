"""What trainings left below ``HOME/trainings``: ledgers, how each went, and frontiers; read without anything that trains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.parameters import UserError
from audit.privacy.frontier_table import JSON, Frontier, read_frontier
from audit.privacy.history import NAME as HISTORY
from audit.privacy.history import Point, read_history
from audit.registry.store import Registry

if TYPE_CHECKING:
    from audit.privacy.accounting import TrainingRecord

LEDGER, WEIGHTS = "privacy.json", "model.safetensors"
KEPT = 64
"""Of each kind of file, how many are kept in memory until they change."""

Facts = Mapping[str, Any]
"""What a run's manifest, or a card of the registry, says of a model: ``name``, ``ledger``, ``files`` …"""


@dataclass(frozen=True)
class Found:
    """A frontier below ``HOME/trainings``.

    Args:
        frontier: None where it cannot be read.
        problem: why.
    """

    name: str
    frontier: Frontier | None
    problem: str = ""

    def holds(self, digest: str) -> bool:
        """Whether a model is one of its points."""
        return self.frontier is not None and any(point.digest == digest for point in self.frontier.points)


def frontiers(home: Path) -> list[Found]:
    """Every frontier of a home by name; a damaged one says so, and the others still open."""
    root = home / "trainings"
    places = sorted(path.parent for path in root.glob(f"*/{JSON}")) if root.is_dir() else []
    return [_frontier(folder, _stamp(folder / JSON)) for folder in places]


def ledger(home: Path, facts: Facts) -> TrainingRecord | None:
    """The privacy ledger that the registry keeps with a model; None where its training wrote none.

    Raises:
        UserError: it is missing, was changed, or holds something wrong.
    """
    digest = facts.get("ledger")
    if not isinstance(digest, str) or not digest:
        return None
    path = Registry(home).blobs.verified(digest, f"the privacy ledger of {facts.get('name', 'the model')}")
    return _record(path, digest)


def folder_of(home: Path, facts: Facts) -> Path | None:
    """The folder of the training that made a model: its ledger or its weights are the model's own; None where it is not here."""
    files = facts.get("files")
    wanted = {LEDGER: facts.get("ledger"), WEIGHTS: files.get(WEIGHTS) if isinstance(files, Mapping) else None}
    for folder in _folders(home / "trainings", str(facts.get("name", ""))):
        for name, digest in wanted.items():
            path = folder / name
            if digest and path.is_file() and _digest(path, _stamp(path)) == digest:
                return folder
    return None


def history(folder: Path) -> list[Point]:
    """The training measured as it went; empty where it was not.

    Raises:
        UserError: the file is damaged.
    """
    return list(_history(folder, _stamp(folder / HISTORY)))


def _folders(root: Path, model: str) -> Iterator[Path]:
    """Where a model's training would lie: its own folder, and below a frontier's, ``NAME-frontier/eps-3`` of ``NAME-eps-3``."""
    yield root / model
    for place in sorted(root.glob(f"*/{JSON}")):
        base = place.parent.name.removesuffix("-frontier")
        if model.startswith(f"{base}-"):
            yield place.parent / model.removeprefix(f"{base}-")


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when the file does."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return (stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=KEPT)
def _frontier(folder: Path, stamp: tuple[int, int]) -> Found:
    try:
        return Found(folder.name, read_frontier(folder))
    except UserError as error:
        return Found(folder.name, None, str(error).replace(f"{folder.parent}/", ""))


@lru_cache(maxsize=KEPT)
def _record(path: Path, digest: str) -> TrainingRecord:
    from audit.privacy.accounting import parse_training_record

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"the privacy ledger {digest[:16]}… is no JSON: {error}") from error
    return parse_training_record(values, "privacy ledger")


@lru_cache(maxsize=KEPT)
def _history(folder: Path, stamp: tuple[int, int]) -> tuple[Point, ...]:
    return tuple(read_history(folder))


@lru_cache(maxsize=KEPT)
def _digest(path: Path, stamp: tuple[int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
