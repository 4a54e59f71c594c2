"""``audit train``: a training file becomes a registered model with its privacy ledger."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
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
    console = Console(stderr=True, highlight=False)
    if (dp := read.training.dp) is not None and dp.epsilon is not None:
        console.print(f"[dim]finding the noise level for epsilon {dp.epsilon:g}[/]")
    with _bar(console) as bar:
        watcher = _observer(read.training, console, bar)
        try:
            made = train_file(read, Registry(root), folder, fresh=fresh, observer=watcher)
        except KeyboardInterrupt:
            if watcher.done:
                console.print(
                    f"stopped after step {watcher.done}: run the same command again to resume", style="yellow"
                )
            raise
    _tell(made, read.training, "" if home is None else f" --home {shlex.quote(str(home))}")


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
    """Follows a training: a line each time that it is measured, and on a terminal a bar below."""
    from rich.markup import escape

    from audit.numbers import show_seconds
    from audit.train.ledger import Budget
    from audit.train.training import Observer

    measure = "squared error" if training.loss == "mse" else "accuracy"

    class Watcher(Observer):
        def __init__(self) -> None:
            self.task: Any = None
            self.done, self.total, self.losses, self.seen, self.at = 0, 0, [math.nan], "", 0.0

        def started(self, budget: Budget, n: int, done: int) -> None:
            for line in _plan(training, budget, n):
                console.print(line, soft_wrap=True)
            if done:
                console.print(f"resumed after step {done}")
            if budget.fallback:
                console.print(f"[yellow]caution:[/] {escape(budget.fallback)}", soft_wrap=True)
            self.done, self.total = done, budget.steps

        def lost(self, steps: int) -> None:
            console.print(
                f"[yellow]caution:[/] {steps:,} of these steps came after the last checkpoint: they are spent, and what they taught is "
                "lost; 'checkpoint_steps' writes one more often, --fresh starts anew",
                soft_wrap=True,
            )

        def prepared(self, way: str, remarks: Sequence[str]) -> None:
            if training.dp is not None:
                console.print(f"gradients: {way}", soft_wrap=True)
                for remark in remarks:
                    console.print(f"[dim]  {escape(remark)}[/]", soft_wrap=True)
            self.task, self.at = bar.add_task("", total=self.total, completed=self.done, what=""), time.monotonic()

        def stepped(self, done: int, loss: float) -> None:
            self.done = done
            if not math.isnan(loss):
                self.losses.append(loss)
            bar.update(self.task, completed=done, what=f"loss {self.losses[-1]:.3f} {self.seen}")

        def measured(self, score: float, epsilon: float | None) -> None:
            loss = sum(self.losses[1:]) / max(1, len(self.losses) - 1)
            self.seen = f"{measure} {score:.3f}" + (f"  epsilon {epsilon:.3f}" if epsilon is not None else "")
            took = show_seconds(time.monotonic() - self.at)
            console.print(
                f"step {self.done:>{len(str(self.total))}}/{self.total}  loss {loss:.3f}  {self.seen}  [dim]{took}[/]",
                soft_wrap=True,
            )
            self.losses = self.losses[:1]

    return Watcher()


def _plan(training: Training, budget: Any, n: int) -> list[str]:
    """What is about to happen."""
    length = f"{training.epochs} epochs" if training.epochs is not None else "as asked"
    drawn = "batches of about" if training.sampler == "poisson" else "shuffled batches of"
    lines = [f"{training.name}: {budget.steps:,} steps ({length}) on {n:,} rows, {drawn} {training.batch}"]
    known, dp = budget.accounting, training.dp
    if known is None or dp is None:
        return [*lines, "privacy: none (dp: off)"]
    how = {"prv": "by PRV", "rdp": "by RDP", "gaussian": "without amplification by sampling"}[known.accountant]
    return [
        *lines,
        f"privacy: epsilon {known.spent(budget.steps)[0]:.4g} at delta {known.delta:g} in the end, {how}; sampling rate "
        f"{known.rate:.4g}, noise multiplier {known.sigma:.4g}, {dp.clipping.replace('_', ' ')} clipping at {dp.clipping_norm:g}",
    ]


def _tell(made: Trained, training: Training, home: str) -> None:
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
    typer.echo(f"next: audit run {shlex.quote(str(made.scenario))}{home}")
