"""Black boxes over columns whose Shapley values are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audit.bridges.global_generators import seeded
from audit.bridges.shap import library
from audit.explainers import Attribution, Explainer
from audit.model import AuditedModel, Field, InputSpec, OutputSpace, implied
from audit.rng import ExampleRng


def table(
    forward: Callable[[Any], Any], features: int, output: OutputSpace, *, native: Any = None, classes: int = 2
) -> AuditedModel:
    """A black box over columns: arrays in, arrays out."""
    return AuditedModel(
        name="table", digest="table", output=output, native=native,
        task="regression" if output == "value" else "classification",
        classes=() if output == "value" else tuple(str(c) for c in range(classes)),
        spec=InputSpec(fields=tuple(Field(name=f"c{j}", kind="number") for j in range(features))),
        capabilities=implied(output, gradients=False, layers=False),
        forward=lambda x: torch.as_tensor(np.asarray(forward(x.numpy()))),
    )  # fmt: skip


def rows(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def explained(
    explainer: Explainer,
    model: AuditedModel,
    x: Tensor,
    target: Any = None,
    background: Tensor | None = None,
    ids: Any = None,
    seed: int = 0,
) -> Attribution:
    """Rows explained; target 0 and a background of zeros unless told."""
    aim = torch.zeros(len(x), dtype=torch.int64) if target is None else torch.as_tensor(target)
    background = torch.zeros_like(x[:1]) if background is None else background
    rng = ExampleRng(seed, "check", ids or [str(i) for i in range(len(x))], "explainer")
    return explainer.run(model, x, aim, background, rng)


def shap_regression(worth: Callable[[Any], Any], players: int, *, coalitions: int, seed: int) -> Any:
    """shap's KernelExplainer on a game: coalitions ``(K, M)`` bool in, their worth ``(K,)`` out; Shapley values ``(M,)``.

    It is given the game, not a model's own columns: there it would call a feature unchanged where ``np.isclose`` finds it equal to
    the background (a timestamp an hour apart is), and keep ten features unless told otherwise.
    """
    with seeded(seed):
        explainer = library().KernelExplainer(lambda masks: worth(np.asarray(masks) != 0), np.zeros((1, players)))
        found = explainer.shap_values(np.ones((1, players)), nsamples=coalitions, l1_reg=False, silent=True)
    return np.asarray(found, dtype=np.float64).reshape(players)


def multi_layer(x: Any) -> Any:
    """captum's ``BasicModel_MultiLayer``, target 0."""
    total = x.sum(axis=1, keepdims=True)
    return np.maximum(total + np.array([-10.0, 1, 1, 1]), 0).sum(axis=1) - 1


def airport(x: Any) -> Any:
    """What the longest runway costs."""
    return (x * np.array([8, 11, 13, 18])).max(axis=1)


GAMES: list[Any] = [
    pytest.param(lambda x: x[:, 0] * x[:, 1], (3, 2), (3, 3), id="product"),
    pytest.param(lambda x: x.min(axis=1), (1, 3), (0.5, 0.5), id="minimum"),
    pytest.param(airport, (1, 1, 1, 1), (2, 3, 4, 9), id="airport"),
    pytest.param(multi_layer, (20, 50, 30), (230 / 3, 590 / 3, 350 / 3), id="multi-layer"),
]
