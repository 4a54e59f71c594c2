"""A copy of a model, trained on the model's own answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.data import AuditData, Batch
    from audit.model import AuditedModel, InputSpec

Answers = Literal["scores", "labels"]
"""What of the model's answer the copy learns from: its probabilities, or the predicted class alone."""
Architecture = Literal["auto", "cnn", "mlp"]
"""``cnn``: two convolutions with pooling, for images; ``mlp``: two hidden layers, for anything; ``auto``: the one that fits the input."""

_BATCH = 64
_RATE = 2e-3


def rows_to_ask(data: AuditData, what: str) -> Batch:
    """Rows of the test rows' distribution that are not tested on: the population where there is one, else the training rows.

    Rows whose content is a test row's are left out.

    Raises:
        UserError: there are none.
    """
    for batch in (data.population, data.train):
        if batch is not None:
            tested = set(data.test.ids)
            rest = batch.take([i for i, name in enumerate(batch.ids) if name not in tested])
            if len(rest):
                return rest
    raise UserError(
        f"{what} asks the model about rows that are not tested on, and data '{data.source}' has none: give it a `split`, or a population"
    )


def ask(model: AuditedModel, x: Tensor, answers: Answers) -> Tensor:
    """What a copy learns from, ``(N, C)`` float32 and summing to 1: the model's probabilities, or its label as a one-hot row."""
    import torch

    scores = model.scores(x)
    model.check_finite(scores)
    if answers == "scores":
        return model.probabilities_of(scores).float()
    return torch.nn.functional.one_hot(model.labels_of(scores), len(model.classes)).float()


def train(
    spec: InputSpec,
    x: Tensor,
    targets: Tensor,
    *,
    architecture: Architecture,
    epochs: int,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> nn.Module:
    """A classifier fit to targets by their cross-entropy: Adam, with the rate falling to zero along a cosine.

    The same seed gives the same network, and the global generator is left as it was.

    Args:
        x: ``(N, *spec.shape)``, NaN for missing.
        targets: ``(N, C)`` probabilities.
        progress: called after every epoch.

    Returns:
        A module from inputs in the user's units to logits ``(N, C)``, in eval mode, its parameters without gradients.

    Raises:
        UserError: a convolutional network for something that is no image.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(spec, x, targets.shape[1], architecture).to(x.device)
        optimiser = torch.optim.Adam(network.parameters(), lr=_RATE, weight_decay=1e-4)
        size = max(_BATCH // 8, min(_BATCH, len(x) // 8))  # few rows still make several steps of an epoch
        total = epochs * math.ceil(len(x) / size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
        with torch.enable_grad():
            for _ in range(epochs):
                for part in torch.randperm(len(x)).to(x.device).split(size):  # type: ignore[no-untyped-call]
                    loss = torch.nn.functional.cross_entropy(network(x[part]), targets[part])
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    schedule.step()
                progress()
    return network.eval().requires_grad_(False)


def _network(spec: InputSpec, x: Tensor, classes: int, architecture: Architecture) -> nn.Module:
    from torch import nn

    image = spec.kind == "image" and len(spec.shape) == 3
    if architecture == "cnn" and not image:
        raise UserError(
            f"a surrogate of architecture 'cnn' needs images (C, H, W), the input is {spec.kind} {spec.shape}"
        )
    if image and architecture != "mlp":
        channels, height, width = spec.shape
        pooled = 4 if min(height, width) >= 4 else 1
        return nn.Sequential(
            _encoder(spec, x), nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(32 * pooled**2, 64), nn.ReLU(), nn.Linear(64, classes),
        )  # fmt: skip
    encoder = _encoder(spec, x)
    return nn.Sequential(
        encoder, nn.Flatten(), nn.Linear(encoder(x[:1]).numel(), 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
        nn.Linear(128, classes),
    )  # fmt: skip


def _encoder(spec: InputSpec, x: Tensor) -> nn.Module:
    """Inputs as a network takes them: scaled by the mean and spread of the rows given (of a table, per column), missing values at
    the mean, categories one-hot."""
    import torch
    from torch import nn

    over = (0,) if spec.tabular else tuple(range(x.dim()))
    present = ~x.isnan()
    count = present.sum(dim=over).clamp_min(1)
    mean = x.nan_to_num(0.0).sum(dim=over) / count
    spread = (((x - mean).nan_to_num(0.0) ** 2).sum(dim=over) / count).sqrt()
    sizes = [len(field.categories) if field.kind == "category" else 0 for field in spec.fields] if spec.tabular else []

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean: Tensor
            self.spread: Tensor
            self.register_buffer("mean", mean)
            self.register_buffer("spread", torch.where(spread > 0, spread, 1.0))

        def forward(self, x: Tensor) -> Tensor:
            scaled = ((x - self.mean) / self.spread).nan_to_num(0.0).float()
            if not any(sizes):
                return scaled
            columns = [
                nn.functional.one_hot(x[:, i].nan_to_num(0.0).long().clamp(0, size - 1), size).float()
                if size
                else scaled[:, i : i + 1]
                for i, size in enumerate(sizes)
            ]
            return torch.cat(columns, dim=1)

    return Encoder()
