"""One model of each family: its scenario gives the verdict expected of it, and every explainer explains it or says why not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audit.data import AuditData
from audit.datasets.idx import Idx
from audit.demo._families_training import mlp
from audit.demo.families import FAMILIES
from audit.engine import run
from audit.explainers import Attribution, build
from audit.model import AuditedModel
from audit.names import available
from audit.parameters import UserError
from audit.plan import bind
from audit.registry.store import Registry
from audit.rng import ExampleRng
from audit.scenario import read
from audit.stored import Report

SCENARIOS = Path(__file__).parent.parent.parent / "scenarios"
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's dataset-fashion-mnist puts the IDX files."""
NAMES = [exhibit.file.removesuffix(".yaml") for exhibit in FAMILIES]
MODELS = [(exhibit.file, model) for exhibit in FAMILIES for model in exhibit.models]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with every family's models."""
    folder = tmp_path_factory.mktemp("families")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # transformers' own
        for family in FAMILIES:
            family.prepare(Registry(folder), bind(read(SCENARIOS / family.file)))
    yield folder
    _opened.cache_clear()
    _data.cache_clear()


@cache
def _opened(home: Path, name: str) -> AuditedModel:
    return Registry(home).open(name)


@cache
def _data(file: str) -> AuditData:
    plan = bind(read(SCENARIOS / file))
    return plan.source.load(plan.file.base, file)


def subject(home: Path, file: str, name: str, n: int = 3) -> tuple[AuditedModel, Tensor, Tensor, Tensor]:
    """A family's model, test rows, the classes it gives them, and background rows."""
    model, data = _opened(home, name), _data(file)
    data = data.fit_to(model.spec, model.classes, model.name)
    assert data.train is not None
    x, background = model.tensor(data.test.take(np.arange(n))), model.tensor(data.train.take(np.arange(8)))
    target = torch.zeros(n, dtype=torch.int64) if model.task == "regression" else model.predict(x)
    return model, x, target, background


def explained(explainer: str | dict[str, Any], *given: Any) -> Attribution:
    model, x, target, background = given
    rng = ExampleRng(0, "families", [str(i) for i in range(len(x))], "explainer")
    return build(explainer)[1].run(model, x, target, background, rng)


# --- scenarios -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reports(home: Path) -> dict[str, Report]:
    return {}


def report(name: str, home: Path, reports: dict[str, Report]) -> Report:
    if name not in reports:
        reports[name] = run(SCENARIOS / f"{name}.yaml", home=home)
    return reports[name]


@pytest.mark.parametrize("exhibit", FAMILIES, ids=NAMES)
def test_every_family_gives_the_verdict_expected_of_it(exhibit: Any, home: Path, reports: dict[str, Report]) -> None:
    found = report(exhibit.file.removesuffix(".yaml"), home, reports)
    assert found.verdict.word == exhibit.expected, [(f.id, f.status, f.message) for f in found.findings if f.gated]
    assert not [f for f in found.findings if f.status in ("error", "void", "not_applicable")]
    text = (SCENARIOS / exhibit.file).read_text(encoding="utf-8")
    assert f"Expected verdict: {exhibit.expected}" in text


def test_the_facts_that_scenarios_plant(home: Path, reports: dict[str, Report]) -> None:
    def measured(name: str, metric: str) -> float:
        found = {f.id: f for f in report(name, home, reports).findings}[metric].estimate
        assert found is not None
        return float(found.value)

    assert measured("explain-logistic", "explanation.sensitivity/max_sensitivity") == 0
    assert measured("explain-linear", "explanation.infidelity/normalised_infidelity") < 1e-20
    by_attention = measured("explain-text", "faithfulness-of-attention/deletion_gain")
    assert by_attention < measured("explain-text", "explanation.faithfulness/deletion_gain") - 0.1
    assert measured("explain-recommender", "explanation.importance/rank[feature=d]") == 1
    slopes = measured("explain-mlp", "faithfulness-of-smoothgrad/deletion_gain")
    assert slopes < measured("explain-mlp", "explanation.faithfulness/deletion_gain") - 0.3
    windows = measured("explain-series", "sensitivity-of-windows/max_sensitivity")
    assert windows < 0.6 * measured("explain-series", "explanation.sensitivity/max_sensitivity")


# --- closed forms of trained models --------------------------------------------------------------------------------


def test_linear_regression_is_weight_times_distance_from_the_mean(home: Path) -> None:
    given = subject(home, "explain-linear.yaml", "linear-ridge")
    model, x, _, background = given
    expected = torch.from_numpy(model.native.coef_) * (x - background.mean(dim=0))
    for explainer in ("linear_shap", "exact_shap", "permutation_shap", "kernel_shap", "shap_values"):
        torch.testing.assert_close(explained(explainer, *given).values, expected, atol=1e-8, rtol=1e-8)


def test_logistic_regression_is_weight_times_pixel(home: Path) -> None:
    given = subject(home, "explain-logistic.yaml", "mnist-logistic")
    model, x, target, background = given
    assert model.module is not None
    weight = model.module.linear.weight[target].reshape(x.shape).double() / 255  # type: ignore[union-attr, index]
    for explainer in ("integrated_gradients", "input_x_gradient", "deep_lift"):
        torch.testing.assert_close(explained(explainer, *given).values.double(), weight * x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        explained("linear_shap", *given).values, weight * (x - background.mean(dim=0)).double(), atol=1e-5, rtol=1e-4
    )
    slope = explained({"saliency": {"absolute": False}}, *given).values
    torch.testing.assert_close(slope.double(), weight, atol=1e-6, rtol=1e-4)


def test_the_recommender_splits_what_user_and_item_do_together(home: Path) -> None:
    """Biases and side features are their distance from the background's mean; a product of two is split as two players share it."""
    given = subject(home, "explain-recommender.yaml", "recommender-mf")
    model, x, _, background = given
    net: Any = model.module
    values = explained("exact_shap", *given).values
    side = net.side.weight[0].double()
    torch.testing.assert_close(
        values[:, 2:5], side * (x[:, 2:5] - background[:, 2:5].mean(dim=0)).double(), atol=1e-5, rtol=1e-4
    )

    def factors(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        user, item = rows[:, 0].long(), rows[:, 1].long()
        return net.user(user).double(), net.item(item).double(), net.user_bias(user).double().squeeze(1)

    (p, q, bias), (p0, q0, bias0) = factors(x), factors(background)
    both, alone, none = (p * q).sum(dim=1), p @ q0.mean(dim=0), (p0 * q0).sum(dim=1).mean()
    item_alone = q @ p0.mean(dim=0)
    expected = bias - bias0.mean() + (alone - none + both - item_alone) / 2
    torch.testing.assert_close(values[:, 0], expected, atol=1e-5, rtol=1e-4)


# --- every explainer on every family -------------------------------------------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "gradient_shap": {"samples": 8}, "integrated_gradients": {"steps": 8, "max_steps": 16}, "kernel_shap": {"coalitions": 256},
    "layer_integrated_gradients": {"steps": 8, "max_steps": 16}, "permutation_shap": {"permutations": 2, "background": 2},
    "shap_values": {"permutations": 2, "background": 2}, "smoothgrad": {"samples": 4}, "occlusion": {"background": 2},
}  # fmt: skip
"""Explainers that would take long, asked for less."""
REFUSED = {
    "mnist-logistic": {"gradcam", "guided_gradcam", "tree_shap"},
    "recommender-mf": {
        "deep_lift", "gradcam", "gradient_shap", "guided_gradcam", "input_x_gradient", "integrated_gradients", "lrp", "saliency",
        "smoothgrad", "tree_shap",
    },
}  # fmt: skip
"""Of explainers whose needs the model meets, those that must refuse it all the same; of two families, to hold the others to."""


@pytest.mark.parametrize(("file", "name"), MODELS, ids=[name for _, name in MODELS])
def test_every_explainer_explains_the_family_or_says_why_not(file: str, name: str, home: Path) -> None:
    given = subject(home, file, name, n=2)
    model, x, _, _ = given
    refused: dict[str, str] = {}
    for explainer in available("explainers"):
        if not build(explainer)[1].needs <= model.capabilities:
            continue
        try:
            found = explained({explainer: SMALL.get(explainer, {})}, *given)
        except UserError as error:
            refused[explainer] = str(error)
            continue
        assert found.values.shape == x.shape, explainer
        for part in (found.values, found.base_value, found.score, found.error):
            assert part is None or bool(part.isfinite().all()), explainer
    assert not [why for why in refused.values() if "\n" in why]
    assert REFUSED.get(name, set()) <= refused.keys()


@pytest.mark.skipif(not FASHION.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_families_learn_fashion_where_debian_has_put_it() -> None:
    data = Idx(path=str(FASHION), limit=300).load(Path(), "fashion")
    assert data.train is not None
    assert (len(data.train), data.spec.shape, len(data.test)) == (60_000, (1, 28, 28), 300)
    net = mlp(data.train.take(np.arange(3000)))
    with torch.no_grad():
        right = net(torch.from_numpy(data.test.x)).argmax(dim=1) == torch.from_numpy(data.test.labels)
    assert right.double().mean() > 0.7
