"""``audit dashboard``: where it listens, what it tells the server, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit.cli import app
from audit.parameters import UserError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """What the server would be started with."""

    script: Path
    hosts: Sequence[str]
    config: dict[str, Any]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """Servers that would have been started; signals are this process' own again afterwards."""
    import streamlit as st

    found: list[Server] = []

    class App:
        def __init__(self, script: Path, *, middleware: Sequence[Any], on_script_error: object) -> None:
            self.script, self.hosts = script, middleware[0].kwargs["hosts"]

        def run(self, *, config: dict[str, Any]) -> None:
            found.append(Server(self.script, self.hosts, config))

    monkeypatch.setattr(st, "App", App)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setenv("AUDIT_HOME", "")
    return found


def start(*arguments: str) -> Any:
    """``audit dashboard`` on a free port."""
    return CliRunner().invoke(app, ["dashboard", "--port", str(free_port()), *arguments])


def test_it_listens_on_loopback_and_reads_the_home_it_is_told(served, tmp_path: Path) -> None:
    result = start("--home", str(tmp_path))
    assert result.exit_code == 0
    (server,) = served
    assert server.script.name == "app.py"
    assert server.config["server.address"] == "127.0.0.1"
    assert list(server.hosts) == ["localhost", "127.0.0.1", "::1"]
    assert os.environ["AUDIT_HOME"] == str(tmp_path.resolve())
    assert f"http://localhost:{server.config['server.port']}" in result.stdout
    assert "warning" not in result.output
    assert "note" not in result.output


def test_the_server_sends_nothing_home_and_hides_its_own_buttons(served, tmp_path: Path) -> None:
    start("--home", str(tmp_path))
    config = served[0].config
    assert config["browser.gatherUsageStats"] is False
    assert config["client.toolbarMode"] == "minimal"
    assert config["client.showErrorDetails"] == "none"
    assert config["theme.light.backgroundColor"] != config["theme.dark.backgroundColor"]


@pytest.mark.parametrize(
    ("host", "names"), [("0.0.0.0", []), ("::", []), ("Box.Example", ["localhost", "127.0.0.1", "::1", "box.example"])]
)
def test_listening_beyond_loopback_is_said(
    served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, names: list[str]
) -> None:
    monkeypatch.setattr("audit.cli.dashboard._refuse_taken", lambda host, port: None)
    result = start("--home", str(tmp_path), "--host", host)
    assert "beyond loopback" in result.stderr
    assert served[0].config["server.address"] == host
    assert f"on http://{'localhost' if host in ('0.0.0.0', '::') else host}:" in result.stdout
    assert list(served[0].hosts) == names


def test_a_home_that_is_not_there_yet_is_said(served, tmp_path: Path) -> None:
    result = start("--home", str(tmp_path / "slip"))
    assert f"there is no folder {tmp_path / 'slip'} yet" in result.stderr
    assert served


def test_a_home_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    result = start("--home", str(tmp_path / "home"))
    assert isinstance(result.exception, UserError)
    assert f"{tmp_path / 'home'} is no folder" in str(result.exception)


def test_a_home_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    result = start()
    assert isinstance(result.exception, UserError)
    assert f"{tmp_path} may not be read" in str(result.exception)


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["dashboard", "--home", str(tmp_path), "--port", str(port)])
    assert isinstance(result.exception, UserError)
    assert f"cannot listen on 127.0.0.1:{port}" in str(result.exception)
    assert "--port" in str(result.exception)


def test_a_host_of_no_machine_here_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dashboard", "--home", str(tmp_path), "--host", "nowhere.invalid"])
    assert isinstance(result.exception, UserError)


def test_without_streamlit_it_says_what_to_install(served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamlit", None)
    for name in [name for name in sys.modules if name.startswith("dashboard")]:
        monkeypatch.delitem(sys.modules, name)
    result = start("--home", str(tmp_path))
    assert isinstance(result.exception, UserError)
    assert "pip install streamlit" in str(result.exception)


HOSTILE = """\
[server]
baseUrlPath = "elsewhere"
enableCORS = false
enableXsrfProtection = false
enableStaticServing = true
corsAllowedOrigins = ["http://elsewhere.example"]
[browser]
serverAddress = "elsewhere.example"
[client]
allowedOrigins = ["http://elsewhere.example"]
[logger]
level = "debug"
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server that was started where somebody left settings; its port, and the process."""
    folder = tmp_path_factory.mktemp("served")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "config.toml").write_text(HOSTILE)
    port = free_port()
    code = "from audit.cli import main; main()"
    command = [sys.executable, "-c", code, "dashboard", "--home", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder) as server:
        try:
            assert answer(f"http://127.0.0.1:{port}/_stcore/health", server) == "ok"
            yield port, server
        finally:
            server.kill()


def test_no_page_from_elsewhere_opens_the_socket(running) -> None:
    port, _server = running
    assert upgrade(port, f"localhost:{port}", f"http://localhost:{port}") == 101
    assert upgrade(port, f"rebound.example:{port}", f"http://rebound.example:{port}") == 403
    for origin in ("http://elsewhere.example", f"http://elsewhere.example:{port}", "http://localhost:1", "null"):
        assert upgrade(port, f"localhost:{port}", origin) == 403


def test_settings_that_lie_around_change_nothing(running) -> None:
    port, _server = running
    with urllib.request.urlopen(f"http://localhost:{port}/_stcore/host-config", timeout=30) as said:
        assert json.load(said)["allowedOrigins"] == []
    asked = urllib.request.Request(f"http://localhost:{port}/_stcore/upload_file/a/b", data=b"x", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(asked, timeout=30)


def test_an_interrupt_ends_it_without_a_fuss(running) -> None:
    _port, server = running
    server.send_signal(signal.SIGINT)
    said, _ = server.communicate(timeout=60)
    assert server.returncode == 0
    (line,) = said.splitlines()
    assert "Ctrl-C ends it" in line


def upgrade(port: int, host: str, origin: str) -> int:
    """Status of a browser's asking for the page's socket, from a page of `origin` that calls the server `host`."""
    lines = [
        "GET /_stcore/stream HTTP/1.1", f"Host: {host}", f"Origin: {origin}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return int(connection.recv(64).split()[1])


def answer(url: str, server: subprocess.Popen[str]) -> str:
    """What the server says as soon as it says anything."""
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as said:
                return str(said.read().decode())
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server did not start")
