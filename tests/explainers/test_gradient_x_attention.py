"""Gradient × attention: one layer and two by hand, the class explained, a planted word, and nothing left behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tweets import PLANTED, trained, tweet_data

from audit.explainers.gradient_x_attention import GradientXAttention, _relevance
from audit.model import AuditedModel, Capability
from audit.rng import ExampleRng
from audit.text import decode_all


def run(model: AuditedModel, x: Tensor, target: Tensor) -> Any:
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return GradientXAttention().run(model, x, target, x[:0], rng)


def test_one_layer_by_hand() -> None:
    """Read at the first place, which has 1 of itself; attention times slope, where positive, on average over heads."""
    layer = torch.tensor([[[[0.2, 0.8], [0.5, 0.5]], [[0.4, 0.6], [0.5, 0.5]]]], dtype=torch.float64).requires_grad_()
    slope = torch.tensor([[[[2.0, -1.0], [0, 0]], [[-3.0, 4.0], [0, 0]]]], dtype=torch.float64)
    found = _relevance((layer * slope).sum(dim=(1, 2, 3)), (layer,))
    torch.testing.assert_close(found, torch.tensor([[1 + 0.4 / 2, 2.4 / 2]], dtype=torch.float64))


def test_two_layers_are_the_matrices_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = tuple(
        torch.rand((3, 2, 4, 4), dtype=torch.float64, generator=generator).softmax(dim=-1).requires_grad_()
        for _ in range(2)
    )
    reader = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=generator)
    reader[:, :, 1:] = 0  # only the first place is read
    score = (layers[1] @ layers[0] * reader).sum(dim=(1, 2, 3))
    slopes = torch.autograd.grad(score.sum(), layers, retain_graph=True)
    relevance = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    for layer, slope in zip(layers, slopes, strict=True):
        relevance = relevance + (layer * slope).clamp_min(0).mean(dim=1).detach() @ relevance
    torch.testing.assert_close(_relevance(score, layers), relevance[:, 0])


def test_a_trained_transformer_shows_the_planted_word() -> None:
    model = trained()
    x = model.tensor(tweet_data(24).test)
    target = model.predict(x)
    found, other = run(model, x, target), run(model, x, 1 - target)
    assert not torch.allclose(found.values, other.values)
    assert float(found.values.min()) >= 0
    assert found.features.unit == "token"
    texts = decode_all(x)
    with_word = [i for i, text in enumerate(texts) if PLANTED in text and target[i] == 1]
    places = [texts[i].find(PLANTED) for i in with_word]
    hits = [at <= int(found.values[i].argmax()) < at + len(PLANTED) for i, at in zip(with_word, places, strict=True)]
    assert len(hits) >= 10
    assert sum(hits) >= 0.9 * len(hits)


def test_nothing_is_left_behind() -> None:
    model = trained()
    x = model.tensor(tweet_data(3).test)
    module = model.module
    assert module is not None
    scores, state = model.scores(x), torch.get_rng_state()
    values = run(model, x, torch.ones(3, dtype=torch.int64)).values
    assert not values.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(scores, model.scores(x))
    assert not any(part._forward_hooks for part in (module, module.get_input_embeddings()))
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert model.rows_backward >= 3
    assert GradientXAttention.needs == {Capability.EMBEDDINGS}
