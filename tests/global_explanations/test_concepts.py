"""Directions and scores of concepts: scikit-learn's ridge, captum's TCAV, and two tests against random directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation
from captum.concept import TCAV, Concept
from captum.concept._utils.classifier import Classifier
from captum.concept._utils.data_iterator import dataset_to_dataloader
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from toys import SmallCnn, audited, digits

from audit.global_explanations.concepts import (
    activations,
    choose_layer,
    differ,
    directions,
    sensitivities,
    slopes,
    stands_out,
    tcav_scores,
)
from audit.parameters import NotApplicable, UserError


def cloud(n: int = 60, d: int = 5, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def test_a_direction_is_scikit_learns_ridge() -> None:
    acts = cloud() * torch.tensor([1.0, 2, 3, 4, 5]) + 7
    acts[:20, 2] += 4
    positives, negatives = torch.arange(20)[None], torch.arange(20, 60)[None]
    found = directions(acts, positives, negatives, ridge=0.05)
    fit, fit_others = positives[0, 6:], negatives[0, 13:]
    rows = torch.cat([fit, fit_others])
    labels = np.r_[np.ones(len(fit)), -np.ones(len(fit_others))]
    weight = np.r_[np.full(len(fit), 0.5 / len(fit)), np.full(len(fit_others), 0.5 / len(fit_others))] * len(rows)
    penalty = 0.05 * float(((acts - acts.mean(dim=0)) ** 2).sum(dim=1).mean())
    theirs = Ridge(alpha=penalty).fit(acts[rows].numpy(), labels, sample_weight=weight)
    np.testing.assert_allclose(found.vectors[0], theirs.coef_ / np.linalg.norm(theirs.coef_), atol=1e-9)
    held = [
        (theirs.predict(acts[part].numpy()) * sign > 0).mean()
        for part, sign in ((positives[0, :6], 1), (negatives[0, :13], -1))
    ]
    assert float(found.accuracy[0]) == pytest.approx(np.mean(held))


def test_many_directions_are_those_one_by_one() -> None:
    acts = cloud(80, 200)
    order = torch.stack([torch.from_numpy(np.random.default_rng(i).permutation(80)) for i in range(6)])
    together = directions(acts, order[:, :30], order[:, -30:], 0.1)
    for i in range(6):
        alone = directions(acts, order[i : i + 1, :30], order[i : i + 1, -30:], 0.1)
        np.testing.assert_allclose(alone.vectors[0], together.vectors[i], atol=1e-10)
    np.testing.assert_allclose(together.vectors.norm(dim=1), np.ones(6))
    swapped = directions(acts, order[:, -30:], order[:, :30], 0.1)
    np.testing.assert_allclose(swapped.vectors, -together.vectors, atol=1e-10)


def test_scores_and_sensitivities_by_hand() -> None:
    slope = torch.tensor([[1.0, 0], [2, 1], [-1, 5], [3, -1]])
    vectors = torch.tensor([[1.0, 0], [0, 1]])
    assert tcav_scores(slope, vectors).tolist() == [0.75, 0.5]
    assert sensitivities(slope, vectors).tolist() == [1.25, 1.25]


class GivenDirection(Classifier):
    """Stands in for captum's classifier: the direction is ours."""

    def __init__(self, direction: Tensor) -> None:
        self.direction = direction

    def train_and_eval(self, dataloader, **options):  # type: ignore[no-untyped-def]
        return {"accs": torch.tensor(1.0)}

    def weights(self) -> Tensor:
        return torch.stack([self.direction, -self.direction]).float()

    def classes(self) -> list[int]:
        return [0, 1]


def test_the_score_is_captums(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net = SmallCnn()
    model = audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:100])
    for layer, target in (("net.2", 3), ("net.7", 8)):
        acts = activations(model, x, layer)
        found = directions(acts, torch.arange(50)[None], torch.arange(50, 100)[None], 0.1)
        classifier = GivenDirection(found.vectors[0])
        concepts = [Concept(i, name, dataset_to_dataloader(x[part])) for i, (name, part) in enumerate({"a": slice(0, 50), "b": slice(50, 100)}.items())]  # fmt: skip
        method = LayerGradientXActivation(net, None, multiply_by_inputs=False)  # type: ignore[arg-type]
        theirs = TCAV(net, [layer], layer_attr_method=method, classifier=classifier, save_path=str(tmp_path))
        net.requires_grad_(True)
        scores = theirs.interpret(x, [concepts], target=target)
        net.requires_grad_(False)
        mine = tcav_scores(slopes(model, x, target, layer), found.vectors)
        share = next(iter(scores.values()))[layer]["sign_count"][0]
        assert float(mine[0]) == pytest.approx(float(share), abs=1e-6)


def test_the_layer_is_found_or_named() -> None:
    model = audited(SmallCnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.zeros(2, 1, 8, 8)
    assert choose_layer(model, x, None) == "net.2"
    assert choose_layer(model, x, "net.6") == "net.6"
    deep = audited(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)), (4,), 2)
    assert choose_layer(deep, torch.zeros(1, 4), None) == "2"
    with pytest.raises(UserError, match=r"no layer 'net\.77'"):
        choose_layer(model, x, "net.77")
    with pytest.raises(NotApplicable, match="name a layer"):
        choose_layer(audited(nn.Linear(4, 2), (4,), 2), torch.zeros(1, 4), None)
    with pytest.raises(NotApplicable, match="no layers"):
        choose_layer(audited(lambda z: z, (2,), 2, gradients=False), torch.zeros(1, 2), None)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.never = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.one(x))


def test_a_layer_that_is_called_twice_or_never_is_refused() -> None:
    model = audited(Shared(), (3,), 3)
    with pytest.raises(UserError, match="more than once"):
        activations(model, torch.zeros(2, 3), "one")
    with pytest.raises(UserError, match="does not call layer"):
        slopes(model, torch.zeros(2, 3), 0, "never")
    assert not any(module._forward_hooks for module in model.module.modules())  # type: ignore[union-attr]


def test_slopes_are_gradients_and_leave_nothing_behind() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = audited(net, (3,), 2, kind="number")
    x = torch.randn(6, 3)
    hidden = torch.tanh(net[0](x))
    expected = net[2].weight[1].expand(6, 4)
    np.testing.assert_allclose(slopes(model, x, 1, "1"), expected, atol=1e-6)
    before = (1 - hidden**2) * net[2].weight[1]
    np.testing.assert_allclose(slopes(model, x, 1, "0"), before, atol=1e-6)
    assert not x.requires_grad
    assert all(not p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_the_tests_against_random_directions() -> None:
    rng = np.random.default_rng(0)
    others = torch.from_numpy(rng.normal(size=200))
    assert stands_out(float(others.mean()), others) == pytest.approx(1)
    assert stands_out(float(others.mean() + 1.972 * others.std() * (1 + 1 / 200) ** 0.5), others) == pytest.approx(
        0.05, abs=1e-3
    )
    assert stands_out(9.0, others) < 1e-10
    assert stands_out(1.0, torch.ones(9)) == 1
    assert stands_out(2.0, torch.ones(9)) == 0
    assert differ(others, others + 1) < 1e-10
    assert differ(torch.ones(9), torch.ones(9)) == 1
    assert differ(torch.ones(9), torch.zeros(9)) == 0
    assert differ(others, others.flip(0)) == pytest.approx(1)


def test_a_single_prediction_keeps_its_level() -> None:
    """Of numbers from the same distribution 5 % are said to stand out at 5 %."""
    rng = np.random.default_rng(1)
    found = [stands_out(float(rng.normal()), torch.from_numpy(rng.normal(size=20))) < 0.05 for _ in range(2000)]
    assert 0.037 < np.mean(found) < 0.063
