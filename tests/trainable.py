"""Factories of small modules for training files to name: digits ``(N, 1, 8, 8)`` in 0..16 → logits."""

from __future__ import annotations

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
