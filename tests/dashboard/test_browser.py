"""The dashboard as a reader meets it: a real server, a real browser, from the overview to the pixel."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if not CHROMIUM.exists():
    pytest.skip("chromium is not installed (Debian: apt install chromium)", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

PATIENCE = 60_000
"""Milliseconds: test machines are busy."""
HEADER, ROW = 36, 66
"""Pixels of a table's heading and of its rows."""


@pytest.fixture(scope="module")
def server(made) -> Iterator[str]:
    """``audit dashboard`` on the home with two versions of a digit reader."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from audit.cli import main; main()",
        "dashboard",
        "--home",
        str(made.path),
        "--port",
        str(port),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait(f"{address}/_stcore/health", process)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; what it asks of other machines is kept in `asked`."""
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    found = context.new_page()
    found.asked = []  # type: ignore[attr-defined]
    found.on("request", lambda request: _note(found, request.url))
    yield found
    context.close()


def _note(page: Any, url: str) -> None:
    if not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", url):
        page.asked.append(url)


def choose_row(page: Page, row: int, table: int = 0) -> None:
    """Click the box at the left of a table's row."""
    grid = page.get_by_test_id("stDataFrame").nth(table)
    grid.scroll_into_view_if_needed()
    grid.click(position={"x": 16, "y": HEADER + ROW * row + ROW // 2})


def settled(page: Page) -> None:
    """Wait until the script has run; nothing broke."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_from_the_overview_to_the_evidence_in_three_clicks(server: str, page: Page, tmp_path: Path) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    settled(page)
    choose_row(page, 0)
    page.wait_for_url(re.compile(r"/run\?run=b-short"))
    expect(page.locator(".verdict .word")).to_be_visible()
    settled(page)
    choose_row(page, 0)
    page.wait_for_url(re.compile(r"finding="))
    opened = page.locator("h3.opened")
    expect(opened).to_be_visible()
    settled(page)
    address = page.url
    picture = page.screenshot(path=str(tmp_path / "run.png"), full_page=True)
    assert len(picture) > 20_000
    said = opened.inner_text()
    page.goto(address)  # the same address opens the same view
    expect(page.locator("h3.opened")).to_have_text(said)
    settled(page)
    assert page.asked == [], "nothing is fetched from another machine"  # type: ignore[attr-defined]


def test_gates_are_drawn_and_verdicts_have_their_colours(server: str, browser: Browser) -> None:
    """Light and dark differ, and neither loses the verdict."""
    papers = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 1280, "height": 1200}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"{server}/?page=run&run=a-long")
        word = page.locator(".verdict .word")
        expect(word).to_be_visible()
        settled(page)
        colour, paper = (word.evaluate(f"e => getComputedStyle(e).{name}") for name in ("color", "backgroundColor"))
        ground = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
        papers.add(ground)
        assert _contrast(colour, ground) >= 4.5, (scheme, colour, ground, paper)
        context.close()
    assert len(papers) == 2


def _contrast(one: str, other: str) -> float:
    """Of two colours as CSS gives them. Source: WCAG 2.2, 1.4.3."""

    def luminance(text: str) -> float:
        channels = [float(v) / 255 for v in re.findall(r"[\d.]+", text)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_streamlits_own_deploy_button_is_off_and_the_theme_can_be_chosen(server: str, page: Page) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    settled(page)
    expect(page.get_by_test_id("stAppDeployButton")).to_have_count(0)
    page.get_by_test_id("stMainMenu").click()
    page.get_by_test_id("stMainMenuItem-theme-Dark").click()
    ground = "e => getComputedStyle(e).backgroundColor"
    page.wait_for_function("getComputedStyle(document.querySelector('[data-testid=stApp]')).colorScheme == 'dark'")
    assert _contrast(page.get_by_test_id("stApp").evaluate(ground), "rgb(255, 255, 255)") > 10


def test_the_language_follows_from_page_to_page(server: str, page: Page) -> None:
    page.goto(f"{server}/?lang=zh_CN")
    expect(page.get_by_role("heading", name="总览")).to_be_visible()
    page.get_by_test_id("stSidebarNavLink").nth(1).click()
    expect(page.locator(".verdict .word")).to_be_visible()
    settled(page)
    assert "lang=zh_CN" in page.url


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_wider_than_the_window(server: str, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1200})
    for address in ("/", "/?page=run&run=a-long&finding=robustness.evasion/robust_accuracy", "/?page=compare"):
        page.goto(server + address)
        page.get_by_test_id("stDataFrame").first.wait_for()
        settled(page)
        main = page.get_by_test_id("stMain")
        assert main.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), address
        edge = main.evaluate("e => e.getBoundingClientRect().right")
        for chart in page.get_by_test_id("stVegaLiteChart").all():
            box = chart.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= edge + 1, address
