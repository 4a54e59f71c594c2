"""Inversion by hand: climbs that end where calculus says, priors, and nearness that is one half by chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import Linear, audited

from audit.model import AuditedModel
from audit.privacy.inversion import (
    Inversions,
    Nearness,
    Prior,
    Range,
    _estimated_gradient,
    _gradient,
    invert,
    nearness,
    pooled_auc,
    structural_similarity,
    total_variation,
)

UNIT = Range(torch.zeros(1, 1), torch.ones(1, 1))


def climb(model: AuditedModel, target: list[int], valid: Range = UNIT, **options: float) -> Inversions:
    """Climbs without noise from the middle, unless said otherwise."""
    noise = options.pop("noise", 0.0) * torch.ones(len(target), *model.spec.shape)
    prior = Prior(*(options.pop(name, usual) for name, usual in (("start", 0.5), ("decay", 0), ("total_variation", 0))))
    return invert(model, torch.tensor(target), noise, valid, prior, **{"steps": 100, "step": 0.05, **options})  # type: ignore[arg-type]


def test_a_linear_model_is_climbed_to_the_corner_of_its_range() -> None:
    model = audited(Linear([1.0, -2.0, 0.0], 0.1), (3,), kind="series")
    found = climb(model, [0, 1])
    assert found.u.tolist() == [[0, 1, 0.5], [1, 0, 0.5]]
    assert found.probability.tolist() == pytest.approx([1 / (1 + np.exp(-1.9)), 1 / (1 + np.exp(-1.1))])
    assert found.reached.tolist() == [True, True]
    assert found.loss.tolist() == pytest.approx((-found.probability.log()).tolist(), rel=1e-5)
    assert found.take(found.target == 1).u.tolist() == [[1, 0, 0.5]]
    assert found.best == 0


def bump(x: Tensor) -> Tensor:
    """Class 1 is likeliest at (2, -1)."""
    away = ((x - torch.tensor([2.0, -1.0])) ** 2).sum(dim=1)
    return torch.stack([torch.zeros_like(away), 1 - away], dim=1)


def test_a_climb_ends_on_the_top_within_the_range_in_the_users_units() -> None:
    model = audited(bump, (2,), kind="series")
    valid = Range(torch.tensor([[-4.0, -4.0]]), torch.tensor([[4.0, 4.0]]))
    found = climb(model, [1], valid, steps=300, step=0.02)
    assert valid.input(found.u)[0].tolist() == pytest.approx([2.0, -1.0], abs=0.01)
    assert torch.allclose(valid.share(valid.input(found.u)), found.u)
    short = Range(torch.tensor([[-4.0, -4.0]]), torch.tensor([[1.0, 4.0]]))
    assert short.input(climb(model, [1], short, steps=300).u)[0, 0] == pytest.approx(1.0)


def test_every_choice_of_a_climb_changes_it() -> None:
    model = audited(Linear([1.0, -2.0, 0.0, 0.5], 0.1), (1, 2, 2))
    usual = climb(model, [1], steps=5).u
    for option in (
        {"steps": 6}, {"step": 0.01}, {"start": 0.2}, {"decay": 9.0}, {"total_variation": 5.0}, {"noise": 1.0},
    ):  # fmt: skip
        assert not torch.equal(climb(model, [1], **{"steps": 5, **option}).u, usual), option


def test_a_gradient_estimated_from_answers_climbs_to_the_same_top() -> None:
    model = audited(bump, (2,), kind="series", gradients=False)
    valid = Range(torch.tensor([[-4.0, -4.0]]), torch.tensor([[4.0, 4.0]]))
    found = climb(model, [1], valid, steps=200, step=0.02, directions=20)
    assert valid.input(found.u)[0].tolist() == pytest.approx([2.0, -1.0], abs=0.05)
    assert model.rows_backward == 0
    assert model.rows_forward >= 200 * 2 * 20
    other = climb(model, [1], valid, steps=200, step=0.02, directions=20, seed=1)
    assert not torch.equal(other.u, found.u)


def test_an_estimated_gradient_is_the_gradient_in_expectation() -> None:
    model = audited(Linear([1.0, -2.0, 0.5], 0.1), (3,), kind="series")
    u, target, prior = torch.full((2, 3), 0.5), torch.tensor([0, 1]), Prior(0.2, 3.0, 0.0)
    aside = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    estimated = _estimated_gradient(model, u, target, UNIT, prior, aside)
    assert torch.allclose(estimated, _gradient(model, u, target, UNIT, prior), atol=0.05)


def test_micro_batches_climb_alike_and_progress_is_told() -> None:
    model = audited(Linear([1.0, -2.0], 0.1), (2,), kind="series")
    whole = climb(model, [0, 1, 1], steps=7).u
    model.micro_batch, told = 2, []
    parts = invert(
        model, torch.tensor([0, 1, 1]), torch.zeros(3, 2), UNIT, Prior(0.5, 0, 0), steps=7, step=0.05,
        progress=told.append,
    )  # fmt: skip
    assert torch.equal(parts.u, whole)
    assert told == [1, 2, 3, 4, 5, 6, 7]


def test_decay_balances_the_class_as_calculus_says() -> None:
    model = audited(Linear([4.0], 0.0), (1,), kind="series")
    (u,) = climb(model, [1], decay=3.0, steps=400, step=0.01, start=0.0).u[0].tolist()
    assert 4 / (1 + np.exp(4 * u)) == pytest.approx(2 * 3 * u, abs=1e-3)  # the slopes of both cancel


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    assert total_variation(image).tolist() == [pytest.approx(0.5 + 0.5)]
    assert total_variation(torch.tensor([[[0.0, 1.0, 3.0]]])).tolist() == [pytest.approx(1.5)]
    assert total_variation(torch.tensor([[0.0, 9.0]])).tolist() == [0.0]


# --- nearer to whom --------------------------------------------------------------------------------------------------


def test_distances_by_hand() -> None:
    inversions, rows = torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 5.0], [1.0, 0.0]])
    assert nearness(inversions, rows, rows, "euclidean").member[:, 0].tolist() == pytest.approx([5.0, 2**0.5])
    assert nearness(inversions, rows, rows, "correlation").held_out[:, 0].tolist() == pytest.approx([0.0, 2.0])


def test_nearness_by_hand() -> None:
    member, held_out = np.array([[0.1, 9], [0.5, 0.4]]), np.array([[0.2, 9], [0.9, 0.4], [9, 9]])
    # nearest: members 0.1, 0.4; held-out rows 0.2, 0.4, 9
    assert Nearness(member, held_out).auc == pytest.approx((3 + 1 + 0.5) / 6)
    assert Nearness(member, held_out).pairs == 6
    same = Nearness(np.array([[0.1, 0.2, 0.3]]), np.array([[0.5, 0.5, 0.1]]))
    assert same.nearest_members(np.random.default_rng(0)) == (1, 2)


def test_as_many_members_as_held_out_rows_are_compared() -> None:
    near, far = np.full((1, 4), 0.0), np.full((500, 4), 1.0)
    assert Nearness(near, far).nearest_members(np.random.default_rng(0)) == (1, 1)
    rng = np.random.default_rng(1)
    members = sum(
        Nearness(rng.random((5, 1)), rng.random((500, 1))).nearest_members(rng)[0] for _ in range(400)
    )  # one of 5 against 5 of 500: by chance, one half
    assert 160 < members < 240


def test_nearness_is_one_half_where_rows_are_exchangeable() -> None:
    rng = np.random.default_rng(0)
    parts = [Nearness(rng.random((60, 8)), rng.random((90, 8))) for _ in range(10)]
    assert pooled_auc(parts) == pytest.approx(0.5, abs=0.03)


def test_pooled_auc_compares_within_classes_only() -> None:
    good, bad = Nearness(np.zeros((2, 1)), np.ones((3, 1))), Nearness(np.full((1, 1), 5.0), np.full((1, 1), 4.0))
    assert pooled_auc([good, bad]) == pytest.approx(6 / 7)


def test_structural_similarity_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    image, other = rng.random((2, 3, 8, 9))
    assert structural_similarity(image, image) == pytest.approx(1.0)
    found = structural_similarity(image, other)
    assert found is not None
    assert found < 0.5
    small = rng.random((1, 4, 4))
    assert structural_similarity(small, small) == pytest.approx(1.0)
    assert structural_similarity(image[:, :2], image[:, :2]) is None
