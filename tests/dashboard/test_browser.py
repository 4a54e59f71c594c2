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
from browsing import PATIENCE, reading, settled, troubles
from toys import audited, digits, trained_cnn

from audit.engine import run as go
from audit.scenario import parse
from dashboard.working import audits

if lacking := browsing.missing():
    pytest.skip(lacking, allow_module_level=True)

from playwright.sync_api import Browser, BrowserContext, Page, expect

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
STARTED = """\
name: quick
model: iris
data: {source: sklearn.iris, split: {test: 0.5, seed: 0}}
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.5"}
"""
SLOW = """\
name: slow
model: digits
data: {source: sklearn.digits, limit: 40}
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.5"}
  - robustness.evasion: {attacks: [square: {queries: 1000000}], eps: 0.001, samples: 20}
"""
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def home(made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the runs of two versions of a digit reader, and with models to be asked."""
    folder = tmp_path_factory.mktemp("browsed")
    found = registered.make(folder)
    shutil.copytree(made.runs, found / "runs")
    go(parse(STARTED.replace("quick", "flowers")), home=found, out=found / "runs" / "d-flowers")
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0), name="reader")
    type(made)(found).go(EXPLAINED, {"reader": model}, digits(60), "c-explained")
    (found / "scenarios").mkdir()
    for name, text in {"look": ROWS_AT_HAND, "quick": STARTED, "slow": SLOW}.items():
        (found / "scenarios" / f"{name}.yaml").write_text(text)
    yield found
    for one in audits.every(found):
        one.stop(at_once=True)
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


@pytest.fixture(scope="module")
def reader(browser: Browser) -> Iterator[BrowserContext]:
    """One who has been here before: what the pages are made of is loaded once for all tests."""
    with reading(browser) as found:
        yield found


@pytest.fixture
def page(reader: BrowserContext) -> Iterator[Page]:
    """A page that asks nothing of other machines, and where nothing goes wrong. Where a test fails, its picture is kept: see ``conftest.py``."""
    found = reader.new_page()
    wrong, asked = troubles(found), []
    found.on("request", lambda request: asked.append(request.url) if browsing.foreign(request.url) else None)
    yield found
    found.close()
    assert wrong == []
    assert asked == [], "nothing is fetched from another machine"


def choose_row(page: Page, row: int, table: str | int = 0, tall: int = ROW) -> None:
    """Click the box at the left of a table's row.

    Args:
        table: its key, or its number on the page.
    """
    grids = page.get_by_test_id("stDataFrame")
    grid = (
        grids.nth(table) if isinstance(table, int) else page.locator(f".st-key-{table}").get_by_test_id("stDataFrame")
    )
    grid.scroll_into_view_if_needed()
    grid.click(position={"x": 16, "y": HEADER + tall * row + tall // 2})


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
    expect(page.get_by_text("That is a flaw of assay")).to_have_count(0)


def test_from_the_overview_to_the_evidence_in_three_clicks(server: str, page: Page, tmp_path: Path) -> None:
    page.goto(server)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    sound(page)
    choose_row(page, 2)
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


def test_from_the_overview_to_a_saliency_map_in_three_clicks(server: str, page: Page) -> None:
    page.goto(f"{server}/?q=c-explained")
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


def painted(chart: Any) -> int:
    """How many colours a drawn chart has; of one drawn as shapes, how many shapes."""
    found: int = chart.evaluate(
        """e => {
            if (e.tagName.toLowerCase() == "svg") return e.querySelectorAll("path, line, text").length;
            const pixels = new Uint32Array(e.getContext("2d").getImageData(0, 0, e.width, e.height).data.buffer);
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


def test_gates_are_drawn_and_verdicts_have_their_colours(server: str, page: Page) -> None:
    """Light and dark differ, and neither loses the verdict."""
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
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
    page.evaluate("localStorage.clear()")  # the next test has not chosen


def test_the_language_follows_from_page_to_page(server: str, page: Page) -> None:
    page.goto(f"{server}/?lang=zh_CN")
    expect(page.get_by_role("heading", name="总览")).to_be_visible()
    page.get_by_test_id("stSidebarNavLink").nth(1).click()
    expect(page.locator(".verdict .word")).to_be_visible()
    sound(page)
    assert "lang=zh_CN" in page.url


def test_nothing_is_wider_than_the_window(server: str, page: Page) -> None:
    for address in ("/", "/?page=run&run=a-long&finding=robustness.evasion/robust_accuracy", "/?page=compare"):
        page.goto(server + address)
        page.get_by_test_id("stDataFrame").first.wait_for()
        for width in (1280, 1920):
            page.set_viewport_size({"width": width, "height": 1200})
            page.wait_for_timeout(600)  # charts are drawn again at their new size
            sound(page)
            main = page.get_by_test_id("stMain")
            assert main.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), (address, width)
            edge = main.evaluate("e => e.getBoundingClientRect().right")
            for chart in page.get_by_test_id("stVegaLiteChart").all():
                box = chart.bounding_box()
                assert box is not None
                assert box["x"] + box["width"] <= edge + 1, (address, width)


def test_an_audit_is_put_together_started_watched_and_lands_on_its_run(server: str, page: Page) -> None:
    page.goto(f"{server}/?page=new_audit")
    expect(page.get_by_role("heading", name="New audit")).to_be_visible()
    sound(page)
    choose(page, "Scenario", "quick.yaml")
    page.wait_for_url(re.compile("scenario=quick.yaml"))
    page.get_by_text("performance.classification").first.click()
    page.wait_for_url(re.compile("check=1"))
    threshold = page.get_by_label("Threshold of accuracy")
    threshold.fill("2..5")
    threshold.press("Enter")
    expect(page.get_by_text("is no gate").first).to_be_visible()
    expect(page.get_by_role("button", name="Start the audit")).to_be_disabled()
    threshold.fill("0.6")
    threshold.press("Enter")
    expect(page.get_by_text("Valid: 1 check, 1 step, 1 gate.")).to_be_visible()
    sound(page)
    page.reload()
    expect(page.get_by_text(re.compile("Your draft of .* is restored: 1 line differs"))).to_be_visible()
    expect(page.get_by_label("Threshold of accuracy")).to_have_value("0.6")
    expect(page.get_by_test_id("stCode")).to_contain_text(">= 0.6")
    page.get_by_role("button", name="Start the audit").click()
    page.wait_for_url(re.compile("audit="))
    expect(page.get_by_role("heading", name="Audit of iris: quick")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.wait_for_url(re.compile(r"/run\?.*run=.*-quick"))
    expect(page.locator(".verdict .word")).to_have_text("Passed")
    sound(page)


def test_an_audit_that_runs_is_listed_and_cancelled(server: str, page: Page) -> None:
    page.goto(f"{server}/?page=new_audit&scenario=slow.yaml")
    page.get_by_role("button", name="Start the audit").click()
    page.wait_for_url(re.compile("audit="))
    expect(page.get_by_text(re.compile(r"step 2 of 2 .* robustness.evasion, for"))).to_be_visible()
    page.goto(f"{server}/?page=new_audit&scenario=slow.yaml")  # as if the browser had been closed
    expect(page.get_by_text("Running now")).to_be_visible()
    page.get_by_role("link", name="Audit of digits: slow").click()
    page.wait_for_url(re.compile("audit="))
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("■ cancelled")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page.get_by_role("link", name="Open the run").click()
    page.wait_for_url(re.compile(r"/run\?.*-slow"))
    expect(page.locator(".verdict .word")).to_have_text("Interrupted: no verdict")
    sound(page)


def test_from_a_model_to_its_latest_run(server: str, page: Page) -> None:
    page.goto(f"{server}/?page=models&model=iris@1")
    expect(page.get_by_role("heading", name="iris@1")).to_be_visible()
    page.get_by_role("link", name="Open its latest run").click()
    page.wait_for_url(re.compile(r"/run\?.*run="))
    expect(page.locator(".verdict .word")).to_be_visible()
    sound(page)


def test_how_well_members_are_told_is_drawn(server: str, page: Page) -> None:
    page.goto(f"{server}/?page=privacy&run=a-long")
    chart = page.get_by_test_id("stVegaLiteChart").first.locator("canvas, svg").first
    expect(chart).to_be_visible()
    sound(page)
    expect(page.get_by_test_id("stAlert").filter(has_text="Cannot be shown")).to_have_count(0)
    assert painted(chart) > 20, "axes, a curve and the diagonal"


def test_from_two_runs_to_a_sample_whose_answer_flipped(server: str, page: Page) -> None:
    page.goto(f"{server}/?page=compare&before=a-long&after=b-short")
    expect(page.get_by_role("heading", name="Samples whose answer flipped")).to_be_visible()
    sound(page)
    choose_row(page, 0, "flips", tall=35)
    page.wait_for_url(re.compile("sample="))
    expect(page.get_by_text(re.compile(r"^Sample \w+")).first).to_be_visible()
    sound(page)


def test_from_a_finding_to_an_attacked_sample_and_its_maps_in_three_clicks(server: str, page: Page) -> None:
    page.goto(f"{server}/?page=run&run=a-long")
    page.get_by_test_id("stDataFrame").first.wait_for()
    sound(page)
    choose_row(page, 0)
    page.wait_for_url(re.compile("finding=robustness.evasion"))
    page.get_by_role("link", name=re.compile("adversarial")).first.click()
    page.wait_for_url(re.compile(r"/attacks\?.*run=a-long"))
    expect(page.get_by_text(re.compile(r"true \d: \d → \d")).first).to_be_visible()
    sound(page)
    page.get_by_role("link", name="See what the explainers say of this sample").click()
    page.wait_for_url(re.compile(r"/saliency\?.*run=a-long"))
    maps = page.locator("figure:has-text('saliency') img")
    expect(maps.first).to_be_visible()
    sound(page)
    assert colours_of(maps.first) > 3
