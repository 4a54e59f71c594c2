"""ONNX files through onnxruntime, in the shapes that exporters leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import UserError
from audit.registry.store import Registry

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

X, Y = load_iris(return_X_y=True)
FITTED = LogisticRegression(max_iter=500).fit(X, Y)
IRIS = InputSpec(fields=tuple(Field(name=name, kind="number") for name in ("sl", "sw", "pl", "pw")))
VECTOR = InputSpec(fields=(Field(name="x", kind="number", shape=(4,), bounds=(0, 8)),))
ROWS = torch.tensor(X)


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any] | None = None) -> Any:
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def linear(
    *,
    softmax: bool = False,
    dtype: str = "float32",
    batch: Any = None,
    width: int = 4,
    names: tuple[str, str] = ("x", "scores"),
) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Gemm", [names[0], "w", "b"], ["raw" if softmax else names[1]])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["raw"], [names[1]], axis=1))
    return model_of(
        nodes,
        [helper.make_tensor_value_info(names[0], kind, [batch, width])],
        [helper.make_tensor_value_info(names[1], kind, [batch, 3])],
        {"w": FITTED.coef_.T.astype(dtype), "b": FITTED.intercept_.astype(dtype)},
    )


def classifier(*, zipmap: bool, labels: str = "ints") -> Any:
    """As skl2onnx writes a logistic regression: a label, and probabilities as a tensor or as mappings."""
    named = {"classlabels_ints": [0, 1, 2]} if labels == "ints" else {"classlabels_strings": ["a", "b", "c"]}
    kind = TensorProto.INT64 if labels == "ints" else TensorProto.STRING
    node = helper.make_node(
        "LinearClassifier", ["X"], ["label", "scores"], domain="ai.onnx.ml", post_transform="SOFTMAX", multi_class=1,
        coefficients=FITTED.coef_.ravel().tolist(), intercepts=FITTED.intercept_.tolist(), **named,
    )  # fmt: skip
    label = helper.make_tensor_value_info("label", kind, [None])
    if not zipmap:
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 3])
        return model_of([node], [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])], [label, scores])
    keys = {"classlabels_int64s": [0, 1, 2]} if labels == "ints" else {"classlabels_strings": ["a", "b", "c"]}
    mapping = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    maps = helper.make_value_info("maps", helper.make_sequence_type_proto(mapping))
    zipped = helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", **keys)
    return model_of([node, zipped], [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])], [label, maps])


def opened(registry: Registry, tmp_path: Path, model: Any, **declared: Any) -> AuditedModel:
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    registry.add("m", path, **{"classes": 3, "spec": IRIS, **declared})
    return registry.open("m")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_and_probabilities(dtype: str, registry: Registry, tmp_path: Path) -> None:
    logit = opened(registry, tmp_path, linear(dtype=dtype), output="logit")
    assert logit.capabilities == {Capability.LOGITS, Capability.PROBABILITIES, Capability.LABELS}
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(logit.scores(ROWS).numpy(), FITTED.decision_function(X), atol=tolerance)
    probability = opened(registry, tmp_path, linear(softmax=True, dtype=dtype), output="probability")
    np.testing.assert_allclose(probability.scores(ROWS).numpy(), FITTED.predict_proba(X), atol=tolerance)
    with pytest.raises(UserError, match="say what the model answers"):
        opened(registry, tmp_path, linear())
    with pytest.raises(UserError, match=r"answers probabilities .* not logits"):
        opened(registry, tmp_path, linear(softmax=True), output="logit")


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("labels", ["ints", "strings"])
def test_a_label_beside_its_probabilities(zipmap: bool, labels: str, registry: Registry, tmp_path: Path) -> None:
    graph = classifier(zipmap=zipmap, labels=labels)
    classes = 3 if labels == "ints" else ["a", "b", "c"]
    model = opened(registry, tmp_path, graph, classes=classes)
    assert model.output == "probability"
    np.testing.assert_allclose(model.scores(ROWS).numpy(), FITTED.predict_proba(X), atol=1e-5)
    label = opened(registry, tmp_path, graph, classes=classes, output="label")
    assert label.capabilities == {Capability.LABELS}
    assert label.predict(ROWS).tolist() == FITTED.predict(X).tolist()
    named = opened(registry, tmp_path, graph, classes=classes, output="label", parameters={"output_name": "label"})
    assert named.predict(ROWS).tolist() == FITTED.predict(X).tolist()


def test_classes_in_another_order_are_put_in_order(registry: Registry, tmp_path: Path) -> None:
    model = opened(registry, tmp_path, classifier(zipmap=True, labels="strings"), classes=["c", "a", "b"])
    np.testing.assert_allclose(model.scores(ROWS).numpy(), FITTED.predict_proba(X)[:, [2, 0, 1]], atol=1e-5)
    with pytest.raises(UserError, match="answers the classes a, b, c, declared were x, y, z"):
        opened(registry, tmp_path, classifier(zipmap=True, labels="strings"), classes=["x", "y", "z"])
    with pytest.raises(UserError, match=r"answers the class '.', which is not among x, y, z"):
        opened(registry, tmp_path, classifier(zipmap=True, labels="strings"), classes=["x", "y", "z"], output="label")


def test_one_of_several_outputs_is_named(registry: Registry, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["soft"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in ("raw", "soft")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])]
    weights = {"w": FITTED.coef_.T.astype("float32"), "b": FITTED.intercept_.astype("float32")}
    graph = model_of(nodes, inputs, outputs, weights)
    with pytest.raises(UserError, match=r"2 of the model's outputs .* name one as parameter 'output_name'"):
        opened(registry, tmp_path, graph, output="probability")
    with pytest.raises(UserError, match="no output 'sharp'; it has raw, soft"):
        opened(registry, tmp_path, graph, output="probability", parameters={"output_name": "sharp"})
    model = opened(registry, tmp_path, graph, output="probability", parameters={"output_name": "soft"})
    np.testing.assert_allclose(model.scores(ROWS).numpy(), FITTED.predict_proba(X), atol=1e-5)
    raw = opened(registry, tmp_path, graph, output="logit", parameters={"output_name": "raw"})
    np.testing.assert_allclose(raw.scores(ROWS).numpy(), FITTED.decision_function(X), atol=1e-5)


def test_a_table_may_come_as_one_input_per_column(registry: Registry, tmp_path: Path) -> None:
    """As skl2onnx writes a pipeline on a DataFrame: numbers and texts of shape (N, 1)."""
    nodes = [
        helper.make_node(
            "OneHotEncoder", ["city"], ["wide"], domain="ai.onnx.ml", cats_strings=["Oslo", "Rome"], zeros=1
        ),
        helper.make_node("Reshape", ["wide", "two"], ["hot"]),
        helper.make_node("Cast", ["rooms"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["age", "hot", "count"], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "w"], ["scores"]),
    ]
    inputs = [
        helper.make_tensor_value_info("rooms", TensorProto.INT64, [None, 1]),
        helper.make_tensor_value_info("age", TensorProto.FLOAT, [None, 1]),
        helper.make_tensor_value_info("city", TensorProto.STRING, [None, 1]),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2])]
    weights = {"w": np.array([[1, 0], [0, 10], [0, 20], [0, 100]], dtype="float32"), "two": np.array([-1, 2])}
    spec = InputSpec(
        fields=(
            Field(name="age", kind="number"),
            Field(name="city", kind="category", categories=("Rome", "Oslo")),
            Field(name="rooms", kind="number"),
        )
    )
    graph = model_of(nodes, inputs, outputs, weights)
    model = opened(registry, tmp_path, graph, spec=spec, classes=2, output="logit")
    x = torch.tensor([[3.0, 0.0, 2.0], [4.0, 1.0, 5.0]], dtype=torch.float64)
    assert model.scores(x).tolist() == [[3.0, 220.0], [4.0, 510.0]]
    with pytest.raises(UserError, match="lacks rooms, age, city and adds sl"):
        opened(registry, tmp_path, graph, classes=2, output="logit")
    with pytest.raises(UserError, match="takes 3 inputs; an audit feeds one tensor"):
        opened(registry, tmp_path, graph, spec=VECTOR, classes=2, output="logit")


@pytest.mark.parametrize("batch", [1, 5])
def test_a_fixed_batch_is_filled_up(batch: int, registry: Registry, tmp_path: Path) -> None:
    model = opened(registry, tmp_path, linear(batch=batch), output="logit")
    for n in (1, 5, 11):
        np.testing.assert_allclose(model.scores(ROWS[:n]).numpy(), FITTED.decision_function(X[:n]), atol=1e-5)


def test_micro_batch_sets_the_rows_per_run(registry: Registry, tmp_path: Path) -> None:
    assert opened(registry, tmp_path, linear(), output="logit").micro_batch == 512
    assert opened(registry, tmp_path, linear(), output="logit", parameters={"micro_batch": 3}).micro_batch == 3


def test_an_image_goes_in_as_an_image(registry: Registry, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["image"], ["scores"], axes=[2, 3], keepdims=0)]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 2, 2])]
    graph = model_of(nodes, inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])])
    spec = InputSpec(fields=(Field(name="image", kind="image", shape=(3, 2, 2), bounds=(0, 1)),))
    model = opened(registry, tmp_path, graph, spec=spec, output="logit")
    x = torch.rand(6, 3, 2, 2)
    assert torch.allclose(model.scores(x).float(), x.mean((2, 3)), atol=1e-6)
    with pytest.raises(UserError, match=r"takes inputs of shape \(3, 2, 2\), the input spec says \(4,\)"):
        opened(registry, tmp_path, graph, spec=VECTOR, output="logit")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"classes": 4}, r"answers shape \(8, 3\) to 8 rows; 4 classes need \(8, 4\)"),
        ({"output": "label"}, "none of the model's outputs .* can be output 'label'"),
        ({"output": "probability"}, "does not answer probabilities"),
        ({"spec": None}, "does not say what the model is fed"),
    ],
)
def test_a_model_that_is_not_as_declared(
    declared: dict[str, Any], said: str, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        opened(registry, tmp_path, linear(), **{"output": "logit", **declared})
    assert registry.list() == []


def test_nan_weights_are_seen_in_the_answers(registry: Registry, tmp_path: Path) -> None:
    graph = linear()
    weights = numpy_helper.to_array(graph.graph.initializer[0]).copy()
    weights[0, 0] = np.nan
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    with pytest.raises(UserError, match="answers NaN or infinite"):
        opened(registry, tmp_path, graph, output="logit")


def test_external_data_is_refused(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save_model(linear(), "big.onnx", save_as_external_data=True, location="secret.bin", size_threshold=0)
    assert Path("secret.bin").exists()
    with pytest.raises(UserError, match=r"refused.*external|external.*refused|names other files|secret"):
        opened(registry, tmp_path, Path("big.onnx").read_bytes(), output="logit")


@pytest.mark.parametrize("cut", [0, 10, -5])
def test_damaged_files_are_one_line(cut: int, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        opened(registry, tmp_path, linear().SerializeToString()[:cut], output="logit")
    assert "\n" not in str(error.value)


def test_a_graph_that_cannot_run_is_one_line(registry: Registry, tmp_path: Path) -> None:
    graph = linear()
    graph.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UserError, match="onnxruntime cannot open the model") as error:
        opened(registry, tmp_path, graph, output="logit")
    assert "\n" not in str(error.value)
