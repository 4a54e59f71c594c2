"""The kinds of network that explainers must take, small and untrained, with rows to explain: what introductions to the field start with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from toys import audited

from audit.model import AuditedModel

Family = tuple[AuditedModel, Tensor, Tensor]
"""A model, rows, and the classes explained."""


class Lstm(nn.Module):
    """Reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, 0])[0][:, -1])


class Transformer(nn.Module):
    """Attends over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 12), nn.Linear(12, 4)
        self.layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
        self.place = nn.Parameter(torch.randn(8, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x[:, 0]) + self.place).mean(dim=1))


class Residual(nn.Module):
    """Convolutions with normalisation, a shortcut, a rectifier that is used twice and one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 6, 3, padding=1),
        )
        self.relu, self.in_place, self.head = nn.ReLU(), nn.ReLU(inplace=True), nn.Linear(6, 4)
        nn.init.uniform_(self.first.weight, 0.5, 2.0)
        nn.init.normal_(self.first.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        start = self.relu(self.first(self.stem(x / 4)))
        return self.head(self.in_place(start + self.second(self.relu(start - 0.3))).mean(dim=(2, 3)))


def cnn() -> nn.Module:
    """Convolutions, a pool and a hidden layer, one after the other."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip


def mlp(outputs: int = 4) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, outputs))


def _family(
    make: Callable[[], nn.Module], shape: tuple[int, ...], kind: str, output: str = "logit", classes: int = 4
) -> Callable[[], Family]:
    def made() -> Family:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = audited(make().double(), shape, classes, output=output, kind=kind)  # type: ignore[arg-type]
            x = torch.randn(7, *shape, dtype=torch.float64)
        target = torch.arange(7) % (classes if output != "value" else 1)
        return model, x, target

    return made


MODELS: dict[str, Callable[[], Family]] = {
    "cnn": _family(cnn, (1, 8, 8), "image"),
    "residual": _family(Residual, (2, 8, 8), "image"),
    "mlp": _family(mlp, (6,), "number"),
    "lstm": _family(Lstm, (1, 8, 8), "image"),
    "transformer": _family(Transformer, (1, 8, 8), "image"),
    "margin": _family(lambda: mlp(1), (6,), "number", "margin", 2),
    "probability": _family(lambda: nn.Sequential(mlp(), nn.Softmax(dim=1)), (6,), "number", "probability"),
    "value": _family(lambda: nn.Sequential(mlp(1), nn.Flatten(0)), (6,), "number", "value"),
}
"""In double precision, so that comparisons do not turn on the side of a kink that rounding takes."""
