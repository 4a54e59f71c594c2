"""Whom the server answers, and what its pages may fetch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dashboard.guard import Guard

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def asked(
    host: str | None, origin: str | None = None, *, kind: str = "http", method: str = "GET", hosts: Any = LOOPBACK
) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the request came through, and what was sent."""
    through, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        through.append(scope)
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    named = [(b"host", host), (b"origin", origin)]
    headers = [(name, value.encode()) for name, value in named if value is not None]
    scope = {"type": kind, "headers": headers} | ({"method": method} if kind == "http" else {})
    asyncio.run(Guard(app, hosts)(scope, receive, send))
    return bool(through), sent


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8501", "LOCALHOST:1", "127.0.0.1:8501", "[::1]:8501", "localhost."]
)
def test_its_own_names_are_answered(host: str) -> None:
    assert asked(host)[0]


@pytest.mark.parametrize(
    "host",
    [None, "", "rebound.example", "localhost.rebound.example", "127.0.0.2", "localhost:80;x", "a@localhost", "[::1", "localhost/x", "localhost:http"],
)  # fmt: skip
def test_no_other_name_is(host: str | None) -> None:
    through, sent = asked(host)
    assert not through
    assert sent[0]["status"] == 403
    assert sent[1]["body"].startswith(b"refused")


def test_any_name_is_where_nobody_knows_what_it_is_called() -> None:
    assert asked("box.example:8501", hosts=())[0]
    assert not asked("box.example;script-src *", hosts=())[0]


@pytest.mark.parametrize(
    ("origin", "answered"),
    [
        (None, True), ("http://localhost:8501", True), ("https://localhost:8501", True), ("http://LOCALHOST:8501", True),
        ("http://localhost:9999", False), ("http://127.0.0.1:8501", False), ("http://elsewhere.example", False), ("null", False), ("", False),
    ],
)  # fmt: skip
def test_what_acts_comes_from_a_page_of_this_server(origin: str | None, answered: bool) -> None:
    through, sent = asked("localhost:8501", origin, kind="websocket")
    assert through is answered
    assert sent == ([] if answered else [{"type": "websocket.close", "code": 1008}])
    for method in ("PUT", "POST", "DELETE"):
        assert asked("localhost:8501", origin, method=method)[0] is answered
    assert asked("localhost:8501", origin)[0], "a link from elsewhere opens a page"


def test_pages_fetch_nothing_from_elsewhere_and_stand_in_no_foreign_frame() -> None:
    _through, ((started),) = asked("localhost:8501")
    headers = {name.decode(): value.decode() for name, value in started["headers"]}
    assert headers["x-own"] == "1"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["frame-ancestors"] == "'self'"
    for sources in (policy["default-src"], policy["connect-src"]):
        assert not [s for s in sources.split() if s.startswith("http") or s == "*"]
    assert "ws://localhost:8501" in policy["connect-src"].split()
