"""Shared set-up: one thread per test process, no stray home folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.load_profile("suite")

pytest_plugins = ["pytester"]

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _close_runs() -> Iterator[None]:
    yield
    if toys := sys.modules.get("toys"):
        while toys.WRITERS:
            toys.WRITERS.pop().__exit__(None, None, None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return Path(__file__).parent.parent
