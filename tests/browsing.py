"""A dashboard in a browser: ``audit dashboard`` on a home, and Debian's Chromium without a window."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 120_000
"""Milliseconds that a page may take: machines are busy."""
STARTING = 120
"""Seconds that the server may take."""


def missing() -> str:
    """What a browser lacks here; empty where nothing does."""
    import importlib.util

    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install -e '.[test]'"
    return "" if CHROMIUM.exists() else "chromium is not installed (Debian: apt install chromium)"


@contextmanager
def serving(home: Path, *importable: Path) -> Iterator[str]:
    """``audit dashboard`` on a free port of this machine; gives its address.

    Args:
        importable: folders with the code of models.

    Raises:
        RuntimeError: it did not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from audit.cli import main; main()"
    command = [sys.executable, "-c", code, "dashboard", "--home", str(home), "--port", str(port)]
    paths = os.pathsep.join([*map(str, importable), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths.rstrip(os.pathsep)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait(f"{address}/_stcore/health", process)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError("the dashboard did not start")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def reading(
    browser: Browser, *, width: int = 1280, height: int = 1600, scheme: str = "light"
) -> Iterator[BrowserContext]:
    """A reader, whose pages share what was loaded once."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    try:
        yield context
    finally:
        context.close()


@contextmanager
def opened(browser: Browser, *, width: int = 1280, height: int = 1600, scheme: str = "light") -> Iterator[Page]:
    """A page of a reader who sees it for the first time."""
    with reading(browser, width=width, height=height, scheme=scheme) as context:
        yield context.new_page()


def troubles(page: Page) -> list[str]:
    """What goes wrong in a page from now on: its scripts' errors and what it says on the console."""
    found: list[str] = []

    def note(message: ConsoleMessage) -> None:
        asks_where_it_is = (
            "/_stcore/" in message.location.get("url", "") and "404" in message.text
        )  # below a page's path first
        if message.type == "error" and not asks_where_it_is:
            found.append(f"{message.text} ({message.location.get('url', '')})")

    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", note)
    return found


def settled(page: Page) -> None:
    """Wait until the script of the page has run and what it draws is there."""
    from playwright.sync_api import expect

    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_test_id("stSpinner")).to_have_count(0, timeout=PATIENCE)
    page.wait_for_function("Array.from(document.images).every(image => image.complete)")


def whole(page: Page, most: int) -> None:
    """Make the window as high as the page, up to so many pixels: Streamlit scrolls inside it."""
    height = page.get_by_test_id("stMainBlockContainer").evaluate("e => Math.ceil(e.getBoundingClientRect().height)")
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": max(480, min(int(height), most))})
    page.wait_for_timeout(600)  # charts are drawn again at their new size


def foreign(url: str) -> bool:
    """Whether an address is of another machine."""
    return not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", url)
