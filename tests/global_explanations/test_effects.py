"""Partial dependence, accumulated effects and interactions: closed forms, and scikit-learn's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import partial_dependence
from torch import Tensor

from audit.global_explanations.accumulated_effects import accumulated_effect, resampling_weights, similarity_order
from audit.global_explanations.interactions import exchanged, pair_interaction, total_interaction
from audit.global_explanations.partial_dependence import individual_curves, keeps_direction, quantile_grid


def rows(n: int = 400, columns: int = 3, seed: int = 0, correlated: float = 0.0) -> Tensor:
    normal = np.random.default_rng(seed).normal(size=(n, columns))
    normal[:, 1] = correlated * normal[:, 0] + (1 - correlated**2) ** 0.5 * normal[:, 1]
    return torch.from_numpy(normal)


def effect(score, x: Tensor, column: int, intervals: int = 20, order: Tensor | None = None, replicates: int = 100):  # type: ignore[no-untyped-def]
    return accumulated_effect(score, x, column, score(x), resampling_weights(len(x), replicates, 0), intervals, order)


# --- partial dependence ----------------------------------------------------------------------------------------------


def test_partial_dependence_is_scikit_learns() -> None:
    x, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(10, random_state=0).fit(x, y)
    inputs = torch.from_numpy(x)
    for column in (2, 1):
        grid = quantile_grid(inputs[:, column], 15)
        curves = individual_curves(lambda z: torch.from_numpy(forest.predict(z.numpy())), inputs, column, grid)
        theirs = partial_dependence(
            forest, x, [column], custom_values={column: grid.numpy()}, method="brute", kind="both"
        )
        np.testing.assert_allclose(curves.mean(dim=0), theirs["average"][0], atol=1e-6)
        np.testing.assert_allclose(curves, theirs["individual"][0], atol=1e-6)


def test_a_grid_holds_values_that_occur() -> None:
    values = torch.tensor([3.0, 1, 1, 2, torch.nan])
    assert quantile_grid(values, 5).tolist() == [1, 2, 3]
    assert quantile_grid(values, 2).tolist() == [1, 3]
    many = torch.arange(1001).double()
    assert quantile_grid(many, 5).tolist() == [0, 250, 500, 750, 1000]


def test_made_up_rows_are_asked_about_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, sizes = rows(50), []

    def score(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return z @ torch.tensor([1.0, 2.0, 3.0]).double()

    whole = individual_curves(score, x, 1, torch.linspace(0, 1, 7).double())
    monkeypatch.setattr("audit.global_explanations.partial_dependence.ELEMENTS", 300)
    parts = individual_curves(score, x, 1, torch.linspace(0, 1, 7).double())
    assert sizes == [350, 100, 100, 100, 50]
    assert torch.equal(whole, parts)


def test_rows_against_the_direction_are_seen() -> None:
    curves = torch.tensor([[0.0, 1, 2], [0, 1, 0.5], [2, 1, 1]]).double()
    assert keeps_direction(curves, 1).tolist() == [True, False, False]
    assert keeps_direction(curves, -1).tolist() == [False, False, True]
    assert keeps_direction(torch.tensor([[0.0, 1, 1 - 1e-9]]).double(), 1).tolist() == [True]


# --- accumulated local effects ---------------------------------------------------------------------------------------


def test_the_effect_in_a_linear_model_is_the_line_through_the_mean() -> None:
    x, w = rows(correlated=0.9), torch.tensor([2.0, -3.0, 0.0]).double()
    for column in range(3):
        found = effect(lambda z: z @ w + 5, x, column)
        np.testing.assert_allclose(found.effect, w[column] * (found.grid - x[:, column].mean()), atol=1e-9)
        slopes = found.curves.diff(dim=1) / found.grid.diff()
        np.testing.assert_allclose(slopes, w[column].expand_as(slopes), atol=1e-9)


def test_local_effects_see_past_what_goes_along() -> None:
    """f = x0 · x1 with x1 = x0: a local move of x0 gains x1 = x0, so the effect is x0² / 2. Partial dependence is flat, x0 · mean."""
    x = torch.linspace(-1, 1, 4001).double()[:, None].repeat(1, 2)
    found = effect(lambda z: z[:, 0] * z[:, 1], x, 0, intervals=100)
    expected = found.grid**2 / 2 - 1 / 6
    np.testing.assert_allclose(found.effect, expected, atol=5e-4)
    flat = individual_curves(lambda z: z[:, 0] * z[:, 1], x, 0, found.grid).mean(dim=0)
    np.testing.assert_allclose(flat, np.zeros(len(found.grid)), atol=1e-9)


def test_the_effect_is_centred_over_the_rows_and_over_every_resample() -> None:
    x = rows(300)
    weights = resampling_weights(300, 100, 0)
    found = accumulated_effect(lambda z: z[:, 0].exp(), x, 0, x[:, 0].exp(), weights, 12)
    at_rows = np.stack([np.interp(x[:, 0], found.grid, curve) for curve in found.curves.numpy()])
    means = (weights.numpy() * at_rows).sum(axis=1) / 300
    np.testing.assert_allclose(means, np.zeros(101), atol=1e-9)
    np.testing.assert_allclose(weights.sum(dim=1), np.full(101, 300.0))


def test_few_values_move_from_value_to_value() -> None:
    """Of 0, 1, 2 the step from 0 to 1 is asked of the rows at 0 and at 1: f = x0² + x1 · [x0 ≥ 1]."""
    x = torch.tensor([[0.0, 10], [1, 20], [1, 40], [2, 30]]).double()
    found = effect(lambda z: z[:, 0] ** 2 + z[:, 1] * (z[:, 0] >= 1), x, 0)
    steps = found.effect.diff()
    np.testing.assert_allclose(steps, [1 + (10 + 20 + 40) / 3, 3.0])
    assert float((found.effect[[0, 1, 1, 2]]).sum()) == pytest.approx(0, abs=1e-9)


def test_a_step_that_a_resample_leaves_empty_is_that_of_all_rows() -> None:
    for x in (torch.tensor([[0.0], [1.0], [2.0]]).double(), torch.linspace(0, 1, 5).double()[:, None]):
        found = effect(lambda z: 3 * z[:, 0], x, 0, intervals=3)
        slopes = found.curves.diff(dim=1) / found.grid.diff()
        np.testing.assert_allclose(slopes, torch.full_like(slopes, 3.0))


def test_a_row_without_the_value_is_left_out() -> None:
    x = rows(100)
    x[:40, 0] = torch.nan
    found = effect(lambda z: z[:, 0].nan_to_num(99.0), x, 0)
    known = x[40:, 0]
    np.testing.assert_allclose(found.effect, found.grid - known.mean(), atol=1e-9)


def test_a_constant_column_has_no_effect() -> None:
    x = rows(50)
    x[:, 2] = 7.0
    found = effect(lambda z: z.sum(dim=1), x, 2)
    assert found.effect.tolist() == [0.0]
    assert found.ranges.tolist() == [0.0] * 101
    assert found.along(1).tolist() == [1.0] * 101


def test_direction_is_a_share_of_the_way() -> None:
    x = torch.linspace(0, 3, 301).double()[:, None]
    found = effect(lambda z: (z[:, 0] - 1).abs(), x, 0, intervals=30)
    assert float(found.along(1)[0]) == pytest.approx(2 / 3, abs=0.01)
    assert float(found.along(-1)[0]) == pytest.approx(1 / 3, abs=0.01)
    assert float(found.ranges[0]) == pytest.approx(2, abs=0.05)


def test_the_band_covers_the_truth() -> None:
    """Of 100 data sets the 95 % bands at one place hold the effect in the population about 95 times."""
    held = 0
    for seed in range(100):
        x = torch.from_numpy(np.random.default_rng(seed).uniform(size=(200, 2)))
        found = effect(lambda z: z[:, 0] * (1 + 4 * z[:, 1]), x, 0, intervals=4, replicates=200)
        slope = (found.curves[:, -1] - found.curves[:, 0]) / (found.grid[-1] - found.grid[0])
        low, high = np.quantile(slope[1:], [0.025, 0.975])
        held += low <= 3.0 <= high  # E[1 + 4 x1]
    assert 88 <= held <= 100


def test_categories_stand_in_order_of_likeness() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 2000)
    size = np.array([0.0, 3.0, 1.0, 2.0])[codes] + 0.3 * rng.normal(size=2000)
    x = torch.from_numpy(np.stack([codes.astype(float), size], axis=1))
    order = similarity_order(x, 0, torch.tensor([True, False])).tolist()
    assert order in ([0, 2, 3, 1], [1, 3, 2, 0])
    by_code = similarity_order(torch.stack([x[:, 0], (x[:, 1] > 1.5).double()], dim=1), 0, torch.tensor([True, True]))
    assert {tuple(sorted(by_code[:2].tolist())), tuple(sorted(by_code[2:].tolist()))} == {(0, 2), (1, 3)}
    found = effect(lambda z: z[:, 0] ** 2, x, 0, order=torch.tensor(order).double())
    gaps = found.effect[1:] - found.effect[:-1]
    np.testing.assert_allclose(gaps, np.diff(np.array(order) ** 2))


# --- interactions ----------------------------------------------------------------------------------------------------


def interaction(score, x: Tensor, first: int, second: int):  # type: ignore[no-untyped-def]
    weights = resampling_weights(len(x), 100, 0)
    alone = {j: exchanged(score, x, (j,)) for j in (first, second)}
    pair = pair_interaction(exchanged(score, x, (first, second)), alone[first], alone[second], weights)
    return pair, total_interaction(alone[first], weights)


def test_a_sum_has_no_interaction() -> None:
    pair, total = interaction(lambda z: z[:, 0].exp() + z[:, 1] ** 2 - z[:, 2], rows(60, correlated=0.7), 0, 1)
    assert float(pair.h_squared.abs().max()) < 1e-20
    assert float(total.h_squared.abs().max()) < 1e-20
    assert pair.size > 0.5


def test_a_product_of_centred_columns_is_all_interaction() -> None:
    grid = torch.tensor([(a, b, c) for a in (-1.0, 0, 1) for b in (-1.0, 1) for c in (0.0, 5)]).double()
    pair, total = interaction(lambda z: z[:, 0] * z[:, 1] + 0 * z[:, 2], grid, 0, 1)
    assert float(pair.h_squared[0]) == pytest.approx(1)
    assert float(total.h_squared[0]) == pytest.approx(1)


def test_a_known_share() -> None:
    """a + b + a·b on ±1: PD of both is a + b + a·b, of each a or b, so that H² = 1 / 3; that of a third column with all others is 0."""
    grid = torch.tensor([(a, b, c) for a in (-1.0, 1) for b in (-1.0, 1) for c in (-1.0, 1)]).double()
    score = lambda z: z[:, 0] + z[:, 1] + z[:, 0] * z[:, 1] + z[:, 2]  # noqa: E731
    pair, total = interaction(score, grid, 0, 1)
    assert float(pair.h_squared[0]) == pytest.approx(1 / 3)
    assert pair.size == pytest.approx(3**0.5)
    # With all others: f varies by 4, of which 1 is the product.
    assert float(total.h_squared[0]) == pytest.approx(1 / 4)
    assert float(interaction(score, grid, 2, 0)[1].h_squared[0]) == pytest.approx(0, abs=1e-20)


def test_rounding_is_no_interaction() -> None:
    x = rows(30).float()
    pair, total = interaction(lambda z: (1e3 + 1e-5 * z[:, 0] * z[:, 1]).double(), x, 0, 1)
    assert pair.h_squared.tolist() == total.h_squared.tolist() == [0.0] * 101


def test_the_mean_of_exchanged_rows_is_partial_dependence(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(40)
    score = lambda z: (z[:, 0] * z[:, 1]).sin() + z[:, 2]  # noqa: E731
    matrix = exchanged(score, x, (1,))
    np.testing.assert_allclose(matrix.mean(dim=1), individual_curves(score, x, 1, x[:, 1]).mean(dim=0))
    np.testing.assert_allclose(matrix.diagonal(), score(x))
    monkeypatch.setattr("audit.global_explanations.interactions.ELEMENTS", 500)
    assert torch.equal(exchanged(score, x, (1,)), matrix)
