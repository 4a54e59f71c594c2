"""``audit model``: the registry, and what may be opened and imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli.scenarios import HOME
from audit.parameters import UserError, parse_real

if TYPE_CHECKING:
    from audit.registry.store import Registry
    from audit.registry.trust import Trust

app = typer.Typer(no_args_is_help=True)

Home = Annotated[Path | None, HOME]
Ref = Annotated[str, typer.Argument(help="name, name@3, name@latest or name@alias.")]
DigestOrFile = Annotated[str, typer.Argument(metavar="DIGEST|FILE", help="SHA-256 of a file, or the file.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name; every add makes a new version of it.")],
    source: Annotated[
        str, typer.Argument(metavar="FILE|DIR|URI", help="Model file or folder, or package.module:function.")
    ],
    loader: Annotated[
        str | None, typer.Option(help="Loader; told by the file's content where one only opens it.")
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(help="Of weights: package.module:function that makes the module. Its package must be allowed."),
    ] = None,
    kwargs: Annotated[str | None, typer.Option(metavar="JSON", help="Keyword arguments of the factory.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter", "-p", metavar="KEY=VALUE", help="Any parameter of the loader; JSON or text; repeatable."
        ),
    ] = None,
    trust_type: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE", help="Of skops: a type that the file may hold besides those that skops trusts; repeatable."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names in the order of the outputs: a,b,c; or how many.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="What it answers: logit, margin, probability, label or value.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", metavar="KIND", help="What it is fed: image, number, series, text, tokens or table."),
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of one input, without the batch: 3,224,224.")] = None,
    bounds: Annotated[str | None, typer.Option(help="Smallest and largest valid value as fed: 0,255.")] = None,
    units: Annotated[str, typer.Option(help="Units of the input.")] = "",
    features: Annotated[
        str | None,
        typer.Option(help="Columns of a table: names separated by commas, or a CSV or Parquet file that has them."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the --features file that is no input.")] = None,
    spec: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML or JSON of the whole input spec.")] = None,
    preprocessing: Annotated[str, typer.Option(help="What the model does to its input, in words.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Tag; repeatable.")] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="Alias of this version, such as 'production'; repeatable.")
    ] = None,
    members: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ids of the rows it was trained on, one a line, for privacy checks."),
    ] = None,
    home: Home = None,
) -> None:
    """Register a model: its file is copied, scanned, opened and asked before anything is written down."""
    from audit.registry.input_choice import InputChoice

    parameters = _parameters(parameter, factory, kwargs, trust_type)
    choice = InputChoice(
        kind=input_,
        shape=_integers(shape, "--shape") if shape is not None else None,
        bounds=_bounds(bounds),
        units=units,
        features=features,
        label=label,
        file=spec,
        preprocessing=preprocessing,
    )
    card = _registry(home).add(
        name,
        source,
        loader=loader,
        parameters=parameters,
        task=_one_of(task, "task", ("classification", "regression")),
        classes=_classes(classes),
        spec=choice,
        output=_one_of(output, "output", ("logit", "margin", "probability", "label", "value")),
        tags=tag or (),
        aliases=alias or (),
        members=_members(members),
    )
    told = f"{len(card.classes)} classes" if card.classes else card.task
    typer.echo(f"added {card.ref}: {card.loader}, {told}, answers {card.output}; {', '.join(card.capabilities)}")
    typer.echo(f"digest {card.digest}")


@app.command(name="list")
def list_(
    json_: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False, home: Home = None
) -> None:
    """List every version of every model."""
    cards = _registry(home).list()
    if json_:
        typer.echo(json.dumps([card.model_dump(mode="json") for card in cards], indent=2, ensure_ascii=False))
    elif not cards:
        typer.echo("no models yet: add one with 'audit model add NAME FILE'")
    else:
        from audit.cli.model_tables import print_list

        print_list(cards)


@app.command()
def show(
    ref: Ref, json_: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False, home: Home = None
) -> None:
    """Show what is known of a model."""
    card = _registry(home).get(ref)
    if json_:
        typer.echo(json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        from audit.cli.model_tables import print_card

        print_card(card)


@app.command()
def remove(
    ref: Ref, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, home: Home = None
) -> None:
    """Forget one version; files that no other version has are deleted."""
    registry = _registry(home)
    card = registry.get(ref)
    if not yes:
        aliased = f" (alias {', '.join(card.aliases)})" if card.aliases else ""
        try:
            agreed = typer.confirm(f"remove {card.ref}{aliased}, added {card.added_at} by {card.added_by}?", err=True)
        except typer.Abort:
            typer.echo(err=True)  # the question's line is still open
            agreed = False
        if not agreed:
            raise UserError("nothing was removed: answer 'y', or give --yes")
    _, freed = registry.remove(card.ref)
    typer.echo(f"removed {card.ref}, {freed:,} bytes freed")


@app.command()
def alias(
    ref: Ref,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Alias, such as 'production'.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias off instead.")] = False,
    home: Home = None,
) -> None:
    """Let NAME@ALIAS mean a version; it moves here from the model's other versions."""
    registry = _registry(home)
    if remove:
        card = registry.get(ref)
        registry.remove_alias(card.name, name)
        typer.echo(f"{card.name}@{name} is no more")
    else:
        typer.echo(f"{registry.set_alias(ref, name).name}@{name} is {registry.get(ref).ref}")


@app.command()
def tag(
    ref: Ref,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="Tags.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tags off instead.")] = False,
    home: Home = None,
) -> None:
    """Add tags to a version."""
    registry = _registry(home)
    card = registry.untag(ref, *tags) if remove else registry.tag(ref, *tags)
    typer.echo(f"{card.ref}: {', '.join(card.tags) or 'no tags'}")


@app.command()
def scan(
    file: Annotated[Path, typer.Argument(help="File to look at.")],
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what a file holds and whether opening it could run code, without opening it. Exit code 0: clean, 1: not."""
    from audit.registry.scan import scan_file

    report = scan_file(file)
    if json_:
        facts = {"path": str(report.path), "sha256": report.sha256, "size": report.size, "format": report.format}
        findings = [{"where": issue.where, "what": issue.what} for issue in report.findings]
        typer.echo(json.dumps({**facts, "verdict": report.verdict, "findings": findings}, indent=2, ensure_ascii=False))
    else:
        from audit.cli.model_tables import print_scan

        print_scan(report)
    raise typer.Exit(0 if report.verdict == "clean" else 1)


@app.command()
def trust(
    file: DigestOrFile,
    reason: Annotated[str, typer.Option(help="Why; kept with the grant.")] = "given on the command line",
    home: Home = None,
) -> None:
    """Trust a file by its digest: whoever made it may run code here when it is opened."""
    from audit.registry.registering import user_name

    sha256 = _digest(file, scanned=True)
    _trust(home).allow_digest(sha256, user_name(), reason)
    typer.echo(f"trusted: {sha256}")


@app.command()
def untrust(file: DigestOrFile, home: Home = None) -> None:
    """Take trust in a file back."""
    sha256 = _digest(file, scanned=False)
    _trust(home).revoke(sha256)
    typer.echo(f"no longer trusted: {sha256}")


@app.command()
def allow(
    package: Annotated[
        str | None, typer.Argument(help="Importable package; without one, those allowed are listed.")
    ] = None,
    home: Home = None,
) -> None:
    """Let factories and callables be imported from a package: registered models may run its code."""
    granted = _trust(home)
    if package is None:
        typer.echo("\n".join(granted.packages()) or "no packages are allowed")
        return
    granted.allow_package(package)
    typer.echo(f"allowed: {package}")


@app.command()
def disallow(package: Annotated[str, typer.Argument(help="Package.")], home: Home = None) -> None:
    """Take a package back."""
    _trust(home).revoke_package(package)
    typer.echo(f"no longer allowed: {package}")


# --- reading options ---


def _registry(home: Path | None) -> Registry:
    from audit.registry.store import Registry
    from audit.stored import audit_home

    return Registry(audit_home(home))


def _trust(home: Path | None) -> Trust:
    from audit.registry.trust import Trust
    from audit.stored import audit_home

    return Trust(audit_home(home))


def _digest(text: str, *, scanned: bool) -> str:
    """The digest of a file, or one as it is."""
    import re

    from audit.cli.model_tables import print_scan
    from audit.registry.scan import digest_file, scan_file

    if re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        return text.strip().lower()
    if not scanned:
        return digest_file(text)
    report = scan_file(text)
    if report.verdict == "refused" and report.format != "unknown":
        raise UserError(f"{report.summary}; trusting it would not help")
    print_scan(report)
    return report.sha256


def _parameters(
    pairs: list[str] | None, factory: str | None, kwargs: str | None, trust_type: list[str] | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--parameter '{pair}': write KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    if factory is not None:
        found["factory"] = factory
    if kwargs is not None:
        try:
            found["kwargs"] = json.loads(kwargs)
        except ValueError as error:
            raise UserError(f"--kwargs is no JSON: {error}") from error
        if not isinstance(found["kwargs"], dict):
            raise UserError("--kwargs must be a JSON object, such as '{\"width\": 32}'")
    if trust_type:
        found["trusted_types"] = trust_type
    return found


def _one_of(value: str | None, what: str, known: tuple[str, ...]) -> Any:
    if value is not None and value not in known:
        raise UserError(f"there is no {what} '{value}'; known: {', '.join(known)}")
    return value


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"{option} '{text}': write whole numbers separated by commas, such as 3,224,224") from error


def _bounds(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(parse_real(part)) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--bounds '{text}': write the smallest and the largest valid value, such as 0,255") from error
    return low, high


def _classes(text: str | None) -> list[str] | int | None:
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"--classes '{text}': write names separated by commas, or how many classes there are")
    return names


def _members(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from error
