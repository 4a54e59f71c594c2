"""The way that suits the model: trees, linear models, few features, anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import GAMES, explained, rows, table
from pydantic import ValidationError
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor, nn
from toys import Linear, audited

from audit.explainers.exact_shap import ExactShap
from audit.explainers.shap_values import ShapValues
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.text import encode


@pytest.mark.parametrize(("function", "x", "expected"), GAMES)
def test_few_features_by_every_coalition(function: Any, x: Any, expected: Any) -> None:
    found = explained(ShapValues(), table(function, len(x), "value"), rows(x))
    torch.testing.assert_close(found.values, rows(expected), atol=1e-6, rtol=0)
    assert found.method == "all coalitions, interventional, 1 background rows"


def test_more_features_by_random_orders() -> None:
    model = table(lambda z: z.max(axis=1), 9, "value")
    x = torch.arange(1.0, 10)[None].double()
    found = explained(ShapValues(permutations=3), model, x)
    assert found.method.startswith("3 random orders both ways")
    assert found.error is not None
    assert float(found.error) > 0
    every = explained(ShapValues(permutations=50), model, x)  # costs as much as all 510 coalitions
    assert every.method.startswith("all coalitions")


def test_rows_of_one_batch_may_be_solved_in_different_ways() -> None:
    model = table(lambda z: z.max(axis=1), 9, "value")
    x = torch.arange(1.0, 10).double().repeat(2, 1)
    x[1, :6] = 0
    found = explained(ShapValues(permutations=3), model, x)
    assert found.method.startswith("3 random orders both ways or all coalitions")
    assert found.error is not None
    assert [bool(e) for e in found.error] == [True, False]


def test_the_and_tree() -> None:
    tree = DecisionTreeRegressor().fit([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1])
    found = explained(ShapValues(), table(tree.predict, 2, "value", native=tree), rows((1, 1)))
    torch.testing.assert_close(found.values, rows((0.5, 0.5)), atol=1e-6, rtol=0)
    assert found.method == "Tree SHAP, interventional, 1 background rows"


def forest(*steps: Any) -> tuple[Any, Tensor, AuditedModel]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(150, 3))
    estimator = make_pipeline(*steps, RandomForestClassifier(10, random_state=0)) if steps else None
    estimator = estimator or RandomForestClassifier(10, random_state=0)
    estimator.fit(inputs, inputs[:, 0] * inputs[:, 1] > 0)
    return estimator, torch.from_numpy(inputs), table(estimator.predict_proba, 3, "probability", native=estimator)


@pytest.mark.parametrize("steps", [(), (StandardScaler(),)], ids=["forest", "scaled"])
def test_trees_are_exact(steps: Any) -> None:
    _, inputs, model = forest(*steps)
    x, target, background = inputs[:10], model.predict(inputs[:10]), inputs[50:70]
    by_trees = explained(ShapValues(), model, x, target, background)
    by_coalitions = explained(ExactShap(), model, x, target, background)
    assert by_trees.method.startswith("Tree SHAP")
    torch.testing.assert_close(by_trees.values, by_coalitions.values, atol=1e-6, rtol=0)
    torch.testing.assert_close(by_trees.base_value, by_coalitions.base_value, atol=1e-6, rtol=0)


def test_columns_mixed_before_the_trees_are_explained_as_a_whole() -> None:
    _, inputs, model = forest(PCA(3))
    found = explained(ShapValues(), model, inputs[:3], model.predict(inputs[:3]), inputs[50:60])
    assert found.method.startswith("all coalitions")


def test_a_model_that_is_more_than_its_trees_is_explained_as_a_whole() -> None:
    estimator, inputs, _ = forest()

    def sharpened(x: Any) -> Any:
        p = estimator.predict_proba(x) ** 2
        return p / p.sum(axis=1, keepdims=True)

    model = table(sharpened, 3, "probability", native=estimator)
    found = explained(ShapValues(), model, inputs[:3], [0, 1, 0], inputs[50:60])
    assert found.method.startswith("all coalitions")


def test_path_dependent_is_another_game() -> None:
    _, inputs, model = forest()
    x, target, background = inputs[:5], model.predict(inputs[:5]), inputs[50:70]
    interventional = explained(ShapValues(), model, x, target, background)
    path = explained(ShapValues(perturbation="path_dependent"), model, x, target, background)
    assert path.method == "Tree SHAP, path_dependent"
    assert float((path.values - interventional.values).abs().max()) > 0.01


def test_trees_with_another_absence_are_asked() -> None:
    _, inputs, model = forest()
    found = explained(ShapValues(absent="mean"), model, inputs[:2], [0, 1], inputs[50:60])
    assert found.method == "all coalitions, absent is mean"


def test_linear_models_by_their_coefficients() -> None:
    inputs = np.random.default_rng(0).normal(size=(100, 20))
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs, inputs[:, 0] > 0)
    model = table(estimator.predict_proba, 20, "probability", native=estimator)
    found = explained(ShapValues(), model, torch.from_numpy(inputs[:3]), [1, 1, 0], torch.from_numpy(inputs[50:60]))
    assert found.method == "linear, interventional, 10 background rows"
    assert found.space == "margin"


def test_linear_nets_by_their_gradient_and_others_not() -> None:
    x = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    linear = explained(ShapValues(), audited(nn.Linear(20, 2), (20,), kind="number"), x)
    assert linear.method.startswith("linear")
    net = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))
    assert "random orders" in explained(ShapValues(permutations=2), audited(net, (20,), kind="number"), x).method


def test_units_are_kept_where_they_are_asked_for() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model = audited(module, (1, 4, 4), bounds=(0.0, 1.0))
    x = torch.rand(2, 1, 4, 4)
    assert explained(ShapValues(), model, x).features is None
    found = explained(ShapValues(unit="patch", size=2), model, x)
    assert found.features is not None
    assert found.features.count.tolist() == [4, 4]


def test_codes_are_never_called_linear() -> None:
    model = audited(lambda x: x.float().sum(dim=1), (6,), output="value", kind="text")
    found = explained(ShapValues(), model, torch.from_numpy(encode(["a b", "c"], 6)))
    assert found.method == "all coalitions, absent is blank"
    torch.testing.assert_close(found.values[0, :3], rows(97 - 32, 0, 98 - 32))


def test_a_black_box_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 3))
    estimator = LogisticRegression().fit(inputs, inputs[:, 0] > 0)
    model = table(estimator.predict_proba, 3, "probability")
    x = torch.from_numpy(inputs[:20])
    target = model.predict(x)
    found = explained(ShapValues(), model, x, target, background=torch.from_numpy(inputs[50:80]))
    assert found.space == "probability"
    assert int((found.values.abs().argmax(dim=1) == 0).sum()) >= 18
    expected = torch.from_numpy(estimator.predict_proba(inputs[:20])).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(found.values.sum(dim=1) + found.base_value, expected, atol=1e-9, rtol=0)


def test_margins_speak_for_the_target() -> None:
    model = table(lambda z: z @ np.array([2.0, -1.0]), 2, "margin")
    found = explained(ShapValues(), model, rows((1, 1), (1, 1)), [1, 0])
    torch.testing.assert_close(found.values, rows((2, -1), (-2, 1)))
    assert found.space == "margin"


def test_labels_alone_are_explained_as_agreement_with_the_target() -> None:
    model = table(lambda z: (z.min(axis=1) > 0).astype(int), 2, "label")
    found = explained(ShapValues(), model, rows((1, 1)), [1])
    torch.testing.assert_close(found.values, rows((0.5, 0.5)))
    assert found.space == "label"


def test_missing_values_are_values() -> None:
    model = table(lambda z: np.where(np.isnan(z), 5.0, z).sum(axis=1), 2, "value")
    found = explained(ShapValues(), model, rows((float("nan"), 1)), background=rows((0, float("nan"))))
    torch.testing.assert_close(found.values, rows((5, -4)))


def test_mistakes_are_told() -> None:
    model = table(lambda x: x.sum(axis=1), 2, "value")
    with pytest.raises(UserError, match="background rows, and the data gave none"):
        explained(ShapValues(), model, rows((1, 2)), background=rows((1, 2))[:0])
    with pytest.raises(ValidationError, match="permutations"):
        ShapValues(permutations=1)
    with pytest.raises(UserError, match="'word' needs a text"):
        explained(ShapValues(unit="word"), model, rows((1, 2)))


def test_a_logit_that_the_model_never_moves_has_no_reasons() -> None:
    found = explained(ShapValues(), audited(Linear([1.0, 2.0], 0.0), (2,), kind="number"), rows((1, 1)), [0])
    assert found.values.tolist() == [[0, 0]]
