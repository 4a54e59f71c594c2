"""PGD-40 on 500 digits, side by side: `robustness.evasion`, torchattacks, foolbox and ART.

Every contender attacks the same network on the same rows with the same eps, step and number of steps, and says how many rows stay
right. They take turns within one process; a figure is the median of the rounds, a ratio the median of the rounds' ratios.

    pip install --no-deps torchattacks   # it declares torchvision, which PGD does not need
    pip install foolbox
    python benchmarks/robustness.py [--eps 0.8 1.6 2.4] [--seeds 3] [--rounds 5] [--threads 1]

Gradients are counted where they pass through the network, in runs of their own that are not timed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.attacks.pgd import Pgd
from audit.checks.robustness.evasion import Evasion
from audit.context import Context
from audit.data import AuditData, Batch, row_ids
from audit.finding import Proportion, ThreatModel
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.run_folder import RunWriter

ROWS = 500
STEPS = 40
STEP = 0.5
"""Step as a share of eps."""
HIGH = 16.0
"""Digits are 0..16."""


class Network(nn.Module):
    """Two convolutions and two dense layers; the scaling of 0..16 is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / HIGH)


class Counted(nn.Module):
    """Passes rows on and counts those that went forward and those that came back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forward_rows, self.backward_rows = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forward_rows += len(x)
        answer = self.inner(x)
        if answer.requires_grad:
            answer.register_hook(self._back)
        return answer

    def _back(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


class Unit(nn.Module):
    """The network for inputs in 0..1, which torchattacks assumes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * HIGH)


def train(x: Tensor, y: Tensor) -> Network:
    """A network that gets about 97 % of the test rows right."""
    torch.manual_seed(0)
    model = Network()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(12):
        for part in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def digits() -> tuple[Tensor, Tensor, Batch]:
    """Training inputs and labels, and the test rows."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch.data.reshape(-1, 1, 8, 8).astype(np.float32)
    y = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    test, members = order[:ROWS], order[ROWS:]
    return (
        torch.from_numpy(x[members]),
        torch.from_numpy(y[members]),
        Batch(x[test], y[test], row_ids(x[test], y[test])),
    )


def audited(module: nn.Module) -> AuditedModel:
    return AuditedModel(
        name="digits",
        digest="digits",
        task="classification",
        classes=tuple("0123456789"),
        spec=InputSpec(fields=(Field(name="x", kind="image", shape=(1, 8, 8), bounds=(0.0, HIGH)),)),
        output="logit",
        capabilities=implied("logit", gradients=True, layers=True),
        forward=module,
        module=module,
    )


Contender = Callable[[nn.Module, Batch, float, int], int]
"""Network, rows, eps and seed in; rows that stay right out."""


def evasion(module: nn.Module, batch: Batch, eps: float, seed: int) -> int:
    """The whole check: clean answers, attack, confirmation, controls, evidence on disk."""
    model = audited(module)
    data = AuditData("digits", batch, model.spec, model.classes)
    with tempfile.TemporaryDirectory() as folder, RunWriter(Path(folder) / "run", {}, "") as writer:
        ctx = Context(seed=seed, check_id="evasion", step="evasion", writer=writer, open_model=lambda name: model)
        check = Evasion(attacks=({"pgd": {"steps": STEPS, "step_size": STEP}},), eps=eps)
        for measurement in check.run(model, data, ctx):
            if measurement.metric == "robust_accuracy" and not measurement.dims:
                estimate = measurement.estimate
    assert isinstance(estimate, Proportion)
    return estimate.k


def pgd(module: nn.Module, batch: Batch, eps: float, seed: int) -> int:
    """Clean answers, attack and confirmation alone, as the peers do them."""
    from audit.attacks import confirm
    from audit.rng import ExampleRng

    model = audited(module)
    threat = ThreatModel(access="white_box", norm="linf", eps=eps, bounds=(0.0, HIGH))
    right = model.correct(batch)
    x, y = model.tensor(batch)[right], torch.from_numpy(batch.labels)[right]
    rng = ExampleRng(seed, "pgd", batch.take(right.numpy()).ids, "attack")
    found = Pgd(steps=STEPS, step_size=STEP).run(model, x, y, threat, rng)
    return len(x) - int(confirm(model, x, y, found.x, threat).success.sum())


def torchattacks_pgd(module: nn.Module, batch: Batch, eps: float, seed: int) -> int:
    import torchattacks

    torch.manual_seed(seed)
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.labels)
    unit = Unit(module).eval()
    attack = torchattacks.PGD(unit, eps=eps / HIGH, alpha=STEP * eps / HIGH, steps=STEPS, random_start=True)
    moved = attack(x / HIGH, y)
    with torch.no_grad():
        return int((unit(moved).argmax(1) == y).sum())


def foolbox_pgd(module: nn.Module, batch: Batch, eps: float, seed: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of SciPy
        import foolbox

    torch.manual_seed(seed)
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.labels)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP * eps, steps=STEPS, random_start=True)
    _, _, fooled = attack(foolbox.PyTorchModel(module, bounds=(0.0, HIGH), device="cpu"), x, y, epsilons=eps)
    return int((~fooled).sum())


def art_pgd(batch_size: int | None) -> Contender:
    """ART's PGD with its own batch size (32), or another."""

    def run(module: nn.Module, batch: Batch, eps: float, seed: int) -> int:
        from art.attacks.evasion import ProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        np.random.seed(seed)
        torch.manual_seed(seed)
        classifier = PyTorchClassifier(
            module, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, HIGH), device_type="cpu"
        )
        sizes = {} if batch_size is None else {"batch_size": batch_size}
        attack = ProjectedGradientDescent(
            classifier, eps=eps, eps_step=STEP * eps, max_iter=STEPS, num_random_init=1, verbose=False, **sizes
        )
        moved = attack.generate(batch.x, batch.labels)
        return int((classifier.predict(moved, **sizes).argmax(1) == batch.labels).sum())

    return run


CONTENDERS: dict[str, Contender] = {
    "robustness.evasion (whole check)": evasion,
    "  attack and confirmation alone": pgd,
    "torchattacks": torchattacks_pgd,
    "foolbox": foolbox_pgd,
    "ART, batches of 512": art_pgd(512),
    "ART as it comes": art_pgd(None),
}


def pass_rate(module: nn.Module, batch: Batch) -> float:
    """Rows a second that the bare network takes forward and back to its input, all rows at once."""
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.labels)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        inputs = x.clone().requires_grad_()
        torch.autograd.grad(nn.functional.cross_entropy(module(inputs), y), inputs)
        times.append(time.perf_counter() - start)
    return len(x) / statistics.median(times)


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    packages = ("torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "numpy")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def compare(module: nn.Module, batch: Batch, eps: float, seeds: int, rounds: int) -> list[dict[str, Any]]:
    """Times, robust accuracies and gradient counts of every contender at one eps."""
    rows = []
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    robust: dict[str, list[int]] = {name: [] for name in CONTENDERS}
    for seed in range(seeds):
        for turn in range(rounds):
            names = list(CONTENDERS)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.perf_counter()
                left = CONTENDERS[name](module, batch, eps, seed)
                seconds[name].append(time.perf_counter() - start)
                if turn == 0:
                    robust[name].append(left)
    for name, contender in CONTENDERS.items():
        counted = Counted(module).eval()
        contender(counted, batch, eps, 0)
        row: dict[str, Any] = {
            "contender": name,
            "seconds": statistics.median(seconds[name]),
            "robust_accuracy": [left / len(batch) for left in robust[name]],
            "rows_forward": counted.forward_rows,
            "gradients": counted.backward_rows,
        }
        for other in ("torchattacks", "ART as it comes"):
            pairs = zip(seconds[name], seconds[other], strict=True)
            row[f"of {other}"] = statistics.median(mine / theirs for mine, theirs in pairs)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.8, 1.6, 2.4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    train_x, train_y, batch = digits()
    module = train(train_x, train_y)
    for contender in CONTENDERS.values():
        contender(module, batch, options.eps[0], 0)  # imports and warm-up
    about = machine()
    print(json.dumps(about, indent=2))
    rate = pass_rate(module, batch)
    clean = int((module(torch.from_numpy(batch.x)).argmax(1).numpy() == batch.labels).sum())
    print(f"clean accuracy {clean / len(batch):.3f}; the bare network takes {rate:,.0f} rows/s forward and back")
    results: dict[str, Any] = {"machine": about, "rows_per_second": rate, "eps": {}}
    for eps in options.eps:
        rows = results["eps"][eps] = compare(module, batch, eps, options.seeds, options.rounds)
        print(
            f"\nPGD-{STEPS}, linf, eps {eps:g} of 0..16, {len(batch)} rows, {options.seeds} seeds x {options.rounds} rounds"
        )
        print(
            f"{'':34}{'seconds':>8}{'of torchattacks':>17}{'of ART':>8}{'gradients':>11}{'in passes':>11}  robust accuracy"
        )
        for row in rows:
            share = row["gradients"] / rate / row["seconds"]
            accuracy = " ".join(f"{value:.3f}" for value in row["robust_accuracy"])
            print(
                f"{row['contender']:34}{row['seconds']:8.3f}{row['of torchattacks']:17.2f}{row['of ART as it comes']:8.2f}"
                f"{row['gradients']:11,}{share:11.0%}  {accuracy}"
            )
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
