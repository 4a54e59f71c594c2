"""What benchmarks of contenders side by side share: workloads found by file name, runs in turns, the command line."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from _compare import machine

W = TypeVar("W")


def workloads(pattern: str, kind: type[W]) -> dict[str, W]:
    """The WORKLOADS of this kind in every file beside this one whose name fits, by name."""
    found: dict[str, W] = {}
    for path in sorted(Path(__file__).parent.glob(pattern)):
        for workload in getattr(importlib.import_module(path.stem), "WORKLOADS", ()):
            if isinstance(workload, kind):
                found[workload.name] = workload
    return found


def take_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of wall clock and of processor of each run, one for each round; every round begins with another."""
    wall, processor = ({name: list[float]() for name in runs} for _ in range(2))
    names = list(runs)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter(), time.process_time()
            runs[name]()
            wall[name].append(time.perf_counter() - start[0])
            processor[name].append(time.process_time() - start[1])
    return wall, processor


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds of one time divided by the other."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def goal(row: Mapping[str, Any]) -> str:
    """Our time divided by a contender's, with the goal behind it where there is one."""
    return f"{row['ours_to_it']:.2f}" + (f" (goal {row['goal']:g})" if row["goal"] is not None else "")


def arguments(about: str, known: Mapping[str, Any]) -> argparse.ArgumentParser:
    """What every benchmark takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser


def asked(parser: argparse.ArgumentParser, known: Mapping[str, Any]) -> argparse.Namespace:
    """What the command line says; torch takes as many threads as it asks for."""
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(known):
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    torch.set_num_threads(options.threads)
    return options


def command_line(
    about: str | None,
    pattern: str,
    kind: type[W],
    packages: tuple[str, ...],
    compare: Callable[[W, int], list[dict[str, Any]]],
    show: Callable[[W, list[dict[str, Any]], int], None],
) -> None:
    """Run the workloads named on the command line, print their rows, and write them as JSON where asked."""
    known = workloads(pattern, kind)
    options = asked(arguments(about, known), known)
    warnings.simplefilter("ignore")  # the peers' own

    results: dict[str, Any] = {"machine": {**machine(packages), "threads": options.threads}, "workloads": {}}
    print(json.dumps(results["machine"], indent=2))
    for name in options.workloads or known:
        rows = compare(known[name], options.rounds)
        results["workloads"][name] = rows
        show(known[name], rows, options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
