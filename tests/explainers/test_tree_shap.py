"""Trees as an explainer: exact, in the trees' own space, refused for anything else. The libraries: tests/bridges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from games import explained, rows, table
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

from audit.bridges.native_models import NoClosedForm
from audit.explainers.exact_shap import ExactShap
from audit.explainers.tree_shap import TreeShap
from audit.parameters import NotApplicable, UserError


def test_the_and_tree() -> None:
    tree = DecisionTreeRegressor().fit([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1])
    found = explained(TreeShap(), table(tree.predict, 2, "value", native=tree), rows((1, 1)))
    torch.testing.assert_close(found.values, rows((0.5, 0.5)), atol=1e-6, rtol=0)
    assert found.method == "Tree SHAP, interventional, 1 background rows"
    assert found.space == "value"


def test_both_games_add_up_and_differ() -> None:
    bunch = load_breast_cancer()
    inputs = bunch.data[:, :8]
    estimator = RandomForestClassifier(10, random_state=0).fit(inputs[100:], bunch.target[100:])
    model = table(estimator.predict_proba, 8, "probability", native=estimator)
    x, background = torch.from_numpy(inputs[:6]), torch.from_numpy(inputs[100:160])
    target = model.predict(x)
    found = explained(TreeShap(background=20), model, x, target, background)
    exact = explained(ExactShap(background=20), model, x, target, background)
    torch.testing.assert_close(found.values, exact.values, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.base_value, exact.base_value, atol=1e-6, rtol=0)
    more = explained(TreeShap(background=60), model, x, target, background)
    assert not torch.equal(more.values, found.values)
    path = explained(TreeShap(perturbation="path_dependent"), model, x, target, background[:0])
    assert path.method == "Tree SHAP, path_dependent"
    for each in (found, path):
        assert each.error is not None
        assert float(each.error.max()) < 1e-6
    assert float((path.values - found.values).abs().max()) > 0.01


def test_anything_else_is_not_applicable() -> None:
    with pytest.raises(NoClosedForm, match="its own object is not known"):
        explained(TreeShap(), table(lambda x: x.sum(axis=1), 2, "value"), rows((1, 2)))
    assert issubclass(NoClosedForm, NotApplicable)
    inputs = np.random.default_rng(0).normal(size=(50, 3))
    mixed = make_pipeline(PCA(3), RandomForestClassifier(3)).fit(inputs, inputs[:, 0] > 0)
    with pytest.raises(NoClosedForm, match=r"step 'pca' .* does not keep each column to itself"):
        explained(TreeShap(), table(mixed.predict_proba, 3, "probability", native=mixed), rows((1, 2, 3)))


def test_no_background_is_told() -> None:
    tree = DecisionTreeRegressor().fit([[0], [1]], [0, 1])
    with pytest.raises(UserError, match="tree_shap needs background rows"):
        explained(TreeShap(), table(tree.predict, 1, "value", native=tree), rows((1,)), background=rows((1,))[:0])
