"""What the first page would wait for, loaded before the server listens."""

from __future__ import annotations

import importlib

from audit.report._about import about, known_checks

LIBRARIES = ("altair", "pandas.io.formats.style")


def warm() -> None:
    """Load the libraries that pages draw with, and what each check says of itself."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for check in known_checks():
        about(check)
