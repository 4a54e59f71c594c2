"""Private training and attacks on privacy beside their peers: time, memory, and what came out.

Contenders take turns within one process; seconds are medians over the rounds (of the clock, and of the processor, all threads together),
ratios the medians of the rounds' ratios. Memory is the most bytes of tensors held at once, counted in the run that warms up.

    python benchmarks/privacy.py [WORKLOAD ...] [--rounds 5] [--threads 1] [--json FILE]

Each file `_privacy_*.py` here that has WORKLOADS adds to them.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _privacy_workload import Workload
from _turns import command_line, goal, ratio, take_turns

from audit.train.gradients._memory import PeakMemory

PACKAGES = ("torch", "opacus", "numpy")


def compare(workload: Workload, rounds: int) -> list[dict[str, Any]]:
    """Every contender, taking turns after a run to warm up."""
    runs = {name: contender() for name, contender in workload.contenders.items()}
    peaks, figures = dict[str, int](), dict[str, dict[str, float | str]]()
    for name, run in runs.items():
        with PeakMemory() as memory:
            figures[name] = dict(run())
        peaks[name] = memory.peak
    wall, processor = take_turns(runs, rounds)
    return [
        {
            "contender": name,
            "seconds": statistics.median(wall[name]),
            "processor_seconds": statistics.median(processor[name]),
            "processor_ratio": ratio(processor[name], processor[workload.reference]),
            "ours_to_it": ratio(processor[workload.ours], processor[name]),
            "goal": workload.goals.get(name),
            "peak_bytes": peaks[name],
            "figures": figures[name],
        }
        for name in runs
    ]


def show(workload: Workload, rows: list[dict[str, Any]], rounds: int) -> None:
    """A table of `compare`'s rows."""
    print(
        f"\n{workload.name}: {workload.title}; {rounds} rounds; 'ours to it': processor time, with the goal behind it"
    )
    print(f"{'':28}{'seconds':>9}{'processor':>11}{'ratio':>7}{'ours to it':>18}{'MB':>9}")
    for row in rows:
        said = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row["figures"].items())
        print(
            f"{row['contender']:28}{row['seconds']:9.3f}{row['processor_seconds']:11.3f}{row['processor_ratio']:7.2f}"
            f"{goal(row):>18}{row['peak_bytes'] / 1e6:9.1f}  {said}",
            flush=True,
        )


if __name__ == "__main__":
    command_line(__doc__, "_privacy_*.py", Workload, PACKAGES, compare, show)
