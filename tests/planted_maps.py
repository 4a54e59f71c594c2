"""Explainers whose maps owe nothing to the model, or are known by hand, as an installed package would bring them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from audit import names
from audit.explainers import Attribution, Explainer
from audit.explainers.saliency import Saliency
from audit.model import Capability


class Planted(Explainer):
    """Base: a map of its own making."""

    needs: ClassVar[frozenset[Capability]] = frozenset()
    complete: ClassVar[bool] = False

    def run(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Attribution:
        return Attribution(self.map(model, x, target, background, rng), target, model.output)

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        raise NotImplementedError


class RandomMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return rng.normal(tuple(x.shape[1:]))


class ConstantMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return torch.ones_like(x)


class NoMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return torch.zeros_like(x)


class GivenMap(Planted):
    """The input itself is the map."""

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return x.clone()


class Asking(Planted):
    """Asks the model once, and says the same of every element."""

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        model.scores(x)
        return torch.ones_like(x)


class Edges(Planted):
    """Sobel magnitude of the image: looks like an explanation, and never asks the model."""

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernels = torch.stack([across, across.T])[:, None].to(x)
        planes = torch.nn.functional.pad(x.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        edges = torch.nn.functional.conv2d(planes, kernels).square().sum(dim=1, keepdim=True).sqrt()
        return edges.expand_as(x)


class Doubled(Planted):
    """Twice the gradient."""

    slopes: ClassVar[bool] = True

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return 2 * Saliency(absolute=False).run(model, x, target, background, rng).values


class Jittery(Planted):
    """The gradient plus noise of its own size."""

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        clean = Saliency(absolute=False).run(model, x, target, background, rng).values
        return clean + clean.std() * rng.normal(tuple(x.shape[1:]))


KINDS = {
    "random_map": RandomMap,
    "constant_map": ConstantMap,
    "no_map": NoMap,
    "given_map": GivenMap,
    "asking": Asking,
    "edges": Edges,
    "doubled": Doubled,
    "jittery": Jittery,
}


class _Entry:
    def __init__(self, found: type[Explainer]) -> None:
        self._found = found

    def load(self) -> type[Explainer]:
        return self._found


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the planted explainers by name."""
    entries = {name: _Entry(kind) for name, kind in KINDS.items()}
    before = names._installed
    monkeypatch.setattr(names, "_installed", lambda group: entries if group == "explainers" else before(group))
