"""Functions of allowed packages as models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import UserError
from audit.registry.store import Registry
from audit.text import encode

PLANE = InputSpec(fields=(Field(name="a", kind="number"), Field(name="b", kind="number")))
CLIENT = InputSpec(
    fields=(Field(name="income", kind="number"), Field(name="city", kind="category", categories=("Rome", "Paris")))
)
X = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [2.0, 3.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _zoo(zoo: Path) -> None:
    """Every test finds the package."""


def opened(registry: Registry, function: str, **declared: Any) -> AuditedModel:
    registry.add("f", f"assay_zoo.models:{function}", **{"spec": PLANE, **declared})
    return registry.open("f")


@pytest.mark.parametrize("function", ["nearest_corner", "corner_names"])
def test_labels_by_number_or_by_name(function: str, registry: Registry) -> None:
    model = opened(registry, function, classes=["low", "middle", "high"], output="label")
    assert model.capabilities == {Capability.LABELS}
    assert model.predict(X).tolist() == [1, 0, 2]
    card = registry.get("f")
    assert (card.loader, card.files, card.source) == ("python_callable", {}, f"assay_zoo.models:{function}")
    assert card.parameters["function"] == f"assay_zoo.models:{function}"


def test_probabilities_and_values(registry: Registry) -> None:
    shares = opened(registry, "shares", classes=2, output="probability")
    assert shares.capabilities == {Capability.PROBABILITIES, Capability.LABELS}
    np.testing.assert_allclose(shares.scores(X)[:, 1].numpy(), torch.sigmoid(X[:, 0]).numpy())
    total = opened(registry, "total", output="value")
    assert (total.task, total.capabilities) == ("regression", {Capability.VALUES})
    assert total.predict(X).tolist() == [0.0, -2.0, 5.0]


def test_feed_frame_hands_over_names_and_category_values(registry: Registry) -> None:
    declared: dict[str, Any] = {"classes": ["no", "yes"], "output": "label", "spec": CLIENT}
    model = opened(registry, "approve", parameters={"feed": "frame"}, **declared)
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    assert model.predict(x).tolist() == [1, 0, 0]
    with pytest.raises(UserError, match="cannot answer 8 inputs"):
        opened(registry, "approve", **declared)
    series = InputSpec(fields=(Field(name="x", kind="series", shape=(2,)),))
    with pytest.raises(UserError, match="feed 'frame' needs a table, the input is a series"):
        opened(registry, "approve", parameters={"feed": "frame"}, **{**declared, "spec": series})


def test_micro_batch_sets_the_rows_per_call(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    model = opened(registry, "total", output="value", parameters={"micro_batch": 2})
    function = model._forward

    def counted(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return function(x)

    monkeypatch.setattr(model, "_forward", counted)
    model.scores(X)
    assert sizes == [2, 1]


@pytest.mark.parametrize(
    ("function", "declared", "said"),
    [
        (
            "nearest_corner",
            {"classes": 2, "output": "label"},
            r"answers labels 0 … 2; 2 classes are the whole numbers 0 … 1",
        ),
        (
            "odd_names",
            {"classes": ["a", "b"], "output": "label"},
            "answers the class 'elsewhere', which is not among a, b",
        ),
        ("shares", {"classes": 3, "output": "probability"}, r"answers shape \(8, 2\) to 8 rows; 3 classes need"),
        ("shares", {"classes": 2, "output": "logit"}, "a callable gives label, probability or value, not 'logit'"),
        ("total", {"classes": 2, "output": "probability"}, r"answers shape \(8,\)"),
        ("total", {"output": "value", "spec": None}, "does not say what the model is fed"),
        ("total", {}, "say what the model answers"),
        ("system", {"output": "value"}, "defined in 'posix'"),
        ("no_such", {"output": "value"}, "has no 'no_such'"),
        ("total", {"output": "value", "loader": "onnx"}, "loader 'onnx' opens a file, and there is no file"),
        (
            "total",
            {"output": "value", "parameters": {"seed": 3}},
            "has no parameter 'seed'; it has function, feed, code, micro_batch",
        ),
    ],
)
def test_what_is_refused(function: str, declared: dict[str, Any], said: str, registry: Registry) -> None:
    with pytest.raises(UserError, match=said):
        opened(registry, function, **declared)
    assert registry.list() == []


def test_a_package_that_is_not_allowed(registry: Registry) -> None:
    registry.trust.revoke_package("assay_zoo")
    with pytest.raises(UserError, match="run `audit model allow assay_zoo`"):
        opened(registry, "total", output="value")
    with pytest.raises(UserError, match="not from an allowed package"):
        registry.add("f", "subprocess:getoutput", spec=PLANE, output="value")


def test_a_file_is_no_callable(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("tree\n")
    with pytest.raises(UserError, match="loader 'python_callable' opens no file"):
        registry.add("f", tmp_path / "f.txt", loader="python_callable", spec=PLANE, output="value")


def test_texts_come_as_a_list_of_strings(registry: Registry) -> None:
    text = InputSpec(fields=(Field(name="said", kind="text", shape=(12,)),))
    model = opened(registry, "shouting", classes=["calm", "loud"], output="probability", spec=text)
    x = torch.from_numpy(encode(["HEY ÄÖ", "hey", ""], 12))
    assert x.dtype == model.input_dtype
    assert model.predict(x).tolist() == [1, 0, 0]
    assert model.scores(x)[0].tolist() == [0.1, 0.9]


def test_a_text_model_is_asked_about_words_before_it_is_registered(registry: Registry) -> None:
    """Random texts, of any length down to none: what a vectoriser chokes on shows at registration."""
    from audit.registry.probing import example_inputs
    from audit.text import decode_all

    text = InputSpec(fields=(Field(name="said", kind="text", shape=(30,)),))
    asked = decode_all(example_inputs(text, 50))
    assert min(map(len, asked)) < 3 < 25 < max(map(len, asked))
    assert any(" " in said.strip() for said in asked)
