"""Models with closed-form answers, and the small real data every test can afford."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.context import Context
from audit.data import AuditData, Batch, row_ids
from audit.model import AuditedModel, Capability, Field, InputSpec, OutputSpace, implied
from audit.run_folder import RunWriter


def audited(
    model: nn.Module | Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    n_classes: int = 2,
    *,
    bounds: tuple[float, float] | None = None,
    output: OutputSpace = "logit",
    kind: str = "image",
    name: str = "toy",
    gradients: bool = True,
    native: Any = None,
) -> AuditedModel:
    """Any torch module or function as an audited model."""
    module = model if isinstance(model, nn.Module) else None
    if module is not None:
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    regression = output == "value"
    return AuditedModel(
        name=name,
        digest=name,
        task="regression" if regression else "classification",
        classes=() if regression else tuple(str(c) for c in range(n_classes)),
        spec=InputSpec(fields=(Field(name="x", kind=kind, shape=shape, bounds=bounds),)),
        output=output,
        capabilities=implied(output, gradients=gradients, layers=gradients and module is not None),
        forward=model,
        module=module,
        native=native,
    )


class Linear(nn.Module):
    """Two logits ``(0, w·x + b)``: the decision boundary is exactly ``w·x + b = 0``."""

    def __init__(self, w: list[float], b: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.b = nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        margin = x.flatten(1) @ self.w.to(x.dtype) + self.b.to(x.dtype)
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


def batch(x: Any, labels: Any, groups: dict[str, Any] | None = None) -> Batch:
    """Arrays as a batch."""
    x, labels = np.asarray(x), np.asarray(labels)
    return Batch(x, labels, row_ids(x, labels), groups or {})


def data(
    test: Batch,
    train: Batch | None = None,
    *,
    n_classes: int = 2,
    bounds: tuple[float, float] | None = None,
    kind: str = "image",
) -> AuditData:
    """Batches of single-field inputs as audit data."""
    spec = InputSpec(fields=(Field(name="x", kind=kind, shape=tuple(test.x.shape[1:]), bounds=bounds),))
    return AuditData("toy", test, spec, tuple(str(c) for c in range(n_classes)), train)


@cache
def digits(n_test: int = 500) -> AuditData:
    """scikit-learn's digits as images ``(1, 8, 8)`` in 0..16: test rows and members."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = bunch.data.reshape(-1, 1, 8, 8).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[:n_test], order[n_test:]
    labels = bunch.target.astype(np.int64)
    return data(batch(x[test], labels[test]), batch(x[train], labels[train]), n_classes=10, bounds=(0.0, 16.0))


class SmallCnn(nn.Module):
    """A small convolutional net for digits; the scaling of 0..16 is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / 16.0)


@cache
def trained_cnn(epochs: int = 8) -> SmallCnn:
    """A small net trained on the digits' members; about 97 % right on the test rows."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = SmallCnn()
        members = digits().train
        assert members is not None
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(epochs):
            for part in torch.randperm(len(x)).split(64):
                loss = nn.functional.cross_entropy(model(x[part]), y[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return model.eval()


WRITERS: list[RunWriter] = []
"""Open run folders of the running test; `conftest` closes them."""


def context(
    tmp_path: Path, *, seed: int = 0, check_id: str = "toy.check", models: dict[str, AuditedModel] | None = None
) -> Context:
    """A context over a fresh run folder."""
    folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    writer = RunWriter(folder, {"scenario": "toy"}, "name: toy\n")
    WRITERS.append(writer)
    return Context(seed=seed, check_id=check_id, step=check_id, writer=writer, open_model=(models or {}).__getitem__)


ALL = frozenset(Capability)
