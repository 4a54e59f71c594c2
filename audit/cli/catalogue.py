"""``audit checks``, ``audit attacks``, ``audit explainers``: what there is, told by the code itself."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any

import typer

NAME = typer.Argument(help="One of them, with its parameters, source and blind spots.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(checks)
    app.command()(attacks)
    app.command()(explainers)


def checks(name: Annotated[str | None, NAME] = None) -> None:
    """List checks, or explain one: parameters, metrics, needs, source, blind spots."""
    _catalogue("checks", name)


def attacks(name: Annotated[str | None, NAME] = None) -> None:
    """List attacks, or explain one."""
    _catalogue("attacks", name)


def explainers(name: Annotated[str | None, NAME] = None) -> None:
    """List explainers, or explain one."""
    _catalogue("explainers", name)


def _catalogue(group: Any, name: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from audit.names import available, resolve

    console = Console()
    if name is not None:
        _explain(console, group, name)
        return
    table = Table("name", "what it does", box=None, pad_edge=False)
    for known in available(group):
        table.add_row(known, _first_line(resolve(group, known)))
    console.print(table)
    if group == "attacks":
        from audit.bridges.art_catalogue import available as offered
        from audit.bridges.art_catalogue import refused

        names = offered()
        console.print(
            f"\n[bold]through adversarial-robustness-toolbox[/], as art.NAME ({len(names)}):\n{', '.join(names)}"
        )
        console.print("\n[bold]not offered[/], and why:")
        for reason, of_these in refused().items():
            console.print(f"{', '.join(of_these)}: {reason}")
    console.print(f"\n[dim]audit {group} NAME explains one.[/]")


def _first_line(found: type[Any]) -> str:
    return (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")


def _reflowed(text: str) -> str:
    """Paragraphs without the line breaks of the source file; each labelled line (``Source:``) starts its own."""
    labelled = re.sub(r"\n(?=(Source|Blind spots):)", "\n\n", text)
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", labelled))


def _explain(console: Any, group: Any, name: str) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from audit.names import resolve_member

    found, member = resolve_member(group, name)
    if member and group == "attacks":
        from audit.bridges.art_catalogue import signature

        theirs = signature(member["member"])
    console.print(f"[bold]{name}[/]\n")
    console.print(escape(_reflowed(inspect.getdoc(found) or "")))
    fields = {n: f for n, f in found.model_fields.items() if n != "member"}
    if fields:
        table = Table(
            "parameter",
            "type",
            "default",
            "meaning",
            title="parameters",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for field_name, info in fields.items():
            default = "required" if info.is_required() else escape(repr(info.get_default(call_default_factory=True)))
            table.add_row(
                field_name,
                escape(_type_name(found, field_name)),
                default,
                escape(found.documentation().get(field_name, "")),
            )
        console.print()
        console.print(table)
    if member and group == "attacks":
        own = ", ".join(f"{n}={theirs.parameters[n]}" for n in theirs.settable)
        console.print(f"\n[bold]{theirs.class_name}[/]'s own parameters: {escape(own)}", soft_wrap=True)
    if metrics := getattr(found, "metrics", ()):
        table = Table(
            Column("metric", no_wrap=True),
            "meaning",
            "better",
            "estimate",
            "varies over",
            title="metrics",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for metric in metrics:
            table.add_row(metric.name, escape(metric.title), metric.better, ", ".join(metric.kinds), metric.varies)
        console.print()
        console.print(table)
    if needs := sorted(getattr(found, "needs", ())):
        console.print(f"\n[bold]needs[/] {', '.join(needs)}")
    if remedy := getattr(found, "remedy", ""):
        console.print(f"\n[bold]where a gate is missed[/] {escape(remedy)}")
    if controls := getattr(found, "controls", ()):
        console.print(f"\n[bold]asked for by[/] {escape(', '.join(controls))}")


def _type_name(found: type[Any], field: str) -> str:
    """A field's type as its schema tells it."""
    schema = found.model_json_schema(mode="validation")["properties"].get(field, {})

    def name(part: dict[str, Any]) -> str:
        if "enum" in part:
            return " | ".join(map(str, part["enum"]))
        if "const" in part:
            return str(part["const"])
        if "anyOf" in part:
            return " | ".join(dict.fromkeys(name(option) for option in part["anyOf"]))
        if "$ref" in part:
            return str(part["$ref"].rsplit("/", 1)[-1])
        if part.get("type") == "array":
            return f"list of {name(part.get('items', {}))}"
        return str(part.get("type", "any"))

    return name(schema)
