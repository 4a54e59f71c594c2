"""``make screenshots``: the dashboard's pages and a report as they look on the demo's own runs, for the README and for whoever changes one.

``python tests/screenshots.py --home DIR --out DIR --width 1920 --scheme dark --lang zh_CN --whole`` shows the rest.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from browsing import chromium, missing, opened, serving, settled, whole

from audit.language import speaking
from audit.report import render
from audit.run_folder import Run
from audit.stored import audit_home, stored_runs

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
HEIGHT, MOST = 1040, 6000
COLOURS = 256
REPORT = "report"
"""Name of the picture of an HTML report."""
FIRST = {"saliency": ".chosen", "live": "h3:has-text('Under attack')"}
"""What stands at the top of the pictures of long pages."""
UP = "e => { e.style.scrollMarginTop = '56px'; e.scrollIntoView() }"
"""Below the bar that stays."""
PAIR = ("fashion-plain", "fashion-private")
"""The demo's models that are compared, if both were audited."""


def finished(home: Path) -> list[Run]:
    """The runs to choose from, the newest first."""
    runs = [run for run in stored_runs(home) if isinstance(run, Run) and run.state == "finished"]
    if not runs:
        sys.exit(f"no finished run in {home}: audit demo makes some")
    return runs


def newest(runs: list[Run], scenario: str, model: str = "") -> Run:
    """The newest run of a scenario, of any where it never ran."""
    return next((run for run in runs if _is_of(run, scenario, model)), runs[0])


def _is_of(run: Run, scenario: str, model: str) -> bool:
    models = (ref.split("@")[0] for ref in run.manifest.get("models", {}))
    return run.manifest.get("scenario") == scenario and (not model or model in models)


def addresses(runs: list[Run]) -> dict[str, str]:
    """Name of a picture → query of its page."""
    before, after = (newest(runs, "privacy", model).name for model in PAIR)
    return {
        "overview": "page=overview",
        "run": f"page=run&run={newest(runs, 'imagenet').name}",
        "saliency": f"page=saliency&run={newest(runs, 'digits').name}&fate=map",
        "attacks": f"page=attacks&run={newest(runs, 'digits').name}&norm=linf",
        "privacy": f"page=privacy&run={before}",
        "compare": f"page=compare&before={before}&after={after}",
        "models": "page=models&model=fashion-private@1",
        "live": "page=live&model=digits-cnn@1&attack=pgd&eps_linf=3.2&explainers=integrated_gradients&explainers=saliency",
        "new_audit": "page=new_audit",
    }


def picture(page: Page, path: Path) -> None:
    """Take the window into a PNG of few colours, for a README is to load at once, and say where it is."""
    from PIL import Image

    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description="Screenshots of the dashboard's pages.")
    parser.add_argument("--home", type=Path, help="where runs live (default: AUDIT_HOME, or .audit here)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--whole", action="store_true", help="the page to its end, not one screen of it")
    parser.add_argument("pages", nargs="*", help="these alone")
    given = parser.parse_args()
    if lacking := missing():
        sys.exit(lacking)
    home = audit_home(given.home)
    runs = finished(home)
    found = {name: query for name, query in addresses(runs).items() if not given.pages or name in given.pages}
    given.out.mkdir(parents=True, exist_ok=True)
    with serving(home) as address, chromium() as browser:
        for name, query in found.items():
            with opened(browser, width=given.width, height=HEIGHT, scheme=given.scheme) as page:
                page.goto(f"{address}/?{query}&lang={given.lang}")
                page.get_by_role("heading").first.wait_for()
                settled(page)
                if given.whole:
                    whole(page, MOST)
                    settled(page)
                elif name in FIRST:
                    page.locator(FIRST[name]).first.evaluate(UP)
                    settled(page)
                picture(page, given.out / f"dashboard-{name}.png")
        if not given.pages or REPORT in given.pages:
            with opened(browser, width=given.width, height=HEIGHT, scheme=given.scheme) as page:
                with speaking(given.lang):
                    page.set_content(render("html", newest(runs, "digits")), wait_until="load")
                picture(page, given.out / f"{REPORT}.png")


if __name__ == "__main__":
    main()
