"""Shapley values: closed forms, exact trees, black boxes, and shap's own sampler as the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor
from toys import Linear, audited, digits, trained_cnn

from audit.bridges.shap import library
from audit.bridges.shap_trees import NoTreeModel
from audit.explainers import Attribution
from audit.explainers.shap_values import ShapValues, _by_orders
from audit.model import AuditedModel, Field, InputSpec, NonFiniteOutput, OutputSpace, implied
from audit.parameters import UserError
from audit.rng import ExampleRng


def table(
    forward: Callable[[Any], Any], features: int, output: OutputSpace, *, native: Any = None, classes: int = 2
) -> AuditedModel:
    """A black box over columns: arrays in, arrays out."""
    return AuditedModel(
        name="table", digest="table", output=output, native=native,
        task="regression" if output == "value" else "classification",
        classes=() if output == "value" else tuple(str(c) for c in range(classes)),
        spec=InputSpec(fields=tuple(Field(name=f"c{j}", kind="number") for j in range(features))),
        capabilities=implied(output, gradients=False, layers=False),
        forward=lambda x: torch.as_tensor(np.asarray(forward(x.numpy()))),
    )  # fmt: skip


def rows(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def explain(
    model: AuditedModel,
    x: Tensor,
    target: Any = None,
    background: Tensor | None = None,
    ids: Any = None,
    **options: Any,
) -> Attribution:
    aim = torch.zeros(len(x), dtype=torch.int64) if target is None else torch.as_tensor(target)
    background = torch.zeros_like(x[:1]) if background is None else background
    rng = ExampleRng(0, "check", ids or [str(i) for i in range(len(x))], "explainer")
    return ShapValues(**options).run(model, x, aim, background, rng)


def multi_layer(x: Any) -> Any:
    """captum's ``BasicModel_MultiLayer``, target 0."""
    total = x.sum(axis=1, keepdims=True)
    return np.maximum(total + np.array([-10.0, 1, 1, 1]), 0).sum(axis=1) - 1


GAMES: list[Any] = [
    pytest.param(lambda x: x[:, 0] * x[:, 1], (3, 2), (3, 3), id="product"),
    pytest.param(lambda x: x.min(axis=1), (1, 3), (0.5, 0.5), id="minimum"),
    pytest.param(lambda x: (x * np.array([8, 11, 13, 18])).max(axis=1), (1, 1, 1, 1), (2, 3, 4, 9), id="airport"),
    pytest.param(multi_layer, (20, 50, 30), (230 / 3, 590 / 3, 350 / 3), id="multi-layer"),
]


@pytest.mark.parametrize(("function", "x", "expected"), GAMES)
@pytest.mark.parametrize("method", ["auto", "kernel"])
def test_known_values_by_every_coalition(function: Any, x: Any, expected: Any, method: str) -> None:
    found = explain(table(function, len(x), "value"), rows(x), method=method)
    torch.testing.assert_close(found.values, rows(expected), atol=1e-6, rtol=0)
    assert found.error.tolist() == [0.0]
    assert found.method == "all coalitions, interventional, 1 background rows"


@pytest.mark.parametrize(("function", "x", "expected"), GAMES)
def test_known_values_by_random_orders(function: Any, x: Any, expected: Any) -> None:
    found = explain(table(function, len(x), "value"), rows(x), method="permutation", permutations=2000)
    torch.testing.assert_close(found.values, rows(expected), atol=5 * float(found.error) + 1e-9, rtol=0)
    assert float(found.error) < 5e-3 * sum(expected)
    assert float(found.values.sum()) == pytest.approx(sum(expected), abs=1e-9)


def test_the_and_tree() -> None:
    tree = DecisionTreeRegressor().fit([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1])
    found = explain(table(tree.predict, 2, "value", native=tree), rows((1, 1)))
    torch.testing.assert_close(found.values, rows((0.5, 0.5)), atol=1e-6, rtol=0)
    assert found.method == "Tree SHAP, interventional"


@pytest.mark.parametrize("method", ["kernel", "permutation"])
def test_linear_is_weight_times_distance_from_the_mean_background(method: str) -> None:
    w = np.array([1.0, -2.0, 0.5])
    x, background = rows((3, 1, 4), (0, 0, 2)), rows((1, 2, 3), (3, 2, 5), (2, 2, 1))
    found = explain(table(lambda z: z @ w, 3, "value"), x, background=background, method=method)
    torch.testing.assert_close(found.values, torch.from_numpy(w) * (x - rows(2, 2, 3)), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.base_value, rows(-0.5, -0.5))
    torch.testing.assert_close(found.score, x @ torch.from_numpy(w))


def test_background_takes_the_first_rows() -> None:
    model, given = table(lambda z: z[:, 0], 1, "value"), rows((0,), (2,), (100,))
    rng = ExampleRng(0, "check", ["a"], "explainer")
    found = ShapValues(background=2).run(model, rows((10,)), torch.zeros(1, dtype=torch.int64), given, rng)
    assert found.values.tolist() == [[9.0]]


class _Game:
    """A game of five with interactions of every order."""

    weights = np.random.default_rng(0).normal(size=32)
    players = 5

    def __call__(self, coalitions: Any) -> Any:
        return self.weights[np.asarray(coalitions).astype(int) @ (2 ** np.arange(5))]

    none, all = float(weights[0]), float(weights[31])


def test_orders_are_walked_as_shap_walks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    shap = library()
    from shap.utils import _masked_model

    compiled = _masked_model._build_fixed_single_output
    monkeypatch.setattr(_masked_model, "_build_fixed_single_output", compiled.py_func)  # compiling takes seconds

    class Coalitions:
        shape, immutable_outputs = (1, 5), True

        def __call__(self, mask: Any, x: Any) -> Any:
            return (mask[None].copy(),)

    state = np.random.get_state()
    expected = shap.PermutationExplainer(_Game(), Coalitions(), seed=3).explain_row(
        np.ones(5), max_evals=7 * 11, main_effects=False, error_bounds=False, batch_size=11, outputs=None, silent=True
    )["values"]
    np.random.seed(3)
    order, orders = np.arange(5), []
    for _ in range(7):
        np.random.shuffle(order)
        orders.append(order.copy())
    np.random.set_state(state)
    values, error = _by_orders(_Game(), np.array(orders))  # type: ignore[arg-type]
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert error > 0.01


def test_the_standard_error_is_that_of_repeated_runs() -> None:
    model = table(lambda x: (x * np.array([8, 11, 13, 18])).max(axis=1), 4, "value")
    x = torch.ones(300, 4, dtype=torch.float64)
    found = explain(model, x, background=rows((0, 0, 0, 0)), method="permutation", permutations=8)
    spread = float(found.values.std(dim=0).max())
    assert float(found.error.mean()) == pytest.approx(spread, rel=0.2)


def test_more_permutations_err_less() -> None:
    model = table(lambda x: (x * np.array([8, 11, 13, 18])).max(axis=1), 4, "value")
    few = explain(model, rows((1, 1, 1, 1)), method="permutation", permutations=10)
    many = explain(model, rows((1, 1, 1, 1)), method="permutation", permutations=1000)
    assert float(many.error) < 0.3 * float(few.error)


def test_a_kernel_regression_on_some_coalitions_adds_up_and_knows_no_error() -> None:
    w = np.arange(1.0, 15.0)
    found = explain(table(lambda z: z @ w, 14, "value"), torch.ones(1, 14).double(), method="kernel", permutations=5)
    torch.testing.assert_close(found.values, torch.from_numpy(w)[None], atol=1e-6, rtol=0)
    assert found.error is None
    assert "regression on some coalitions" in found.method


def test_a_black_box_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 3))
    estimator = LogisticRegression().fit(inputs, inputs[:, 0] > 0)
    model = table(estimator.predict_proba, 3, "probability")
    x = torch.from_numpy(inputs[:20])
    target = model.predict(x)
    found = explain(model, x, target, background=torch.from_numpy(inputs[50:80]))
    assert found.space == "probability"
    assert int((found.values.abs().argmax(dim=1) == 0).sum()) >= 18
    expected = torch.from_numpy(estimator.predict_proba(inputs[:20])).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(found.values.sum(dim=1) + found.base_value, expected, atol=1e-9, rtol=0)


def test_margins_speak_for_the_target() -> None:
    model = table(lambda z: z @ np.array([2.0, -1.0]), 2, "margin")
    found = explain(model, rows((1, 1), (1, 1)), [1, 0])
    torch.testing.assert_close(found.values, rows((2, -1), (-2, 1)))
    assert found.space == "margin"


def test_labels_alone_are_explained_as_agreement_with_the_target() -> None:
    model = table(lambda z: (z.min(axis=1) > 0).astype(int), 2, "label")
    found = explain(model, rows((1, 1)), [1])
    torch.testing.assert_close(found.values, rows((0.5, 0.5)))
    assert found.space == "label"


def test_missing_values_are_values() -> None:
    model = table(lambda z: np.where(np.isnan(z), 5.0, z).sum(axis=1), 2, "value")
    found = explain(model, rows((float("nan"), 1)), background=rows((0, float("nan"))))
    torch.testing.assert_close(found.values, rows((5, -4)))


@pytest.mark.parametrize("method", ["kernel", "permutation"])
def test_features_that_no_background_row_changes_are_not_asked_about(method: str) -> None:
    model = table(lambda z: np.nan_to_num(z).sum(axis=1), 6, "value")
    missing = float("nan")
    found = explain(
        model, rows((missing, 1, 2, 3, 4, 5)), background=rows((missing, 1, 2, 3, 4, 0)), method=method, permutations=2
    )
    torch.testing.assert_close(found.values, rows((0, 0, 0, 0, 0, 5)))
    assert model.rows_forward <= 4


def test_values_close_to_the_background_still_count() -> None:
    """``np.isclose`` calls these two hours one."""
    hour = 3600.0
    model = table(lambda z: (z[:, 0] - 1.6e9) / hour * z[:, 1], 2, "value")
    for method in ("kernel", "permutation"):
        found = explain(model, rows((1.6e9 + hour, 1)), background=rows((1.6e9, 1)), method=method)
        torch.testing.assert_close(found.values, rows((1, 0)), atol=1e-6, rtol=0)


def test_rows_do_not_depend_on_their_neighbours_or_order() -> None:
    model = table(lambda x: x.max(axis=1), 6, "value")
    x = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options: Any = {"method": "permutation", "permutations": 3, "background": rows((0,) * 6)}
    ids = ["a", "b", "c", "d", "e"]
    whole = explain(model, x, ids=ids, **options)
    back = explain(model, x.flip(0), ids=ids[::-1], **options)
    torch.testing.assert_close(whole.values, back.values.flip(0))
    torch.testing.assert_close(whole.values[2:3], explain(model, x[2:3], ids=["c"], **options).values)


def test_passes_are_bounded_by_the_micro_batch() -> None:
    sizes: list[int] = []

    def forward(x: Any) -> Any:
        sizes.append(len(x))
        return x.sum(axis=1)

    model = table(forward, 4, "value")
    model.micro_batch = 10
    explain(model, rows((1, 2, 3, 4)), background=torch.rand(7, 4).double())
    assert max(sizes) == 10


def test_images_are_explained_by_patches() -> None:
    w = torch.zeros(2, 6, 4)
    w[0, 0, 0], w[1, 1, 1], w[0, 5, 3] = 1.0, 3.0, 8.0
    model = audited(lambda x: (x * w).flatten(1).sum(dim=1), (2, 6, 4), output="value")
    x, background = torch.ones(1, 2, 6, 4), torch.zeros(1, 2, 6, 4)
    by_pixel = explain(model, x, background=background, method="permutation", permutations=2)
    torch.testing.assert_close(
        by_pixel.values[0, :, 0, 0], rows(0.5, 0.5)
    )  # a pixel's value is spread over its channels
    by_patch = explain(model, x, background=background, patch=2)
    assert by_patch.method.startswith("all coalitions")
    torch.testing.assert_close(by_patch.values[0, :, :2, :2], torch.full((2, 2, 2), 4 / 8).double())
    torch.testing.assert_close(by_patch.values[0, :, 4:, 2:], torch.full((2, 2, 2), 8 / 8).double())
    assert float(by_patch.values.sum()) == pytest.approx(12)


def test_a_large_image_is_cut_into_at_most_64_patches() -> None:
    model = audited(lambda x: x.flatten(1).square().sum(dim=1), (1, 50, 30), output="value")
    x = torch.arange(1500.0).reshape(1, 1, 50, 30) / 1500
    found = explain(model, x, background=torch.zeros(1, 1, 50, 30), permutations=2).values[0, 0]
    assert len(torch.unique(found)) == 10 * 6  # squares of 5: 4 would make 13 x 8
    assert bool((found[:5, :5] == found[0, 0]).all())


def test_digits_maps_add_up() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:2])
    members = digits().train
    assert members is not None
    found = explain(
        model, x, model.predict(x), background=torch.from_numpy(members.x[:4]), method="permutation", permutations=2
    )
    torch.testing.assert_close(found.values.flatten(1).sum(dim=1) + found.base_value, found.score)
    assert found.space == "logit"


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
    by_trees = explain(model, x, target, background)
    by_coalitions = explain(model, x, target, background, method="kernel")
    assert by_trees.method.startswith("Tree SHAP")
    torch.testing.assert_close(by_trees.values, by_coalitions.values, atol=1e-6, rtol=0)
    torch.testing.assert_close(by_trees.base_value, by_coalitions.base_value, atol=1e-6, rtol=0)


def test_columns_mixed_before_the_trees_are_explained_as_a_whole() -> None:
    _, inputs, model = forest(PCA(3))
    x, target, background = inputs[:3], model.predict(inputs[:3]), inputs[50:60]
    found = explain(model, x, target, background)
    assert found.method.startswith("all coalitions")
    with pytest.raises(NoTreeModel, match=r"step 'pca' .* does not keep each column to itself"):
        explain(model, x, target, background, method="tree")


def test_a_model_that_is_more_than_its_trees_is_explained_as_a_whole() -> None:
    estimator, inputs, _ = forest()

    def sharpened(x: Any) -> Any:
        p = estimator.predict_proba(x) ** 2
        return p / p.sum(axis=1, keepdims=True)

    model = table(sharpened, 3, "probability", native=estimator)
    found = explain(model, inputs[:3], [0, 1, 0], inputs[50:60])
    assert not found.method.startswith("Tree SHAP")
    with pytest.raises(NoTreeModel, match="not what its trees add up to"):
        explain(model, inputs[:3], [0, 1, 0], inputs[50:60], method="tree")


def test_path_dependent_is_another_game() -> None:
    _, inputs, model = forest()
    x, target, background = inputs[:5], model.predict(inputs[:5]), inputs[50:70]
    interventional = explain(model, x, target, background)
    path = explain(model, x, target, background, perturbation="path_dependent")
    assert path.method == "Tree SHAP, path_dependent"
    assert float((path.values - interventional.values).abs().max()) > 0.01
    assert float(path.error.max()) < 1e-9


def test_mistakes_are_told() -> None:
    model = table(lambda x: x.sum(axis=1), 2, "value")
    with pytest.raises(UserError, match="needs background rows"):
        explain(model, rows((1, 2)), background=rows((1, 2))[:0])
    with pytest.raises(NoTreeModel, match="its own object is not known"):
        explain(model, rows((1, 2)), method="tree")
    with pytest.raises(ValidationError, match="permutations"):
        ShapValues(permutations=1)
    text = audited(lambda x: x.sum(dim=1), (2,), output="value", kind="tokens")
    with pytest.raises(UserError, match="not tokens inputs"):
        explain(text, rows((1, 2)))


def test_an_answer_that_is_not_finite_is_an_error() -> None:
    model = audited(lambda x: x[:, 0].log(), (2,), output="value", kind="number")
    with pytest.raises(NonFiniteOutput):
        explain(model, rows((1, 2)))


def test_a_logit_that_the_model_never_moves_has_no_reasons() -> None:
    found = explain(audited(Linear([1.0, 2.0], 0.0), (2,), kind="number"), rows((1, 1)), [0])
    assert found.values.tolist() == [[0, 0]]
