"""``audit dashboard``: the run folders in a browser."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from audit.cli.scenarios import HOME
from audit.parameters import UserError

PORT = 8501


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(dashboard)


def dashboard(
    home: Annotated[Path | None, HOME] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="TCP port to listen on.")] = PORT,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen on. Beyond loopback, whoever reaches it sees every run and may start audits.",
        ),
    ] = "127.0.0.1",
) -> None:
    """Look at stored runs in a browser, from the verdict to the pixel. Ctrl-C ends it."""
    os.environ["AUDIT_HOME"] = str(_readable(home))
    _refuse_taken(host, port)
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _end)
    try:
        from dashboard import serving, warm
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "streamlit":
            raise
        raise UserError("the dashboard needs Streamlit: install it with 'pip install streamlit'") from error

    if not _loopback(host):
        typer.echo(
            f"warning: listening on {host}, beyond loopback: whoever can reach this machine sees every run and may start audits, and nobody is asked "
            "for a password",
            err=True,
        )
    warm.warm()
    typer.echo(f"dashboard of {os.environ['AUDIT_HOME']} on http://{_written(host)}:{port}; Ctrl-C ends it")
    serving.serve(host, port, _hosts(host))


def _end(number: int, frame: object) -> None:
    """A signal is how a dashboard ends: no failure, whether it listens already or not."""
    raise SystemExit(0)


def _readable(home: Path | None) -> Path:
    """The home, whole; one that is not there yet is said, for it may be a slip of the pen.

    Raises:
        UserError: it is no folder, or may not be read.
    """
    from audit.stored import audit_home

    path = audit_home(home).resolve()
    if not path.exists():
        typer.echo(f"note: there is no folder {path} yet: nothing is shown until an audit has run there", err=True)
    elif not path.is_dir():
        raise UserError(f"{path} is no folder: name the home of your audits with --home or AUDIT_HOME")
    elif not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path} may not be read by this user: name another home with --home or AUDIT_HOME")
    return path


def _hosts(host: str) -> list[str]:
    """Names that a browser may call the server by: another site's page cannot reach it under a name that was bent to this address.

    Every name is allowed where it listens on all addresses, for nobody knows there what it is called.
    """
    if host in ("0.0.0.0", "::"):
        return []
    return list(dict.fromkeys(("localhost", "127.0.0.1", "::1", host.lower())))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _written(host: str) -> str:
    """The host as an address in a browser's line has it."""
    if host in ("127.0.0.1", "0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _refuse_taken(host: str, port: int) -> None:
    """One clear line where the server could not listen."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror or error}: choose another with --port or --host"
        ) from error
