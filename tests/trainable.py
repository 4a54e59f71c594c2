"""Factories of small modules for training files to name: digits ``(N, 1, 8, 8)`` in 0..16 → logits."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn


class Softmax(nn.Module):
    """Multinomial logistic regression on pixels."""

    def __init__(self, answers: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(64, answers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.linear(x.flatten(1) / 16)
        return logits


class Flaky(Softmax):
    """Drops inputs in training, so that each step draws from torch's generator."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return super().forward(nn.functional.dropout(x, 0.2, self.training))


def normed() -> nn.Module:
    """Has a layer that mixes the rows of a batch."""
    return nn.Sequential(nn.BatchNorm2d(1), Softmax())


def no_module() -> Tensor:
    """A tensor."""
    return torch.zeros(1)


def broken() -> nn.Module:
    """Fails."""
    raise RuntimeError("no weights today")


class Recurrent(nn.Module):
    """Reads a digit row by row; plain autograd alone can train its GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(8, 12, batch_first=True)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.layer(x[:, 0] / 16)[0][:, -1])
        return logits


def perceptron() -> nn.Module:
    """Wide enough to remember wrong labels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def known_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operating system say the same every time: a training that draws from it repeats, and its ledger stays as it is."""
    monkeypatch.setattr("audit.train.randomness.os.urandom", random.Random(0).randbytes)
    monkeypatch.setattr(torch, "seed", lambda: torch.manual_seed(0))
