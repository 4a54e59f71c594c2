"""``audit demo``: real models from training to verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli.scenarios import HOME
from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.plan import Plan
    from audit.registry.store import Registry
    from audit.run_folder import Run


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def _opens(registry: Registry, name: str) -> bool:
    """Whether a registered demo model still opens; another version's code does not make it."""
    try:
        registry.open(name)
    except UserError:
        return False
    return True


def _audited(plan: Plan, digests: list[str], home: Path | None) -> Run | None:
    """The newest finished run of this very scenario on these very models, by this version."""
    import hashlib

    from audit import __version__
    from audit.run_folder import Run
    from audit.stored import stored_runs

    wanted = hashlib.sha256(plan.file.text.encode()).hexdigest()
    for stored in stored_runs(home):
        if not isinstance(stored, Run) or stored.state != "finished":
            continue
        told = stored.manifest
        asked = [model.get("digest") for model in told["models"].values()]
        if told["scenario_sha256"] == wanted and told["audit"] == __version__ and asked == digests:
            return stored
    return None


def demo(
    scenarios: Annotated[Path, typer.Option(help="Folder with the demo's scenario files.")] = Path("scenarios"),
    only: Annotated[
        str | None,
        typer.Option(
            help="Run this one alone, such as digits or explain-cnn; families: one model of each family, explained; "
            "privacy: a model that leaks whom it was trained on beside one that does not."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Audit anew what was audited before, unchanged.")] = False,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Train and register the demo models, audit them, and hold each verdict against the one it is there to show."""
    from rich.console import Console
    from rich.table import Table

    from audit.cli import fail
    from audit.cli.progress import ConsoleObserver
    from audit.cli.terminal import show
    from audit.demo.families import FAMILIES
    from audit.demo.privacy import PRIVACY
    from audit.demo.tour import EXHIBITS, Exhibit
    from audit.engine import run
    from audit.names import nearest
    from audit.plan import bind
    from audit.registry.store import Registry
    from audit.report import write
    from audit.scenario import read
    from audit.stored import audit_home

    groups: dict[str, tuple[Exhibit, ...]] = {
        exhibit.file.removesuffix(".yaml"): (exhibit,) for exhibit in (*EXHIBITS, *FAMILIES, *PRIVACY)
    }
    groups |= {"families": FAMILIES, "privacy": PRIVACY}
    if only is not None and only not in groups:
        guess = nearest(only, list(groups))
        fail(f"--only {only}: choose {', '.join(groups)}" + (f"; did you mean '{guess}'?" if guess else ""))
    console = Console(stderr=True)
    registry = Registry(audit_home(home))
    known = {card.name for card in registry.list()}
    table = Table("scenario", "model", "verdict", "expected", "gates", box=None, pad_edge=False)
    reports = []
    wrong = 0
    for exhibit in groups[only] if only is not None else EXHIBITS:
        plan = bind(read(scenarios / exhibit.file, exhibit.overrides))
        if not all(model in known and _opens(registry, model) for model in exhibit.models):
            console.print(f"[bold]{', '.join(exhibit.models)}[/]: making and registering")
            exhibit.prepare(registry, plan)
        stored = None if again else _audited(plan, [registry.get(m).digest for m in exhibit.models], home)
        if stored is not None:
            console.print(f"[bold]{exhibit.file}[/]: audited before, unchanged [dim](--again audits it anew)[/]")
        else:
            console.print(f"[bold]{exhibit.file}[/]: {plan.scenario.description}")
            with ConsoleObserver() as observer:
                stored = run(plan.file, home=home, observer=observer).stored
        path = write("html", stored, stored.path / "report.html")
        told = stored.manifest["verdict"]
        met = told["word"] == exhibit.expected
        wrong += not met
        mark = "[green]✓[/]" if met else "[bold red]✗ not as expected[/]"
        table.add_row(
            exhibit.file, ", ".join(exhibit.models), told["word"], f"{exhibit.expected} {mark}", told["sentence"]
        )
        reports.append(path)
    show(
        [
            "",
            table,
            "",
            *(f"report: {path}" for path in reports),
            "",
            "Open a report in a browser, or read it here with 'audit show'.",
        ]
    )
    if wrong:
        fail(f"{wrong} scenario{'s' * (wrong > 1)} did not give the expected verdict", 1)
