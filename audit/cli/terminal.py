"""Printing to a person's terminal, or to a file or pipe where lines must not be broken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def show(parts: Iterable[Any]) -> None:
    """Print renderables on standard output; lines keep their length where it is no terminal."""
    from rich.console import Console

    console = Console()
    for part in parts:
        console.print(part, soft_wrap=not console.is_terminal)
