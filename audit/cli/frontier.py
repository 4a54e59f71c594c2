"""``audit frontier``: what each epsilon costs in accuracy and what it keeps from attackers, in one table and one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli.scenarios import HOME, LANG_OF_PAGE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from audit.privacy.frontier_table import Frontier, Number, Point

_RATE = "0.01"
"""False positive rate of the table's column; the others are in the files."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(frontier)


def frontier(
    file: Annotated[Path, typer.Argument(help="Training file (.yaml) with a `dp`; its epsilon is replaced.")],
    epsilons: Annotated[str, typer.Option("--epsilons", "-e", help="Targets to train at, beside the plain baseline.")] = "1,2,4,8",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", "-a",
            help="Membership attack on every model: loss, class_threshold, rmia, lira …; repeat. Default: loss and class_threshold.",
        ),
    ] = None,
    references: Annotated[int, typer.Option(help="Reference models of rmia.", min=1, max=8)] = 4,
    shadows: Annotated[int, typer.Option(help="Shadow models of lira, an even number.", min=2)] = 16,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the trainings and the table. Default: HOME/trainings/NAME-frontier.")
    ] = None,
    lang: Annotated[str, LANG_OF_PAGE] = "en",
    home: Annotated[Path | None, HOME] = None,
) -> None:  # fmt: skip
    """Train at several epsilons and without privacy, attack each model, put it in one table. Run again to resume."""
    from rich.console import Console

    from audit.cli.terminal import show
    from audit.language import code_of, speaking
    from audit.privacy.frontier_table import CSV, JSON
    from audit.registry.store import Registry
    from audit.report._frontier_page import frontier_page
    from audit.run_folder import write_atomically
    from audit.stored import audit_home
    from audit.train.frontier import sweep
    from audit.train.training_file import read_training

    language = code_of(lang)
    read, root = read_training(file), audit_home(home)
    folder = out or root / "trainings" / f"{read.training.name}-frontier"
    with _watcher(Console(stderr=True)) as watcher:
        found = sweep(
            read, Registry(root), folder, _numbers(epsilons), attack or ("loss", "class_threshold"), references=references,
            shadows=shadows, watcher=watcher,
        )  # fmt: skip
    page = folder / "frontier.html"
    with speaking(language):
        write_atomically(page, frontier_page(found))
    show(["", _table(found), "", *(f"{mark} {note}" for note, mark in _notes(found).items()), found.price, ""])
    typer.echo(f"page: {page}\nnumbers: {folder / CSV}, {folder / JSON}")
    typer.echo(f"next: audit run {folder / found.points[0].name.removeprefix(f'{found.name}-') / 'audit.yaml'}")


def _numbers(text: str) -> list[float]:
    """``1,2,4`` as numbers.

    Raises:
        UserError: a part is none.
    """
    from audit.parameters import UserError, parse_real

    try:
        return [float(parse_real(part)) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--epsilons {text}: write numbers with commas between them, such as 1,2,4,8") from None


def _table(found: Frontier) -> Table:
    """One row a model; intervals in grey."""
    from rich.table import Table

    table = Table("model", box=None, pad_edge=False)
    for name in ("epsilon spent", found.utility):
        table.add_column(name, justify="right")
    for attack in found.attacks:
        table.add_column(f"AUC, {attack}", justify="right")
        table.add_column(f"found at {100 * float(_RATE):g} % FPR, {attack}", justify="right")
    for point in found.points:
        cells = [_cell(found, point.number(found.utility))]
        for attack in found.attacks:
            cells += [
                _cell(found, point.number("auc", attack)),
                _cell(found, point.number("tpr_at_fpr", attack, _RATE)),
            ]
        table.add_row(point.model, "none" if point.spent is None else f"{point.spent:.3f}", *cells)
    return table


def _cell(found: Frontier, number: Number | None) -> str:
    if number is None:
        return "–"
    mark = _notes(found).get(number.note, "")
    ends = "–".join("" if end is None else f"{end:.3f}" for end in (number.low, number.high))
    return f"{number.value:.3f}{mark} [dim]{ends}[/]"


def _notes(found: Frontier) -> dict[str, str]:
    """What is to be known of marked numbers of the table → their mark."""
    notes = dict.fromkeys(
        number.note for point in found.points for number in point.numbers if number.note and number.fpr in (None, _RATE)
    )
    return {note: "*" * place for place, note in enumerate(notes, 1)}


def _watcher(console: Console) -> Any:
    """Follows a sweep: on a terminal a bar, elsewhere a line for each model."""
    import math
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from audit.engine import Observer
    from audit.train.frontier import Watcher

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[what]}"), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip

    class Audit(Observer):
        def progress(self, step: Any, done: int, total: int, what: str) -> None:
            bar.update(watcher.task, completed=done, total=total, what=what)

    class Follow(Watcher):
        audit = Audit()
        task: Any = None

        def begin(self, what: str) -> None:
            if self.task is not None:
                bar.remove_task(self.task)
            self.task = bar.add_task(what, total=None, what="")
            if not console.is_terminal:
                console.print(what, soft_wrap=True)

        def training(self, name: str) -> None:
            self.begin(f"training {name}")

        def started(self, budget: Any, n: int, done: int) -> None:
            bar.update(self.task, completed=done, total=budget.steps)

        def stepped(self, done: int, loss: float) -> None:
            bar.update(self.task, completed=done, what="" if math.isnan(loss) else f"loss {loss:.3f}")

        def auditing(self, name: str) -> None:
            self.begin(f"auditing {name}")

        def kept(self, point: Point) -> None:
            console.print(f"[dim]{point.model}: trained and audited before, unchanged[/]", soft_wrap=True)

    watcher = Follow()

    @contextmanager
    def shown() -> Any:
        with bar:
            yield watcher

    return shown()
