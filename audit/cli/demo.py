"""``audit demo``: three real models from training to verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audit.cli.scenarios import HOME


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    scenarios: Annotated[Path, typer.Option(help="Folder with the demo's scenario files.")] = Path("scenarios"),
    only: Annotated[str | None, typer.Option(help="Run this one alone: digits, imagenet or loans.")] = None,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Train and register the demo models, audit them, and hold each verdict against the one it is there to show."""
    from rich.console import Console
    from rich.table import Table

    from audit.cli import fail
    from audit.cli.progress import ConsoleObserver
    from audit.demo.tour import EXHIBITS
    from audit.engine import audit_home, run
    from audit.names import nearest
    from audit.plan import bind
    from audit.registry.store import Registry
    from audit.report import write
    from audit.scenario import read

    names = [exhibit.file.removesuffix(".yaml") for exhibit in EXHIBITS]
    if only is not None and only not in names:
        guess = nearest(only, names)
        fail(f"--only {only}: choose {', '.join(names)}" + (f"; did you mean '{guess}'?" if guess else ""))
    console = Console(stderr=True)
    registry = Registry(audit_home(home))
    known = {card.name for card in registry.list()}
    table = Table("scenario", "model", "verdict", "expected", "gates", "report", box=None, pad_edge=False)
    wrong = 0
    for exhibit in EXHIBITS:
        if only is not None and exhibit.file != f"{only}.yaml":
            continue
        plan = bind(read(scenarios / exhibit.file))
        if exhibit.model not in known:
            console.print(f"[bold]{exhibit.model}[/]: making and registering the model")
            exhibit.prepare(registry, plan)
        console.print(f"[bold]{exhibit.file}[/]: {plan.scenario.description}")
        with ConsoleObserver() as observer:
            report = run(plan.file, home=home, observer=observer)
        path = write("html", report.stored, report.path / "report.html")
        met = report.verdict.word == exhibit.expected
        wrong += not met
        mark = "[green]✓[/]" if met else "[bold red]✗ not as expected[/]"
        table.add_row(
            exhibit.file,
            exhibit.model,
            report.verdict.word,
            f"{exhibit.expected} {mark}",
            report.verdict.sentence,
            str(path),
        )
    out = Console(width=max(Console().width, 160) if not Console().is_terminal else None)
    out.print()
    out.print(table, soft_wrap=True)
    out.print("\nOpen a report in a browser, or read it here with 'audit show'.")
    if wrong:
        fail(f"{wrong} scenario{'s' * (wrong > 1)} did not give the expected verdict", 1)
