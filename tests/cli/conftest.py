"""The command line as a user types it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Told:
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Run ``audit …`` in this process."""
    import signal

    from audit.cli import main

    def call(*words: str | Path) -> Told:
        monkeypatch.setattr(sys, "argv", ["audit", *map(str, words)])
        before = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as leaving:
            code = leaving.code
        finally:
            signal.signal(signal.SIGTERM, before)
        said = capsys.readouterr()
        return Told(int(code or 0), said.out, said.err)  # type: ignore[call-overload]

    return call
