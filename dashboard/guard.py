"""Whom the server answers: pages of its own, under a name that is its own; and what those pages may fetch, which is nothing from elsewhere.

A browser sends any web page's requests to this machine, so that the machine being alone on loopback is no protection: a page can call the
server by a name of its own that it bent to 127.0.0.1 (its ``Host`` tells), open the socket of another site (its ``Origin`` tells), or draw
it in a frame and have the reader click there (the answer's headers forbid it).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing, by which a link from elsewhere may arrive."""
NAME = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d+)?", re.ASCII)
"""What a ``Host`` may look like: a name or an address, and a port."""
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob: ws://{host} wss://{host}; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Streamlit's own pages need inline styles, and its charts are compiled in the browser."""


class Guard:
    """Refuses foreign requests before anything else sees them; an ASGI middleware.

    Args:
        app: what answers the others.
        hosts: names that the server may be called by; empty: any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self._is_own(host) or (_acts(scope) and not _from_here(headers.get("origin"), host)):
            await _refuse(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_seal(host)]}
            await send(message)

        await self._app(scope, receive, sealed)

    def _is_own(self, host: str) -> bool:
        named = NAME.fullmatch(host)
        return named is not None and (not self._hosts or named["name"].strip("[]").rstrip(".").lower() in self._hosts)


def _acts(scope: Scope) -> bool:
    """Whether the request may do something: the page's socket does, and so does an upload."""
    return scope["type"] == "websocket" or scope["method"] not in READING


def _from_here(origin: str | None, host: str) -> bool:
    """Whether a page of this very server asks; what is no browser says nothing of where it comes from."""
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _seal(host: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", POLICY.format(host=host).encode("latin-1")),
        (b"x-frame-options", b"SAMEORIGIN"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
    ]


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Say no in one line; to a socket, before it opens."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    said = b"refused: this dashboard answers pages of its own, under the names that it listens on\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": said})
