"""Attributions of every kind of input: what stands beside the map, in words."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pages import check
from PIL import Image

from audit.report import render
from audit.report._attribution import AttributionReader
from audit.report._evidence import Block, blocks
from audit.report._view import RunView
from audit.text import encode

NUMBERS: dict[str, Any] = {
    "score": 2.5, "base_value": 0.5, "error": 0.012345, "quality_relative_gap": 0.002, "quality_deletion_gain": 0.3123,
}  # fmt: skip


def image_row(**more: Any) -> dict[str, Any]:
    """A 4 x 4 image whose two halves are features."""
    number = np.repeat([[0, 0, 1, 1]], 4, axis=0)[None]
    values = np.where(number == 0, 0.25, -0.125)
    return {"x": np.ones((1, 4, 4)), "values": values, "feature": number, "target": np.int64(1), **more}


def test_quality_numbers_stand_beside_the_map_in_words() -> None:
    reader = AttributionReader({"input_kind": "image", "classes": ["cat", "dog"]}, (0.0, 1.0))
    sample = reader.sample(image_row(prediction=np.int64(1), **NUMBERS))
    assert sample.title == "predicted dog"
    assert sample.lines == [
        "scale ± 0.25", "score 2.5", "base value 0.5", "error 0.012", "deletion gain 0.31", "relative gap 0.2\u00a0%",
    ]  # fmt: skip
    assert [picture.label for picture in sample.pictures] == ["input", "for dog"]


@pytest.mark.parametrize(("unit", "edges"), [("segment", True), ("patch", True), ("pixel", False), ("", False)])
def test_segments_and_patches_have_edges(unit: str, edges: bool) -> None:
    reader = AttributionReader({"input_kind": "image", "classes": ["cat", "dog"], "unit": unit}, (0.0, 1.0))
    drawn = reader.sample(image_row()).pictures[1]
    with Image.open(io.BytesIO(base64.b64decode(drawn.src.split(",")[1]))) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    dark = (pixels == (70, 74, 80)).all(axis=2)
    assert dark.any() == edges
    if edges:
        assert (drawn.width, pixels.shape[1]) == (112, 112), "drawn in the size it is shown in"
        assert dark[:, 56].all()
        assert dark.sum() == 112, "between the features, and nowhere else"


def test_a_segment_map_that_is_averaged_down_keeps_its_edges() -> None:
    number = np.zeros((1, 600, 600), dtype=int)
    number[:, :, 300:] = 1
    row = image_row(feature=number) | {"x": np.zeros((1, 600, 600)), "values": number - 0.5}
    sample = AttributionReader({"input_kind": "image", "unit": "segment"}).sample(row)
    assert sample.pictures[1].width == sample.pictures[0].width == 200
    assert "averaged down to fit" in sample.lines


def test_rounding_is_no_contribution() -> None:
    meta = {"input_kind": "table", "feature_names": ["a", "b"], "classes": ["no", "yes"]}
    row = {"x": np.ones(2), "values": np.array([1e-18, 2e-18]), "target": np.int64(0), "score": 0.5}
    assert not AttributionReader(meta).sample(row).lists[0].bars
    assert not AttributionReader(meta).strongest(row)
    small = row | {"score": 1e-17}
    assert [part.name for part in AttributionReader(meta).strongest(small)] == ["b", "a"]


def test_categories_have_their_names() -> None:
    fields = [{"name": "job", "categories": ["clerk", "judge"]}, {"name": "age"}]
    reader = AttributionReader({"input_kind": "table", "feature_names": ["job", "age"], "classes": []}, None, fields)
    row = {"x": np.array([1.0, np.nan]), "values": np.array([-2.0, 1.0]), "target": np.int64(0)}
    assert [(bar.feature, bar.value, bar.amount) for bar in reader.sample(row).lists[0].bars] == [
        ("job", "judge", "-2"), ("age", "missing", "+1"),
    ]  # fmt: skip


def test_the_strongest_parts_are_named_by_their_place() -> None:
    pixels = AttributionReader({"input_kind": "image"})
    values = np.zeros((3, 5, 5))
    values[:, 2, 4], values[0, 1, 1] = -1.0, 2.0
    plain = {"x": values, "values": values}
    assert [(part.name, part.amount) for part in pixels.strongest(plain)] == [
        ("row 2, column 4", -3),
        ("row 1, column 1", 2),
    ]
    halves = AttributionReader({"input_kind": "image", "unit": "segment"}).strongest(image_row())
    assert [(part.name, part.amount) for part in halves] == [
        ("segment around row 2, column 0", 2.0), ("segment around row 2, column 2", -1.0),
    ]  # fmt: skip
    wave = np.zeros((2, 20))
    wave[1, 5] = 3.0
    series = AttributionReader({"input_kind": "series"})
    assert series.strongest({"x": wave, "values": wave})[0].name == "step 5 of channel 1"
    windows = {"x": wave, "values": wave, "feature": np.broadcast_to(np.arange(20) // 5, (2, 20))}
    assert [(part.name, part.amount) for part in series.strongest(windows)] == [("steps 5 to 9", 3.0)]


def test_bands_come_before_places() -> None:
    reader = AttributionReader({"input_kind": "series", "part_names": ["low", "high"]})
    row = {"x": np.ones(9), "values": np.eye(9)[4], "target": np.int64(0)}
    assert [(part.name, part.amount) for part in reader.strongest(row)] == [("step 4", 1.0)]
    banded = row | {"parts": np.array([0.25, -0.75])}
    assert [(part.name, part.amount) for part in reader.strongest(banded)] == [("high", -0.75), ("low", 0.25)]
    assert [part.name for part in reader.bands(banded)] == ["low", "high"]


def test_an_image_that_lies_flat_is_a_list_of_positions() -> None:
    sample = AttributionReader({"input_kind": "image"}).sample(
        {"x": np.ones(4), "values": np.eye(4)[2], "target": np.int64(0)}
    )
    assert not sample.pictures
    assert [bar.feature for bar in sample.lists[0].bars] == ["position 2"]


@pytest.mark.parametrize(("gap", "said"), [(0.0, "0\u00a0%"), (1e-9, "< 0.0001\u00a0%"), (0.01234, "1.2\u00a0%")])
def test_a_gap_of_rounding_is_not_spelt_out(gap: float, said: str) -> None:
    sample = AttributionReader({"input_kind": "image"}, (0, 1)).sample(image_row(quality_relative_gap=gap))
    assert sample.lines[-1] == f"relative gap {said}"


def test_a_number_that_could_not_be_had_of_a_row_is_left_out() -> None:
    sample = AttributionReader({"input_kind": "image"}, (0, 1)).sample(image_row(quality_relative_gap=np.nan))
    assert sample.lines == ["scale ± 0.25"]


def every_kind(stored: Any) -> Any:
    """A run with a series of every kind, every optional column included."""
    common = {"classes": ["no", "yes"], "explainer": "kernel_shap", "parameters": {"coalitions": 64}}
    told = {
        "target": np.array([1, 0]), "prediction": np.array([1, 0]), "label": np.array([1, 1]), "method": ["kernel SHAP"] * 2,
        **{name: np.full(2, value) for name, value in NUMBERS.items()},
    }  # fmt: skip
    text = encode(["a fine <b>film</b>", "dull & bad"], 24)
    words = np.cumsum(text == 32, axis=1)
    series = np.random.default_rng(0).normal(size=(2, 3, 40))
    one = image_row()
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "image": ({"unit": "segment"}, {k: np.stack([one[k]] * 2) for k in ("x", "values", "feature")}),
        "text": ({"unit": "word"}, {"x": text, "values": (words - 1) * (text > 0) / 10, "feature": np.where(text > 0, words, -1)}),
        "series": (
            {"unit": "window", "part_names": ["0 to 10 Hz", "10 to 20 Hz"]},
            {"x": series, "values": series / 9, "feature": np.broadcast_to(np.arange(40) // 8, (2, 3, 40)), "parts": np.array([[0.5, -1.0]] * 2)},
        ),
        "table": ({"unit": "column", "feature_names": ["age", "debt"]}, {"x": np.ones((2, 2)), "values": np.array([[1.0, -2.0]] * 2)}),
    }  # fmt: skip
    return [
        stored.evidence(
            "a.b", kind, "attributions", ["r0", "r1"], {**common, "input_kind": kind, **meta}, **told, **fields
        )
        for kind, (meta, fields) in kinds.items()
    ]


@pytest.fixture
def run(stored: Callable[..., Any], make: Any) -> Any:
    """The run of `every_kind`."""
    s = stored()
    refs = tuple(every_kind(s))
    return s.add(make.finding("a.b", "m", make.Exact(value=1), ">= 0", evidence=refs)).finish()


def block(run: Any, kind: str) -> Block:
    (found,) = [b for b in blocks(RunView(run)) if b.path.endswith(kind)]
    assert not found.problem
    return found


def test_every_kind_of_input_has_its_form(run: Any) -> None:
    assert [len(sample.pictures) for sample in block(run, "image").samples] == [2, 2]
    assert all(sample.tokens for sample in block(run, "text").samples)
    assert all(len(sample.drawings) == 1 for sample in block(run, "series").samples)
    bands = block(run, "series").samples[0].lists[0]
    assert bands.header == ("band", "", "contribution")
    assert [(bar.feature, bar.amount) for bar in bands.bars] == [("10 to 20 Hz", "-1"), ("0 to 10 Hz", "+0.5")]
    assert block(run, "table").samples[0].lists[0].header == ("feature", "value", "contribution")
    for kind, unit in (("image", "segment"), ("text", "word"), ("series", "window"), ("table", "column")):
        assert block(run, kind).facts == ["coalitions 64", "kernel SHAP", f"per {unit}"]


def test_the_page_of_every_kind_is_whole(run: Any) -> None:
    text = render("html", run)
    page = check(text)
    assert page.said.count("relative gap 0.2 %") == 8
    assert page.said.count("speaks against the class") == 3
    assert "<b>film" not in text
    ruby = [attrs for tag, attrs in page.tags if tag == "ruby"]
    assert ruby, "numbers stand in the text, for a reader without colour or pointer"
    spans = [attrs for tag, attrs in page.tags if tag == "span" and attrs.get("class") in ("for", "against")]
    assert all(attrs["title"] and attrs["title"][0] in "+−" for attrs in spans)


def test_the_other_formats_take_every_column(run: Any) -> None:
    assert render("markdown", run).startswith("## ")
    listed = json.loads(render("json", run))["evidence"]
    assert [(e["kind"], e["rows"], e["problem"]) for e in listed] == [("attributions", 2, "")] * 4


def test_a_damaged_column_ends_its_block_alone(run: Any) -> None:
    folder = next((run.path / "evidence").rglob("text"))
    np.save(folder / "00000.feature.npy", np.zeros((2, 3), dtype=np.int32))
    found = {b.path.rsplit("/", 1)[-1]: bool(b.problem) for b in blocks(RunView(run))}
    assert found == {"image": False, "text": True, "series": False, "table": False}
