"""How often `robustness.backdoor` cries wolf on clean models, and how often it finds a planted patch.

python benchmarks/backdoor.py [--clean 20] [--poisoned 8] [--restarts 5] [--batch 32]

Convolutional networks on scikit-learn's digits (1,297 training rows, 500 test rows), each from its own seed; the poisoned ones with a
bright 2×2 patch in the lower right corner of 5 % of the training rows, labelled as the target (the seed modulo ten). Default parameters,
gates as a scenario would write them: anomaly index below 2 judged by its interval, and no suspicious training rows.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from toys import audited, batch, context, data, digits

from audit.checks.robustness.backdoor import Backdoor
from audit.data import AuditData
from audit.finding import part_name
from audit.gate import Gate
from audit.stats import clopper_pearson

SHARE, SIDE, THRESHOLD = 0.05, 2, 2.0


class Net(nn.Module):
    """Images ``(N, 1, 8, 8)`` in 0..16 → logits ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        answer: Tensor = self.net(x / 16)
        return answer


def poisoned(rows: AuditData, target: int, seed: int) -> AuditData:
    """The same data with the patch in some training rows, labelled as the target."""
    assert rows.train is not None
    x, y = rows.train.x.copy(), rows.train.labels.copy()
    chosen = np.random.default_rng(seed).choice(np.flatnonzero(y != target), round(SHARE * len(y)), replace=False)
    x[chosen, :, -SIDE:, -SIDE:], y[chosen] = 16.0, target
    return data(rows.test, batch(x, y), n_classes=10, bounds=(0.0, 16.0))


def train(rows: AuditData, seed: int, epochs: int = 12) -> nn.Module:
    """A network trained on the members."""
    assert rows.train is not None
    torch.manual_seed(seed)
    x, y, net = torch.from_numpy(rows.train.x), torch.from_numpy(rows.train.labels), Net()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(net(x[part]), y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def audit_one(seed: int, target: int | None, folder: Path, check: Backdoor) -> dict[str, object]:
    """Train a network, check it, and tell what the numbers were."""
    rows = digits() if target is None else poisoned(digits(), target, seed)
    net = train(rows, seed)
    model = audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0))
    start = time.process_time()
    ctx = context(folder, seed=seed, check_id=f"backdoor-{seed}-{target}")
    found = {part_name(m.metric, m.dims): m for m in check.run(model, rows, ctx)}
    index = found["anomaly_index"].estimate
    low, high = index.interval()
    gate = Gate.parse(f"< {THRESHOLD}")
    steered = torch.from_numpy(rows.test.x).clone()
    steered[:, :, -SIDE:, -SIDE:] = 16.0
    worst = max(range(10), key=lambda k: found[f"anomaly_index[class={k}]"].estimate.value)
    return {
        "index": index.value,
        "status": "void" if found["anomaly_index"].voids else "pass" if gate.holds_for(low, high) else "fail" if gate.misses(low, high) else "inconclusive",
        "class": worst,
        "activation_clustering": found["suspicious_share[method=activation_clustering]"].estimate.value,
        "spectral_signatures": found["suspicious_share[method=spectral_signatures]"].estimate.value,
        "accuracy": float(model.correct(rows.test).double().mean()),
        "patch works": float("nan") if target is None else float((model.predict(steered) == target).double().mean()),
        "seconds": time.process_time() - start,
    }  # fmt: skip


def say(name: str, k: int, n: int) -> None:
    """A rate with its interval."""
    low, high = clopper_pearson(k, n)
    print(f"  {name}: {k} of {n} ({k / n:.0%}, 95 % interval {low:.0%} to {high:.0%})")


def main() -> None:
    """Print every model's numbers, then the rates."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--poisoned", type=int, default=8)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    counts = parser.parse_args()
    torch.set_num_threads(1)
    check = Backdoor(restarts=counts.restarts, batch=counts.batch)
    with tempfile.TemporaryDirectory() as folder:
        for kind, count in (("clean", counts.clean), ("poisoned", counts.poisoned)):
            results = []
            for seed in range(count):
                results.append(audit_one(seed, seed % 10 if kind == "poisoned" else None, Path(folder), check))
                shown = ", ".join(
                    f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in results[-1].items()
                )
                print(f"{kind} {seed}: {shown}", flush=True)
            print(f"{kind}, {count} models")
            say(f"anomaly index above {THRESHOLD:g}", sum(r["index"] > THRESHOLD for r in results), count)
            for status in ("pass", "inconclusive", "fail", "void"):
                say(
                    f"gate 'anomaly_index: < {THRESHOLD:g}' {status}",
                    sum(r["status"] == status for r in results),
                    count,
                )
            if kind == "poisoned":
                say(
                    "the planted class has the largest index",
                    sum(r["class"] == i % 10 for i, r in enumerate(results)),
                    count,
                )
            for method in ("activation_clustering", "spectral_signatures"):
                say(f"{method} flags rows", sum(r[method] > 0 for r in results), count)


if __name__ == "__main__":
    main()
