"""XGBoost and LightGBM files: equal to the library, and no forged or truncated file reaches its C++."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import NotApplicable, UserError
from audit.registry.loaders._lightgbm_file import read_lightgbm
from audit.registry.loaders._ubjson import parse_ubjson
from audit.registry.loaders._xgboost_file import read_xgboost
from audit.registry.loaders._xgboost_training import training_parameters
from audit.registry.store import Registry

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")

CANCER = load_breast_cancer(return_X_y=True)
DIGITS = load_digits(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)
QUIET = {"verbose": -1, "num_threads": 1}


def rows(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x, dtype=np.float64))


def opened(registry: Registry, path: Path, **declared: Any) -> AuditedModel:
    registry.add("m", path, **declared)
    return registry.open("m")


def xgb(parameters: dict[str, Any], x: Any, y: Any, rounds: int = 4, **options: Any) -> Any:
    data = xgboost.DMatrix(x, y, **options)
    return xgboost.train({"max_depth": 3, "nthread": 1, **parameters}, data, rounds)


def lgb(parameters: dict[str, Any], x: Any, y: Any, rounds: int = 4, **options: Any) -> Any:
    return lightgbm.train({**QUIET, "num_leaves": 7, **parameters}, lightgbm.Dataset(x, y, **options), rounds)


def kept(booster: Any, tmp_path: Path, suffix: str) -> Path:
    path = tmp_path / f"model.{suffix}"
    booster.save_model(path)
    return path


@pytest.fixture(scope="module")
def people() -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(0)
    city = pd.Categorical(
        rng.choice(["Rome", "Paris", "Oslo", "Bern"], 400), categories=["Rome", "Paris", "Oslo", "Bern"]
    )
    table = pd.DataFrame({"age": rng.normal(size=400), "city": city, "income": rng.normal(size=400)})
    return table, ((table.age > 0) ^ (table.city.isin(["Paris", "Bern"])) ^ (table.income > 1)).astype(int)


def coded(table: pd.DataFrame) -> torch.Tensor:
    return rows(np.column_stack([table.age, table.city.cat.codes, table.income]))


# --- XGBoost ---


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_xgboost_two_classes(suffix: str, registry: Registry, tmp_path: Path) -> None:
    x, y = CANCER
    booster = xgb({"objective": "binary:logistic"}, x, y)
    path = kept(booster, tmp_path, suffix)
    model = opened(registry, path, classes=["malignant", "benign"])
    p = booster.predict(xgboost.DMatrix(x))
    assert model.capabilities == {Capability.PROBABILITIES, Capability.LABELS, Capability.RETRAIN}
    np.testing.assert_array_equal(model.scores(rows(x))[:, 1].numpy(), p.astype(np.float64))
    margin = opened(registry, path, output="margin")
    assert Capability.LOGITS in margin.capabilities
    np.testing.assert_array_equal(
        margin.scores(rows(x)).numpy(), booster.predict(xgboost.DMatrix(x), output_margin=True)
    )
    np.testing.assert_allclose(margin.probabilities_of(margin.scores(rows(x)))[:, 1].numpy(), p, atol=1e-6)
    with pytest.raises(UserError, match="tells 2 classes apart, 3 were declared"):
        opened(registry, path, classes=3)
    with pytest.raises(UserError, match="binary:logistic does not give output 'logit'; it gives probability, margin"):
        opened(registry, path, output="logit")


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_xgboost_many_classes(objective: str, registry: Registry, tmp_path: Path) -> None:
    x, y = DIGITS
    booster = xgb({"objective": objective, "num_class": 10}, x, y, 2)
    path = kept(booster, tmp_path, "ubj")
    model = opened(registry, path)
    assert len(model.classes) == 10
    raw = booster.predict(xgboost.DMatrix(x), output_margin=True)
    expected = torch.from_numpy(raw).double().softmax(1)
    np.testing.assert_allclose(model.scores(rows(x)).numpy(), expected.numpy(), atol=1e-6)
    np.testing.assert_array_equal(opened(registry, path, output="logit").scores(rows(x)).numpy(), raw)


@pytest.mark.parametrize("booster_kind", ["gbtree", "dart", "gblinear"])
@pytest.mark.filterwarnings("ignore::UserWarning:xgboost")
def test_xgboost_regression(booster_kind: str, registry: Registry, tmp_path: Path) -> None:
    x, y = DIABETES
    booster = xgb({"objective": "reg:squarederror", "booster": booster_kind}, x, y)
    model = opened(registry, kept(booster, tmp_path, "json"))
    assert (model.task, model.output) == ("regression", "value")
    np.testing.assert_allclose(model.predict(rows(x)).numpy(), booster.predict(xgboost.DMatrix(x)), rtol=1e-6)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_xgboost_categories_and_column_names(
    suffix: str, people: tuple[pd.DataFrame, Any], registry: Registry, tmp_path: Path
) -> None:
    table, y = people
    booster = xgb({"objective": "binary:logistic", "max_cat_to_onehot": 1}, table, y, enable_categorical=True)
    path = kept(booster, tmp_path, suffix)
    model = opened(registry, path)
    assert [(f.name, f.kind) for f in model.spec.fields] == [
        ("age", "number"),
        ("city", "category"),
        ("income", "number"),
    ]
    assert model.spec.fields[1].categories == ("Rome", "Paris", "Oslo", "Bern")
    expected = booster.predict(xgboost.DMatrix(table, enable_categorical=True))
    np.testing.assert_array_equal(model.scores(coded(table))[:, 1].numpy(), expected.astype(np.float64))
    fields = model.spec.fields
    turned = opened(registry, path, spec=InputSpec(fields=fields[::-1]))
    np.testing.assert_array_equal(turned.scores(coded(table)[:, [2, 1, 0]])[:, 1].numpy(), expected.astype(np.float64))
    sorted_city = Field(name="city", kind="category", categories=("Bern", "Oslo", "Paris", "Rome"))
    with pytest.raises(
        UserError, match="categories of 'city' must be in the order of training: Rome, Paris, Oslo, Bern"
    ):
        opened(registry, path, spec=InputSpec(fields=(fields[0], sorted_city, fields[2])))
    with pytest.raises(UserError, match="'city' is a number, the file was trained on it as 'c'"):
        opened(registry, path, spec=InputSpec(fields=(fields[0], Field(name="city", kind="number"), fields[2])))


def test_xgboost_missing_values_stay_missing(registry: Registry, tmp_path: Path) -> None:
    x, y = CANCER
    x = np.where(np.random.default_rng(0).random(x.shape) < 0.2, np.nan, x)
    booster = xgb({"objective": "binary:logistic"}, x, y)
    model = opened(registry, kept(booster, tmp_path, "ubj"))
    np.testing.assert_array_equal(
        model.scores(rows(x))[:, 1].numpy(), booster.predict(xgboost.DMatrix(x)).astype(np.float64)
    )


def test_an_image_model_is_fed_its_pixels(registry: Registry, tmp_path: Path) -> None:
    x, y = DIGITS
    booster = xgb({"objective": "multi:softprob", "num_class": 10}, x, y, 1)
    path = kept(booster, tmp_path, "ubj")
    spec = InputSpec(fields=(Field(name="image", kind="image", shape=(1, 8, 8), bounds=(0, 16)),))
    model = opened(registry, path, spec=spec)
    images = torch.from_numpy(x.reshape(-1, 1, 8, 8)).float()
    np.testing.assert_array_equal(model.scores(images).numpy(), booster.predict(xgboost.DMatrix(x)))
    with pytest.raises(UserError, match="takes 64 features, the input spec has 9"):
        opened(registry, path, spec=InputSpec(fields=(Field(name="image", kind="image", shape=(1, 3, 3)),)))


def test_ubjson_reads_as_the_json_does(people: tuple[pd.DataFrame, Any]) -> None:
    table, y = people
    booster = xgb({"objective": "binary:logistic", "max_cat_to_onehot": 1}, table, y, enable_categorical=True)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, list | np.ndarray):
            return [plain(part) for part in value]
        return (
            round(float(value), 5)
            if isinstance(value, float | np.floating)
            else value
            if isinstance(value, str)
            else int(value)
        )

    from_ubj, from_json = (
        plain(f) for f in (parse_ubjson(bytes(booster.save_raw("ubj"))), json.loads(booster.save_raw("json")))
    )
    assert from_ubj["learner"]["learner_model_param"] == from_json["learner"]["learner_model_param"]
    for ours, theirs in zip(
        *(f["learner"]["gradient_booster"]["model"]["trees"] for f in (from_ubj, from_json)), strict=True
    ):
        for key in theirs:
            assert (
                ours[key] == pytest.approx(theirs[key], abs=1e-4)
                if isinstance(theirs[key], list)
                else ours[key] == theirs[key]
            )


def edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    x, y = CANCER
    document = json.loads(xgb({"objective": "binary:logistic"}, x, y, 2).save_raw("json"))
    change(document["learner"])
    return json.dumps(document).encode()


def trees(learner: dict[str, Any]) -> list[dict[str, Any]]:
    return learner["gradient_booster"]["model"]["trees"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: trees(m)[1]["left_children"].__setitem__(0, 999), "tree 1 points outside its"),
        (lambda m: trees(m)[1]["left_children"].__setitem__(0, -9), "tree 1 points outside its"),
        (lambda m: trees(m)[0]["left_children"].__setitem__(1, 0), "tree 0 points outside its"),
        (lambda m: trees(m)[0]["left_children"].__setitem__(0, 2), "tree 0 reaches a node twice"),
        (lambda m: trees(m)[0]["right_children"].__setitem__(0, -1), "tree 0 points outside its"),
        (lambda m: trees(m)[0]["left_children"].__setitem__(0, -1), "a node with one child"),
        (lambda m: trees(m)[0]["split_indices"].__setitem__(0, 30), "feature outside 0 … 29"),
        (lambda m: trees(m)[0]["parents"].__setitem__(1, 5), "parents that do not fit"),
        (lambda m: trees(m)[0]["left_children"].pop(), "nodes and .* left_children"),
        (lambda m: trees(m)[0]["tree_param"].update(num_nodes="3"), "has 3 nodes and"),
        (lambda m: trees(m)[0]["tree_param"].update(size_leaf_vector="2"), "leaves of more than one value"),
        (lambda m: trees(m)[0]["tree_param"].update(num_feature="31"), "made for another model"),
        (
            lambda m: trees(m)[0].update(split_type=[1] * len(trees(m)[0]["split_type"])),
            "category splits at other nodes",
        ),
        (lambda m: trees(m)[0].update(categories_nodes=[0]), "1 category splits and 0 sets"),
        (lambda m: m["gradient_booster"]["model"].update(tree_info=[0, 1]), "class of a tree outside 0 … 0"),
        (lambda m: m["gradient_booster"]["model"].update(iteration_indptr=[0, 3]), "do not add up to its 2 trees"),
        (lambda m: trees(m).pop(), "holds 1 trees and claims another number"),
        (lambda m: m["learner_model_param"].update(num_feature="0"), "claims 0 features"),
        (lambda m: m["learner_model_param"].update(num_target="2"), "2 targets at once"),
        (lambda m: m["learner_model_param"].update(num_feature="lots"), "damaged: ValueError"),
        (lambda m: m.update(feature_names=["a"]), "names another number of features"),
        (lambda m: m["gradient_booster"].update(name="gbdeep"), "booster 'gbdeep' is not opened here"),
        (lambda m: m["objective"].update(name="rank:pairwise"), "objective 'rank:pairwise' is none"),
        (lambda m: m.pop("gradient_booster"), "lacks a gradient_booster"),
    ],
)
def test_forged_xgboost_files_are_refused(change: Any, said: str, registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(edited(change))
    with pytest.raises(UserError, match=said) as error:
        opened(registry, path)
    assert "\n" not in str(error.value)
    assert registry.list() == []


def test_forged_category_sets_are_refused(people: tuple[pd.DataFrame, Any]) -> None:
    table, y = people
    booster = xgb({"objective": "binary:logistic", "max_cat_to_onehot": 1}, table, y, enable_categorical=True)
    source = json.loads(booster.save_raw("json"))
    first = next(i for i, t in enumerate(trees(source["learner"])) if t["categories_nodes"])

    def refused(change: Callable[[dict[str, Any], dict[str, Any]], Any], said: str) -> None:
        document = json.loads(json.dumps(source))
        change(trees(document["learner"])[first], document["learner"]["gradient_booster"]["model"]["cats"])
        with pytest.raises(UserError, match=said):
            read_xgboost(json.dumps(document).encode(), "it")

    assert read_xgboost(json.dumps(source).encode(), "it").categories == {1: ("Rome", "Paris", "Oslo", "Bern")}
    refused(lambda t, c: t["categories"].__setitem__(0, -1), "category outside")
    refused(lambda t, c: t["categories"].__setitem__(0, 2**30), "category outside")
    refused(lambda t, c: t["categories_sizes"].__setitem__(0, 10**6), "category set's size outside")
    refused(lambda t, c: t["categories_segments"].__setitem__(0, 10**6), "category set outside")
    refused(lambda t, c: c["enc"][1]["offsets"].__setitem__(1, 10**6), "category names that overlap")
    refused(lambda t, c: c["sorted_idx"].__setitem__(0, 99), "category outside")
    refused(lambda t, c: c["feature_segments"].__setitem__(3, 9), "orders 9")
    refused(lambda t, c: c["enc"].pop(), "categories of another number of features")


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_truncated_and_padded_xgboost_files_are_one_line(suffix: str, registry: Registry, tmp_path: Path) -> None:
    x, y = CANCER
    path = kept(xgb({"objective": "binary:logistic"}, x, y, 2), tmp_path, suffix)
    content = path.read_bytes()
    for spoiled in (content[:1], content[:30], content[: len(content) // 2], content[:-1], content + b"}"):
        path.write_bytes(spoiled)
        with pytest.raises(UserError) as error:
            opened(registry, path)
        assert "\n" not in str(error.value)


def test_random_damage_never_passes_the_reader_with_indices_out_of_range() -> None:
    """Whatever bytes change, what is accepted holds trees: every path from a root ends in a leaf."""
    x, y = CANCER
    source = bytes(xgb({"objective": "binary:logistic"}, x, y, 2).save_raw("ubj"))
    rng, accepted = random.Random(0), 0
    for _ in range(300):
        spoiled = bytearray(source)
        spoiled[rng.randrange(len(spoiled))] = rng.choice([0, 1, 127, 128, 255])
        try:
            read_xgboost(bytes(spoiled), "it")
        except UserError:
            continue
        accepted += 1
        for tree in parse_ubjson(bytes(spoiled))["learner"]["gradient_booster"]["model"]["trees"]:
            for start in range(len(tree["left_children"])):
                node, steps = start, 0
                while tree["left_children"][node] != -1:
                    assert 0 <= tree["split_indices"][node] < 30
                    node, steps = int(tree["right_children"][node]), steps + 1
                    assert steps < len(tree["left_children"])
    assert accepted > 20


# --- LightGBM ---


def test_lightgbm_two_classes(registry: Registry, tmp_path: Path) -> None:
    x, y = CANCER
    booster = lgb({"objective": "binary"}, x, y)
    path = kept(booster, tmp_path, "txt")
    model = opened(registry, path)
    np.testing.assert_array_equal(model.scores(rows(x))[:, 1].numpy(), booster.predict(x))
    margin = opened(registry, path, output="margin")
    np.testing.assert_array_equal(margin.scores(rows(x)).numpy(), booster.predict(x, raw_score=True))
    steep = kept(lgb({"objective": "binary", "sigmoid": 2.0}, x, y), tmp_path, "txt")
    with pytest.raises(UserError, match=r"does not give output 'margin'; it gives probability$"):
        opened(registry, steep, output="margin")


def test_lightgbm_many_classes(registry: Registry, tmp_path: Path) -> None:
    x, y = DIGITS
    booster = lgb({"objective": "multiclass", "num_class": 10}, x, y, 2)
    path = kept(booster, tmp_path, "txt")
    model = opened(registry, path)
    assert len(model.classes) == 10
    np.testing.assert_array_equal(model.scores(rows(x)).numpy(), booster.predict(x))
    logit = opened(registry, path, output="logit")
    np.testing.assert_array_equal(logit.scores(rows(x)).numpy(), booster.predict(x, raw_score=True))
    with pytest.raises(UserError, match="tells 10 classes apart, 9 were declared"):
        opened(registry, path, classes=9)


@pytest.mark.parametrize("linear", [False, True])
def test_lightgbm_regression(linear: bool, registry: Registry, tmp_path: Path) -> None:
    x, y = DIABETES
    booster = lgb({"objective": "regression", "linear_tree": linear}, x, y)
    model = opened(registry, kept(booster, tmp_path, "txt"))
    assert (model.task, model.output) == ("regression", "value")
    np.testing.assert_array_equal(model.predict(rows(x)).numpy(), booster.predict(x))


def test_lightgbm_categories_and_column_names(
    people: tuple[pd.DataFrame, Any], registry: Registry, tmp_path: Path
) -> None:
    table, y = people
    booster = lgb({"objective": "binary", "min_data_per_group": 5}, table, y)
    path = kept(booster, tmp_path, "txt")
    model = opened(registry, path)
    assert model.spec.fields[1].categories == ("Rome", "Paris", "Oslo", "Bern")
    np.testing.assert_array_equal(model.scores(coded(table))[:, 1].numpy(), booster.predict(table))
    fields = model.spec.fields
    turned = opened(registry, path, spec=InputSpec(fields=fields[::-1]))
    np.testing.assert_array_equal(turned.scores(coded(table)[:, [2, 1, 0]])[:, 1].numpy(), booster.predict(table))
    with pytest.raises(UserError, match="'city' is a number, the file was trained on its categories"):
        opened(registry, path, spec=InputSpec(fields=(fields[0], Field(name="city", kind="number"), fields[2])))


def changed(text: str, key: str, change: Callable[[list[str]], Any], tree: int = 0) -> bytes:
    """The model text with the values of one tree's line changed, and tree_sizes brought up to date."""
    lines = text.split("\n")
    start = lines.index(f"Tree={tree}") if key not in text.split("\n\n")[0] else 0
    place = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{key}="))
    values = lines[place].partition("=")[2].split(" ")
    change(values)
    lines[place] = f"{key}={' '.join(values)}"
    text = "\n".join(lines)
    sizes = [len(part) for part in re.split(r"(?m)^(?=Tree=\d+$|end of trees$)", text) if part.startswith("Tree=")]
    if key != "tree_sizes":
        text = re.sub(r"(?m)^tree_sizes=.*$", f"tree_sizes={' '.join(map(str, sizes))}", text, count=1)
    return text.encode()


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("left_child", lambda v: v.__setitem__(0, "999"), "child outside"),
        ("left_child", lambda v: v.__setitem__(0, "-999"), "child outside"),
        ("left_child", lambda v: v.__setitem__(0, "0"), "points outside its|reaches a node twice"),
        ("left_child", lambda v: v.__setitem__(v.index("-1"), "-2"), "does not reach each of its"),
        ("right_child", lambda v: v.pop(), "of 6 right_child"),
        ("split_feature", lambda v: v.__setitem__(0, "30"), "feature outside 0 … 29"),
        ("split_feature", lambda v: v.__setitem__(0, "-1"), "feature outside 0 … 29"),
        ("decision_type", lambda v: v.__setitem__(0, "1"), "points outside its 0 category sets"),
        ("decision_type", lambda v: v.__setitem__(0, "99"), "kind of decision outside"),
        ("leaf_value", lambda v: v.pop(), "of 7 leaf_value"),
        ("leaf_value", lambda v: v.__setitem__(0, "x"), "damaged: ValueError"),
        ("num_leaves", lambda v: v.__setitem__(0, "900"), "of 900 leaf_value"),
        ("num_leaves", lambda v: v.__setitem__(0, "0"), "claims 0 leaves"),
        ("is_linear", lambda v: v.__setitem__(0, "1"), "damaged: KeyError"),
        ("num_cat", lambda v: v.__setitem__(0, "2"), "damaged: KeyError"),
        ("num_class", lambda v: v.__setitem__(0, "3"), "claims 3 classes and 1 trees a round"),
        ("max_feature_idx", lambda v: v.__setitem__(0, "7"), "claims 8 features and names 30"),
        ("objective", lambda v: v.__setitem__(1, "num_class:7"), "counts other classes"),
        ("objective", lambda v: v.__setitem__(0, "lambdarank"), "objective 'lambdarank' is none"),
        ("tree_sizes", lambda v: v.__setitem__(0, "77"), "not where tree_sizes says"),
    ],
)
def test_forged_lightgbm_files_are_refused(
    key: str, change: Any, said: str, registry: Registry, tmp_path: Path
) -> None:
    x, y = CANCER
    path = kept(lgb({"objective": "binary"}, x, y, 2), tmp_path, "txt")
    path.write_bytes(changed(path.read_text(), key, change))
    with pytest.raises(UserError, match=said) as error:
        opened(registry, path)
    assert "\n" not in str(error.value)
    assert registry.list() == []


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("cat_boundaries", lambda v: v.__setitem__(1, "900"), "category sets that do not add up"),
        ("cat_threshold", lambda v: v.pop(), "category sets that do not add up"),
        ("cat_threshold", lambda v: v.__setitem__(0, "-1"), "category word outside"),
    ],
)
def test_forged_lightgbm_categories_are_refused(
    key: str, change: Any, said: str, people: tuple[pd.DataFrame, Any]
) -> None:
    table, y = people
    text = lgb({"objective": "binary", "min_data_per_group": 5}, table, y).model_to_string()
    tree = next(i for i, part in enumerate(text.split("Tree=")[1:]) if "cat_boundaries" in part)
    read_lightgbm(text.encode(), "it")
    with pytest.raises(UserError, match=said):
        read_lightgbm(changed(text, key, change, tree), "it")


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("leaf_features", lambda v: v.__setitem__(0, "77"), "feature of a leaf outside"),
        ("leaf_coeff", lambda v: v.clear(), "of .* leaf_coeff"),
        ("num_features", lambda v: v.__setitem__(0, "500"), "number of features in a leaf outside"),
    ],
)
def test_forged_linear_leaves_are_refused(key: str, change: Any, said: str) -> None:
    x, y = DIABETES
    text = lgb({"objective": "regression", "linear_tree": True}, x, y).model_to_string()
    read_lightgbm(text.encode(), "it")
    with pytest.raises(UserError, match=said):
        read_lightgbm(changed(text, key, change, tree=2), "it")


def test_truncated_lightgbm_files_are_one_line(registry: Registry, tmp_path: Path) -> None:
    """LightGBM itself dies of some of these."""
    x, y = CANCER
    path = kept(lgb({"objective": "binary"}, x, y, 2), tmp_path, "txt")
    content = path.read_bytes()
    end = content.index(b"end of trees")
    for length in (5, 100, 800, end // 2, end - 30, end - 1, end + 5):
        path.write_bytes(content[:length])
        with pytest.raises(UserError) as error:
            opened(registry, path)
        assert "\n" not in str(error.value)


# --- trained anew ---


def xgb_parameters(booster: Any) -> tuple[dict[str, Any], str]:
    return training_parameters(bytes(booster.save_raw("ubj")), "m")


@pytest.mark.parametrize(
    "given",
    [
        {"max_depth": 4, "eta": 0.17, "lambda": 3.0},
        {"max_depth": 1, "eta": 0.5},
        {"max_depth": 2, "eta": 0.3, "lambda": 0.0},
        {"max_depth": 6, "eta": 1.0, "min_child_weight": 0.01},
        {"max_depth": 3, "eta": 0.6, "num_parallel_tree": 3, "subsample": 0.7},
    ],
    ids=lambda given: f"depth{given['max_depth']}",
)
@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_files_tell_their_training(given: dict[str, Any], classes: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5))
    y = ((x[:, 0] + rng.normal(size=500)) > 0).astype(int) + (x[:, 1] > 1) * (classes > 2)
    several = {"objective": "multi:softprob", "num_class": classes}
    booster = xgb({**({"objective": "binary:logistic"} if classes == 2 else several), **given}, x, y, 8)
    found, note = xgb_parameters(booster)
    assert found["eta"] == pytest.approx(given["eta"], abs=1e-3)
    assert found["lambda"] == pytest.approx(given.get("lambda", 1.0), abs=1e-2)
    assert (found["max_depth"], found["num_parallel_tree"]) == (given["max_depth"], given.get("num_parallel_tree", 1))
    assert found["min_child_weight"] == pytest.approx(given.get("min_child_weight", 1.0), abs=0.02)
    assert "eta, lambda and depth read from the file's trees" in note


def test_few_stumps_fix_the_learning_rate_alone() -> None:
    x, y = CANCER
    found, _ = xgb_parameters(xgb({"objective": "binary:logistic", "max_depth": 1, "eta": 0.1}, x, y, 2))
    assert (found["eta"], found["lambda"]) == (pytest.approx(0.1, abs=1e-3), 1.0)


@pytest.mark.filterwarnings("ignore::UserWarning:xgboost")
def test_xgboost_says_where_trees_do_not_tell_or_are_none() -> None:
    x, y = CANCER
    found, note = xgb_parameters(xgb({"objective": "binary:logistic", "alpha": 2.0}, x, y, 8))
    assert "eta" not in found
    assert note.startswith("trained as XGBoost does by default")
    weighted, _ = xgb_parameters(xgb({"objective": "binary:logistic", "scale_pos_weight": 4.0}, x, y))
    assert weighted["scale_pos_weight"] == 4.0
    for kind in ("dart", "gblinear"):
        with pytest.raises(NotApplicable, match=f"XGBoost {kind} does not say how it was trained"):
            xgb_parameters(xgb({"objective": "binary:logistic", "booster": kind}, x, y))


@pytest.mark.parametrize("output", ["probability", "margin"])
def test_xgboost_trains_the_same_model_anew(output: str, registry: Registry, tmp_path: Path) -> None:
    x, y = CANCER
    booster = xgb({"objective": "binary:logistic", "eta": 0.2, "lambda": 2.0}, x, y, 6)
    model = opened(registry, kept(booster, tmp_path, "ubj"), output=output)
    assert model.fresh is not None
    again = model.fresh(0).fit(x, y)
    ours = again.predict_proba(x) if output == "probability" else again.decision_function(x)
    np.testing.assert_allclose(np.squeeze(ours), model.scores(rows(x)).numpy(), atol=1e-4)
    assert again.booster.num_boosted_rounds() == 6


def test_lightgbm_trains_the_same_model_anew(registry: Registry, tmp_path: Path) -> None:
    x, y = CANCER
    given = {
        "objective": "binary",
        "learning_rate": 0.2,
        "min_data_in_leaf": 5,
        "bagging_fraction": 0.5,
        "bagging_freq": 1,
    }
    booster = lgb({**given, "seed": 4, "deterministic": True, "force_col_wise": True}, x, y, 6)
    model = opened(registry, kept(booster, tmp_path, "txt"))
    assert model.fresh is not None
    again = model.fresh(4).fit(x, y)
    np.testing.assert_allclose(again.predict_proba(x), model.scores(rows(x)).numpy(), atol=1e-9)
    assert not np.allclose(model.fresh(5).fit(x, y).predict_proba(x), again.predict_proba(x))
    assert again.booster.current_iteration() == 6
    blank = kept(booster, tmp_path, "blank.txt")
    blank.write_text(re.sub(r"parameters:.*end of parameters\n", "", blank.read_text(), flags=re.DOTALL))
    silent = opened(registry, blank)
    assert silent.fresh is not None
    with pytest.raises(NotApplicable, match="does not say how it was trained"):
        silent.fresh(0)
