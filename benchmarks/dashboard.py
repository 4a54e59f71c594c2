"""Seconds until a page of the dashboard is ready, on a home of 500 runs and on a run of 100,000 samples with 50 findings.

First the script alone: each page is opened in a process of its own, after what ``audit dashboard`` loads before it serves, and an empty
page: the first opening reads the folders, the second finds them read. AppTest runs the script as the server does.

Then what a reader waits for: ``audit dashboard`` and Chromium, from the address until the page is drawn and its script has ended. At the
first opening the browser holds the files that Streamlit begins with, and the server has not read the folders. The page of an empty home
is Streamlit's own start: what the others take beyond it is theirs.

python benchmarks/dashboard.py [--runs 500] [--samples 100000] [--rounds 3] [--home DIR] [--only script|browser]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the browser is driven as the tests drive it
GOAL = 2.0
"""Seconds."""
LARGE = """\
name: large
model: linear
data: {source: given}
seed: 1
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.1", "recall[*]": ">= 0.01", "precision[*]": ">= 0.01"}
  - explanation.completeness: {explainer: integrated_gradients, samples: SAMPLES}
    require: {complete: ">= 0.9"}
"""
CLASSES, SIDE = 25, 8
PAGES = {
    "overview, many runs": ("many", {"page": "overview"}),
    "overview, many runs, filtered": ("many", {"page": "overview", "q": "large", "verdict": "pass"}),
    "run of many samples": ("large", {"page": "run", "run": "large"}),
    "run of many samples, a finding": (
        "large",
        {"page": "run", "run": "large", "finding": "performance.classification/accuracy"},
    ),
    "run of many samples, what was measured": ("large", {"page": "run", "run": "large", "part": "measured"}),
    "two runs of many samples compared": ("large", {"page": "compare", "before": "large", "after": "twin"}),
}
SEEN = {
    "an empty page (Streamlit's own start)": ("empty", "page=compare"),
    "overview, many runs": ("many", "page=overview"),
    "run of many samples": ("large", "page=run&run=large"),
    "run of many samples, a finding": ("large", "page=run&run=large&finding=performance.classification/accuracy"),
    "saliency of a run of many samples": ("large", "page=saliency&run=large"),
    "two runs of many samples compared": ("large", "page=compare&before=large&after=twin"),
}
"""Pages in a browser."""
OPEN = """
import json, os, sys, time
from dashboard.warm import warm
from streamlit.components.v2 import manifest_scanner
manifest_scanner.scan_component_manifests = list  # a server looks for other packages' components once, when it starts
from streamlit.testing.v1 import AppTest
app_file, query, empty = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
home, os.environ["AUDIT_HOME"] = os.environ["AUDIT_HOME"], empty
warm()
AppTest.from_file(app_file, default_timeout=600).run()
os.environ["AUDIT_HOME"] = home
taken = []
for _ in range(2):
    app = AppTest.from_file(app_file, default_timeout=600)
    app.query_params.update(query)
    start = time.perf_counter(), time.process_time()
    app.run()
    taken.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    assert not app.exception and not app.error, (app.exception, app.error)
print(json.dumps(taken))
"""


def make_large(home: Path, samples: int) -> None:
    """A real audit of a linear model on so many small pictures, and a twin of its run."""
    import numpy as np
    import torch
    from torch import nn

    import audit
    from audit.model import AuditedModel, Field, InputSpec, implied
    from audit.scenario import parse

    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1, size=(CLASSES, 1, SIDE, SIDE)).astype(np.float32)
    labels = rng.integers(0, CLASSES, samples)
    x = np.clip(centres[labels] + rng.normal(0, 0.6, size=(samples, 1, SIDE, SIDE)), 0, 1).astype(np.float32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES))
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(centres.reshape(CLASSES, -1)))
        net[1].bias.copy_(torch.from_numpy(-(centres.reshape(CLASSES, -1) ** 2).sum(1) / 2))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    spec = InputSpec(fields=(Field(name="image", kind="image", shape=(1, SIDE, SIDE), bounds=(0.0, 1.0)),))
    model = AuditedModel(
        name="linear", digest="0" * 64, task="classification", classes=tuple(map(str, range(CLASSES))), spec=spec,
        output="logit", capabilities=implied("logit", gradients=True, layers=True), forward=net.eval(), module=net,
    )  # fmt: skip
    data = audit.from_arrays(x, labels, bounds=(0, 1))
    scenario = parse(LARGE.replace("SAMPLES", str(samples)))
    for name in ("large", "twin"):
        audit.run(scenario, models={"linear": model}, data=data, home=home, out=home / "runs" / name)


def make_many(home: Path, source: Path, runs: int) -> None:
    """So many runs: the files of one, linked, with manifests of their own."""
    told = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    for i in range(runs):
        target = home / "runs" / f"run-{i:04d}"
        target.mkdir(parents=True)
        for name in ("findings.jsonl", "measurements.jsonl", "timings.json", "scenario.yaml"):
            os.link(source / name, target / name)
        day = f"2026-{1 + i // 28 % 12:02d}-{1 + i % 28:02d}"
        known = {ref: {**facts, "version": 1 + i % 20} for ref, facts in told["models"].items()}
        changed = {**told, "models": known, "started": f"{day}T00:00:00+00:00", "ended": f"{day}T00:01:00+00:00"}
        (target / "manifest.json").write_text(json.dumps(changed), encoding="utf-8")


def opened(home: Path, query: dict[str, str], empty: Path) -> list[tuple[float, float]]:
    """Seconds by the clock and of the processor of the first and of the second opening."""
    environment = {**os.environ, "AUDIT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        OPEN,
        str(ROOT / "dashboard" / "app.py"),
        json.dumps(query),
        str(empty),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [(wall, processor) for wall, processor in json.loads(done.stdout.splitlines()[-1])]


def drawn(home: Path, query: str, importable: Path) -> list[tuple[float, float]]:
    """Seconds by the clock and of the processor (server and browser) until a page is drawn: the first opening, and the next."""
    from browsing import chromium, reading, serving, settled

    taken = []
    with serving(home, importable) as address, chromium() as browser, reading(browser, height=1040) as reader:
        page = reader.new_page()
        page.route_web_socket(re.compile("/_stcore/stream"), lambda _: None)  # no script runs, no folder is read
        page.goto(address, wait_until="networkidle")
        page.close()
        for _ in range(2):
            page = reader.new_page()
            start = time.perf_counter(), processor()
            page.goto(f"{address}/?{query}")
            page.get_by_role("heading").first.wait_for()
            settled(page)
            taken.append((time.perf_counter() - start[0], processor() - start[1]))
            page.close()
    return taken


def processor() -> float:
    """Seconds of the processor that this process's descendants have used; those that ended are left out."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], used[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own and pid not in own}:
        own |= more
    return sum(used[pid] for pid in own if pid != os.getpid() and pid in used)


def by_script(root: Path, rounds: int) -> None:
    """Print what each page's script takes."""
    print(
        f"{'median of ' + str(rounds):42} {'first: clock':>12} {'processor':>10} {'again: clock':>13} {'processor':>10}"
    )
    for name, (home, query) in PAGES.items():
        taken = [opened(root / home, query, root / "empty") for _ in range(rounds)]
        middle = [statistics.median(run[turn][which] for run in taken) for turn in (0, 1) for which in (0, 1)]
        print(f"{name:42} {middle[0]:10.2f} s {middle[1]:8.2f} s {middle[2]:11.2f} s {middle[3]:8.2f} s")


def in_browser(root: Path, rounds: int) -> None:
    """Print what a reader waits for each page."""
    from browsing import missing

    if lacking := missing():
        print(f"in a browser: not measured, for {lacking}")
        return
    heads = (
        f"in a browser, median of {rounds}",
        "first: clock",
        "processor",
        "again: clock",
        "processor",
        "of it its own",
    )
    print(f"{heads[0]:42} {heads[1]:>12} {heads[2]:>10} {heads[3]:>13} {heads[4]:>10} {heads[5]:>14}")
    empty = None
    for name, (home, query) in SEEN.items():
        taken = [drawn(root / home, query, root) for _ in range(rounds)]
        middle = [statistics.median(run[turn][which] for run in taken) for turn in (0, 1) for which in (0, 1)]
        empty = empty or middle
        print(
            f"{name:42} {middle[0]:10.2f} s {middle[1]:8.2f} s {middle[2]:11.2f} s {middle[3]:8.2f} s {middle[2] - empty[2]:12.2f} s",
            flush=True,
        )


def main() -> None:
    """Print each page's first and second opening."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, help="keep the homes here, and use those that are there")
    parser.add_argument("--only", choices=("script", "browser"), help="one of the two tables")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = asked.home or Path(folder)
        if not (root / "large" / "runs" / "twin").exists():
            make_large(root / "large", asked.samples)
        if not (root / "many").exists():
            make_many(root / "many", root / "large" / "runs" / "large", asked.runs)
        (root / "empty").mkdir(exist_ok=True)
        findings = sum(1 for _ in (root / "large" / "runs" / "large" / "findings.jsonl").open(encoding="utf-8"))
        load = os.getloadavg()[0]
        print(
            f"{os.cpu_count()} cores, load {load:.1f}; {asked.runs} runs; {asked.samples:,} samples, {findings} findings; goal {GOAL:g} s"
        )
        if asked.only != "browser":
            by_script(root, asked.rounds)
        if asked.only != "script":
            in_browser(root, asked.rounds)


if __name__ == "__main__":
    main()
