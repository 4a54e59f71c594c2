"""Tree SHAP through shap: exact for every library, where shap called directly is not too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
import xgboost
from games import shap_regression
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from audit.bridges.native_models import NativeShapley, NoClosedForm
from audit.bridges.shap import library
from audit.bridges.shap_trees import tree_shap
from audit.model import AuditedModel, Field, InputSpec, OutputSpace, implied


def table(
    forward: Callable[[Any], Any], features: int, output: OutputSpace, native: Any, classes: int, **field: Any
) -> AuditedModel:
    return AuditedModel(
        name="table", digest="table", output=output, native=native,
        task="regression" if output == "value" else "classification",
        classes=tuple(str(c) for c in range(classes)) if classes else (),
        spec=InputSpec(fields=tuple(Field(name=f"c{j}", **{"kind": "number", **field}) for j in range(features))),
        capabilities=implied(output, gradients=False, layers=False),
        forward=lambda x: torch.as_tensor(np.asarray(forward(x.numpy()))),
    )  # fmt: skip


def two(p: Any) -> Any:
    return np.stack([1 - p, p], axis=1)


def columns(load: Any, features: int) -> tuple[Any, Any]:
    bunch = load()
    order = np.random.default_rng(0).permutation(len(bunch.data))
    return bunch.data[order][:, :features], bunch.target[order]


def binary() -> tuple[Any, Any]:
    return columns(load_breast_cancer, 5)


def ternary() -> tuple[Any, Any]:
    return columns(load_iris, 4)


def amounts() -> tuple[Any, Any]:
    return columns(load_diabetes, 5)


def boosted(estimator: Any, classes: int, booster: bool) -> tuple[Any, Any]:
    """A booster as its native file gives it back, or the scikit-learn wrapper; and what answers for it."""
    if not booster:
        return estimator, estimator.predict_proba
    if isinstance(estimator, xgboost.XGBModel):
        native = estimator.get_booster()
        answer = lambda x: native.predict(xgboost.DMatrix(x))  # noqa: E731
    else:
        native = estimator.booster_
        answer = native.predict
    return native, (lambda x: two(answer(x))) if classes == 2 else answer


def cases() -> list[Any]:
    """Every kind of ensemble: its data, a function that fits it, the space its trees add up in."""

    def plain(estimator: Any) -> Any:
        return lambda x, y: (fitted := estimator.fit(x, y), getattr(fitted, "predict_proba", fitted.predict))

    found = [
        ("tree", binary, 2, plain(DecisionTreeClassifier(max_depth=5, random_state=0)), "probability"),
        ("forest", binary, 2, plain(RandomForestClassifier(8, random_state=0)), "probability"),
        ("forest-3", ternary, 3, plain(RandomForestClassifier(8, random_state=0)), "probability"),
        ("gradient-boosting", binary, 2, plain(GradientBoostingClassifier(n_estimators=8)), "margin"),
        ("hist", binary, 2, plain(HistGradientBoostingClassifier(max_iter=8)), "margin"),
        ("hist-3", ternary, 3, plain(HistGradientBoostingClassifier(max_iter=8)), "logit"),
        ("forest-value", amounts, 0, plain(RandomForestRegressor(8, max_depth=6, random_state=0)), "value"),
        ("hist-value", amounts, 0, plain(HistGradientBoostingRegressor(max_iter=8)), "value"),
    ]  # fmt: skip
    for booster in (False, True):
        for classes, data in ((2, binary), (3, ternary)):

            def xgb(x: Any, y: Any, c: int = classes, b: bool = booster) -> Any:
                return boosted(xgboost.XGBClassifier(n_estimators=8, max_depth=4).fit(x, y), c, b)

            def lgb(x: Any, y: Any, c: int = classes, b: bool = booster) -> Any:
                return boosted(lightgbm.LGBMClassifier(n_estimators=8, num_leaves=7, verbose=-1).fit(x, y), c, b)

            space = "margin" if classes == 2 else "logit"
            kind = "booster" if booster else "wrapper"
            found += [(f"xgboost-{kind}-{classes}", data, classes, xgb, space)]
            found += [(f"lightgbm-{kind}-{classes}", data, classes, lgb, space)]
    return [pytest.param(*case[1:], id=case[0]) for case in found]


def by_coalitions(model: AuditedModel, raw: Callable[[Any], Any], x: Any, background: Any) -> Any:
    """Shapley values of a raw score by every coalition."""

    def worth(coalitions: Any) -> Any:
        mixed = np.where(coalitions[:, None], x, background[None])
        return raw(mixed.reshape(-1, len(x))).reshape(len(coalitions), -1).mean(axis=1)

    return shap_regression(worth, len(x), coalitions=2 ** len(x), seed=0)


@pytest.mark.parametrize(("data", "classes", "fit", "space"), cases())
def test_every_ensemble_is_explained_exactly(data: Any, classes: int, fit: Any, space: str) -> None:
    inputs, labels = data()
    native, answer = fit(inputs, labels)
    model = table(answer, inputs.shape[1], "probability" if classes else "value", native, classes)
    x, background = inputs[:4], inputs[100:112]
    target = model.predict(torch.as_tensor(x)).long().numpy() if classes else np.zeros(4, dtype=np.int64)
    found = tree_shap(model, x, target, background)
    assert found.space == space

    def raw(z: Any) -> Any:
        answers = np.asarray(answer(z), dtype=np.float64)
        if space in ("probability", "value"):
            return answers[:, target[0]] if classes else answers
        if space == "margin":
            return (np.log(answers[:, 1]) - np.log(answers[:, 0])) * (1 if target[0] == 1 else -1)
        return np.log(answers[:, target[0]])  # up to what softmax takes off every class alike

    scale = max(1.0, float(np.abs(found.score).max()))
    np.testing.assert_allclose(found.values.sum(axis=1) + found.base_value, found.score, atol=1e-5 * scale)
    if space != "logit":
        np.testing.assert_allclose(found.values[0], by_coalitions(model, raw, x[0], background), atol=2e-5 * scale)
    else:
        every = [tree_shap(model, x, np.full(4, c), background) for c in range(classes)]
        difference = every[0].values - every[1].values
        expected = by_coalitions(
            model, lambda z: np.log(np.asarray(answer(z))[:, 0]) - np.log(np.asarray(answer(z))[:, 1]), x[0], background
        )
        np.testing.assert_allclose(difference[0], expected, atol=2e-5 * scale)
    path = tree_shap(model, x, target, background, "path_dependent")
    np.testing.assert_allclose(path.values.sum(axis=1) + path.base_value, found.score, atol=1e-5 * scale)


def test_splits_between_neighbouring_floats_are_kept() -> None:
    """Called directly, shap rounds thresholds to float32 and misses the forest's answer."""
    inputs, amounts_ = columns(load_diabetes, 10)
    forest = RandomForestRegressor(20, random_state=0).fit(inputs, amounts_)
    x, background = inputs[:20], inputs[50:80]
    shap = library()
    masker = shap.maskers.Independent(background, max_samples=len(background))
    direct = shap.TreeExplainer(forest, masker)(x, check_additivity=False)
    assert np.abs(direct.values.sum(axis=1) + direct.base_values - forest.predict(x)).max() > 0.1
    found = tree_shap(table(forest.predict, 10, "value", forest, 0), x, np.zeros(20, dtype=np.int64), background)
    assert np.abs(found.values.sum(axis=1) + found.base_value - forest.predict(x)).max() < 1e-9


def test_xgboost_rounds_what_it_is_fed() -> None:
    inputs, labels = binary()
    stump = xgboost.XGBClassifier(n_estimators=1, max_depth=1).fit(inputs[:, :1], labels)
    split = np.float32(stump.get_booster().trees_to_dataframe()["Split"].iloc[0])
    below = np.nextafter(split, np.float32(-np.inf))
    x = np.array([[float(below) + 0.3 * (float(split) - float(below))]])  # rounds to the float below the split
    model = table(stump.predict_proba, 1, "probability", stump, 2)
    for native in (stump, stump.get_booster()):
        model.native = native
        found = tree_shap(model, x, np.ones(1, dtype=np.int64), inputs[:20, :1])
        np.testing.assert_allclose(found.values.sum(axis=1) + found.base_value, found.score, atol=1e-6)


def test_path_dependent_values_are_shaps() -> None:
    inputs, labels = binary()
    forest = RandomForestClassifier(8, random_state=0).fit(inputs, labels)
    expected = library().TreeExplainer(forest, feature_perturbation="tree_path_dependent")(inputs[:5]).values[:, :, 1]
    model = table(forest.predict_proba, 5, "probability", forest, 2)
    found = tree_shap(model, inputs[:5], np.ones(5, dtype=np.int64), inputs[:1], "path_dependent")
    np.testing.assert_allclose(found.values, expected, atol=1e-9)


def test_the_whole_background_counts() -> None:
    """shap would take 100 of its rows."""
    inputs, labels = binary()
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(inputs, labels)
    model = table(forest.predict_proba, 5, "probability", forest, 2)
    found = tree_shap(model, inputs[:2], np.ones(2, dtype=np.int64), inputs)
    np.testing.assert_allclose(found.base_value, forest.predict_proba(inputs)[:, 1].mean(), atol=1e-6)


def test_missing_values_follow_their_branch() -> None:
    inputs, labels = binary()
    holed = inputs.copy()
    holed[np.random.default_rng(1).random(inputs.shape) < 0.2] = np.nan
    booster = xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(holed, labels)
    model = table(booster.predict_proba, 5, "probability", booster, 2)
    found = tree_shap(model, holed[:10], np.ones(10, dtype=np.int64), holed[50:70])
    margin = booster.predict(holed[:10], output_margin=True)
    np.testing.assert_allclose(found.values.sum(axis=1) + found.base_value, margin, atol=1e-5)


def explain_pipeline(pipeline: Any, inputs: Any, **field: Any) -> NativeShapley:
    model = table(pipeline.predict_proba, inputs.shape[1], "probability", pipeline, 2, **field)
    return tree_shap(model, inputs[:4], np.ones(4, dtype=np.int64), inputs[50:60])


@pytest.mark.parametrize(
    "step",
    [
        "passthrough",
        FunctionTransformer(),
        StandardScaler(),
        SimpleImputer(),
        ColumnTransformer([("first", "passthrough", [0, 1]), ("rest", "passthrough", [2, 3, 4])]),
    ],
    ids=["passthrough", "identity", "scaler", "imputer", "columns"],
)
def test_steps_that_keep_columns_apart_change_nothing(step: Any) -> None:
    inputs, labels = binary()
    pipeline = make_pipeline(step, RandomForestClassifier(8, random_state=0)).fit(inputs, labels)
    model = table(pipeline.predict_proba, 5, "probability", pipeline, 2)
    found = explain_pipeline(pipeline, inputs)
    expected = by_coalitions(model, lambda z: pipeline.predict_proba(z)[:, 1], inputs[0], inputs[50:60])
    np.testing.assert_allclose(found.values[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "step",
    [
        ColumnTransformer([("rest", "passthrough", [2, 3, 4]), ("first", "passthrough", [0, 1])]),
        ColumnTransformer([("some", "passthrough", [0, 1, 2])]),
        FunctionTransformer(np.cumsum, kw_args={"axis": 1}),
    ],
    ids=["reordered", "dropped", "mixed"],
)
def test_steps_that_do_not_are_refused(step: Any) -> None:
    inputs, labels = binary()
    pipeline = make_pipeline(step, RandomForestClassifier(4, random_state=0)).fit(inputs, labels)
    with pytest.raises(NoClosedForm, match="does not keep each column to itself"):
        explain_pipeline(pipeline, inputs)


def test_columns_fitted_by_name() -> None:
    inputs, labels = binary()
    frame = pd.DataFrame(inputs, columns=[f"c{j}" for j in range(5)])
    forest = RandomForestClassifier(8, random_state=0).fit(frame, labels)
    model = table(lambda x: forest.predict_proba(pd.DataFrame(x, columns=frame.columns)), 5, "probability", forest, 2)
    found = tree_shap(model, inputs[:4], np.ones(4, dtype=np.int64), inputs[50:60])
    np.testing.assert_allclose(found.score, forest.predict_proba(frame[:4])[:, 1])


@pytest.mark.parametrize("kind", ["forest", "pipeline", "xgboost", "lightgbm"])
def test_columns_in_another_order_than_the_model_was_fitted_on(kind: str) -> None:
    inputs, labels = binary()
    own, back = [f"c{j}" for j in range(5)], [4, 3, 2, 1, 0]
    frame = pd.DataFrame(inputs, columns=own)[[own[j] for j in back]]
    native: Any
    if kind == "forest":
        native = RandomForestClassifier(8, random_state=0).fit(frame, labels)
        answer = lambda x: native.predict_proba(pd.DataFrame(x[:, back], columns=frame.columns))  # noqa: E731
    elif kind == "pipeline":
        native = make_pipeline(StandardScaler(), RandomForestClassifier(8, random_state=0)).fit(frame, labels)
        answer = lambda x: native.predict_proba(pd.DataFrame(x[:, back], columns=frame.columns))  # noqa: E731
    elif kind == "xgboost":
        native = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(frame, labels), 5)
        names = list(frame.columns)
        answer = lambda x: two(native.predict(xgboost.DMatrix(x[:, back], feature_names=names)))  # noqa: E731
    else:
        native = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(frame, labels), 5)
        answer = lambda x: two(native.predict(x[:, back]))  # noqa: E731
    model = table(answer, 5, "probability", native, 2)
    x, background, target = inputs[:3], inputs[50:60], np.ones(3, dtype=np.int64)
    margin = kind in ("xgboost", "lightgbm")

    def raw(z: Any) -> Any:
        p = np.asarray(answer(z), dtype=np.float64)
        return np.log(p[:, 1]) - np.log(p[:, 0]) if margin else p[:, 1]

    found = tree_shap(model, x, target, background)
    np.testing.assert_allclose(found.values[0], by_coalitions(model, raw, x[0], background), atol=1e-5)


def test_what_no_tree_explains_is_refused() -> None:
    inputs, labels = binary()
    x, target, background = inputs[:4], np.ones(4, dtype=np.int64), inputs[50:60]
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs, labels)
    with pytest.raises(NoClosedForm, match="LogisticRegression is no tree ensemble"):
        tree_shap(table(linear.predict_proba, 5, "probability", linear, 2), x, target, background)
    three = ternary()
    boosting = GradientBoostingClassifier(n_estimators=3).fit(*three)
    with pytest.raises(NoClosedForm, match="only supported for binary"):
        tree_shap(table(boosting.predict_proba, 4, "probability", boosting, 3), three[0][:4], target, three[0][50:60])
    counts = xgboost.XGBRegressor(n_estimators=3, objective="count:poisson").fit(inputs, labels)
    with pytest.raises(NoClosedForm, match="not what its parameters add up to"):
        tree_shap(table(counts.predict, 5, "value", counts, 0), x, target, background)
    coded = Pipeline([("trees", RandomForestClassifier(3).fit(inputs, labels))])
    with pytest.raises(NoClosedForm, match="fed categories"):
        explain_pipeline(coded, inputs, kind="category", categories=("a",))


def test_splits_on_categories_need_the_training_rows() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, size=(200, 1)).astype(float)
    inputs = np.concatenate([codes, rng.normal(size=(200, 1))], axis=1)
    labels = np.isin(codes[:, 0], (1, 4)).astype(int)
    train = lightgbm.Dataset(inputs, labels, categorical_feature=[0])
    options = {"objective": "binary", "verbose": -1, "min_data_per_group": 1, "max_cat_to_onehot": 1, "cat_smooth": 1}
    booster = lightgbm.train(options, train, 5)
    model = table(lambda x: two(booster.predict(x)), 2, "probability", booster, 2)
    target = np.ones(4, dtype=np.int64)
    with pytest.raises(NoClosedForm, match="path_dependent"):
        tree_shap(model, inputs[:4], target, inputs[50:60])
    found = tree_shap(model, inputs[:4], target, inputs[50:60], "path_dependent")
    np.testing.assert_allclose(found.values.sum(axis=1) + found.base_value, booster.predict(inputs[:4], raw_score=True))


def test_xgboosts_splits_on_categories() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, size=(200, 1)).astype(float)
    inputs = np.concatenate([codes, rng.normal(size=(200, 1))], axis=1)
    types = {"feature_types": ["c", "q"], "enable_categorical": True}
    train = xgboost.DMatrix(inputs, np.isin(codes[:, 0], (1, 4)).astype(int), **types)
    booster = xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, train, 5)
    model = table(lambda x: two(booster.predict(xgboost.DMatrix(x, **types))), 2, "probability", booster, 2)
    x, target = inputs[:4], np.array([1, 0, 1, 0])
    with pytest.raises(NoClosedForm):
        tree_shap(model, x, target, inputs[50:60])
    found = tree_shap(model, x, target, inputs[50:60], "path_dependent")
    np.testing.assert_allclose(found.values.sum(axis=1) + found.base_value, found.score, atol=1e-5)
    assert (np.abs(found.values[:, 0]) > np.abs(found.values[:, 1])).all()


@pytest.mark.parametrize("output", ["label", "margin", "logit"])
def test_other_outputs_of_the_same_trees(output: Any) -> None:
    inputs, labels = binary()
    booster = xgboost.XGBClassifier(n_estimators=5, max_depth=3).fit(inputs, labels)
    margin = lambda x: booster.predict(x, output_margin=True)  # noqa: E731
    answer = {
        "label": booster.predict,
        "margin": margin,
        "logit": lambda x: np.stack([np.zeros(len(x)), margin(x)], axis=1),
    }[output]
    x, background = inputs[:4], inputs[50:60]
    found = tree_shap(table(answer, 5, output, booster, 2), x, np.array([1, 0, 1, 0]), background)
    assert found.space == "margin"
    np.testing.assert_allclose(found.score, margin(x) * [1, -1, 1, -1], atol=1e-6)


def test_trees_are_read_once_for_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = binary()
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(inputs, labels)
    model = table(forest.predict_proba, 5, "probability", forest, 2)
    first = tree_shap(model, inputs[:4], np.ones(4, dtype=np.int64), inputs[50:60])
    monkeypatch.setattr("audit.bridges.shap_trees._read", None)
    again = tree_shap(model, inputs[:4], np.ones(4, dtype=np.int64), inputs[50:60])
    np.testing.assert_array_equal(first.values, again.values)
