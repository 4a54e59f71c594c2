"""ONNX models are clean as long as every tensor is inside the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from audit.registry import onnx_scan
from audit.registry.scan import ScanReport, scan_file


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def external(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(weights: TensorProto, name: str = "g") -> Any:
    return helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [weights],
    )


def model(weights: TensorProto) -> bytes:
    return helper.make_model(graph(weights)).SerializeToString()


GOOD = model(numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))


def judged(content: bytes) -> ScanReport:
    path = Path("model.txt")
    path.write_bytes(content)
    return scan_file(path)


def test_a_model_is_clean() -> None:
    onnx.checker.check_model(onnx.load_model_from_string(GOOD))
    report = judged(GOOD)
    assert (report.format, report.verdict, report.findings) == ("onnx", "clean", ())


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "C:/x", "..\\x"])
def test_tensors_outside_the_folder_are_refused(location: str) -> None:
    report = judged(model(external(location)))
    assert report.verdict == "refused"
    assert "leaves its folder" in report.summary


def test_tensors_in_another_file_are_refused_since_no_digest_covers_them() -> None:
    Path("weights.bin").write_bytes(bytes(48))
    report = judged(model(external("weights.bin")))
    assert report.verdict == "refused"
    assert "weights.bin" in report.summary
    assert "digest" in report.summary


def inside_attribute(tensor: TensorProto) -> bytes:
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    return helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString()


def inside_branch(tensor: TensorProto) -> bytes:
    node = helper.make_node("If", ["c"], ["y"], then_branch=graph(tensor), else_branch=graph(tensor))
    return helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString()


def inside_function(tensor: TensorProto) -> bytes:
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    function = helper.make_function("local", "f", [], ["w"], [node], [helper.make_opsetid("", 18)])
    made = onnx.load_model_from_string(GOOD)
    made.functions.append(function)
    return made.SerializeToString()


def inside_sparse(tensor: TensorProto) -> bytes:
    made = onnx.load_model_from_string(GOOD)
    made.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return made.SerializeToString()


def inside_training(tensor: TensorProto) -> bytes:
    made = onnx.load_model_from_string(GOOD)
    made.training_info.add().initialization.initializer.append(tensor)
    return made.SerializeToString()


def inside_list(tensor: TensorProto) -> bytes:
    node = helper.make_node("Custom", [], ["w"], domain="x", values=[tensor])
    return helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString()


@pytest.mark.parametrize(
    "build", [inside_attribute, inside_branch, inside_function, inside_sparse, inside_training, inside_list]
)
def test_external_tensors_are_found_wherever_they_are(build: Any) -> None:
    assert judged(build(numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))).verdict == "clean"
    assert judged(build(external("../x"))).verdict == "refused"


def test_a_tensor_that_is_external_without_a_path_is_refused() -> None:
    tensor = external("x")
    tensor.ClearField("external_data")
    assert judged(model(tensor)).verdict == "refused"


def test_the_walk_knows_every_way_to_a_tensor() -> None:
    """Reference: the fields that are walked are those of onnx's own descriptors that lead to a TensorProto."""
    names = {
        "ModelProto": "model",
        "TrainingInfoProto": "training",
        "GraphProto": "graph",
        "FunctionProto": "function",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
    }
    for proto, kind in names.items():
        descriptor = getattr(onnx, proto).DESCRIPTOR
        leading = {
            field.number: names[field.message_type.name]
            for field in descriptor.fields
            if field.message_type is not None and field.message_type.name in names
        }
        if kind == "tensor":
            leading = {descriptor.fields_by_name["external_data"].number: "external"}
            assert descriptor.fields_by_name["data_location"].number == onnx_scan._DATA_LOCATION
        assert onnx_scan._SUBMESSAGES[kind] == leading
    assert {field.number for field in onnx.ModelProto.DESCRIPTOR.fields} == onnx_scan._MODEL_FIELDS


@pytest.mark.parametrize("length", range(3, len(GOOD) - 1, 5))
def test_cut_models_are_refused(length: int) -> None:
    assert judged(GOOD[:length]).verdict == "refused"


def test_nested_too_deep_or_padded_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_scan, "MAX_DEPTH", 3)
    assert judged(GOOD).verdict == "clean"
    assert "deep" in judged(inside_branch(external("x"))).summary
    monkeypatch.setattr(onnx_scan, "MAX_FIELDS", 10)
    assert "fields" in judged(GOOD).summary
    assert judged(GOOD + b"\xff").verdict == "refused"
    assert judged(GOOD + b"\xf8\x07\x01").verdict == "refused"  # a field 127 that no ModelProto has
