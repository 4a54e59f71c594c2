"""``audit explain``: single inputs, explained in pictures and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli.scenarios import HOME, LANG_OF_PAGE
from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.cli.explain_inputs import Inputs
    from audit.data import AuditData, Batch
    from audit.explainers import Explainer
    from audit.model import AuditedModel

_BACKGROUND = 100
"""Background rows taken at most, as checks of explanations do by default."""
_SAMPLES = 16
"""Rows of a data source where no number is given."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    model: Annotated[str, typer.Argument(help="Registered model: name, name@3, name@latest or name@alias.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...", help="Images, .npy or .npz arrays, .csv tables or columns of texts, .txt texts."
        ),
    ] = None,
    explainer: Annotated[
        list[str] | None,
        typer.Option(
            "--explainer",
            "-e",
            metavar="NAME",
            help="Explainer, or {NAME: {KEY: VALUE}}; repeat to see several side by side. Default: one that suits the model.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "--param",
            "-p",
            metavar="[NAME.]KEY=VALUE",
            help="Parameter of the explainers that have it; repeatable.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Class to explain: name or index. Default: the predicted one.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to explain; repeatable.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Rows of a data source: sklearn.digits, {source: …}, or a scenario file's."
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="0,5,9", help="These rows of the inputs or the source alone.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help=f"So many rows, drawn as checks do. Of a source by default {_SAMPLES}.")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Rows that stand for 'absent': a file or data source. Default: those of --data."
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of a .csv that holds the texts.")] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Resize images of another size.")] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Take blank cells and NaN of a table as missing values.")
    ] = False,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality", help="Measure deletion and insertion gain of every explanation; asks the model more."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")] = Path("explanations"),
    lang: Annotated[str, LANG_OF_PAGE] = "en",
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Explain single inputs: a picture, the numbers (.npz) and a page (index.html) for each, with several explainers side by side.

    Exit codes: 0 explained; 2 an input, the model or the command line is wrong; 3 the model or an explainer broke; 130 interrupted.
    """
    from audit.cli import fail
    from audit.cli.explain_choice import chosen_explainers
    from audit.cli.explain_inputs import InputReader, chosen_rows, data_of
    from audit.cli.explain_session import Session
    from audit.explainers import usual
    from audit.language import code_of
    from audit.registry.store import Registry
    from audit.stored import audit_home

    language = code_of(lang)
    chosen = chosen_explainers(explainer, set_ or []) if explainer else None
    if data is None and not inputs and not text:
        raise UserError("nothing to explain: give files, --text or --data")
    if data is not None and (inputs or text):
        raise UserError("give files and texts, or --data: one of the two")
    opened = Registry(audit_home(home)).open(model)
    if chosen is None:
        chosen = chosen_explainers([usual(opened.capabilities) or "shap_values"], set_ or [])
    _refuse_unfit(opened, chosen, quality)
    reader = InputReader(opened, column=column, resize=resize, missing=missing)
    source = data_of(data, opened) if data is not None else None
    found = source_rows(source) if source is not None else reader.read(inputs or (), text or ())
    found = chosen_rows(found, rows, samples if samples or rows or source is None else _SAMPLES, seed)
    others = background_rows(background, source, opened, missing, seed)
    if quality and others is None:
        raise UserError("--quality puts background rows in the place of what it removes: give --background")
    aim = class_named(target, opened)
    session = Session(opened, model, chosen, others, aim, quality, seed, language)
    try:
        session.run(found, out)
    except (UserError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:  # the model under audit is anybody's code, and may raise anything
        fail(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}", 3)


def _refuse_unfit(model: AuditedModel, chosen: Sequence[tuple[str, str, Explainer]], quality: bool) -> None:
    from audit.checks.explanation.faithfulness import Faithfulness

    if model.output == "tokens":
        raise UserError(f"model '{model.name}' gives tokens, not a score to explain")
    for label, _, one in chosen:
        if absent := sorted(one.needs - model.capabilities):
            raise UserError(f"{label} needs {', '.join(absent)}: model '{model.name}' does not offer it")
    if quality and model.task not in Faithfulness.tasks:
        raise UserError(f"--quality is not measured for {model.task}")


def source_rows(data: AuditData) -> Inputs:
    """The test rows of a data source, as inputs."""
    from audit.cli.explain_inputs import Inputs

    names = tuple(f"row {i}" for i in range(len(data.test)))
    return Inputs(data.test, names, labelled=True, notes=(f"rows of {data.source}, numbered among its test rows",))


def background_rows(
    text: str | None, source: AuditData | None, model: AuditedModel, missing: bool, seed: int
) -> Batch | None:
    """Rows that stand for "absent": those named, else those of the source that are not explained; None where there are none."""
    from audit.checks._sample import shuffled
    from audit.cli.explain_inputs import InputReader, data_of

    if text is not None:
        path = Path(text)
        is_file = path.is_file() and path.suffix.lower() not in (".yaml", ".yml")
        rows = InputReader(model, missing=missing).read([path]).batch if is_file else data_of(text, model).test
    elif source is not None:
        rows = next((part for part in (source.population, source.train) if part is not None and len(part)), source.test)
    else:
        return None
    return rows.take(shuffled(rows.ids, seed)[:_BACKGROUND])  # explainers take the first ones


def class_named(text: str | None, model: AuditedModel) -> int | None:
    """The class that a name or an index stands for; None for None.

    Raises:
        UserError: there is no such class.
    """
    from audit.names import unknown

    if text is None:
        return None
    if model.task == "regression":
        raise UserError(f"--target: model '{model.name}' gives a number, not classes")
    if text in model.classes:
        return model.classes.index(text)
    if text.isdecimal() and int(text) < len(model.classes):
        return int(text)
    raise unknown("class", text, list(model.classes))
