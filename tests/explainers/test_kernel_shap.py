"""Kernel regression: exact where all coalitions are asked, errors that cover, coalitions that all rows share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import GAMES, airport, explained, rows, shap_regression, table
from pydantic import ValidationError
from torch import Tensor

from audit.explainers.exact_shap import ExactShap, shapley_weights
from audit.explainers.kernel_shap import Design, KernelShap, pairs_of_coalitions, regression
from audit.parameters import UserError

PLAYERS = 10
EVERY = (np.arange(2**PLAYERS)[:, None] >> np.arange(PLAYERS) & 1).astype(bool)


@pytest.mark.parametrize(("function", "x", "expected"), GAMES)
def test_known_values_by_every_coalition(function: Any, x: Any, expected: Any) -> None:
    found = explained(KernelShap(), table(function, len(x), "value"), rows(x))
    torch.testing.assert_close(found.values, rows(expected), atol=1e-6, rtol=0)
    assert found.error is not None
    assert found.error.tolist() == [0.0]
    assert found.method.startswith("all coalitions")


def random_game(rng: np.random.Generator) -> Any:
    """Worth of every coalition of ten players: the strongest who is there, and pairs and triples that matter together."""
    strongest = (EVERY * rng.exponential(size=PLAYERS)).max(axis=1)
    together = sum(EVERY[:, rng.choice(PLAYERS, 3, replace=False)].all(axis=1) * rng.normal() for _ in range(8))
    return strongest + together


def estimate(worth: Any, design: Design) -> tuple[Tensor, Tensor]:
    place = design.coalitions.numpy().astype(int) @ (2 ** np.arange(PLAYERS))
    halves = torch.from_numpy((worth[place] - worth[2**PLAYERS - 1 - place]) / 2)[None]
    values, error = regression(design, halves, torch.tensor([worth[-1] - worth[0]]))
    return values[0], error[0]


@pytest.mark.parametrize("coalitions", [60, 200, 600])
def test_the_standard_error_covers(coalitions: int) -> None:
    """95 % intervals hold the exact value about 95 % of the time, and are no wider than they have to be."""
    rng = np.random.default_rng(0)
    weights = shapley_weights(torch.from_numpy(EVERY))
    off, size = [], []
    for _ in range(150):
        worth = random_game(rng)
        values, error = estimate(worth, pairs_of_coalitions(PLAYERS, coalitions // 2, rng))
        off.append((values - torch.from_numpy(worth) @ weights).numpy())
        size.append(error.numpy())
    covered = np.abs(off) < 1.96 * np.array(size)
    assert 0.92 < covered.mean() < 0.98
    assert 0.9 < np.sqrt(np.square(size).mean() / np.square(off).mean()) < 1.3


def test_errors_shrink_with_coalitions_and_are_zero_for_all() -> None:
    x = torch.ones(1, PLAYERS).double()
    worth = random_game(np.random.default_rng(3))
    model = table(lambda z: worth[z.astype(int) @ (2 ** np.arange(PLAYERS))], PLAYERS, "value")
    exact = explained(ExactShap(), model, x).values
    errors = []
    for coalitions in (60, 200, 600, 1022):
        found = explained(KernelShap(coalitions=coalitions), model, x)
        assert found.error is not None
        errors.append(float(found.error))
        off = float((found.values - exact).abs().max())
        assert off < 4 * errors[-1] + 1e-9
        assert float(found.values.sum()) == pytest.approx(float(worth[-1] - worth[0]))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_as_accurate_as_shap_for_as_many_coalitions() -> None:
    """shap draws by weight with replacement; ours is stratified by size."""
    rng = np.random.default_rng(0)
    weights = shapley_weights(torch.from_numpy(EVERY))
    ours, theirs = [], []
    for seed in range(12):
        worth = random_game(rng)
        exact = (torch.from_numpy(worth) @ weights).numpy()
        value = lambda masks, worth=worth: worth[masks.astype(int) @ (2 ** np.arange(PLAYERS))]  # noqa: E731
        theirs.append(shap_regression(value, PLAYERS, coalitions=200, seed=seed) - exact)
        ours.append(estimate(worth, pairs_of_coalitions(PLAYERS, 100, rng))[0].numpy() - exact)
    assert np.square(ours).mean() < 1.1 * np.square(theirs).mean()


def test_an_additive_model_is_exact_from_few_coalitions() -> None:
    w = np.arange(1.0, 31.0)
    found = explained(KernelShap(coalitions=120), table(lambda z: z @ w, 30, "value"), torch.ones(1, 30).double())
    torch.testing.assert_close(found.values, torch.from_numpy(w)[None], atol=1e-9, rtol=0)
    assert float(found.error) < 1e-9
    assert found.method.startswith("regression on 120 coalitions")


@pytest.mark.parametrize("players", [5, 6, 7, 12, 13, 111])
def test_the_fewest_coalitions_that_are_allowed_are_enough(players: int) -> None:
    w = np.arange(1.0, players + 1)
    asked = min(4 * players, 2**players - 2)
    found = explained(
        KernelShap(coalitions=asked), table(lambda z: z @ w, players, "value"), torch.ones(1, players).double()
    )
    torch.testing.assert_close(found.values, torch.from_numpy(w)[None], atol=1e-8, rtol=0)
    with pytest.raises(UserError, match=f"{players} features .* need {4 * players}, coalitions is"):
        explained(
            KernelShap(coalitions=asked - 2), table(lambda z: z @ w, players, "value"), torch.ones(1, players).double()
        )


def test_sizes_are_asked_by_their_weight_and_exactly_where_all_fit() -> None:
    design = pairs_of_coalitions(16, 100, np.random.default_rng(0))
    members = design.coalitions.sum(dim=1)
    counts = members.bincount()[1:].tolist()
    assert sum(counts) == 100
    assert counts[0] == 16
    assert design.strata[0].share == 1
    assert counts[1:] == sorted(counts[1:], reverse=True)
    for size in range(1, 9):  # the weight of a size is that of the Shapley kernel, whatever was drawn of it
        weight = float(design.weight[members == size].sum())
        assert weight == pytest.approx((0.5 if size == 8 else 1) / (size * (16 - size)))
    assert len(torch.unique(design.coalitions, dim=0)) == 100
    assert bool(design.coalitions[members == 8, 0].all())  # one of two complements


def test_a_size_drawn_almost_whole_holds_no_pair_twice() -> None:
    for pairs in range(16, 128):
        design = pairs_of_coalitions(8, pairs, np.random.default_rng(pairs))
        assert len(torch.unique(design.coalitions, dim=0)) == len(design.coalitions)
        assert len(design.coalitions) == min(pairs, 127)


def test_more_players_than_a_float_can_count_coalitions_of() -> None:
    design = pairs_of_coalitions(1100, 2200, np.random.default_rng(0))
    assert len(design.coalitions) == 2200
    assert len(design.strata) == 550


def test_rows_share_their_coalitions_whoever_is_there() -> None:
    """Rows with equally many players ask the same coalitions, alone or together."""
    asked: list[Tensor] = []

    def forward(x: Any) -> Any:
        asked.append(torch.from_numpy(x.copy()))
        return x.max(axis=1)

    model = table(forward, 8, "value")
    x = torch.arange(1.0, 25).reshape(3, 8).double()
    x[1, 3] = 0  # seven players
    ids = ["a", "b", "c"]
    whole = explained(KernelShap(coalitions=60), model, x, ids=ids)
    asked.clear()
    back = explained(KernelShap(coalitions=60), model, x.flip(0), ids=ids[::-1])
    torch.testing.assert_close(whole.values, back.values.flip(0), rtol=0, atol=1e-12)
    asked.clear()
    alone = explained(KernelShap(coalitions=60), model, x[2:], ids=["c"])
    torch.testing.assert_close(whole.values[2:], alone.values, rtol=0, atol=1e-12)
    masks = torch.cat([part for part in asked if len(part) == 60]) > 0
    asked.clear()
    explained(KernelShap(coalitions=60), model, x[:1], ids=["a"])
    assert torch.equal(masks, torch.cat([part for part in asked if len(part) == 60]) > 0)
    other = explained(KernelShap(coalitions=60), model, x, ids=ids, seed=1)
    assert not torch.equal(other.values, whole.values)


def test_linear_is_weight_times_distance_from_the_mean_background() -> None:
    w = np.array([1.0, -2.0, 0.5])
    x, background = rows((3, 1, 4), (0, 0, 2)), rows((1, 2, 3), (3, 2, 5), (2, 2, 1))
    found = explained(KernelShap(), table(lambda z: z @ w, 3, "value"), x, background=background)
    torch.testing.assert_close(found.values, torch.from_numpy(w) * (x - rows(2, 2, 3)), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.base_value, rows(-0.5, -0.5))
    torch.testing.assert_close(found.score, x @ torch.from_numpy(w))


def test_values_close_to_the_background_still_count() -> None:
    """``np.isclose`` calls these two hours one."""
    hour = 3600.0
    model = table(lambda z: (z[:, 0] - 1.6e9) / hour * z[:, 1], 2, "value")
    found = explained(KernelShap(), model, rows((1.6e9 + hour, 1)), background=rows((1.6e9, 1)))
    torch.testing.assert_close(found.values, rows((1, 0)), atol=1e-6, rtol=0)


def test_coalitions_come_in_pairs() -> None:
    with pytest.raises(ValidationError, match="coalitions"):
        KernelShap(coalitions=201)
    found = explained(KernelShap(), table(airport, 4, "value"), rows((1, 1, 1, 1)))
    assert found.values.tolist()[0] == pytest.approx([2, 3, 4, 9])
