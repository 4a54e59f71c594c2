"""``audit list``, ``audit show``, ``audit judge``, ``audit report``: stored runs, read without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audit.cli.scenarios import HOME, LANG, parse_severity, writable

RUN = typer.Argument(help="Run: its folder, its name below HOME/runs or the name's beginning, or 'latest'.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(name="list")(list_)
    app.command()(show)
    app.command()(judge)
    app.command()(report)


def list_(
    home: Annotated[Path | None, HOME] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
) -> None:
    """List stored runs, newest first."""
    from rich.console import Console
    from rich.table import Table

    from audit.run_folder import Run
    from audit.stored import audit_home, stored_runs

    table, hidden = Table("run", "verdict", "scenario", "model", "findings", box=None, pad_edge=False), 0
    damaged = []
    for stored in stored_runs(home):
        if not isinstance(stored, Run):
            damaged.append(str(stored))
            continue
        if table.row_count >= limit:
            hidden += 1
            continue
        verdict = stored.manifest.get("verdict", {})
        counts = ", ".join(f"{n} {status}" for status, n in sorted(verdict.get("counts", {}).items()))
        word = verdict.get("word", "") if stored.state == "finished" else stored.state
        table.add_row(
            stored.name,
            word,
            str(stored.manifest.get("scenario", "")),
            ", ".join(stored.manifest.get("models", {})),
            counts,
        )
    if not table.row_count and not damaged:
        typer.echo(f"no runs in {audit_home(home) / 'runs'} yet: start with 'audit run FILE'")
        return
    Console(width=None if table.row_count == 0 else max(Console().width, 100)).print(table)
    if hidden:
        typer.echo(f"… and {hidden} older: --limit shows more")
    for line in damaged:
        typer.echo(f"damaged: {line}", err=True)


def show(
    run: Annotated[str, RUN] = "latest",
    all_: Annotated[bool, typer.Option("--all", "-a", help="Every measured number, not the gates alone.")] = False,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Show a stored run: verdict, gates, where the evidence is."""
    from audit.cli.terminal import show as print_parts
    from audit.report._console import render
    from audit.stored import find_run

    print_parts(render(find_run(run, home), everything=all_))


def judge(
    run: Annotated[str, RUN] = "latest",
    gates: Annotated[
        Path | None, typer.Option("--gates", help="Judge under this scenario's gates instead of the run's own.")
    ] = None,
    fail_on: Annotated[
        str, typer.Option("--fail-on", help="Exit 1 only where a gate of this severity or above failed.")
    ] = "low",
    write: Annotated[bool, typer.Option("--write", help="Store the findings in the run folder.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON lines.")] = False,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Judge a stored run again, under its own gates or others, without the model. Exit codes as `audit run`."""
    from audit.cli.terminal import show as print_parts
    from audit.finding import canonical_json
    from audit.report._console import render_findings
    from audit.stored import find_run, rejudge

    stored = find_run(run, home)
    result = rejudge(stored, gates, home=home, fail_on=parse_severity(fail_on), write=write)
    if json_:
        for finding in result.findings:
            typer.echo(canonical_json(finding.model_dump(mode="json", exclude_none=True)))
    else:
        print_parts(render_findings(result.findings, result.verdict))
    raise SystemExit(result.exit_code)


def report(
    run: Annotated[str, RUN] = "latest",
    format_: Annotated[str, typer.Option("--format", "-f", help="html, json, markdown, junit or sarif.")] = "html",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. Default: report.SUFFIX in the run folder; '-' prints."),
    ] = None,
    lang: Annotated[str | None, LANG] = None,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Write a report of a stored run."""
    from audit.language import code_of, speaking
    from audit.names import available, unknown
    from audit.parameters import UserError
    from audit.report import render, renderer, write
    from audit.stored import find_run

    if format_ not in available("reports"):
        raise unknown("report format", format_, available("reports"))
    language = code_of(lang or "en")
    if lang is not None and not renderer(format_).translated:
        raise UserError(f"--lang is for the HTML report: {format_} is English")
    stored = find_run(run, home)
    with speaking(language):
        if out is not None and str(out) == "-":
            typer.echo(render(format_, stored))
            return
        writable(out)
        path = out or stored.path / f"report.{renderer(format_).suffix}"
        typer.echo(f"wrote {write(format_, stored, path)}")
