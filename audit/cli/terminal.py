"""Printing to a person's terminal, or to a file or pipe where lines must not be broken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

WIDE = 200
"""Columns of a table that goes to a file or pipe."""


def show(parts: Iterable[Any]) -> None:
    """Print renderables on standard output; lines keep their length where it is no terminal."""
    from rich.console import Console

    person = Console().is_terminal
    console = Console() if person else Console(width=WIDE)
    for part in parts:
        console.print(part, soft_wrap=not person)
