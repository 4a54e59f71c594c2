"""Private training and attacks on privacy beside their peers: time, memory, and what came out.

Contenders take turns within one process; seconds are medians over the rounds (of the clock, and of the processor, all threads together),
ratios the medians of the rounds' ratios. Memory is the most bytes of tensors held at once, counted in the run that warms up.

    python benchmarks/privacy.py [WORKLOAD ...] [--rounds 5] [--threads 1] [--json FILE]

Each file `_privacy_*.py` here that has WORKLOADS adds to them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from _compare import machine
from _privacy_workload import Workload

from audit.train.gradients._memory import PeakMemory

PACKAGES = ("torch", "opacus", "numpy")


def workloads() -> dict[str, Workload]:
    """Those of every file beside this one."""
    found: dict[str, Workload] = {}
    for path in sorted(Path(__file__).parent.glob("_privacy_*.py")):
        for workload in getattr(importlib.import_module(path.stem), "WORKLOADS", ()):
            found[workload.name] = workload
    return found


def compare(workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Every contender, taking turns after a run to warm up."""
    runs = {name: contender() for name, contender in workload.contenders.items()}
    peaks, figures = dict[str, int](), dict[str, dict[str, float | str]]()
    for name, run in runs.items():
        with PeakMemory() as memory:
            figures[name] = dict(run())
        peaks[name] = memory.peak
    wall, processor = ({name: list[float]() for name in runs} for _ in range(2))
    names = list(runs)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter(), time.process_time()
            runs[name]()
            wall[name].append(time.perf_counter() - start[0])
            processor[name].append(time.process_time() - start[1])
    return [
        {
            "contender": name,
            "seconds": statistics.median(wall[name]),
            "processor_seconds": statistics.median(processor[name]),
            "processor_ratio": _ratio(processor[name], processor[workload.reference]),
            "ours_to_it": _ratio(processor[workload.ours], processor[name]),
            "goal": workload.goals.get(name),
            "peak_bytes": peaks[name],
            "figures": figures[name],
        }
        for name in names
    ]


def _ratio(mine: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def show(workload: Workload, rows: list[dict[str, Any]], rounds: int) -> None:
    """A table of `compare`'s rows."""
    print(
        f"\n{workload.name}: {workload.title}; {rounds} rounds; 'ours to it': processor time, with the goal behind it"
    )
    print(f"{'':28}{'seconds':>9}{'processor':>11}{'ratio':>7}{'ours to it':>18}{'MB':>9}")
    for row in rows:
        compared = f"{row['ours_to_it']:.2f}" + (f" (goal {row['goal']:g})" if row["goal"] is not None else "")
        said = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row["figures"].items())
        print(
            f"{row['contender']:28}{row['seconds']:9.3f}{row['processor_seconds']:11.3f}{row['processor_ratio']:7.2f}"
            f"{compared:>18}{row['peak_bytes'] / 1e6:9.1f}  {said}",
            flush=True,
        )


def main() -> None:
    known = workloads()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(known):
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the peers' own

    results: dict[str, Any] = {"machine": {**machine(PACKAGES), "threads": options.threads}, "workloads": {}}
    print(json.dumps(results["machine"], indent=2))
    for name in options.workloads or known:
        rows = compare(known[name], options.rounds)
        results["workloads"][name] = rows
        show(known[name], rows, options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
