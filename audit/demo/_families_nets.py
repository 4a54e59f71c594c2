"""One small net of each family: the factories that an audit imports. Inputs are in the user's units; the scaling is inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDE = 28
"""Height and width of the images."""
_SCALE = 255.0


class Logistic(nn.Module):
    """Images ``(N, 1, 28, 28)`` in 0..255 → logits ``(N, 10)``: a weight per pixel and class, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE * SIDE, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        logits: Tensor = self.linear(x.flatten(1) / _SCALE)
        return logits


class Mlp(nn.Module):
    """Images ``(N, 1, 28, 28)`` in 0..255 → logits ``(N, 10)`` through two hidden layers that know nothing of neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(SIDE * SIDE, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        logits: Tensor = self.layers(x / _SCALE)
        return logits


class Cnn(nn.Module):
    """Images ``(N, 1, 28, 28)`` in 0..255 → logits ``(N, 10)``; the last convolution has maps of 7 × 7."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(32 * 16, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        logits: Tensor = self.head(self.features(x / _SCALE))
        return logits


class Lstm(nn.Module):
    """Images ``(N, 1, 28, 28)`` in 0..255 → logits ``(N, 10)``: read row by row, answered from the mean over the rows' states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SIDE, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        states, _ = self.lstm(x[:, 0] / _SCALE)
        logits: Tensor = self.head(states.mean(dim=1))
        return logits


class Transformer(nn.Module):
    """Images ``(N, 1, 28, 28)`` in 0..255 → logits ``(N, 10)``: 16 patches of 7 × 7 attend to each other in two layers.

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929.
    """

    def __init__(self, width: int = 48, patch: int = 7) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn((SIDE // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 10)``."""
        tokens = self.patches(x / _SCALE).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.encoder(tokens).mean(dim=1))
        return logits


class SeriesCnn(nn.Module):
    """Series ``(N, 1, L)`` → logits ``(N, C)``: three convolutions over time, each normalised, and what they find in eighths of it.

    Source: Wang et al. 2017, Time series classification from scratch with deep neural networks, arXiv:1611.06455.
    """

    def __init__(self, classes: int = 2, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, width, 9, padding=4), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(width, width, 7, padding=3), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(width, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Linear(width * 8, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, C)``."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Recommender(nn.Module):
    """Columns ``(N, 6)`` user, item, term, age, elsewhere, group → predicted score ``(N,)``.

    Biased matrix factorisation with side features: mean + user's bias + item's bias + user · item + what the side features add.
    Column by column: the numbers of a user and of an item; the user's semester; how many semesters ago; whether given for another
    department (0 or 1); the code of the department.

    Source: Koren, Bell & Volinsky 2009, doi 10.1109/MC.2009.263, equation 6.
    """

    def __init__(self, users: int, items: int, groups: int, rank: int = 4) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.mean: Tensor
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.user, self.item = nn.Embedding(users, rank), nn.Embedding(items, rank)
        self.side = nn.Linear(3, 1, bias=False)
        self.group_bias = nn.Embedding(groups, 1)
        for table in (self.user_bias, self.item_bias, self.group_bias):
            nn.init.zeros_(table.weight)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.side.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(N,)``."""
        user, item, group = x[:, 0].long(), x[:, 1].long(), x[:, 5].long()
        biases = self.user_bias(user) + self.item_bias(item) + self.group_bias(group) + self.side(x[:, 2:5])
        score: Tensor = self.mean + biases.squeeze(1) + (self.user(user) * self.item(item)).sum(dim=1)
        return score
