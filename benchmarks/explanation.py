"""Explainers side by side with captum's and shap's: time, distance from each other's maps, and what went through the network.

Every contender explains the same rows of the same network for the same classes, with the same number of points, draws or coalitions. They
take turns within one process; seconds are medians over the rounds (of the clock, and of the processor, all threads together),
ratios the medians of the rounds' ratios to the reference. Rows are counted in the run that warms up.

    python benchmarks/explanation.py [WORKLOAD ...] [--rounds 5] [--threads 1] [--json FILE]

Each file `_explain_*.py` here that has WORKLOADS adds to them. "Passes alone" is what the network itself takes for as many rows, forward
and back, in passes of the fastest of several sizes.
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

from _compare import Meter, Metered, machine
from _explain_workload import NOT_TIMED, Run, Workload
from torch import Tensor

PACKAGES = ("torch", "captum", "shap", "numpy")


def workloads() -> dict[str, Workload]:
    """Those of every file beside this one."""
    found: dict[str, Workload] = {}
    for path in sorted(Path(__file__).parent.glob("_explain_*.py")):
        for workload in getattr(importlib.import_module(path.stem), "WORKLOADS", ()):
            found[workload.name] = workload
    return found


def compare(workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Every contender, taking turns after a run to warm up; the maps are those of that run."""
    network, runs, maps, counts = (
        workload.network(),
        dict[str, Run](),
        dict[str, Tensor](),
        dict[str, tuple[int, int]](),
    )
    for name, contender in workload.contenders.items():
        meter = Meter()
        runs[name] = contender(Metered(network, meter).eval())
        meter.rows_forward = meter.rows_backward = 0  # of making ready
        maps[name] = runs[name]().double()
        counts[name] = meter.rows_forward, meter.rows_backward
    timed = [name for name in runs if not name.endswith(NOT_TIMED)]
    wall, processor = ({name: list[float]() for name in timed} for _ in range(2))
    for turn in range(rounds):
        first = turn % len(timed)
        for name in timed[first:] + timed[:first]:
            start = time.perf_counter(), time.process_time()
            runs[name]()
            wall[name].append(time.perf_counter() - start[0])
            processor[name].append(time.process_time() - start[1])
    rows = []
    for name in timed:
        truth = maps[workload.truth]
        off = (maps[name] - truth).abs() if maps[name].shape == truth.shape else None
        rows.append(
            {
                "contender": name,
                "seconds": statistics.median(wall[name]),
                "processor_seconds": statistics.median(processor[name]),
                "ratio": _ratio(wall[name], wall[workload.reference]),
                "processor_ratio": _ratio(processor[name], processor[workload.reference]),
                "ours_to_it": _ratio(processor[workload.ours], processor[name]),
                "rows_forward": counts[name][0],
                "gradients": counts[name][1],
                "largest_difference": None if off is None else float(off.max()),
                "mean_difference": None if off is None else float(off.mean()),
                "goal": workload.goals.get(name),
            }
        )
    return rows


def _ratio(mine: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def show(workload: Workload, rows: list[dict[str, Any]], rounds: int) -> None:
    """A table of `compare`'s rows."""
    print(f"\n{workload.name}: {workload.title}; {rounds} rounds")
    print(f"differences from the maps of '{workload.truth}'; 'ours to it': processor time, with the goal behind it")
    print(
        f"{'':32}{'seconds':>9}{'ratio':>7}{'processor':>11}{'ratio':>7}{'ours to it':>19}{'forward':>10}{'gradients':>11}"
        f"{'largest diff':>14}{'mean diff':>11}"
    )
    for row in rows:
        compared = f"{row['ours_to_it']:.2f}" + (f" (goal {row['goal']:g})" if row["goal"] is not None else "")
        off = (f"{row[key]:.2e}" if row[key] is not None else "" for key in ("largest_difference", "mean_difference"))
        print(
            f"{row['contender']:32}{row['seconds']:9.3f}{row['ratio']:7.2f}{row['processor_seconds']:11.3f}{row['processor_ratio']:7.2f}"
            f"{compared:>19}{row['rows_forward']:10,}{row['gradients']:11,}{next(off):>14}{next(off):>11}",
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
