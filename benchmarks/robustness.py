"""Attacks side by side with the public libraries': seconds, robust accuracy, and what went through the network.

Every contender attacks the same network on the same rows with the same eps and budget, and says which rows stay right. They take
turns within one process; a figure is the median over seeds and rounds, a ratio the median of the rounds' ratios to the
reference. Rows and gradients are counted, and the share of time inside the network is measured, in runs of their own that are not timed.

    pip install --no-deps torchattacks   # it declares torchvision, which these attacks do not need
    pip install foolbox
    python benchmarks/robustness.py [WORKLOAD ...] [--eps 0.8 1.6] [--seeds 3] [--rounds 5] [--threads 1]

Each file `_*.py` here that has WORKLOADS adds to them. The largest differences are in what leaves the batch when, so at another
robust accuracy the ratios are others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _compare import Workload, compare, machine, pass_rate, show
from _turns import arguments, asked, workloads


def main() -> None:
    known = workloads("_*.py", Workload)
    parser = arguments(__doc__ or "", known)
    parser.add_argument("--eps", type=float, nargs="+", help="other radii than the workload's own")
    parser.add_argument("--seeds", type=int, default=3)
    options = asked(parser, known)

    about = machine()
    print(json.dumps(about, indent=2))
    results: dict[str, Any] = {"machine": about, "workloads": {}}
    for name in options.workloads or known:
        workload = known[name]
        subject = workload.subject()
        radii = options.eps or workload.eps
        for contender in workload.contenders.values():  # imports and warm-up
            contender(subject, max(workload.eps) * 4, 0)
        rate = pass_rate(subject)
        clean = float(subject.right_after(subject.x).mean())
        print(f"\n{name}: clean accuracy {clean:.3f}; the bare network takes {rate:,.0f} rows/s forward and back")
        results["workloads"][name] = {"rows_per_second": rate, "clean_accuracy": clean, "eps": {}}
        for eps in radii:
            rows = compare(workload, eps, options.seeds, options.rounds)
            results["workloads"][name]["eps"][eps] = rows
            show(workload, eps, rows, options.seeds, options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
