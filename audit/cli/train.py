"""``audit train``: a training file becomes a registered model with its privacy ledger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli.scenarios import HOME

if TYPE_CHECKING:
    from rich.console import Console

    from audit.train.training import Trained
    from audit.train.training_file import Training


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    file: Annotated[Path, typer.Argument(help="Training file (.yaml).")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of checkpoints, model and ledger. Default: HOME/trainings/NAME."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew instead of going on from an interrupted training.")
    ] = False,
    home: Annotated[Path | None, HOME] = None,
) -> None:
    """Train with DP-SGD (or, `dp: off`, without), register the model with its privacy ledger. Run again to resume."""
    from rich.console import Console

    from audit.registry.store import Registry
    from audit.stored import audit_home
    from audit.train.training import train as train_file
    from audit.train.training_file import read_training

    read, root = read_training(file), audit_home(home)
    folder = out or root / "trainings" / read.training.name
    console = Console(stderr=True)
    with _bar(console) as bar:
        made = train_file(read, Registry(root), folder, fresh=fresh, observer=_observer(read.training, console, bar))
    _tell(made, read.training)


def _bar(console: Console) -> Any:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("training"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[what]}"), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def _observer(training: Training, console: Console, bar: Any) -> Any:
    """Follows a training: on a terminal a bar, elsewhere a line an epoch."""
    from audit.train.ledger import Budget
    from audit.train.training import Observer

    measure = "squared error" if training.loss == "mse" else "accuracy"

    class Watcher(Observer):
        def __init__(self) -> None:
            self.task: Any = None
            self.done, self.loss, self.seen = 0, math.nan, ""

        def started(self, budget: Budget, n: int, done: int) -> None:
            console.print(f"[dim]{_plan(budget, n)}{f'; resumed after {done} steps' * bool(done)}[/]", soft_wrap=True)
            if budget.fallback:
                console.print(f"[yellow]caution:[/] {budget.fallback}", soft_wrap=True)
            self.task = bar.add_task("", total=budget.steps, completed=done, what="")

        def stepped(self, done: int, loss: float) -> None:
            self.done, self.loss = done, self.loss if math.isnan(loss) else loss
            bar.update(self.task, completed=done, what=f"loss {self.loss:.3f} {self.seen}")

        def measured(self, score: float, epsilon: float | None) -> None:
            self.seen = f"{measure} {score:.3f}" + (f" epsilon ≤ {epsilon:.3f}" if epsilon is not None else "")
            if not console.is_terminal:
                console.print(f"step {self.done}: loss {self.loss:.3f} {self.seen}", soft_wrap=True)

    return Watcher()


def _plan(budget: Any, n: int) -> str:
    """What is about to happen, on one line."""
    known = budget.accounting
    if known is None:
        return f"{budget.steps} steps on {n} rows, without privacy"
    return (
        f"{budget.steps} steps on {n} rows, sampling rate {known.rate:.4g}, noise multiplier {known.sigma:.4g}, "
        f"delta {known.delta:g}"
    )


def _tell(made: Trained, training: Training) -> None:
    """What was made, what it cost, and what to do next."""
    measure = "mean squared error" if training.loss == "mse" else "accuracy"
    typer.echo(f"registered {made.card.ref}: {measure} {made.score:.4f} on the test rows")
    record = made.record
    if record is None or record.claim is None:
        typer.echo("privacy: none (dp: off)")
    else:
        typer.echo(
            f"privacy: epsilon {record.claim.epsilon:.4f} at delta {record.claim.delta:g} ({record.accountant}), "
            f"{record.steps} steps; ledger {made.folder / 'privacy.json'}"
        )
    for caution in made.cautions:
        typer.echo(f"caution: {caution.message}", err=True)
    source = training.data["source"]
    typer.echo(f"next: audit init --model {made.card.ref} --data {source}, then audit run {made.card.name}.yaml")
