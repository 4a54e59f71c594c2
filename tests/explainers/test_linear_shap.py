"""Linear models: coefficients as they stand in the model, nets that show themselves affine, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import explained, rows, table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, QuantileTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch import nn
from toys import Linear, audited

from audit.bridges.native_models import NoClosedForm
from audit.bridges.shap import library
from audit.explainers.exact_shap import ExactShap
from audit.explainers.linear_shap import LinearShap
from audit.parameters import UserError

INPUTS = np.random.default_rng(0).normal(size=(200, 4)) * [1, 5, 0.1, 2] + [0, 3, 1, -2]
SCORE = INPUTS @ np.array([1.0, -0.5, 3, 0.2])
THREE = np.digitize(SCORE, [-2, 2])
X, BACKGROUND = torch.from_numpy(INPUTS[:5]), torch.from_numpy(INPUTS[50:80])


def values_by_coalitions(forward: Any, target: Any = None) -> Any:
    """Of a raw score, exactly."""
    return explained(ExactShap(), table(forward, 4, "value"), X, target, BACKGROUND).values


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        Ridge(),
        make_pipeline(StandardScaler(), Ridge()),
        make_pipeline(QuantileTransformer(n_quantiles=50), Ridge()),
    ],
    ids=["plain", "ridge", "scaled", "quantiles"],
)
def test_regressions(estimator: Any) -> None:
    estimator.fit(INPUTS, SCORE)
    model = table(estimator.predict, 4, "value", native=estimator)
    found = explained(LinearShap(), model, X, background=BACKGROUND)
    torch.testing.assert_close(found.values, values_by_coalitions(estimator.predict), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.score, torch.from_numpy(estimator.predict(INPUTS[:5])))
    assert float(found.error.max()) < 1e-9
    assert found.method == "linear, interventional, 30 background rows"


@pytest.mark.parametrize("kind", [LogisticRegression, LinearDiscriminantAnalysis, LinearSVC, SGDClassifier])
def test_classifiers_of_two_in_their_margin(kind: Any) -> None:
    estimator = make_pipeline(MinMaxScaler(), kind()).fit(INPUTS, SCORE > 0)
    has = hasattr(estimator, "predict_proba")
    forward = estimator.predict_proba if has else estimator.predict
    model = table(forward, 4, "probability" if has else "label", native=estimator)
    target = [1, 0, 1, 0, 1]
    found = explained(LinearShap(), model, X, target, BACKGROUND)
    sign = torch.tensor([1.0, -1, 1, -1, 1])[:, None]
    expected = sign * values_by_coalitions(estimator.decision_function)
    torch.testing.assert_close(found.values, expected, atol=1e-6, rtol=0)
    assert found.space == "margin"


def test_classifiers_of_three_in_their_logits() -> None:
    estimator = LogisticRegression(max_iter=1000).fit(INPUTS, THREE)
    model = table(estimator.predict_proba, 4, "probability", native=estimator, classes=3)
    found = explained(LinearShap(), model, X, [0, 1, 2, 0, 1], BACKGROUND)
    expected = values_by_coalitions(lambda z: estimator.decision_function(z)[:, 2])
    torch.testing.assert_close(found.values[2], expected[2], atol=1e-6, rtol=0)
    assert found.space == "logit"


def test_as_shap() -> None:
    estimator = LogisticRegression().fit(INPUTS, SCORE > 0)
    model = table(estimator.predict_proba, 4, "probability", native=estimator)
    found = explained(LinearShap(), model, X, [1] * 5, BACKGROUND)
    shap = library()
    expected = shap.LinearExplainer(estimator, shap.maskers.Independent(BACKGROUND.numpy(), max_samples=30))(X.numpy())
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    np.testing.assert_allclose(found.base_value, expected.base_values, atol=1e-5)


def test_a_baseline_in_place_of_the_background() -> None:
    estimator = LinearRegression().fit(INPUTS, SCORE)
    model = table(estimator.predict, 4, "value", native=estimator)
    found = explained(LinearShap(absent="zero"), model, X, background=BACKGROUND[:0])
    torch.testing.assert_close(found.values, torch.from_numpy(estimator.coef_) * X)
    first = explained(LinearShap(background=1), model, X, background=BACKGROUND)
    torch.testing.assert_close(first.values, torch.from_numpy(estimator.coef_) * (X - BACKGROUND[:1]))


@pytest.mark.parametrize(
    ("estimator", "why"),
    [
        (SVC(kernel="rbf"), "SVC is not linear"),
        (make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=3000)), "does not keep each column"),
        (PoissonRegressor(), "not what its parameters add up to"),
    ],
    ids=["kernel", "polynomial", "another link"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_other_estimators_are_refused(estimator: Any, why: str) -> None:
    value = isinstance(estimator, PoissonRegressor)
    estimator.fit(INPUTS, np.abs(SCORE) if value else SCORE > 0)
    model = table(estimator.predict, 4, "value" if value else "label", native=estimator)
    with pytest.raises(NoClosedForm, match=why):
        explained(LinearShap(), model, X, [1, 0, 1, 0, 1], BACKGROUND)


def test_nets_that_are_affine() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 10),
        nn.Linear(10, 3),
    )
    model = audited(net, (2, 6, 6), 3)
    x, background = torch.randn(4, 2, 6, 6), torch.randn(3, 2, 6, 6)
    target = torch.tensor([0, 1, 2, 1])
    found = explained(LinearShap(), model, x, target, background)
    by_pixel = model.target_score(x, target) - model.target_score(
        background.mean(dim=0, keepdim=True).expand_as(x), target
    )
    torch.testing.assert_close(found.values.flatten(1).sum(dim=1).float(), by_pixel, atol=1e-4, rtol=0)
    one = x.clone()
    one[:, 1, 2, 3] = background[:, 1, 2, 3].mean()
    alone = model.target_score(x, target) - model.target_score(one, target)
    torch.testing.assert_close(found.values[:, 1, 2, 3].float(), alone, atol=1e-5, rtol=0)
    assert found.space == "logit"


def test_a_margin_and_a_constant_logit() -> None:
    model = audited(Linear([1.0, 2.0], 3.0), (2,), kind="number")
    found = explained(LinearShap(), model, torch.tensor([[1.0, 1], [1, 1]]), [1, 0])
    assert found.values.tolist() == [[1, 2], [0, 0]]
    assert found.base_value.tolist() == [3, 0]


class Kinked(nn.Module):
    """Affine above `kink`, where all the explained rows may lie, and not below."""

    def __init__(self, kink: float) -> None:
        super().__init__()
        self.kink = kink

    def forward(self, x: Any) -> Any:
        return x.sum(dim=1) + 5 * (x[:, 0] - self.kink).relu()


@pytest.mark.parametrize("kink", [0.5, -1.0])
def test_nets_that_bend_where_the_game_is_played_are_refused(kink: float) -> None:
    model = audited(Kinked(kink), (3,), output="value", kind="number")
    x = 1 + torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    if kink > 0:
        with pytest.raises(NoClosedForm, match="is not linear in the input"):
            explained(LinearShap(), model, x)
    else:  # affine wherever the game goes: from 0 to the rows
        torch.testing.assert_close(explained(LinearShap(), model, x).values, (x * torch.tensor([6.0, 1, 1])).double())


def test_probabilities_and_black_boxes_are_refused() -> None:
    soft = audited(nn.Sequential(nn.Linear(3, 2), nn.Softmax(dim=1)), (3,), output="probability", kind="number")
    with pytest.raises(NoClosedForm, match="answers a probability"):
        explained(LinearShap(), soft, torch.ones(1, 3))
    with pytest.raises(NoClosedForm, match="neither coefficients nor gradients"):
        explained(LinearShap(), table(lambda x: x.sum(axis=1), 3, "value"), rows((1, 2, 3)))
    text = audited(lambda x: x.float().sum(dim=1), (3,), output="value", kind="text")
    with pytest.raises(NoClosedForm, match="is fed codes"):
        explained(LinearShap(), text, torch.ones(1, 3, dtype=torch.int32))
    with pytest.raises(UserError, match="background rows, and the data gave none"):
        explained(
            LinearShap(), audited(nn.Linear(3, 2), (3,), kind="number"), torch.ones(1, 3), background=torch.ones(0, 3)
        )


def test_missing_values_are_no_line() -> None:
    model = audited(lambda x: x.nan_to_num(5.0).sum(dim=1), (2,), output="value", kind="number")
    with pytest.raises(NoClosedForm):
        explained(LinearShap(), model, torch.tensor([[float("nan"), 1.0]]))


def test_a_model_that_looks_at_nothing() -> None:
    model = audited(lambda x: torch.full((len(x),), 2.0), (3,), output="value", kind="number")
    found = explained(LinearShap(), model, torch.ones(2, 3))
    assert (found.values.tolist(), found.base_value.tolist()) == ([[0, 0, 0]] * 2, [2, 2])
