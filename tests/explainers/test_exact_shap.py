"""Shapley values by every coalition: known values, shap's own, and the axioms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import GAMES, explained, rows, table
from toys import audited, digits, trained_cnn

from audit.bridges.shap import library
from audit.explainers.exact_shap import ExactShap
from audit.model import NonFiniteOutput
from audit.parameters import UserError

WORTH = np.random.default_rng(0).normal(size=(2, 2**6))


def every_order(x: Any) -> Any:
    """Six players, interactions of every order; two classes."""
    return WORTH[:, (x > 0.5).astype(int) @ (2 ** np.arange(6))].T


@pytest.mark.parametrize(("function", "x", "expected"), GAMES)
def test_known_values(function: Any, x: Any, expected: Any) -> None:
    found = explained(ExactShap(), table(function, len(x), "value"), rows(x))
    torch.testing.assert_close(found.values, rows(expected), atol=1e-6, rtol=0)
    assert found.error is not None
    assert found.error.tolist() == [0.0]
    assert found.method == "all coalitions, interventional, 1 background rows"


def test_as_shap() -> None:
    """Its KernelExplainer, told to ask all coalitions and to drop none."""
    rng = np.random.default_rng(1)
    x, background = rng.random((3, 6)), rng.random((4, 6))
    target = np.array([1, 0, 1])
    model = table(every_order, 6, "logit")
    found = explained(ExactShap(), model, torch.from_numpy(x), target, torch.from_numpy(background))
    for row in range(3):
        theirs = library().KernelExplainer(lambda z, c=target[row]: every_order(z)[:, c], background)
        expected = theirs.shap_values(x[row : row + 1], nsamples=2**6, l1_reg=False, silent=True)[0]
        np.testing.assert_allclose(found.values[row].numpy(), expected, atol=1e-9)
        assert float(found.base_value[row]) == pytest.approx(float(theirs.expected_value))


def test_dummies_get_nothing_and_twins_the_same() -> None:
    model = table(lambda z: z[:, 0] * z[:, 1] * z[:, 2] + np.sin(z[:, 3]), 5, "value")
    found = explained(ExactShap(), model, rows((2, 2, 1, 3, 7)), background=rows((0, 0, 4, 1, 0), (1, 1, 2, 0, 0)))
    assert float(found.values[0, 4]) == pytest.approx(0, abs=1e-12)
    assert float(found.values[0, 0]) == pytest.approx(float(found.values[0, 1]))


def test_features_that_no_background_row_changes_are_not_asked_about() -> None:
    model = table(lambda z: np.nan_to_num(z).sum(axis=1), 20, "value")
    x = torch.zeros(1, 20).double()
    x[0, :2] = torch.tensor([3.0, 4.0])
    x[0, 5] = float("nan")
    background = torch.zeros(1, 20).double()
    background[0, 5] = float("nan")
    found = explained(ExactShap(), model, x, background=background)
    torch.testing.assert_close(found.values[0, :2], rows(3, 4))
    assert float(found.values[0, 2:].abs().sum()) == 0
    assert model.rows_forward == 4


def test_a_row_that_is_its_own_background() -> None:
    found = explained(
        ExactShap(), table(lambda z: z.sum(axis=1), 3, "value"), rows((1, 2, 3)), background=rows((1, 2, 3))
    )
    assert found.values.tolist() == [[0, 0, 0]]
    assert found.method.startswith("all coalitions")


def test_background_takes_the_first_rows() -> None:
    model, given = table(lambda z: z[:, 0], 1, "value"), rows((0,), (2,), (100,))
    assert explained(ExactShap(background=2), model, rows((10,)), background=given).values.tolist() == [[9.0]]


@pytest.mark.parametrize(("absent", "expected"), [("zero", 10.0), ("mean", 8.0), (4, 6.0), ("background", 8.0)])
def test_absent_features_may_take_a_baseline(absent: Any, expected: float) -> None:
    found = explained(
        ExactShap(absent=absent), table(lambda z: z[:, 0], 1, "value"), rows((10,)), background=rows((1,), (3,))
    )
    assert float(found.values) == expected
    assert ("background" in found.method) == (absent == "background")


def test_a_square_is_not_the_square_of_the_mean() -> None:
    """Background rows keep their spread, their mean does not."""
    model = table(lambda z: z[:, 0] ** 2, 1, "value")
    values = [
        float(explained(ExactShap(absent=absent), model, rows((0,)), background=rows((-2,), (2,))).values)
        for absent in ("background", "mean")
    ]
    assert values == [-4.0, 0.0]


def test_more_than_twelve_features_are_refused() -> None:
    model = table(lambda z: z.sum(axis=1), 13, "value")
    with pytest.raises(UserError, match="at most 12 features, and here are 13"):
        explained(ExactShap(), model, torch.ones(1, 13).double())
    few = torch.ones(1, 13).double()
    few[0, 12] = 0  # no background row changes it
    torch.testing.assert_close(explained(ExactShap(), model, few).values, few)


def test_an_image_is_cut_into_at_most_twelve() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:2])
    found = explained(ExactShap(), model, x, model.predict(x), background=torch.zeros(1, 1, 8, 8))
    assert found.features is not None
    assert found.features.count.tolist() == [9, 9]
    torch.testing.assert_close(found.values.flatten(1).sum(dim=1) + found.base_value, found.score)
    by_segment = explained(ExactShap(unit="segment"), model, x, model.predict(x), background=torch.zeros(1, 1, 8, 8))
    assert by_segment.features is not None
    assert by_segment.features.unit == "segment"
    assert by_segment.features.most <= 12


def test_players_that_are_ids_take_background_values() -> None:
    """A recommender that knows users and items by number only."""
    liking = np.array([[5.0, 1, 3], [2, 4, 4]])
    model = table(lambda z: liking[z[:, 0].astype(int), z[:, 1].astype(int)], 2, "value")
    fields = tuple(field.model_copy(update={"kind": "id"}) for field in model.spec.fields)
    model.spec = model.spec.model_copy(update={"fields": fields})
    found = explained(ExactShap(), model, rows((0, 0)), background=rows((1, 1)))
    assert found.values.tolist() == [[(5 - 2 + 1 - 4) / 2, (5 - 1 + 2 - 4) / 2]]


def test_no_background_rows_are_told() -> None:
    model = table(lambda z: z.sum(axis=1), 2, "value")
    with pytest.raises(UserError, match="background rows, and the data gave none"):
        explained(ExactShap(), model, rows((1, 2)), background=rows((1, 2))[:0])
    assert explained(ExactShap(absent="zero"), model, rows((1, 2)), background=rows((1, 2))[:0]).values.tolist() == [
        [1, 2]
    ]


def test_an_answer_that_is_not_finite_is_an_error() -> None:
    model = audited(lambda x: x[:, 0].log(), (2,), output="value", kind="number")
    with pytest.raises(NonFiniteOutput):
        explained(ExactShap(), model, rows((1, 2)))


def test_passes_are_filled_across_rows_and_bounded_by_the_micro_batch() -> None:
    sizes: list[int] = []

    def forward(x: Any) -> Any:
        sizes.append(len(x))
        return x.sum(axis=1)

    model = table(forward, 3, "value")
    model.micro_batch = 100
    explained(ExactShap(), model, torch.rand(10, 3).double() + 1, background=torch.rand(5, 3).double())
    assert sizes == [10, 50, 100, 100, 100]  # the rows, nobody, six coalitions of each row
