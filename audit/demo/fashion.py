"""A convolutional net on Fashion-MNIST: the factory of the training files ``trainings/fashion-*.yaml``."""

from __future__ import annotations

from torch import Tensor, nn


class FashionCnn(nn.Module):
    """Images ``(N, 1, 28, 28)`` in 0..255 → logits ``(N, 10)``; the scaling to −1..1 is inside.

    Strides in place of pools and no normalisation between rows: each row's gradient is its own and cheap to bound.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5, stride=2, padding=2),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(2 * width * 49, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        logits: Tensor = self.head(self.features(x / 127.5 - 1))
        return logits


def cnn(width: int = 8) -> FashionCnn:
    """Factory of the untrained net."""
    return FashionCnn(width)
