"""CPU seconds of the commands that must answer at once, beside a bare interpreter and ``import torch``, in turn in one run.

python benchmarks/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
AUDIT = [sys.executable, "-c", "from audit.cli import main; main()"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "audit --help": [*AUDIT, "--help"],
    "audit validate loans.yaml": [*AUDIT, "validate", "scenarios/loans.yaml"],
    "audit validate digits.yaml": [*AUDIT, "validate", "scenarios/digits.yaml"],
    "audit validate (all three)": [
        *AUDIT,
        "validate",
        *(f"scenarios/{n}.yaml" for n in ("digits", "imagenet", "loans")),
    ],
}
GOAL = 0.5
"""CPU seconds."""


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one finished child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print the median of each command and its share of importing torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            taken[name].append(cpu_seconds(command))
    torch = statistics.median(taken["import torch"])
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {rounds} rounds in turn; goal {GOAL} s")
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(
            f"{name:30} {middle:6.2f} s CPU (min {min(seconds):.2f}, max {max(seconds):.2f})  {middle / torch:5.2f} of import torch"
        )


if __name__ == "__main__":
    main()
