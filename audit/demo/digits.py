"""A convolutional net on scikit-learn's digits: the factory that an audit imports, and the training that makes its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from audit.data import Batch


class DigitsCnn(nn.Module):
    """Images ``(N, 1, 8, 8)`` in 0..16 → logits ``(N, 10)``; the scaling to 0..1 is inside."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(2 * width * 4, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        logits: Tensor = self.head(self.features(x / 16.0))
        return logits


def cnn(width: int = 32) -> DigitsCnn:
    """Factory of the untrained net."""
    return DigitsCnn(width)


def train(members: Batch, *, epochs: int = 15, eps: float = 0.0, seed: int = 0) -> DigitsCnn:
    """Train on the members: Adam, cross-entropy, shifts of one pixel; with `eps`, on PGD-7 examples (Madry et al. 2018).

    Args:
        members: images ``(N, 1, 8, 8)`` in 0..16 and their labels.
        eps: linf radius of adversarial training in input units; 0 trains plainly.
    """
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        model = cnn()
        x, y = torch.from_numpy(members.x).float(), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=epochs * -(-len(x) // 64))
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), 64):
                inputs = _shifted(x[rows])
                if eps:
                    inputs = _perturbed(model, inputs, y[rows], eps)
                loss = nn.functional.cross_entropy(model(inputs), y[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return model.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """The same weights whatever the number of cores: sums in another order give other floats."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _shifted(x: Tensor) -> Tensor:
    """Each batch moved by at most one pixel."""
    dy, dx = (int(v) for v in torch.randint(-1, 2, (2,)))
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    return padded[..., 1 + dy : 9 + dy, 1 + dx : 9 + dx]


def _perturbed(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    adversarial = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 16)
    for _ in range(7):
        adversarial.requires_grad_(True)
        loss = nn.functional.cross_entropy(model(adversarial), y)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = (adversarial.detach() + eps / 3 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 16)
    return adversarial.detach()
