"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from audit.cli.followed import FOLLOWED, Followed
from audit.engine import Observer
from audit.numbers import show_seconds

if TYPE_CHECKING:
    from audit.finding import Outcome
    from audit.plan import Step
    from audit.run_folder import Run

_SIGNS = {"completed": "[green]done[/]", "error": "[bold red]error[/]", "not_applicable": "[yellow]not applicable[/]"}


class ConsoleObserver(Observer):
    """Follows a run on standard error; the verdict goes to standard output."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.path: Path | None = None
        self._live = self.console.is_terminal
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[what]}"), console=self.console, transient=True,
        )  # fmt: skip
        self._task: Any = None
        self._count = self._total = 0
        self._followed = Followed(os.environ.get(FOLLOWED))

    def __enter__(self) -> ConsoleObserver:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live:
            self._progress.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.path is not None:
            self.console.print(
                f"interrupted: what was measured so far is in {self.path}", style="yellow", soft_wrap=True
            )

    def loading(self, what: str) -> None:
        self.console.print(f"[dim]loading {escape(what)}[/]")

    def started(self, path: Path, steps: Sequence[Step]) -> None:
        self.path, self._total = path, len(steps)

    def step_started(self, step: Step) -> None:
        self._count += 1
        self._followed.began(step.name)
        if self._live:
            self._task = self._progress.add_task(escape(step.name), total=None, what="")

    def progress(self, step: Step, done: int, total: int, what: str) -> None:
        self._followed.moved(done, total, what)
        if self._live and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, what=what)

    def step_ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
        self._followed.ended(step.name, seconds)
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        message = f": {escape(outcome.message)}" if outcome.message else ""
        self.console.print(
            f"[dim]{self._count}/{self._total}[/] {escape(step.name)} {_SIGNS[outcome.status]} [dim]{show_seconds(seconds)}[/]{message}",
            soft_wrap=True,
        )

    def verdict(self, stored: Run, written: Sequence[Path]) -> None:
        """Print the verdict table and where everything is."""
        from audit.cli.terminal import show
        from audit.report._console import render

        show([*render(stored), *(f"report: {path}" for path in written)])
