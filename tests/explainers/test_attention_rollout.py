"""Attention rollout: products by hand, the places a score is read from, and a planted word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import audited
from tweets import PLANTED, trained, tweet_data

from audit.explainers._tokens import readout
from audit.explainers.attention_rollout import AttentionRollout, _rollout
from audit.model import AuditedModel, Capability, NonFiniteOutput
from audit.parameters import NotApplicable
from audit.rng import ExampleRng
from audit.text import decode_all


def run(model: AuditedModel, x: Tensor, target: Tensor) -> Any:
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return AttentionRollout().run(model, x, target, x[:0], rng)


def weights(*layers: Any) -> tuple[Tensor, ...]:
    """Attention ``(1, H, T, T)`` of each layer, to be differentiated."""
    return tuple(torch.tensor(layer, dtype=torch.float64)[None].requires_grad_() for layer in layers)


def test_two_layers_by_hand() -> None:
    """Halved with the identity and multiplied, the last layer first; heads count alike."""
    attention = weights(
        [[[0.0, 1.0], [0.5, 0.5]]],
        [[[0.6, 0.4], [1.0, 0.0]], [[0.2, 0.8], [1.0, 0.0]]],
    )
    score = attention[1][:, :, 0].sum(dim=(1, 2))  # read at the first place
    half = torch.eye(2, dtype=torch.float64) / 2
    first = half + torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64) / 2
    second = half + torch.tensor([[0.4, 0.6], [1.0, 0.0]], dtype=torch.float64) / 2
    torch.testing.assert_close(_rollout(score, attention), (second @ first)[:1])


def test_where_a_score_is_read() -> None:
    for read, expected in ((slice(0, 1), [1.0, 0, 0]), (slice(2, 3), [0, 0, 1.0]), (slice(0, 3), [1 / 3] * 3)):
        (last,) = weights([[[1 / 3] * 3] * 3] * 2)
        score = last[:, :, read].sum(dim=(1, 2, 3))
        torch.testing.assert_close(readout(score, last), torch.tensor([expected], dtype=torch.float64))
    (last,) = weights([[[1 / 3] * 3] * 3])
    assert readout(0 * last.sum()[None], last).tolist() == [[1, 0, 0]]


def test_shares_of_a_trained_transformer() -> None:
    model = trained()
    x = model.tensor(tweet_data(24).test)
    target = model.predict(x)
    found = run(model, x, target)
    assert found.base_value is None
    assert found.features.unit == "token"
    assert float(found.values.min()) >= 0
    shares = found.values.sum(dim=1)
    assert float(shares.max()) < 1  # the tokenizer's own tokens hold the rest
    torch.testing.assert_close(found.values, run(model, x, 1 - target).values)  # the class plays no part
    assert not bool(found.values[x == 0].any())
    alone = run(model, x[3:4], target[3:4]).values
    torch.testing.assert_close(found.values[3:4], alone, rtol=1e-4, atol=1e-6)
    texts = decode_all(x)
    with_word = [i for i, text in enumerate(texts) if PLANTED in text and target[i] == 1]
    there = [float(found.values[i, (at := texts[i].find(PLANTED)) : at + len(PLANTED)].sum()) for i in with_word]
    even = [len(PLANTED) / len(texts[i]) for i in with_word]
    assert sum(there) > sum(even)


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    x = model.tensor(tweet_data(2).test)
    target = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(NotApplicable, match="attention_rollout: model 'toy' shows no token embeddings"):
        run(audited(lambda z: z.float()[:, :2], (160,), 2, kind="text", gradients=False), x, target)
    assert model.text is not None
    assert model.module is not None
    answer, attention = model.text.attentions(model.text.tokens(x))
    broken = (answer / 0, attention)
    monkeypatch.setattr(type(model.text), "attentions", lambda self, tokens: broken)
    with pytest.raises(NonFiniteOutput):
        run(model, x, target)
    monkeypatch.undo()
    monkeypatch.setattr(
        type(model.text), "_answer", lambda self, tokens, **_: self.module.get_input_embeddings()(tokens.ids)
    )
    with pytest.raises(NotApplicable, match="gives no attention from each token to each"):
        run(model, x, target)
    assert AttentionRollout.needs == {Capability.EMBEDDINGS}
    assert not AttentionRollout.complete
