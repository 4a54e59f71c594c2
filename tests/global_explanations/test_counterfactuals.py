"""Distances, plausibility, the view of a model that a counterfactual aims at, and the choice of several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from planted_tables import table_model
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor, nn

from audit.gate import Gate
from audit.global_explanations.counterfactuals import (
    Counterfactuals,
    Distance,
    _choose,
    nearest_distance,
    plausibility,
    towards,
)
from audit.model import Capability, Field, InputSpec
from audit.parameters import UserError

SPEC = InputSpec(
    fields=(
        Field(name="a", kind="number"),
        Field(name="b", kind="number"),
        Field(name="job", kind="category", categories=("clerk", "smith", "cook")),
    )
)
CLASSES = ("low", "mid", "high")


def test_the_distance_by_hand() -> None:
    """a: 1, 2, 3, 10 have median 2 (the lower of the middle ones) and deviations 1, 0, 1, 8: 1. b: mostly 0, so its standard deviation counts."""
    rows = torch.tensor([[1.0, 0, 0], [2, 0, 1], [3, 0, 2], [10, 4, 1]])
    distance = Distance.fit(rows, SPEC)
    np.testing.assert_allclose(distance.scale[:2], [1, 3**0.5])
    x = torch.tensor([[1.0, 0, 0], [torch.nan, 0, 0], [1, 0, 0]])
    others = torch.tensor([[4.0, 3**0.5, 1], [torch.nan, 0, 0], [torch.nan, 0, 0]])
    np.testing.assert_allclose(distance(x, others), [3 + 1 + 1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(nearest_distance(x[:1], rows[1:], distance), [2.0])
    constant = Distance.fit(torch.ones(3, 3), SPEC)
    assert constant.scale.tolist() == [1, 1, 1]


def test_plausibility_is_scikit_learns_factor() -> None:
    rng = np.random.default_rng(0)
    usual = torch.from_numpy(np.stack([*rng.normal(size=(2, 100)), rng.integers(0, 2, 100)], axis=1))
    asked = torch.tensor([[0.0, 0, 0], [30, -30, 1]]).double()
    found = plausibility(asked, usual, SPEC, 20)
    assert found.inlier.tolist() == [True, False]
    assert float(found.neighbour_distance[0]) < 1.2
    assert float(found.neighbour_distance[1]) > 20
    members = plausibility(usual, usual, SPEC, 20)
    assert float(members.neighbour_distance.median()) < 1  # each is its own nearest
    columns = np.column_stack([(usual[:, :2] - usual[:, :2].mean(dim=0)) / usual[:, :2].std(dim=0, correction=0)])
    codes = np.eye(3)[usual[:, 2].long()]
    codes = (codes - codes.mean(axis=0)) / np.where(codes.std(axis=0) > 0, codes.std(axis=0), 1)
    theirs = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(np.hstack([columns, codes]))
    np.testing.assert_array_equal(members.inlier, theirs.predict(np.hstack([columns, codes])) == 1)
    with pytest.raises(UserError, match="3 rows"):
        plausibility(asked, usual[:2], SPEC, 20)


def logits(x: Tensor) -> Tensor:
    return torch.stack([-x[:, 0], 0 * x[:, 0], x[:, 0] - 1 + 0 * x[:, 1]], dim=1)


@pytest.mark.parametrize(
    ("model", "desired"),
    [
        (table_model(logits, SPEC, classes=CLASSES, output="logit"), 2),
        (table_model(lambda x: logits(x).softmax(dim=1), SPEC, classes=CLASSES), 2),
        (table_model(lambda x: logits(x).argmax(dim=1), SPEC, classes=CLASSES, output="label"), 2),
        (table_model(lambda x: x[:, 0] - 1, SPEC, classes=("no", "yes"), output="margin"), 1),
        (table_model(lambda x: 1 - x[:, 0], SPEC, classes=("no", "yes"), output="margin"), 0),
        (table_model(lambda x: x[:, 0] * 2, SPEC), Gate.parse("> 2")),
        (table_model(lambda x: -x[:, 0], SPEC), Gate.parse("<= -1")),
    ],
)
def test_the_view_answers_whether_it_is_the_desired_answer(model: Any, desired: Any) -> None:
    """All of these have the desired answer where a is above 1."""
    x = torch.tensor([[0.0, 0, 0], [0.9, 0, 0], [1.1, 0, 0], [5, 0, 0]]).double()
    view = towards(model, desired)
    assert view.predict(x).tolist() == [0, 0, 1, 1]
    assert (view.output == "label") == (model.output == "label")
    assert model.rows_forward == 4
    model.rows_forward = 0


def test_the_view_keeps_gradients() -> None:
    module = nn.Linear(3, 3)
    view = towards(table_model(module, SPEC, classes=CLASSES, output="logit", module=module), 1)
    assert {Capability.GRADIENTS, Capability.LOGITS} <= view.capabilities
    x = torch.randn(2, 3, requires_grad=True)
    view.logits(x)[:, 1].sum().backward()
    assert float(x.grad.abs().sum()) > 0  # type: ignore[union-attr]
    with pytest.raises(UserError, match="cannot be aimed at"):
        towards(table_model(lambda z: z[:, 0], SPEC), Gate.parse("== 2"))


def test_several_are_chosen_near_and_different() -> None:
    """Of changes of a by 1, a by 1.1, b by 2, b by 2.1 and both by 3: the nearest, then the nearest other way, then the rest."""
    distance = Distance(torch.ones(3).double(), torch.tensor([False, False, True]))
    x = torch.zeros(1, 3).double()
    changed = torch.tensor([[1.1, 0, 0], [0, 2.1, 0], [1, 0, 0], [0, 2, 0], [3, 3, 0], [1, 0, 0]]).double()
    row = torch.zeros(6, dtype=torch.int64)
    for count, expected in ((1, [[1, 0, 0]]), (2, [[1, 0, 0], [0, 2, 0]])):
        assert _choose(x, row, changed, count, distance).x.tolist() == expected
    everything = _choose(x, row, changed, 9, distance)
    assert len(everything.row) == 5  # the same change twice counts once
    assert everything.first.tolist() == [True, False, False, False, False]
    two = Counterfactuals(torch.tensor([0, 0, 2, 3, 3]), torch.zeros(5, 3))
    assert two.first.tolist() == [True, False, True, True, False]
