"""The command line: ``audit``. One thin file per command group; everything heavy is imported by the command that needs it."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

import typer

from audit.cli import catalogue, dashboard, demo, doctor, explain, export, frontier, model, runs, scenarios, train
from audit.parameters import UserError

app = typer.Typer(
    name="audit",
    help="Audit a machine-learning model before release: how it decides, how it breaks, what it leaks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
scenarios.register(app)
runs.register(app)
train.register(app)
frontier.register(app)
explain.register(app)
export.register(app)
catalogue.register(app)
doctor.register(app)
dashboard.register(app)
demo.register(app)
app.add_typer(model.app, name="model", help="The registry: add, list, show and remove models; grant trust.")


def _version(value: bool) -> None:
    if value:
        from audit import __version__

        typer.echo(f"assay {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one clear line per problem on standard error and exit."""
    for line in message.splitlines() or [""]:
        print(f"error: {line}", file=sys.stderr)
    raise SystemExit(code)


def _terminated(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: what a user can mend is one line and exit code 2, an interruption is 130."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        fail(f"{error.filename or 'the disk'}: {error.strerror}", 3)
