"""The server: the pages, who may ask for them, and what a reader is told where one breaks."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.drawing import theme
from dashboard.guard import Guard
from dashboard.parts.markdown import plain
from dashboard.words import _

APP = Path(__file__).parent / "app.py"


def serve(host: str, port: int, hosts: Collection[str]) -> None:
    """Serve the pages until a signal ends it.

    Args:
        host: address to listen on.
        hosts: names that the server may be called by; empty: any.
    """
    from starlette.middleware import Middleware

    app = st.App(APP, middleware=[Middleware(Guard, hosts=hosts)], on_script_error=broken)
    app.run(config={**theme.options(), **_settings(host, port)})


def _settings(host: str, port: int) -> dict[str, Any]:
    """Where it listens and what it tells, whatever a settings file of Streamlit's says that lies here or in the user's folder."""
    return {
        "browser.serverAddress": "localhost",
        "client.allowedOrigins": [],
        "client.showSidebarNavigation": True,
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "warning",
        "server.address": host,
        "server.baseUrlPath": "",
        "server.corsAllowedOrigins": [],
        "server.enableAgentApi": False,
        "server.enableCORS": True,
        "server.enableStaticServing": False,
        "server.enableXsrfProtection": True,
        "server.port": port,
        "server.scriptHealthCheckEnabled": False,
    }


def broken(error: Exception) -> bool:
    """What a reader is told of a flaw that no page foresaw: one line; the server prints where it is."""
    logging.getLogger("dashboard").error("a page broke", exc_info=error)
    said = _(
        "This could not be drawn ({error}). That is a flaw of assay, and the server printed where it is. The other pages still open."
    )
    st.error(plain(said.format(error=type(error).__name__)), icon=":material/bug_report:")
    return True
