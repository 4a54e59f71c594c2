"""A registry of its own for every test, and a package of models that somebody might have installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.registry.store import Registry

ZOO = '''
import os
from functools import partial
from os import system

import numpy as np
import torch
from torch import nn

from toys import SmallCnn

constant = 3
bound = partial(os.system, "touch marker")


def cnn():
    return SmallCnn()


def mlp(width=4, classes=3, seed=0, tied=False):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, classes))
    if tied:
        net[3].weight = nn.Parameter(net[3].weight.clone())
        net.add_module("again", nn.Linear(classes, classes))
        net.again.weight = nn.Parameter(torch.eye(classes))
        net.add_module("copy", nn.Linear(classes, classes, bias=False))
        net.copy.weight = net.again.weight
    return net


class Head(nn.Module):
    """A fixed linear map of the input, and a head."""

    def __init__(self, head="logits"):
        super().__init__()
        self.head = head
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.0, -1.0], [0.5, -2.0, 0.0]]))

    def forward(self, x):
        scores = x @ self.weight
        return {
            "logits": lambda: scores,
            "softmax": lambda: scores.softmax(1),
            "one": lambda: scores[:, :1],
            "flat": lambda: scores[:, 0],
            "summed": lambda: scores.sum(0, keepdim=True),
            "tuple": lambda: (scores, scores),
            "detached": lambda: scores.detach(),
            "nan": lambda: scores / 0 * 0,
            "double": lambda: 2 * scores.softmax(1),
        }[self.head]()


class CharacterBag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(128, 2, mode="sum", padding_idx=0)

    def forward(self, codes):
        return self.embedding(codes.clamp(max=127))


def shouting(texts):
    return np.array([[0.1, 0.9] if text.isupper() else [0.8, 0.2] for text in texts])


def broken():
    raise RuntimeError("no such\\nbackbone")


def no_module():
    return {"weight": 1}


def scripted():
    return torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2))


def nearest_corner(x):
    return (x[:, 0] > 0).astype(int) + (x[:, 1] > 0).astype(int)


def corner_names(x):
    return [("low", "middle", "high")[i] for i in nearest_corner(x)]


def odd_names(x):
    return ["elsewhere"] * len(x)


def shares(x):
    p = 1 / (1 + np.exp(-x[:, 0]))
    return np.stack([1 - p, p], axis=1)


def total(x):
    return x.sum(axis=1)


def approve(table):
    return (table["income"].to_numpy() > 0) & (table["city"].to_numpy() == "Paris")
'''


@pytest.fixture(scope="session")
def _zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    (folder / "assay_zoo").mkdir()
    (folder / "assay_zoo" / "__init__.py").write_text("")
    (folder / "assay_zoo" / "models.py").write_text(ZOO)
    return folder


@pytest.fixture
def zoo(_zoo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package ``assay_zoo``, importable; gives its folder."""
    monkeypatch.syspath_prepend(_zoo_folder)
    return _zoo_folder / "assay_zoo"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry that allows ``assay_zoo``."""
    found = Registry(tmp_path / "home")
    found.trust.allow_package("assay_zoo")
    return found
