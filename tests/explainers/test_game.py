"""Rows as games: mixtures by either road, worth, players that never change anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from games import rows, table
from torch import Tensor
from toys import audited

from audit.explainers import _game
from audit.explainers._features import Features, features_of
from audit.model import Field, InputSpec
from audit.text import encode

SHAPES: list[Any] = [
    pytest.param("image", (3, 6, 6), torch.float32, id="image"),
    pytest.param("image", (6, 6), torch.float64, id="plane"),
    pytest.param("series", (2, 12), torch.float32, id="series"),
    pytest.param("text", (12,), torch.int32, id="text"),
]


def inputs(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Features]:
    generator = torch.Generator().manual_seed(0)
    if kind == "text":
        x = torch.from_numpy(encode(["ab c de", "f", "gh ij kl"], 12))
        absent = torch.where(x == 0, x, 32)[:, None]
    else:
        x = torch.randn(3, *shape, generator=generator).to(dtype)
        x.view(-1)[[0, 7]] = torch.tensor([float("nan"), -0.0]).to(dtype)
        absent = torch.randn(4, *shape, generator=generator).to(dtype).expand(3, 4, *shape)
    spec = InputSpec(fields=(Field(name="x", kind=kind, shape=shape),))
    unit: Any = {"image": "patch", "series": "window", "text": "word"}[kind]
    return x, absent, features_of(x, spec, unit, None if kind == "text" else 2)


@pytest.mark.parametrize(("kind", "shape", "dtype"), SHAPES)
def test_large_inputs_are_mixed_as_small_ones_are(
    monkeypatch: pytest.MonkeyPatch, kind: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, absent, features = inputs(kind, shape, dtype)
    model = audited(lambda z: z.flatten(1).sum(dim=1), shape, output="value", kind=kind)
    found = []
    for large in (1, 10**9):
        monkeypatch.setattr(_game, "_LARGE", large)
        game = _game.FeatureGame(model, x, torch.zeros(3).long(), absent, features)
        row = torch.tensor([0, 0, 0, 1, 1, 2, 2, 0])
        other = torch.tensor([0, 0, 3, 2, 2, 1, 1, 0]) % absent.shape[1]
        present = torch.rand(8, game.most, generator=torch.Generator().manual_seed(1)) < 0.5
        found.append(game.mixed(row, other, present).clone())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0, equal_nan=True)
    assert found[0].dtype == dtype


def test_everybody_and_nobody() -> None:
    model = table(lambda z: z[:, 0] * z[:, 1], 2, "value")
    x, absent = rows((2, 3), (4, 5)), rows((1, 1), (2, 3)).expand(2, 2, 2)
    spec = model.spec
    game = _game.FeatureGame(model, x, torch.zeros(2).long(), absent, features_of(x, spec))
    assert game.score().tolist() == [6, 20]
    assert game.nobody().tolist() == [3.5, 3.5]
    every = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    worth = game.worth(torch.tensor([1, 0]), 4, lambda _, coalition: every[coalition])
    assert worth.tolist() == [[3.5, (4 * 1 + 4 * 3) / 2, (1 * 5 + 2 * 5) / 2, 20], [3.5, 4, 4.5, 6]]


def test_dummies_play_where_they_are_told_to() -> None:
    model = table(lambda z: z.sum(axis=1), 3, "value")
    x = rows((1, 0, 2))
    features = features_of(x, model.spec)
    absent = torch.zeros(1, 1, 3).double()
    game = _game.FeatureGame(model, x, torch.zeros(1).long(), absent, features)
    assert (game.count.tolist(), game.players.number.tolist()) == ([2], [[0, -1, 1]])
    assert _game.FeatureGame(model, x, torch.zeros(1).long(), absent, features, dummies=True).count.tolist() == [3]


@pytest.mark.parametrize(
    ("kind", "shape", "unit", "count"),
    [
        ("image", (3, 50, 30), "patch", 60),
        ("image", (8, 8), "patch", 64),
        ("series", (2, 32), "value", 64),
        ("series", (2, 100), "window", 50),
        ("text", (12,), "word", 2),
    ],
)
def test_what_plays_unless_told_otherwise(kind: Any, shape: tuple[int, ...], unit: str, count: int) -> None:
    x = torch.from_numpy(encode(["two words"], 12)) if kind == "text" else torch.rand(1, *shape)
    spec = InputSpec(fields=(Field(name="x", kind=kind, shape=shape),))
    found = _game.players_of(x, spec, "auto", None, 64)
    assert (found.unit, found.count.tolist()) == (unit, [count])
