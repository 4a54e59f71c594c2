"""How ``audit model`` shows cards and scan reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from audit.registry.card import ModelCard
    from audit.registry.scan_report import ScanReport


def _console() -> Any:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def print_list(cards: list[ModelCard]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("model", "loader", "task", "answers", "input", "aliases", "tags", "added", box=None, pad_edge=False)
    for card in cards:
        told = f"{len(card.classes)} classes" if card.classes else card.task
        added = f"{card.added_at[:16].replace('T', ' ')} {card.added_by}"
        cells = (
            card.ref,
            card.loader,
            told,
            card.output,
            _input_told(card),
            ", ".join(card.aliases),
            ", ".join(card.tags),
            added,
        )
        table.add_row(*(escape(cell) for cell in cells))
    _console().print(table)


def _input_told(card: ModelCard) -> str:
    if card.spec.tabular:
        return f"table of {len(card.spec.fields)}"
    return f"{card.spec.kind} {'×'.join(map(str, card.spec.shape))}"


def print_card(card: ModelCard) -> None:
    from rich.markup import escape
    from rich.table import Table

    facts = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "model": card.ref,
        "aliases": ", ".join(card.aliases),
        "tags": ", ".join(card.tags),
        "digest": card.digest,
        "loader": card.loader,
        **{f"  {key}": json.dumps(value, ensure_ascii=False) for key, value in card.parameters.items()},
        "task": card.task,
        "classes": ", ".join(card.classes[:20]) + (f" … ({len(card.classes)})" if len(card.classes) > 20 else ""),
        "answers": card.output,
        "capabilities": ", ".join(card.capabilities),
        "preprocessing": card.spec.preprocessing,
        **{f"file {name}": f"sha256 {sha256}" for name, sha256 in card.files.items()},
        "members known": "yes" if card.members else "no",
        "source": card.source,
        "added": f"{card.added_at} by {card.added_by}",
    }
    for key, value in rows.items():
        if value:
            facts.add_row(f"[dim]{escape(key)}[/]", escape(str(value)))
    fields = Table("input", "kind", "shape", "bounds", "units", "categories", box=None, pad_edge=False)
    for item in card.spec.fields:
        limits = f"{item.bounds[0]:g} … {item.bounds[1]:g}" if item.bounds else ""
        cells = (
            item.name,
            item.kind,
            "×".join(map(str, item.shape)),
            limits,
            item.units,
            ", ".join(item.categories[:12]),
        )
        fields.add_row(*(escape(cell) for cell in cells))
    console = _console()
    console.print(facts)
    console.print()
    console.print(fields)


def print_scan(report: ScanReport) -> None:
    from audit.registry.byte_window import printable

    typer.echo(
        f"{printable(report.path.name)}: {report.format}, {report.size:,} bytes, {report.verdict.replace('_', ' ')}"
    )
    typer.echo(f"sha256 {report.sha256 or '(not read)'}")
    for issue in report.findings:
        typer.echo(f"- {issue}")
