"""``audit dashboard``: where it listens, what it tells the server, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
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


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the server would be started with."""
    from streamlit.web import bootstrap

    found: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(bootstrap, "load_config_options", lambda flags: None)
    monkeypatch.setattr(bootstrap, "run", lambda path, hello, args, flags: found.append((path, flags)))
    return found


def test_it_listens_on_loopback_and_reads_the_home_it_is_told(served, tmp_path: Path) -> None:
    port = free_port()
    result = CliRunner().invoke(app, ["dashboard", "--home", str(tmp_path), "--port", str(port)])
    assert result.exit_code == 0
    ((path, flags),) = served
    assert Path(path).name == "app.py"
    assert (flags["server_address"], flags["server_port"]) == ("127.0.0.1", port)
    assert flags["server_allowedHosts"] == ["localhost", "127.0.0.1", "::1"]
    assert os.environ["AUDIT_HOME"] == str(tmp_path.resolve())
    assert f"http://localhost:{port}" in result.stdout
    assert "warning" not in result.output


def test_the_server_sends_nothing_home_and_hides_its_own_buttons(served, tmp_path: Path) -> None:
    CliRunner().invoke(app, ["dashboard", "--home", str(tmp_path), "--port", str(free_port())])
    flags = served[0][1]
    assert flags["browser_gatherUsageStats"] is False
    assert flags["client_toolbarMode"] == "minimal"
    assert flags["client_showErrorDetails"] == "none"
    assert flags["theme_light_backgroundColor"] != flags["theme_dark_backgroundColor"]


def test_listening_beyond_loopback_is_said(served, tmp_path: Path) -> None:
    arguments = ["dashboard", "--home", str(tmp_path), "--port", str(free_port()), "--host", "0.0.0.0"]
    result = CliRunner().invoke(app, arguments)
    assert "beyond loopback" in result.stderr
    assert served[0][1]["server_address"] == "0.0.0.0"
    assert served[0][1]["server_allowedHosts"] == []


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


def test_without_streamlit_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamlit.web", None)
    result = CliRunner().invoke(app, ["dashboard", "--home", str(tmp_path), "--port", str(free_port())])
    assert isinstance(result.exception, UserError)
    assert "pip install streamlit" in str(result.exception)


def test_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-c",
        "from audit.cli import main; main()",
        "dashboard",
        "--home",
        str(tmp_path),
        "--port",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path) as server:
        try:
            assert answer(f"http://127.0.0.1:{port}/_stcore/health", server) == "ok"
            own = f"http://localhost:{port}"
            assert upgrade(port, f"localhost:{port}", own) == 101
            assert upgrade(port, f"rebound.example:{port}", f"http://rebound.example:{port}") == 403
            assert upgrade(port, f"localhost:{port}", "http://elsewhere.example") == 403
            server.send_signal(signal.SIGINT)
            said, _ = server.communicate(timeout=60)
        finally:
            server.kill()
    assert "Traceback" not in said
    assert server.returncode == 0


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
