"""Integrated gradients over token embeddings: closed form, captum, completeness, and a planted word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from toys import audited
from tweets import LENGTH, PLANTED, trained, tweet_data

from audit.explainers import Explainer
from audit.explainers._features import features_of
from audit.explainers._tokens import over_characters
from audit.explainers.layer_integrated_gradients import LayerIntegratedGradients
from audit.explainers.occlusion import Occlusion
from audit.explainers.permutation_shap import PermutationShap
from audit.model import AuditedModel, Capability, Field, InputSpec, NonFiniteOutput, Tokens
from audit.parameters import NotApplicable
from audit.rng import ExampleRng
from audit.text import decode_all, encode


@dataclass
class Letters:
    """Each letter is a token between two that the tokenizer adds; the score is what `answer` makes of the embeddings' sum."""

    answer: Any
    neutral: int = 0
    passes: int = 0
    widest: int = 0

    def tokens(self, x: Tensor) -> Tokens:
        n, length = x.shape
        written = x != 0
        edge = torch.ones(n, 1, dtype=torch.bool)
        mask = torch.cat([edge, written, ~edge], dim=1)
        special = torch.zeros_like(mask)
        special[:, 0] = True
        ids = torch.cat(
            [torch.ones(n, 1).long(), torch.where(written, x.long() - 94, 0), torch.zeros(n, 1).long()], dim=1
        )
        place = torch.arange(-1, length + 1).clamp_min(0).expand_as(ids)
        own = mask & ~special
        return Tokens(ids, mask, special, torch.where(own, place, 0), torch.where(own, place + 1, 0))

    def embed(self, ids: Tensor) -> Tensor:
        """The place in the alphabet plus three, and its square; 1 for the start, 0 for what is neutral."""
        return torch.stack([ids, ids**2], dim=-1).to(torch.float32)

    def from_embeddings(self, embeddings: Tensor, tokens: Tokens) -> Tensor:
        self.passes += 1
        self.widest = max(self.widest, len(embeddings))
        score = self.answer((embeddings * tokens.mask[..., None]).sum(dim=1))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def letters(answer: Any) -> AuditedModel:
    model = audited(lambda x: x.float()[:, :2], (6,), 2, kind="text", gradients=False)
    model.text = Letters(answer)  # type: ignore[assignment]
    return model


def explain(model: AuditedModel, texts: Any, target: int = 1, **options: Any) -> Any:
    x = torch.from_numpy(encode(texts, model.spec.shape[0]))
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    aim = torch.full((len(x),), target)
    return LayerIntegratedGradients(**options).run(model, x, aim, x[:0], rng)


# --- closed form -------------------------------------------------------------------------------------------------


def test_a_linear_score_by_hand() -> None:
    """a is token 3, b is 4: 2 · token + token², and nothing for the start, whose embedding stays."""
    found = explain(letters(lambda s: 2 * s[:, 0] + s[:, 1]), ["ab", "b", ""])
    expected = torch.zeros(3, 6, dtype=torch.float64)
    expected[0, :2], expected[1, 0] = torch.tensor([15.0, 24.0]).double(), 24.0
    torch.testing.assert_close(found.values, expected)
    torch.testing.assert_close(found.base_value, torch.full((3,), 3.0, dtype=torch.float64))  # the start alone
    torch.testing.assert_close(found.score, torch.tensor([42.0, 27.0, 3.0]).double())
    assert found.features.unit == "token"
    assert found.features.count.tolist() == [2, 1, 0]
    assert found.features.number[0].tolist() == [0, 1, -1, -1, -1, -1]


def test_a_product_of_two_tokens_is_shared_as_the_axioms_say() -> None:
    """s = first component summed: f = s³ from 1 (the start) to 1 + 3 + 4: each token's share of the way is its share of the value."""
    found = explain(letters(lambda s: s[:, 0] ** 3), ["ab"])
    torch.testing.assert_close(
        found.values[0, :2], torch.tensor([3.0, 4.0]).double() / 7 * (8**3 - 1), rtol=1e-5, atol=0
    )
    assert float(found.error[0]) < 1e-3


def test_the_zero_baseline_leaves_the_neutral_embedding_out() -> None:
    model = letters(lambda s: s[:, 0])
    model.text.neutral = 5
    assert explain(model, ["ab"]).values[0, :2].tolist() == pytest.approx([-2, -1])
    assert explain(model, ["ab"], baseline="zero").values[0, :2].tolist() == pytest.approx([3, 4])


def test_the_other_class_has_the_other_sign() -> None:
    model = letters(lambda s: s[:, 0])
    model.output, model.classes = "margin", ("no", "yes")
    model.text.from_embeddings = lambda e, t: (e * t.mask[..., None]).sum(dim=1)[:, 0]
    assert explain(model, ["ab"], target=0).values[0, :2].tolist() == pytest.approx([-3, -4])


def test_steps_are_doubled_until_complete_and_no_further() -> None:
    model = letters(lambda s: 1 - torch.relu(1 - s[:, 0] / 50))  # a kink on the way
    one = explain(model, ["zz", "a"], steps=2, max_steps=2)
    more = explain(model, ["zz", "a"], steps=2, max_steps=512)
    assert one.error[0] > 0.01
    assert more.error[0] < 0.011
    assert "2 to 2 steps" in one.method
    assert "2 to 2 steps" not in more.method
    cubic = letters(lambda s: s[:, 0] ** 3)
    assert explain(cubic, ["z"], steps=2, max_steps=2).error[0] < 1e-2  # two points of Gauss–Legendre are exact
    assert explain(cubic, ["z"], steps=2, max_steps=2, method="riemann_middle").error[0] > 100
    with pytest.raises(ValidationError, match="less than steps"):
        LayerIntegratedGradients(steps=8, max_steps=4)


def test_points_per_pass() -> None:
    for size in (5, 32):
        model = letters(lambda s: s[:, 0])
        explain(model, ["ab", "cd"], internal_batch=size)
        assert model.text.widest == size  # type: ignore[union-attr]
        assert model.rows_backward == 64
        assert model.rows_forward == 64 + 4


def test_what_cannot_be_explained() -> None:
    with pytest.raises(NotApplicable, match="shows no token embeddings"):
        explain(audited(lambda x: x.float()[:, :2], (6,), 2, kind="text", gradients=False), ["ab"])
    with pytest.raises(NonFiniteOutput):
        explain(letters(lambda s: s[:, 0] / 0), ["ab"])
    assert LayerIntegratedGradients.needs == {Capability.EMBEDDINGS}


# --- a trained transformer ---------------------------------------------------------------------------------------


def subject(n: int = 24) -> tuple[AuditedModel, Tensor, Tensor]:
    model = trained()
    x = model.tensor(tweet_data(n).test)
    return model, x, model.predict(x)


def run(explainer: Explainer, model: AuditedModel, x: Tensor, target: Tensor) -> Any:
    return explainer.run(model, x, target, x[:0], ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer"))


def test_equal_to_captum() -> None:
    from captum.attr import LayerIntegratedGradients as Captum

    model, x, target = subject(6)
    inside, module = model.text, model.module
    assert inside is not None
    assert module is not None
    tokens = inside.tokens(x)
    baseline = torch.where(tokens.special | ~tokens.mask, tokens.ids, inside.neutral)

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        return module(input_ids=ids, attention_mask=mask).logits

    reference = Captum(forward, module.get_input_embeddings())
    theirs = reference.attribute(
        tokens.ids, baseline, target=target, additional_forward_args=(tokens.mask.long(),), n_steps=40
    ).sum(dim=2)
    mine = run(LayerIntegratedGradients(steps=40, max_steps=40), model, x, target)
    spread, _ = over_characters(theirs, tokens, LENGTH)
    torch.testing.assert_close(mine.values, spread, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        mine.features.total(mine.values).sum(dim=1), theirs.sum(dim=1).double(), rtol=1e-5, atol=1e-5
    )


def test_values_add_up_and_find_the_planted_word() -> None:
    model, x, target = subject()
    found = run(LayerIntegratedGradients(), model, x, target)
    gap = (found.values.sum(dim=1) - (found.score - found.base_value)).abs()
    torch.testing.assert_close(gap, found.error, rtol=0, atol=1e-9)
    assert float((gap / (found.score - found.base_value).abs().clamp_min(1)).max()) < 0.02
    torch.testing.assert_close(found.score, model.target_score(x, target).double(), rtol=1e-4, atol=1e-5)
    words = features_of(x, model.spec)
    totals, hits = words.total(found.values), []
    for row, text in enumerate(decode_all(x)):
        if PLANTED in text and target[row] == 1:
            best = int(totals[row].argmax())
            hits.append(text.split()[best] == PLANTED)
            share = totals[row, text.split().index(PLANTED)] / totals[row].clamp_min(0).sum()
            assert not hits[-1] or float(share) > 0.5
    assert len(hits) >= 10
    assert np.mean(hits) >= 0.9


@pytest.mark.parametrize("explainer", [Occlusion(), PermutationShap(permutations=2)], ids=lambda e: type(e).__name__)
def test_explainers_that_only_ask_find_the_same_word(explainer: Explainer) -> None:
    model, x, target = subject(12)
    words = features_of(x, model.spec)
    asked = words.total(run(explainer, model, x, target).values)
    mine = words.total(run(LayerIntegratedGradients(steps=8), model, x, target).values)
    with_word = [i for i, text in enumerate(decode_all(x)) if PLANTED in text and target[i] == 1]
    assert len(with_word) >= 5
    agree = (asked.argmax(dim=1) == mine.argmax(dim=1))[with_word]
    assert float(agree.double().mean()) >= 0.8


def test_a_text_is_explained_the_same_alone_and_among_others() -> None:
    model, x, target = subject(6)
    together = run(LayerIntegratedGradients(), model, x, target)
    alone = run(LayerIntegratedGradients(), model, x[2:3], target[2:3])
    torch.testing.assert_close(together.values[2:3], alone.values, rtol=1e-3, atol=1e-5)


def test_nothing_is_left_behind() -> None:
    model, x, target = subject(3)
    module = model.module
    assert module is not None
    before = [p.clone() for p in module.parameters()]
    state = torch.get_rng_state()
    values = run(LayerIntegratedGradients(steps=2, max_steps=2), model, x, target).values
    assert not values.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, module.parameters(), strict=True))
    assert not module.training

    class Broken(nn.Module):
        def forward(self, *_: Any) -> Tensor:
            raise RuntimeError("broken on purpose")

    layer = module.classifier
    try:
        module.classifier = Broken()
        with pytest.raises(RuntimeError, match="broken on purpose"):
            run(LayerIntegratedGradients(), model, x, target)
    finally:
        module.classifier = layer
    assert not module.get_input_embeddings()._forward_hooks


# --- from tokens to characters -----------------------------------------------------------------------------------


def spans(*places: tuple[int, int], special: Any = ()) -> Tokens:
    start, stop = (torch.tensor([[place[side] for place in places]]) for side in (0, 1))
    marked = torch.zeros_like(start).bool()
    marked[0, list(special)] = True
    return Tokens(torch.zeros_like(start), torch.ones_like(marked), marked, start, stop)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (spans((0, 2), (3, 4)), [0.5, 0.5, 0, 2, 0]),
        (spans((0, 0), (0, 2), special=[0]), [1, 1, 0, 0, 0]),  # what the tokenizer adds is left out
        (spans((0, 1), (0, 1), (1, 2)), [3, 3, 0, 0, 0]),  # two bytes of one character
        (spans((0, 2), (1, 3), (4, 5)), [1, 1, 1, 0, 3]),  # overlapping
        (spans((0, 1), (1, 1), (2, 3)), [3, 0, 3, 0, 0]),  # one without characters goes with the token before it
        (spans((0, 0), (1, 3)), [0, 1.5, 1.5, 0, 0]),  # or after, where it comes first
        (spans((0, 0), (0, 0)), [0, 0, 0, 0, 0]),
    ],
)
def test_tokens_on_their_characters(tokens: Tokens, expected: list[float]) -> None:
    values = torch.arange(1.0, tokens.ids.shape[1] + 1)[None]
    spread, features = over_characters(values, tokens, 5)
    np.testing.assert_allclose(spread[0], expected)
    assert ((features.number[0] >= 0) == (spread[0] != 0)).all()


def test_rows_of_different_lengths() -> None:
    model = letters(lambda s: s[:, 0])
    found = explain(model, ["", "abc", "b"])
    assert found.features.count.tolist() == [0, 3, 1]
    np.testing.assert_allclose(found.values, [[0] * 6, [3, 4, 5, 0, 0, 0], [4, 0, 0, 0, 0, 0]])
    assert model.spec == InputSpec(fields=(Field(name="x", kind="text", shape=(6,)),))
