"""scikit-learn models through skops: equal to the estimator, and forged trees never reach scikit-learn's compiled code."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from scipy.sparse import csr_array
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import UserError
from audit.registry.loaders._sklearn_contents import check_contents
from audit.registry.store import Registry
from audit.text import encode

TREE = "sklearn.tree._tree.Tree"
PREDICTOR = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
X, Y = load_iris(return_X_y=True)


def saved(estimator: Any, tmp_path: Path) -> Path:
    path = tmp_path / "model.skops"
    skops.io.dump(estimator, path)
    return path


def opened(registry: Registry, path: Path, *types: str, **declared: Any) -> AuditedModel:
    registry.add("m", path, parameters={"trusted_types": types}, **declared)
    return registry.open("m")


def rows(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x, dtype=np.float64))


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(max_depth=4),
        RandomForestClassifier(5, random_state=0),
        GradientBoostingClassifier(n_estimators=3),
        GradientBoostingClassifier(n_estimators=2, init="zero"),
        HistGradientBoostingClassifier(max_iter=3),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_probabilities_equal_the_estimators(estimator: Any, registry: Registry, tmp_path: Path) -> None:
    estimator.fit(X, Y)
    model = opened(registry, saved(estimator, tmp_path), TREE, PREDICTOR)
    assert model.capabilities == {Capability.PROBABILITIES, Capability.LABELS, Capability.RETRAIN}
    assert (model.task, model.classes, model.output) == ("classification", ("0", "1", "2"), "probability")
    assert [f.name for f in model.spec.fields] == ["x0", "x1", "x2", "x3"]
    np.testing.assert_array_equal(model.scores(rows(X)).numpy(), estimator.predict_proba(X))
    assert type(model.native) is type(estimator)


@pytest.mark.parametrize(
    "estimator",
    [LinearRegression(), RandomForestRegressor(3, random_state=0), GradientBoostingRegressor(n_estimators=3)],
    ids=lambda e: type(e).__name__,
)
def test_a_regression_answers_values(estimator: Any, registry: Registry, tmp_path: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    estimator.fit(x, y)
    model = opened(registry, saved(estimator, tmp_path), TREE)
    assert (model.task, model.output, model.capabilities) == (
        "regression",
        "value",
        {Capability.VALUES, Capability.RETRAIN},
    )
    np.testing.assert_array_equal(model.predict(rows(x)).numpy(), estimator.predict(x))


def test_columns_come_from_the_model_and_are_fed_by_name(registry: Registry, tmp_path: Path) -> None:
    table, target = load_breast_cancer(return_X_y=True, as_frame=True)
    estimator = RandomForestClassifier(5, random_state=0).fit(table, target)
    path = saved(estimator, tmp_path)
    model = opened(registry, path, TREE, classes=["malignant", "benign"])
    assert [f.name for f in model.spec.fields] == list(table.columns)
    assert model.classes == ("malignant", "benign")
    np.testing.assert_array_equal(model.scores(rows(table)).numpy(), estimator.predict_proba(table))
    turned = type(model.spec)(fields=model.spec.fields[::-1])
    again = opened(registry, path, TREE, spec=turned)
    np.testing.assert_array_equal(
        again.scores(rows(table)[:, range(29, -1, -1)]).numpy(), estimator.predict_proba(table)
    )
    with pytest.raises(
        UserError, match=r"trained on 30 named columns; the input spec lacks mean radius, .* … and adds a"
    ):
        opened(registry, path, TREE, spec=type(model.spec)(fields=({"name": "a", "kind": "number"},)))


@pytest.fixture(scope="module")
def people() -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.normal(40, 10, 200),
            "city": rng.choice(["Rome", "Paris", "Oslo"], 200).astype(object),
            "rooms": rng.integers(1, 5, 200),
        }
    )
    return table, ((table.age > 40) ^ (table.city == "Paris") ^ (table.rooms > 2)).astype(int)


def coded(table: pd.DataFrame, model: AuditedModel) -> torch.Tensor:
    """What a data source hands over: numbers, and category codes in the spec's order."""
    columns = []
    for field in model.spec.fields:
        column = table[field.name]
        if field.kind == "category":
            columns.append([np.nan if pd.isna(v) else float(field.categories.index(str(v))) for v in column])
        else:
            columns.append(list(column))
    return rows(np.array(columns).T)


@pytest.mark.parametrize("imputed", [False, True])
def test_categories_are_decoded_for_the_pipelines_encoders(
    imputed: bool, people: tuple[pd.DataFrame, Any], registry: Registry, tmp_path: Path
) -> None:
    table, target = people
    encoder: Any = OneHotEncoder()
    if imputed:
        table = table.copy()
        table.loc[::7, "city"] = np.nan
        encoder = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
    steps = ColumnTransformer([("n", StandardScaler(), [0]), ("c", encoder, ["city", "rooms"])])
    estimator = make_pipeline(steps, LogisticRegression()).fit(table, target)
    model = opened(registry, saved(estimator, tmp_path), "numpy.dtype")
    by_name = {f.name: f for f in model.spec.fields}
    assert by_name["age"].kind == "number"
    assert by_name["city"].categories == ("Oslo", "Paris", "Rome")
    assert by_name["rooms"].categories == ("1", "2", "3", "4")  # numbers to the encoder: decoded as such
    np.testing.assert_array_equal(model.scores(coded(table, model)).numpy(), estimator.predict_proba(table))


def test_histogram_boosting_encodes_its_categories_itself(
    people: tuple[pd.DataFrame, Any], registry: Registry, tmp_path: Path
) -> None:
    table, target = people
    city = table.city.where(np.arange(len(table)) % 7 > 0)
    typed = table.assign(city=city.astype("category"))
    estimator = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=4).fit(typed, target)
    types = (PREDICTOR, "functools.partial", "sklearn.utils.validation.check_array")
    model = opened(registry, saved(estimator, tmp_path), *types)
    assert {f.name: f.kind for f in model.spec.fields} == {"age": "number", "city": "category", "rooms": "number"}
    np.testing.assert_array_equal(model.scores(coded(typed, model)).numpy(), estimator.predict_proba(typed))


def test_a_code_outside_the_categories_is_an_error(
    people: tuple[pd.DataFrame, Any], registry: Registry, tmp_path: Path
) -> None:
    table, target = people
    estimator = make_pipeline(OrdinalEncoder(), LogisticRegression()).fit(table[["city", "rooms"]], target)
    model = opened(registry, saved(estimator, tmp_path))
    for code in (3.0, -1.0, 0.5):
        with pytest.raises(UserError, match=r"column 'city' holds a code outside its 3 categories \(0 to 2\)"):
            model.scores(torch.tensor([[code, 0.0]], dtype=torch.float64))


def test_output_spaces(registry: Registry, tmp_path: Path) -> None:
    two = Y > 0
    estimator = LogisticRegression(max_iter=500).fit(X, two)
    path = saved(estimator, tmp_path)
    margin = opened(registry, path, output="margin")
    np.testing.assert_array_equal(margin.scores(rows(X)).numpy(), estimator.decision_function(X))
    assert Capability.LOGITS in margin.capabilities
    np.testing.assert_allclose(
        margin.probabilities_of(margin.scores(rows(X))).numpy(), estimator.predict_proba(X), atol=1e-12
    )
    named = LogisticRegression(max_iter=500).fit(X, np.array(["setosa", "versicolor", "virginica"])[Y])
    path = saved(named, tmp_path)
    logit = opened(registry, path, output="logit")
    np.testing.assert_array_equal(logit.scores(rows(X)).numpy(), named.decision_function(X))
    label = opened(registry, path, output="label")
    assert [label.classes[i] for i in label.predict(rows(X)).tolist()] == named.predict(X).tolist()
    with pytest.raises(
        UserError, match="of 3 classes does not give output 'margin'; it gives label, probability, logit"
    ):
        opened(registry, path, output="margin")
    with pytest.raises(UserError, match="tells 3 classes apart, 2 were declared"):
        opened(registry, path, classes=2)
    with pytest.raises(UserError, match="a LogisticRegression does classification, not regression"):
        opened(registry, path, task="regression")
    svc = opened(registry, saved(LinearSVC().fit(X, Y), tmp_path))
    assert svc.output == "label"


def test_another_number_of_features_is_refused(registry: Registry, tmp_path: Path) -> None:
    path = saved(LogisticRegression(max_iter=500).fit(X, Y), tmp_path)
    spec = opened(registry, path).spec
    with pytest.raises(UserError, match="the file takes 4 features, the input spec has 3"):
        opened(registry, path, spec=type(spec)(fields=spec.fields[:3]))


def test_several_outputs_at_once_are_refused(registry: Registry, tmp_path: Path) -> None:
    path = saved(DecisionTreeClassifier().fit(X, np.stack([Y, Y > 0], axis=1)), tmp_path)
    with pytest.raises(UserError, match="with 2 outputs at once"):
        opened(registry, path, TREE, classes=2)


# --- the type allow-list ---


def test_trees_need_the_type_to_be_listed(registry: Registry, tmp_path: Path) -> None:
    path = saved(DecisionTreeClassifier().fit(X, Y), tmp_path)
    with pytest.raises(
        UserError, match=r"sklearn\.tree\._tree\.Tree \(a tree's nodes, .* --trust-type sklearn\.tree\._tree\.Tree$"
    ):
        opened(registry, path)
    assert opened(registry, path, TREE).classes == ("0", "1", "2")
    assert registry.get("m").parameters == {"trusted_types": [TREE]}


def test_a_listed_type_of_a_package_that_is_not_allowed_is_refused(registry: Registry, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    transformer = FunctionTransformer(os.system, kw_args={}, validate=False)
    path = saved(make_pipeline(transformer, DecisionTreeClassifier()), tmp_path)
    untrusted = skops.io.get_untrusted_types(file=path)
    assert "posix.system" in untrusted
    with pytest.raises(UserError, match=r"holds types that skops does not trust: posix.system"):
        opened(registry, path)
    with pytest.raises(UserError, match=r"type posix.system would run code of package 'posix', which is not allowed"):
        opened(registry, path, *untrusted)
    with pytest.raises(UserError, match="belongs to Python itself"):
        registry.trust.allow_package("posix")
    assert not marker.exists()


def test_a_function_of_an_allowed_package_opens(registry: Registry, zoo: Path, tmp_path: Path) -> None:
    from importlib import import_module

    shares = import_module("assay_zoo.models").shares
    estimator = make_pipeline(FunctionTransformer(shares), LogisticRegression()).fit(X, Y)
    path = saved(estimator, tmp_path)
    model = opened(registry, path, "assay_zoo.models.shares", spec=lambda s: _four())
    np.testing.assert_array_equal(model.scores(rows(X)).numpy(), estimator.predict_proba(X))
    registry.trust.revoke_package("assay_zoo")
    with pytest.raises(UserError, match="would run code of package 'assay_zoo'"):
        registry.open("m")


def _four() -> Any:
    from audit.model import Field, InputSpec

    return InputSpec(fields=tuple(Field(name=f"x{i}", kind="number") for i in range(4)))


# --- forged trees ---


def forged(path: Path, change: Callable[[np.ndarray], None], which: Callable[[np.ndarray], bool]) -> Path:
    """The skops file with every array that `which` finds changed in place; the zip is rebuilt whole."""
    source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    changed = 0
    with zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".npy"):
                array = np.load(io.BytesIO(content))
                if which(array):
                    change(array)
                    buffer = io.BytesIO()
                    np.save(buffer, array)
                    content, changed = buffer.getvalue(), changed + 1
            archive.writestr(name, content)
    assert changed
    return path


def is_nodes(array: np.ndarray) -> bool:
    return array.dtype.names is not None and "left_child" in array.dtype.names


def is_records(array: np.ndarray) -> bool:
    return array.dtype.names is not None and "feature_idx" in array.dtype.names


def setting(field: str, node: int, value: Any) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[field][node] = value

    return change


@pytest.mark.parametrize("kind", [DecisionTreeClassifier, RandomForestClassifier, GradientBoostingClassifier])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (setting("left_child", 0, 10**6), "points outside its"),
        (setting("right_child", 0, -7), "points outside its"),
        (setting("right_child", 0, -1), "points outside its"),
        (setting("left_child", 0, 0), "points outside its"),
        (setting("right_child", 0, 1), "reaches a node twice"),
        (setting("feature", 0, 4), "feature outside 0 … 3"),
        (setting("feature", 0, -2), "feature outside 0 … 3"),
    ],
)
def test_forged_tree_indices_are_refused(kind: Any, change: Any, said: str, registry: Registry, tmp_path: Path) -> None:
    few = {} if kind is DecisionTreeClassifier else {"n_estimators": 2}
    path = saved(kind(max_depth=3, random_state=0, **few).fit(X, Y), tmp_path)
    with pytest.raises(UserError, match=said):
        opened(registry, forged(path, change, is_nodes), TREE)
    assert registry.list() == []


def test_a_cycle_below_the_root_is_refused(registry: Registry, tmp_path: Path) -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(X, Y)
    inner = np.flatnonzero(tree.tree_.children_left != -1)
    deep = int(inner[-1])
    parent = int(inner[1])
    path = forged(saved(tree, tmp_path), setting("left_child", deep, parent), is_nodes)
    with pytest.raises(UserError, match="reaches a node twice"):
        opened(registry, path, TREE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (setting("left", 0, 10**6), "points outside its"),
        (setting("right", 0, 1), "reaches a node twice"),
        (setting("feature_idx", 0, 9), "feature outside 0 … 3"),
        (setting("feature_idx", 0, -1), "feature outside 0 … 3"),
        (setting("is_categorical", 0, 1), "category set outside"),
    ],
)
def test_forged_histogram_trees_are_refused(change: Any, said: str, registry: Registry, tmp_path: Path) -> None:
    path = saved(HistGradientBoostingClassifier(max_iter=2).fit(X, Y), tmp_path)
    with pytest.raises(UserError, match=said):
        opened(registry, forged(path, change, is_records), PREDICTOR)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The skops file with its schema changed."""
    source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    schema = json.loads(source.read("schema.json"))
    change(schema)
    with zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, json.dumps(schema) if name == "schema.json" else source.read(name))
    return path


def _find(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        if key in node:
            return node[key]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            if (found := _find(part, key)) is not None:
                return found
    return None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("node_count", "0", "claims 0 nodes"),
        ("max_depth", "0", "deep and claims 0"),
        ("n_features_in_", "9", "takes 9 features and a tree of it 4"),
    ],
)
def test_counts_that_do_not_fit_the_arrays_are_refused(
    key: str, value: str, said: str, registry: Registry, tmp_path: Path
) -> None:
    def change(schema: dict[str, Any]) -> None:
        node = _find(schema if key == "n_features_in_" else _find(schema, "tree_"), key)
        node["content"] = value
        del node["__id__"]  # skops would take the value from another node of that id

    path = saved(DecisionTreeClassifier(max_depth=3).fit(X, Y), tmp_path)
    with pytest.raises(UserError, match=said):
        opened(registry, rewritten(path, change), TREE)


@pytest.mark.parametrize("kind", [SVC, NuSVC])
def test_support_vector_machines_answer_margins(kind: Any, registry: Registry, tmp_path: Path) -> None:
    estimator = kind().fit(X, Y > 0)
    model = opened(registry, saved(estimator, tmp_path), output="margin")
    np.testing.assert_array_equal(model.scores(rows(X)).numpy(), estimator.decision_function(X))


def test_machines_of_every_kind_pass() -> None:
    for estimator in (SVC(), NuSVC(), SVR(), OneClassSVM(), SVC(kernel="linear")):
        check_contents(estimator.fit(X, Y), "it")
        check_contents(estimator.fit(csr_array(X), Y), "it")
    check_contents(SVC(kernel="precomputed").fit(X @ X.T, Y), "it")
    check_contents(SVC(), "it")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: setattr(s, "_n_support", np.array([1, 2, 3], dtype=np.int32)), "counts 6 support vectors and holds"),
        (
            lambda s: setattr(s, "_n_support", np.array([-10, 50, 20], dtype=np.int32)),
            "counts 60 support vectors and holds",
        ),
        (lambda s: setattr(s, "_n_support", s._n_support[:2]), "of 2 classes"),
        (lambda s: setattr(s, "_dual_coef_", s._dual_coef_[:1]), "coefficients of another shape"),
        (lambda s: setattr(s, "_dual_coef_", s._dual_coef_[:, :-1]), "coefficients of another shape"),
        (lambda s: setattr(s, "_intercept_", s._intercept_[:1]), "intercepts for 3 classes"),
        (lambda s: setattr(s, "_probA", np.zeros(2)), "probability scales"),
        (lambda s: setattr(s, "support_vectors_", s.support_vectors_[:, :2]), r"support vectors of shape \(\d+, 2\)"),
        (lambda s: setattr(s, "support_", s.support_ + 10**6), "support index outside"),
        (lambda s: setattr(s, "_impl", "epsilon_svr"), "another kind of machine"),
    ],
)
def test_machines_that_do_not_fit_together_are_refused(change: Any, said: str) -> None:
    machine = SVC().fit(X, Y)
    change(machine)
    with pytest.raises(UserError, match=said):
        check_contents(make_pipeline(StandardScaler(), machine), "it")


def test_sparse_matrices_that_point_outside_themselves_are_refused() -> None:
    estimator = LogisticRegression(max_iter=500).fit(X, Y).sparsify()
    check_contents(estimator, "it")
    estimator.coef_.indices[0] = 10**6
    with pytest.raises(UserError, match="points outside itself"):
        check_contents(estimator, "it")


def test_parts_of_the_wrong_type_are_one_line(registry: Registry, tmp_path: Path) -> None:
    estimator = SVC().fit(X, Y)
    estimator._intercept_ = "none"
    with pytest.raises(UserError, match="the file is damaged: AttributeError"):
        opened(registry, saved(estimator, tmp_path), output="label")


def test_what_neither_classifies_nor_regresses_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a KMeans is neither a classifier nor a regressor"):
        opened(registry, saved(KMeans(2, n_init=1).fit(X), tmp_path))


def test_boosting_whose_stages_do_not_fit_is_refused() -> None:
    """Directly on estimators: what a file can bring is any state."""
    boosting = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    check_contents(boosting, "it")
    wide = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    wide.estimators_ = np.concatenate([wide.estimators_, wide.estimators_], axis=1)
    with pytest.raises(UserError, match="stages of another width than its start"):
        check_contents(wide, "it")
    other = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    other.estimators_[0, 0] = LogisticRegression()
    with pytest.raises(UserError, match="holds a stage that is no tree"):
        check_contents(other, "it")
    several = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    several.estimators_[1, 2] = DecisionTreeClassifier().fit(X, Y)
    with pytest.raises(UserError, match="more than one output"):
        check_contents(several, "it")
    narrow = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    narrow.estimators_[1, 2] = type(narrow.estimators_[0, 0])().fit(X[:, :2], Y)
    with pytest.raises(UserError, match="takes 4 features and a tree of it 2"):
        check_contents(narrow, "it")


def test_histogram_boosting_that_does_not_fit_its_bins_is_refused() -> None:
    x = np.column_stack([X, np.arange(len(X)) % 7])

    def fitted() -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(max_iter=2, categorical_features=[4]).fit(x, np.arange(len(x)) % 7 > 2)

    check_contents(fitted(), "it")
    far = fitted()
    far._bin_mapper.bin_thresholds_[0] = np.array([0.0, 300.0])  # categories come first there
    with pytest.raises(UserError, match="a category outside 0 … 255"):
        check_contents(far, "it")
    short = fitted()
    short._bin_mapper.is_categorical_ = np.zeros(2, dtype=bool)
    with pytest.raises(UserError, match="does not fit its own binning"):
        check_contents(short, "it")
    numeric = fitted()
    numeric._bin_mapper.is_categorical_ = np.zeros(5, dtype=bool)
    with pytest.raises(UserError, match="splits a number by categories"):
        check_contents(numeric, "it")
    layout = fitted()
    layout._predictors[0][0].nodes = np.zeros(3, dtype=[("left", "i8")])
    with pytest.raises(UserError, match="nodes of another layout"):
        check_contents(layout, "it")


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_line(cut: float, registry: Registry, tmp_path: Path) -> None:
    path = saved(LogisticRegression(max_iter=500).fit(X, Y), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(UserError) as error:
        opened(registry, path)
    assert "\n" not in str(error.value)


def test_what_is_no_model_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a dict, which has no predict\(\)"):
        opened(registry, saved({"a": 1}, tmp_path))


def test_a_pipeline_of_texts_is_fed_texts(registry: Registry, tmp_path: Path) -> None:
    texts = ["good soup", "good bread, good service", "awful soup", "awful, cold and late"]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["+", "+", "-", "-"])
    spec = InputSpec(fields=(Field(name="said", kind="text", shape=(40,)),))
    model = opened(registry, saved(pipeline, tmp_path), spec=spec)
    assert model.classes == ("+", "-")
    x = torch.from_numpy(encode(texts, 40))
    np.testing.assert_array_equal(model.scores(x).numpy(), pipeline.predict_proba(texts))
    with pytest.raises(UserError, match="say what it is fed"):
        opened(registry, saved(pipeline, tmp_path))


# --- trained anew ---


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(5, random_state=7, n_jobs=2),
        make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=2, max_features=1, random_state=7)),
    ],
    ids=["forest", "pipeline"],
)
def test_the_same_estimator_is_fitted_anew_by_a_seed(estimator: Any, registry: Registry, tmp_path: Path) -> None:
    names = np.array(["setosa", "versicolor", "virginica"])
    model = opened(registry, saved(estimator.fit(X, names[Y]), tmp_path), TREE)
    assert model.fresh is not None
    again = model.fresh(7).fit(X, Y)
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))
    assert list(again.classes_) == [0, 1, 2]
    other = model.fresh(8).fit(X, Y)
    assert not np.array_equal(other.predict_proba(X), estimator.predict_proba(X))
    two = model.fresh(7).fit(X[Y != 1], Y[Y != 1])
    assert list(two.classes_) == [0, 2]
    assert model.fresh(7).get_params() != model.fresh(8).get_params()


@pytest.mark.parametrize("kind", ["encoder", "types"])
def test_a_refitted_table_is_fed_as_the_first_one_was(
    kind: str, people: tuple[pd.DataFrame, Any], registry: Registry, tmp_path: Path
) -> None:
    table, target = people
    estimator: Any = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=4)
    if kind == "encoder":
        steps = ColumnTransformer([("n", StandardScaler(), ["age"]), ("c", OneHotEncoder(), ["city", "rooms"])])
        estimator = make_pipeline(steps, LogisticRegression())
    fed = table.assign(city=table.city.astype("category")) if kind == "types" else table
    types = (PREDICTOR, "functools.partial", "sklearn.utils.validation.check_array", "numpy.dtype")
    model = opened(registry, saved(estimator.fit(fed, target), tmp_path), *types)
    assert model.fresh is not None
    x = coded(fed, model).numpy()
    np.testing.assert_array_equal(
        model.fresh(0).fit(x, target.to_numpy()).predict_proba(x), estimator.predict_proba(fed)
    )


def test_texts_values_and_margins_are_refitted_too(registry: Registry, tmp_path: Path) -> None:
    texts = ["good soup", "good bread, good service", "awful soup", "awful, cold and late"]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["+", "+", "-", "-"])
    spec = InputSpec(fields=(Field(name="said", kind="text", shape=(40,)),))
    said = opened(registry, saved(pipeline, tmp_path), "numpy.dtype", spec=spec, output="margin")
    x = encode(texts, 40)
    assert said.fresh is not None
    again = said.fresh(0).fit(x, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(again.decision_function(x), pipeline.decision_function(texts))
    rows_, values = load_diabetes(return_X_y=True)
    line = opened(registry, saved(LinearRegression().fit(rows_, values), tmp_path))
    assert line.fresh is not None
    np.testing.assert_allclose(line.fresh(0).fit(rows_, values).predict(rows_), line.predict(rows(rows_)).numpy())
