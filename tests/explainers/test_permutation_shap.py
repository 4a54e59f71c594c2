"""Shapley values by random orders: known values, shap's walk, standard errors, rows on their own."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from games import GAMES, airport, explained, rows, table
from pydantic import ValidationError
from toys import audited, digits, trained_cnn

from audit.bridges.shap import library
from audit.explainers import _game
from audit.explainers.exact_shap import every_coalition
from audit.explainers.permutation_shap import PermutationShap, by_orders
from audit.text import decode_all, encode

WORTH = np.random.default_rng(0).normal(size=32)


def of_five(x: Any) -> Any:
    """Five players, interactions of every order."""
    return WORTH[(x > 0.5).astype(int) @ (2 ** np.arange(5))]


@pytest.mark.parametrize(("function", "x", "expected"), GAMES)
def test_known_values(function: Any, x: Any, expected: Any) -> None:
    found = explained(PermutationShap(permutations=2000), table(function, len(x), "value"), rows(x))
    assert found.error is not None
    torch.testing.assert_close(found.values, rows(expected), atol=5 * float(found.error) + 1e-9, rtol=0)
    assert float(found.error) < 5e-3 * sum(expected)
    assert float(found.values.sum()) == pytest.approx(sum(expected), abs=1e-9)
    assert found.method == "2000 random orders both ways, interventional, 1 background rows"


def round_of_five() -> _game.Round:
    explainer = PermutationShap()
    x = torch.ones(1, 5).double()
    game = explainer.game(table(of_five, 5, "value"), x, torch.zeros(1).long(), torch.zeros(1, 5).double())
    return _game.Round(game, torch.arange(1), 5, game.score(), game.nobody(), "column")


def test_orders_are_walked_as_shap_walks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    shap = library()
    from shap.utils import _masked_model

    compiled = _masked_model._build_fixed_single_output
    monkeypatch.setattr(_masked_model, "_build_fixed_single_output", compiled.py_func)  # compiling takes seconds

    class Coalitions:
        shape, immutable_outputs = (1, 5), True

        def __call__(self, mask: Any, x: Any) -> Any:
            return (mask[None].copy(),)

    state = np.random.get_state()
    expected = shap.PermutationExplainer(of_five, Coalitions(), seed=3).explain_row(
        np.ones(5), max_evals=7 * 11, main_effects=False, error_bounds=False, batch_size=11, outputs=None, silent=True
    )["values"]
    np.random.seed(3)
    order, orders = np.arange(5), []
    for _ in range(7):
        np.random.shuffle(order)
        orders.append(order.copy())
    np.random.set_state(state)
    values, error = by_orders(round_of_five(), torch.from_numpy(np.array(orders))[None])
    np.testing.assert_allclose(values[0], expected, atol=1e-12)
    assert float(error.min()) > 0.01


def test_all_orders_are_all_coalitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.explainers.permutation_shap._MEMBERSHIPS", 100)  # in many parts
    orders = torch.tensor(list(itertools.permutations(range(5))))[None]
    values, _ = by_orders(round_of_five(), orders)
    torch.testing.assert_close(values, every_coalition(round_of_five()).values)


def test_the_standard_error_is_that_of_repeated_runs() -> None:
    model = table(airport, 4, "value")
    x = torch.ones(300, 4, dtype=torch.float64)
    found = explained(PermutationShap(permutations=8), model, x, background=rows((0, 0, 0, 0)))
    spread = float(found.values.std(dim=0).max())
    assert found.error is not None
    assert float(found.error.mean()) == pytest.approx(spread, rel=0.2)


def test_intervals_cover() -> None:
    x = torch.ones(400, 5, dtype=torch.float64)
    game = round_of_five().game
    whole = replace(
        round_of_five(),
        rows=torch.zeros(400).long(),
        score=game.score().expand(400),
        base_value=game.nobody().expand(400),
    )
    orders = torch.rand(400, 20, 5, generator=torch.Generator().manual_seed(0)).argsort(dim=2)
    values, error = by_orders(whole, orders)
    off = values - every_coalition(round_of_five()).values
    assert 0.9 < float((off.abs() < 2.09 * error).double().mean()) < 0.98  # Student's t of 19
    assert len(x) == len(values)


def test_more_permutations_err_less() -> None:
    model = table(airport, 4, "value")
    few = explained(PermutationShap(permutations=10), model, rows((1, 1, 1, 1)))
    many = explained(PermutationShap(permutations=1000), model, rows((1, 1, 1, 1)))
    assert few.error is not None
    assert many.error is not None
    assert float(many.error) < 0.3 * float(few.error)


def test_rows_do_not_depend_on_their_neighbours_or_order() -> None:
    model = table(lambda x: x.max(axis=1), 6, "value")
    x = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1, 2] = 0
    explainer, ids = PermutationShap(permutations=3), ["a", "b", "c", "d", "e"]
    whole = explained(explainer, model, x, ids=ids)
    back = explained(explainer, model, x.flip(0), ids=ids[::-1])
    torch.testing.assert_close(whole.values, back.values.flip(0))
    torch.testing.assert_close(whole.values[2:3], explained(explainer, model, x[2:3], ids=["c"]).values)
    same = explained(explainer, model, x[2:3].expand(2, 6), ids=["c", "d"])
    assert not torch.equal(same.values[0], same.values[1])  # each has its own luck


def test_features_that_no_background_row_changes_are_not_asked_about() -> None:
    model = table(lambda z: np.nan_to_num(z).sum(axis=1), 6, "value")
    missing = float("nan")
    found = explained(
        PermutationShap(permutations=2),
        model,
        rows((missing, 1, 2, 3, 4, 5)),
        background=rows((missing, 1, 2, 3, 4, 0)),
    )
    torch.testing.assert_close(found.values, rows((0, 0, 0, 0, 0, 5)))
    assert model.rows_forward == 2


def test_images_are_explained_by_patches() -> None:
    w = torch.zeros(2, 6, 4)
    w[0, 0, 0], w[1, 1, 1], w[0, 5, 3] = 1.0, 3.0, 8.0
    model = audited(lambda x: (x * w).flatten(1).sum(dim=1), (2, 6, 4), output="value")
    x, background = torch.ones(1, 2, 6, 4), torch.zeros(1, 2, 6, 4)
    by_pixel = explained(PermutationShap(permutations=2), model, x, background=background)
    assert by_pixel.features is not None
    assert by_pixel.features.count.tolist() == [24]
    torch.testing.assert_close(
        by_pixel.values[0, :, 0, 0], rows(0.5, 0.5)
    )  # a pixel's value is spread over its channels
    by_patch = explained(PermutationShap(unit="patch", size=2), model, x, background=background)
    torch.testing.assert_close(by_patch.values[0, :, :2, :2], torch.full((2, 2, 2), 4 / 8).double())
    torch.testing.assert_close(by_patch.values[0, :, 4:, 2:], torch.full((2, 2, 2), 8 / 8).double())
    assert float(by_patch.values.sum()) == pytest.approx(12)


def test_channels_may_be_cut_apart() -> None:
    w = torch.rand(3, 2, 2)
    model = audited(lambda x: (x * w).flatten(1).sum(dim=1), (3, 2, 2), output="value")
    found = explained(PermutationShap(unit="element"), model, torch.ones(2, 3, 2, 2))
    torch.testing.assert_close(found.values, w.double().expand(2, 3, 2, 2), atol=1e-6, rtol=0)
    assert found.features is None


def test_a_large_image_is_cut_into_at_most_64_patches() -> None:
    model = audited(lambda x: x.flatten(1).square().sum(dim=1), (1, 50, 30), output="value")
    x = torch.arange(1500.0).reshape(1, 1, 50, 30) / 1500
    found = explained(PermutationShap(permutations=2), model, x).values[0, 0]
    assert len(torch.unique(found)) == 10 * 6  # squares of 5: 4 would make 13 x 8
    assert bool((found[:5, :5] == found[0, 0]).all())


@pytest.mark.parametrize(("steps", "unit", "players"), [(40, "value", 80), (130, "window", 44)])
def test_a_long_series_is_cut_into_at_most_64_windows(steps: int, unit: str, players: int) -> None:
    model = audited(lambda x: x.flatten(1).sum(dim=1), (2, steps), output="value", kind="series")
    found = explained(PermutationShap(permutations=2), model, torch.ones(1, 2, steps))
    torch.testing.assert_close(found.values, torch.ones(1, 2, steps).double())
    shown = found.features.unit if found.features is not None else "value"
    assert shown == unit
    assert model.rows_forward == 2 + 2 * 2 * (players - 1)


def test_words_of_a_text_are_left_out_one_without_the_other() -> None:
    """A text scores 1 with 'not' and 'good', 2 with 'cheap'; the rest counts for nothing."""

    def forward(x: Any) -> Any:
        texts = decode_all(x)
        return torch.tensor([float("not" in t and "good" in t) + 2.0 * ("cheap" in t) for t in texts])

    model = audited(forward, (24,), output="value", kind="text", gradients=False)
    x = torch.from_numpy(encode(["not good but cheap", "cheap", "the"], 24))
    found = explained(PermutationShap(permutations=4), model, x)
    assert found.features is not None
    words = found.features.total(found.values)
    torch.testing.assert_close(words, rows((0.5, 0.5, 0, 2), (2, 0, 0, 0), (0, 0, 0, 0)))
    torch.testing.assert_close(found.values[0, :4], rows(0.5 / 3, 0.5 / 3, 0.5 / 3, 0))
    assert found.method.endswith("absent is blank")


def test_digits_maps_add_up() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:2])
    members = digits().train
    assert members is not None
    found = explained(
        PermutationShap(permutations=2), model, x, model.predict(x), background=torch.from_numpy(members.x[:4])
    )
    torch.testing.assert_close(found.values.flatten(1).sum(dim=1) + found.base_value, found.score)
    assert found.space == "logit"


def test_one_order_has_no_spread() -> None:
    with pytest.raises(ValidationError, match="permutations"):
        PermutationShap(permutations=1)
