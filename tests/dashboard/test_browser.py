"""The dashboard as a reader meets it: a real server, a real browser, from the overview to the pixel."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsing
import pytest
import registered
from browsing import PATIENCE, opened, settled
from toys import audited, digits, trained_cnn

if lacking := browsing.missing():
    pytest.skip(lacking, allow_module_level=True)

from playwright.sync_api import Browser, Page, expect

HEADER, ROW = 36, 66
"""Pixels of a table's heading and of its rows."""
EXPLAINED = """\
name: explained
model: reader
data: {source: given}
checks:
  - explanation.faithfulness: {explainer: saliency, samples: 8}
    require: {deletion_gain: "> -1"}
"""
ROWS_AT_HAND = """\
name: look
model: digits
data: {source: sklearn.digits, limit: 40}
checks:
  - performance.classification: {}
"""
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def home(made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the runs of two versions of a digit reader, and with models to be asked."""
    folder = tmp_path_factory.mktemp("browsed")
    found = registered.make(folder)
    shutil.copytree(made.runs, found / "runs")
    model = audited(trained_cnn(4), (1, 8, 8), 10, bounds=(0.0, 16.0), name="reader")
    type(made)(found).go(EXPLAINED, {"reader": model}, digits(60), "c-explained")
    (found / "scenarios").mkdir()
    (found / "scenarios" / "look.yaml").write_text(ROWS_AT_HAND)
    yield found
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """``audit dashboard`` on that home."""
    with browsing.serving(home, home.parent, Path(registered.__file__).parent) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with browsing.chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; what it asks of other machines is kept in `asked`. Where a test fails, its picture is kept: see ``conftest.py``."""
    with opened(browser) as found:
        found.asked = []  # type: ignore[attr-defined]
        found.on("request", lambda request: _note(found, request.url))
        yield found


def _note(page: Any, url: str) -> None:
    if browsing.foreign(url):
        page.asked.append(url)


def choose_row(page: Page, row: int, table: int = 0) -> None:
    """Click the box at the left of a table's row."""
    grid = page.get_by_test_id("stDataFrame").nth(table)
    grid.scroll_into_view_if_needed()
    grid.click(position={"x": 16, "y": HEADER + ROW * row + ROW // 2})


def choose(page: Page, label: str, option: str) -> None:
    """Choose from a list by writing what is wanted."""
    field = page.get_by_label(label, exact=True)
    field.scroll_into_view_if_needed()
    field.click()
    field.press_sequentially(option)
    page.get_by_role("option", name=option, exact=True).wait_for()
    field.press("Enter")


def sound(page: Page) -> None:
    """The script has run, and nothing broke."""
    settled(page)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_from_the_overview_to_the_evidence_in_three_clicks(server: str, page: Page, tmp_path: Path) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    sound(page)
    choose_row(page, 1)
    page.wait_for_url(re.compile(r"/run\?run=b-short"))
    expect(page.locator(".verdict .word")).to_be_visible()
    sound(page)
    choose_row(page, 0)
    page.wait_for_url(re.compile(r"finding="))
    opened = page.locator("h3.opened")
    expect(opened).to_be_visible()
    sound(page)
    address = page.url
    picture = page.screenshot(path=str(tmp_path / "run.png"), full_page=True)
    assert len(picture) > 20_000
    said = opened.inner_text()
    page.goto(address)  # the same address opens the same view
    expect(page.locator("h3.opened")).to_have_text(said)
    sound(page)
    assert page.asked == [], "nothing is fetched from another machine"  # type: ignore[attr-defined]


def test_from_the_overview_to_a_saliency_map_in_three_clicks(server: str, page: Page) -> None:
    page.goto(server)
    page.get_by_test_id("stDataFrame").first.wait_for()
    sound(page)
    choose_row(page, 0)
    page.wait_for_url(re.compile(r"/run\?run=c-explained"))
    sound(page)
    choose_row(page, 0)
    page.wait_for_url(re.compile(r"finding=explanation.faithfulness"))
    sound(page)
    page.get_by_role("link", name=re.compile("attributions")).first.click()
    page.wait_for_url(re.compile(r"/saliency\?.*run=c-explained"))
    expect(page.get_by_role("heading", name="Saliency explorer")).to_be_visible()
    expect(page.get_by_text(re.compile(r"true \d, predicted \d"))).to_be_visible()
    sound(page)
    maps = page.locator("figure:has-text('saliency') img")
    expect(maps.first).to_be_visible()
    assert colours_of(maps.first) > 3, "a map has more to say than one colour"
    assert page.asked == []  # type: ignore[attr-defined]


def colours_of(picture: Any) -> int:
    """How many colours the pixels of a picture have."""
    found: int = picture.evaluate(
        """e => {
            const drawn = Object.assign(document.createElement("canvas"), {width: e.naturalWidth, height: e.naturalHeight});
            const context = drawn.getContext("2d");
            context.drawImage(e, 0, 0);
            const pixels = new Uint32Array(context.getImageData(0, 0, drawn.width, drawn.height).data.buffer);
            return new Set(pixels).size;
        }"""
    )
    return found


def test_from_the_overview_to_a_live_attack_in_three_clicks(server: str, page: Page) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    sound(page)
    page.get_by_role("link", name="Explore live").click()
    expect(page.get_by_role("heading", name="Explore live")).to_be_visible()
    expect(page.get_by_text(re.compile(r"true \d, predicted \d"))).to_be_visible()
    sound(page)
    choose(page, "Attack", "apgd_ce")
    said = page.get_by_text(re.compile(r"(broken: \d → \d|withstood: apgd_ce found no other answer than \d)"))
    expect(said).to_be_visible()
    page.goto(f"{server}/?{'&'.join(['page=live', 'attack=apgd_ce', 'eps_linf=8'])}")
    expect(page.get_by_text(re.compile(r"broken: \d → \d"))).to_be_visible()
    sound(page)
    assert page.asked == []  # type: ignore[attr-defined]


def test_gates_are_drawn_and_verdicts_have_their_colours(server: str, browser: Browser) -> None:
    """Light and dark differ, and neither loses the verdict."""
    papers = set()
    for scheme in ("light", "dark"):
        with opened(browser, scheme=scheme) as page:
            page.goto(f"{server}/?page=run&run=a-long")
            word = page.locator(".verdict .word")
            expect(word).to_be_visible()
            sound(page)
            colour = word.evaluate("e => getComputedStyle(e).color")
            ground = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
            papers.add(ground)
            assert _contrast(colour, ground) >= 4.5, (scheme, colour, ground)
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
    sound(page)
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
    sound(page)
    assert "lang=zh_CN" in page.url


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_wider_than_the_window(server: str, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1200})
    for address in ("/", "/?page=run&run=a-long&finding=robustness.evasion/robust_accuracy", "/?page=compare"):
        page.goto(server + address)
        page.get_by_test_id("stDataFrame").first.wait_for()
        sound(page)
        main = page.get_by_test_id("stMain")
        assert main.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), address
        edge = main.evaluate("e => e.getBoundingClientRect().right")
        for chart in page.get_by_test_id("stVegaLiteChart").all():
            box = chart.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= edge + 1, address
