"""``audit validate``, ``audit schema``, ``audit init``, ``audit run``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audit.finding import Severity

HOME = typer.Option("--home", help="Where models, trust and runs live. Default: AUDIT_HOME, or .audit here.")
LANG = typer.Option("--lang", help="Language of the HTML report: en or zh. What is stored stays English.")
LANG_OF_PAGE = typer.Option("--lang", help="Language of the page: en or zh. What is stored and printed stays English.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(validate)
    app.command()(init)
    app.command()(schema)


def validate(files: Annotated[list[Path], typer.Argument(help="Scenario files.")]) -> None:
    """Check scenario files without loading anything: line, field, what was expected, the nearest known name."""
    from audit.cli import fail
    from audit.parameters import UserError
    from audit.plan import bind
    from audit.scenario import read

    problems = []
    for path in files:
        try:
            plan = bind(read(path))
        except UserError as error:
            problems.append(str(error))
            continue
        gates = plan.gate_count
        note = f"{gates} gate{'s' * (gates != 1)}" if gates else "no gate: runs with --explore only"
        typer.echo(f"{path}: valid: {len(plan.scenario.checks)} checks, {len(plan.steps)} steps, {note}")
    if problems:
        fail("\n".join(problems))


def schema(
    name: Annotated[
        str | None, typer.Argument(help="A check, attack, explainer or data source; default: a whole scenario file.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="The schema of JSON reports.")] = False,
) -> None:
    """Print the JSON Schema of scenario files, of one part's parameters, or of JSON reports."""
    from audit.names import available, unknown
    from audit.parameters import UserError
    from audit.schema import part_schema, scenario_schema

    if report:
        from audit.report.json import schema as report_schema

        found = report_schema()
    elif name is None:
        found = scenario_schema()
    else:
        for group in ("checks", "attacks", "explainers", "datasets"):
            try:
                found = part_schema(group, name)
                break
            except UserError:
                continue
        else:
            raise unknown(
                "part", name, [n for g in ("checks", "attacks", "explainers", "datasets") for n in available(g)]
            )  # type: ignore[arg-type]
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


def init(
    model: Annotated[str, typer.Option(help="Registered model: name, name@version or name@alias.")],
    data: Annotated[
        str, typer.Option(help="A data source (sklearn.digits) or a file (.csv, .parquet, .npz) or image folder.")
    ],
    label: Annotated[str | None, typer.Option(help="Label column of a table.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. Default: MODEL.yaml here.")] = None,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Write a commented starter scenario with the checks that suit the model's capabilities and task."""
    from audit.parameters import UserError
    from audit.registry.store import Registry
    from audit.starter import starter
    from audit.stored import audit_home

    card = Registry(audit_home(home)).get(model)
    path = out or Path(f"{card.name}.yaml")
    text = starter(card, model, data, label, path.resolve().parent)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists already: name another file with --out") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}\nnext: audit run {path}")


def run(
    file: Annotated[Path, typer.Argument(help="Scenario file.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Audit this registered model instead of the scenario's; repeat to sweep."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="ID.KEY=VALUE", help="Override a parameter: --set robustness.evasion.eps=0.05."),
    ] = None,
    explore: Annotated[bool, typer.Option("--explore", help="Allow a scenario without gates: measure only.")] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on", help="Exit 1 only where a gate of this severity or above failed: low, medium, high, critical."
        ),
    ] = "low",
    html: Annotated[bool, typer.Option("--html", help="Write report.html into the run folder.")] = False,
    lang: Annotated[str | None, LANG] = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="F", help="Write a JSON report.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="F", help="Write a JUnit XML report.")] = None,
    sarif: Annotated[Path | None, typer.Option("--sarif", metavar="F", help="Write a SARIF 2.1.0 report.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="F", help="Write a Markdown report.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder to make. Default: HOME/runs/TIME-NAME.")
    ] = None,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Audit a model: run every check of a scenario, judge its gates, store the evidence.

    Exit codes: 0 every gate passed; 1 a gate failed; 2 the scenario or command line is wrong; 3 something broke or means
    nothing; 4 a gate cannot be decided with this much data; 130 interrupted.
    """
    from audit.cli.progress import ConsoleObserver
    from audit.engine import run as run_scenario
    from audit.language import code_of, speaking
    from audit.parameters import UserError
    from audit.report import write

    if lang is not None and not html:
        raise UserError("--lang is for the HTML report: add --html")
    spoken = code_of(lang or "en")
    wanted = {"json": json_, "junit": junit, "sarif": sarif, "markdown": markdown}
    severity = parse_severity(fail_on)
    for path in wanted.values():
        writable(path)
    with ConsoleObserver() as observer:
        report = run_scenario(
            file,
            home=home,
            model=model or None,
            overrides=set_ or (),
            explore=explore,
            fail_on=severity,
            out=out,
            observer=observer,
        )
    stored = report.stored
    if html:
        wanted["html"] = stored.path / "report.html"
    with speaking(spoken):
        written = [write(name, stored, path) for name, path in wanted.items() if path is not None]
    observer.verdict(stored, written)
    raise SystemExit(report.exit_code)


def parse_severity(text: str) -> Severity:
    """A severity by name.

    Raises:
        UserError: there is no such severity.
    """
    from audit.finding import Severity
    from audit.parameters import UserError

    try:
        return Severity(text.lower())
    except ValueError:
        raise UserError(f"--fail-on {text}: choose {', '.join(Severity)}") from None


def writable(path: Path | None) -> None:
    """Refuse a report path that cannot be written, before hours of measuring.

    Raises:
        UserError: its folder is missing or not writable, or it is a folder.
    """
    from audit.parameters import UserError

    if path is None:
        return
    folder = path.resolve().parent
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    if not folder.is_dir():
        raise UserError(f"{path}: there is no folder {folder.name}/: make it first")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: its folder is not writable")
