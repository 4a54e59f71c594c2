"""``audit dashboard``: the run folders in a browser."""

from __future__ import annotations

import ipaddress
import os
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
    _refuse_taken(host, port)
    try:
        from streamlit.web import bootstrap
    except ImportError as error:
        raise UserError("the dashboard needs Streamlit: install it with 'pip install streamlit'") from error

    import dashboard as package
    from audit.stored import audit_home
    from dashboard import warm
    from dashboard.drawing import theme

    os.environ["AUDIT_HOME"] = str(audit_home(home).resolve())
    if not _loopback(host):
        typer.echo(
            f"warning: listening on {host}, beyond loopback: whoever can reach this machine sees every run and may start audits, and nobody is asked "
            "for a password",
            err=True,
        )
    typer.echo(f"dashboard of {os.environ['AUDIT_HOME']} on http://{_written(host)}:{port}; Ctrl-C ends it")
    warm.warm()
    settings = {
        **theme.options(),
        "server.address": host,
        "server.port": port,
        "server.allowedHosts": _hosts(host),
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
    }
    flags = {name.replace(".", "_"): value for name, value in settings.items()}
    bootstrap.load_config_options(flags)
    bootstrap.run(str(Path(str(package.__file__)).parent / "app.py"), False, [], flags)


def _hosts(host: str) -> list[str]:
    """Names that a browser may call the server by: another site's page cannot reach it under a name that was bent to this address.

    Every name is allowed where it listens on all addresses, for nobody knows there what it is called.
    """
    if host in ("0.0.0.0", "::"):
        return []
    return list(dict.fromkeys(("localhost", "127.0.0.1", "::1", host)))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _written(host: str) -> str:
    """The host as an address in a browser's line has it."""
    return f"[{host}]" if ":" in host else "localhost" if host in ("127.0.0.1", "0.0.0.0") else host


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
