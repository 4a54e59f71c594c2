"""``make screenshots``: the dashboard's pages as they look on the demo's own runs, for the README and for whoever changes a page.

``python tests/screenshots.py --home DIR --out DIR --width 1920 --scheme dark --lang zh_CN --whole`` shows the rest.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from browsing import chromium, missing, opened, serving, settled, whole

from audit.run_folder import Run
from audit.stored import audit_home, stored_runs

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
HEIGHT, MOST = 1040, 6000
COLOURS = 256
EXAMPLE = "digits"
"""Scenario whose newest run is shown where a page is of one run."""


def addresses(home: Path) -> dict[str, str]:
    """Name of a picture → query of its page."""
    runs = [run for run in stored_runs(home) if isinstance(run, Run) and run.state == "finished"]
    example = next((run.name for run in runs if run.name.endswith(f"-{EXAMPLE}")), runs[0].name if runs else None)
    if example is None:
        sys.exit(f"no finished run in {home}: audit demo makes some")
    of_run = f"&run={example}"
    return {
        "overview": "page=overview",
        "run": f"page=run{of_run}",
        "saliency": f"page=saliency{of_run}",
        "attacks": f"page=attacks{of_run}",
        "privacy": "page=privacy",
        "compare": "page=compare",
        "models": "page=models",
        "live": "page=live&attack=pgd",
        "new_audit": "page=new_audit",
    }


def picture(page: Page, path: Path) -> None:
    """Take the window into a PNG of few colours: a README is to load at once."""
    from PIL import Image

    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


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
    found = {name: query for name, query in addresses(home).items() if not given.pages or name in given.pages}
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
                path = given.out / f"dashboard-{name}.png"
                picture(page, path)
                print(path)


if __name__ == "__main__":
    main()
