"""How far a run is, for a program that follows it: a JSON file that ``AUDIT_PROGRESS`` names."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from audit.whole_file import write_whole

FOLLOWED = "AUDIT_PROGRESS"
"""Environment variable that names the file."""
APART = 0.5
"""Seconds between two writings while a step goes on."""


class Followed:
    """The step at hand, since when, what it does, and how long the others took; the file is there whole or not at all.

    Args:
        path: None where nobody follows.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self._now: dict[str, Any] = {"took": {}}
        self._written = 0.0

    def began(self, step: str) -> None:
        """A step begins."""
        self._now |= {"step": step, "since": time.time(), "done": 0, "total": 0, "what": ""}
        self._write()

    def moved(self, done: int, total: int, what: str) -> None:
        """The step has done `done` of `total`."""
        self._now |= {"done": done, "total": total, "what": what}
        if time.monotonic() - self._written > APART:
            self._write()

    def ended(self, step: str, seconds: float) -> None:
        """The step has ended."""
        self._now["took"][step] = round(seconds, 3)
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._written = time.monotonic()
            with contextlib.suppress(OSError):  # a run does not end because nobody can follow it
                write_whole(self._path, json.dumps(self._now).encode(), durable=False)
