"""Scenario files within reach: those of ``scenarios/`` here and in the home, and those that runs were made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from audit.parameters import UserError
from audit.registry.card import ModelCard
from audit.scenario import ScenarioFile, read
from audit.scenario.marked_yaml import dump_yaml
from dashboard.reading import registered, stored

SUFFIXES = (".yaml", ".yml")
OFFERED = 12
"""Data sources of a model that are offered, those of files first and then of the newest runs."""


@dataclass(frozen=True)
class Rows:
    """Rows that a scenario names.

    Args:
        path: the scenario file.
        said: what it says of them.
    """

    path: Path
    said: str


def files(home: Path) -> dict[str, Path]:
    """Scenario files by the names that addresses use."""
    found: dict[str, Path] = {}
    for folder in (Path("scenarios"), home / "scenarios", home):
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.suffix in SUFFIXES and path.is_file():
                    found.setdefault(path.name, path.resolve())
    return found


def rows_for(card: ModelCard, home: Path) -> dict[str, Rows]:
    """Data that scenario files and runs use with a model, each once, by the names that addresses use."""
    found: dict[str, Rows] = {}
    said: set[str] = set()
    for key, path in _naming(card, home):
        data = _data(path, path.stat().st_mtime_ns)
        told = described(data) if data else ""
        if told and told not in said:
            said.add(told)
            found[key] = Rows(path, told)
        if len(found) == OFFERED:
            break
    return found


def described(data: Mapping[str, Any]) -> str:
    """A data source on one line: ``sklearn.digits · split {test: 0.3}``."""
    rest = {key: value for key, value in data.items() if key != "source"}
    lines = [" ".join(dump_yaml({key: value}).split()) for key, value in rest.items()]
    return " · ".join([str(data.get("source", "")), *lines])


def _naming(card: ModelCard, home: Path) -> Iterator[tuple[str, Path]]:
    """Scenarios of a model: files that name it, then its runs."""
    own = {card.name, card.ref, *(f"{card.name}@{alias}" for alias in (*card.aliases, "latest"))}
    for name, path in files(home).items():
        try:
            named = _file(path, path.stat().st_mtime_ns).raw.get("model")
        except (UserError, OSError):
            continue
        if own & set(named if isinstance(named, list) else [named]):
            yield name, path
    for run in registered.runs_of(card, stored.runs(home)):
        path = run.path / "scenario.yaml"
        if path.is_file():
            yield run.name, path.resolve()


@lru_cache(maxsize=512)
def _file(path: Path, changed: int) -> ScenarioFile:
    return read(path)


def _data(path: Path, changed: int) -> Mapping[str, Any] | None:
    try:
        found = _file(path, changed).raw.get("data")
    except UserError:
        return None
    usable = isinstance(found, dict) and found.get("source") not in (None, "given")
    return found if usable else None
