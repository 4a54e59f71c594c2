"""Small networks of every kind that training must do right, each with a batch of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from opacus.layers import DPGRU, DPLSTM
from torch import Tensor, nn

CLASSES = 3
LENGTH = 5
VOCABULARY = 11


def loss(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, y, reduction="none")


def mlp(dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, CLASSES))


def cnn(norm: Callable[[int], nn.Module] | None = None, *, inplace: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        (norm or (lambda channels: nn.GroupNorm(2, channels)))(4),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(36, CLASSES),
    )


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: object) -> None:
        super().__init__()
        self.layer = kind(4, 6, batch_first=True, **options)
        self.head = nn.Linear(6 * (2 if options.get("bidirectional") else 1), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class SequenceFirst(nn.Module):
    """Turns its rows about for one layer: a layout that hooks misread."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(4, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mixed(x.transpose(0, 1))).mean(dim=0))


class Transformer(nn.Module):
    """An encoder over tokens; its positions are a parameter, or an embedding of ``arange(T)``."""

    def __init__(self, positions: str = "parameter", *, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 8)
        if positions == "parameter":
            self.place = nn.Parameter(torch.randn(LENGTH, 8))
        else:
            self.position = nn.Embedding(LENGTH, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        place = self.place if hasattr(self, "place") else self.position(torch.arange(x.shape[1], device=x.device))
        return self.head(self.encoder(self.tokens(x) + place).mean(dim=1))


class Tied(nn.Module):
    """One matrix embeds the tokens and scores them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 6)
        self.middle = nn.Linear(6, 6)
        self.scores = nn.Linear(6, VOCABULARY, bias=False)
        self.scores.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(torch.tanh(self.middle(self.tokens(x).mean(dim=1))))


class Gain(nn.Module):
    """A layer of one's own."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(n) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain.exp()


class Centred(nn.Module):
    """Mixes the examples, and no list of layers knows it."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class Chancy(nn.Module):
    """Randomness that is no dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def own() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), Gain(5), nn.Tanh(), nn.Linear(5, CLASSES))


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    for parameter in (*net[0].parameters(), net[2].bias):
        parameter.requires_grad_(False)
    return net


def rows(name: str, n: int) -> tuple[Tensor, Tensor]:
    """Rows and labels that the network of this name takes."""
    generator = torch.Generator().manual_seed(n)
    y = torch.randint(CLASSES, (n,), generator=generator)
    if name.startswith(("transformer", "tied")):
        return torch.randint(VOCABULARY, (n, LENGTH), generator=generator), y
    shape = {"cnn": (1, 8, 8), "lstm": (LENGTH, 4), "gru": (LENGTH, 4), "sequence": (LENGTH, 4)}.get(
        name.split("_")[0], (6,)
    )
    return torch.randn(n, *shape, generator=generator), y


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lambda: Recurrent(DPLSTM),
    "gru": lambda: Recurrent(DPGRU, bidirectional=True, num_layers=2),
    "transformer_parameter": Transformer,
    "transformer_embedding": lambda: Transformer("embedding"),
    "tied": Tied,
    "own": own,
    "frozen": frozen,
}


def net(name: str) -> nn.Module:
    torch.manual_seed(3)
    return MAKERS[name]()
