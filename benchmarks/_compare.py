"""Contenders side by side in one process: times, survivors, true counts of rows, and the share of time inside the network."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _subjects import Subject
from torch import Tensor, nn

Contender = Callable[[Subject, float, int], np.ndarray]
"""Subject, eps and seed in; which rows stay right out, ``(N,)`` bool."""


@dataclass(frozen=True)
class Workload:
    """One piece of work for several contenders.

    Args:
        name: by which the command line calls it.
        title: what is done, in words.
        subject: made when it is needed.
        eps: radii, in the inputs' units.
        contenders: in the order they are printed.
        reference: the contender that the others' times are divided by.
    """

    name: str
    title: str
    subject: Callable[[], Subject]
    eps: tuple[float, ...]
    contenders: Mapping[str, Contender]
    reference: str


class Meter:
    """What went through a network, its copies included."""

    def __init__(self) -> None:
        self.rows_forward = self.rows_backward = 0
        self.calls_backward = 0
        self.seconds = 0.0

    def __deepcopy__(self, memo: Any) -> Meter:
        return self


class Metered(nn.Module):
    """Passes rows on, counts them and their gradients, and the time it takes."""

    def __init__(self, inner: nn.Module, meter: Meter) -> None:
        super().__init__()
        self.inner, self.meter = inner, meter

    def forward(self, x: Tensor) -> Tensor:
        start = time.perf_counter()
        answer = self.inner(x)
        self.meter.seconds += time.perf_counter() - start
        self.meter.rows_forward += len(x)
        if answer.requires_grad:
            answer.register_hook(self._back)
        return answer

    def _back(self, gradient: Tensor) -> None:
        self.meter.rows_backward += len(gradient)
        self.meter.calls_backward += 1


def metered(contender: Contender, subject: Subject, eps: float, seed: int) -> tuple[Meter, float]:
    """One run that counts; gives the share of its time inside the network, too."""
    meter = Meter()
    watched = replace(subject, module=Metered(subject.module, meter).eval())
    backward = torch.autograd.backward, torch.autograd.grad

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                meter.seconds += time.perf_counter() - start

        return run

    torch.autograd.backward, torch.autograd.grad = (timed(call) for call in backward)
    start = time.perf_counter()
    try:
        contender(watched, eps, seed)
    finally:
        whole = time.perf_counter() - start
        torch.autograd.backward, torch.autograd.grad = backward
    return meter, meter.seconds / whole


def compare(workload: Workload, eps: float, seeds: int, rounds: int) -> list[dict[str, Any]]:
    """Every contender at one eps: medians over seeds and rounds, taking turns."""
    subject = workload.subject()
    names = list(workload.contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    robust: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(seeds):
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                left = workload.contenders[name](subject, eps, seed)
                seconds[name].append(time.perf_counter() - start)
                if turn == 0:
                    robust[name].append(float(left.mean()))
    rows = []
    for name in names:
        meter, share = metered(workload.contenders[name], subject, eps, 0)
        ratios = [mine / theirs for mine, theirs in zip(seconds[name], seconds[workload.reference], strict=True)]
        rows.append(
            {
                "contender": name,
                "seconds": statistics.median(seconds[name]),
                "ratio": statistics.median(ratios),
                "robust_accuracy": robust[name],
                "rows_forward": meter.rows_forward,
                "gradients": meter.rows_backward,
                "backward_calls": meter.calls_backward,
                "in_passes": share,
            }
        )
    return rows


def show(workload: Workload, eps: float, rows: list[dict[str, Any]], seeds: int, rounds: int) -> None:
    """A table of `compare`'s rows."""
    subject = workload.subject()
    print(
        f"\n{workload.title}: {subject.name}, eps {eps:g} of 0..{subject.high:g}, {len(subject.batch)} rows, {seeds} seeds x {rounds} rounds"
    )
    print(
        f"{'':40}{'seconds':>9}{'ratio':>7}{'forward':>12}{'gradients':>11}{'calls':>7}{'in passes':>11}  robust accuracy"
    )
    for row in rows:
        accuracy = " ".join(f"{value:.3f}" for value in row["robust_accuracy"])
        print(
            f"{row['contender']:40}{row['seconds']:9.3f}{row['ratio']:7.2f}{row['rows_forward']:12,}{row['gradients']:11,}"
            f"{row['backward_calls']:7,}{row['in_passes']:11.0%}  {accuracy}",
            flush=True,
        )


def pass_rate(subject: Subject) -> float:
    """Rows a second that the bare network takes forward and back to its input, at most 512 at once."""
    x, y = subject.x[:512], subject.y[:512]
    times = []
    for _ in range(20):
        start = time.perf_counter()
        inputs = x.clone().requires_grad_()
        torch.autograd.grad(nn.functional.cross_entropy(subject.module(inputs), y), inputs)
        times.append(time.perf_counter() - start)
    return len(x) / statistics.median(times)


PEERS = ("torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "numpy")


def machine(packages: tuple[str, ...] = PEERS) -> dict[str, Any]:
    """Where and with what this runs."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
