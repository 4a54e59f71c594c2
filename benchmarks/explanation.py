"""Explainers side by side with captum's and shap's: time, distance from each other's maps, and what went through the network.

Every contender explains the same rows of the same network for the same classes, with the same number of points, draws or coalitions. They
take turns within one process; seconds are medians over the rounds (of the clock, and of the processor, all threads together),
ratios the medians of the rounds' ratios to the reference. Rows are counted in the run that warms up.

    python benchmarks/explanation.py [WORKLOAD ...] [--rounds 5] [--threads 1] [--json FILE]

Each file `_explain_*.py` here that has WORKLOADS adds to them. "Passes alone" is what the network itself takes for as many rows, forward
and back, in passes of the fastest of several sizes.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _compare import Meter, Metered
from _explain_workload import NOT_TIMED, Run, Workload
from _turns import command_line, goal, ratio, take_turns
from torch import Tensor

PACKAGES = ("torch", "captum", "shap", "numpy")


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
    wall, processor = take_turns({name: runs[name] for name in timed}, rounds)
    rows = []
    for name in timed:
        truth = maps[workload.truth]
        off = (maps[name] - truth).abs() if maps[name].shape == truth.shape else None
        rows.append(
            {
                "contender": name,
                "seconds": statistics.median(wall[name]),
                "processor_seconds": statistics.median(processor[name]),
                "ratio": ratio(wall[name], wall[workload.reference]),
                "processor_ratio": ratio(processor[name], processor[workload.reference]),
                "ours_to_it": ratio(processor[workload.ours], processor[name]),
                "rows_forward": counts[name][0],
                "gradients": counts[name][1],
                "largest_difference": None if off is None else float(off.max()),
                "mean_difference": None if off is None else float(off.mean()),
                "goal": workload.goals.get(name),
            }
        )
    return rows


def show(workload: Workload, rows: list[dict[str, Any]], rounds: int) -> None:
    """A table of `compare`'s rows."""
    print(f"\n{workload.name}: {workload.title}; {rounds} rounds")
    print(f"differences from the maps of '{workload.truth}'; 'ours to it': processor time, with the goal behind it")
    print(
        f"{'':32}{'seconds':>9}{'ratio':>7}{'processor':>11}{'ratio':>7}{'ours to it':>19}{'forward':>10}{'gradients':>11}"
        f"{'largest diff':>14}{'mean diff':>11}"
    )
    for row in rows:
        off = (f"{row[key]:.2e}" if row[key] is not None else "" for key in ("largest_difference", "mean_difference"))
        print(
            f"{row['contender']:32}{row['seconds']:9.3f}{row['ratio']:7.2f}{row['processor_seconds']:11.3f}{row['processor_ratio']:7.2f}"
            f"{goal(row):>19}{row['rows_forward']:10,}{row['gradients']:11,}{next(off):>14}{next(off):>11}",
            flush=True,
        )


if __name__ == "__main__":
    command_line(__doc__, "_explain_*.py", Workload, PACKAGES, compare, show)
