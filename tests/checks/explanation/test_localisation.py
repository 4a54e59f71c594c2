"""Localisation through the check's own run: shares by hand, masks of every kind, a net trained to look for a mark."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_maps import install
from pydantic import ValidationError
from texts import rows as encoded
from texts import word_model
from torch import nn
from toys import SmallCnn, audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation._masks import Mark
from audit.checks.explanation.localisation import Localisation
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Field, InputSpec
from audit.parameters import NotApplicable, UserError
from audit.run_folder import Evidence
from audit.scenario import parse

GRADIENT = {"saliency": {"absolute": False}}
GAINS = ("relevance_mass_gain", "relevance_rank_gain")


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def measure(
    model: AuditedModel, rows: AuditData, tmp_path: Path, explainer: Any = "given_map", **options: Any
) -> dict[str, Measurement]:
    found = Localisation(explainer=explainer, **options).run(model, rows, context(tmp_path))
    return {m.metric: m for m in found}


def values(found: dict[str, Measurement]) -> dict[str, float]:
    return {metric: m.estimate.value for metric, m in found.items()}


def image(*rows: Any) -> tuple[AuditedModel, AuditData]:
    x = np.asarray(rows, dtype=np.float32)
    model = audited(lambda x: x.flatten(1).sum(dim=1), x.shape[1:], output="value", bounds=(-9.0, 9.0))
    return model, data(batch(x, np.zeros(len(x))), bounds=(-9.0, 9.0))


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def put_mark(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    marked = x.copy()
    for row, (top, left) in zip(marked, rng.integers(0, 6, (len(x), 2)), strict=True):
        row[0, top : top + 3, left : left + 3] = 16
    return marked


@cache
def mark_net() -> SmallCnn:
    """A net that tells digits with a bright square of three by three pixels from those without."""
    members = digits().train
    assert members is not None
    x = np.concatenate([members.x, put_mark(members.x, np.random.default_rng(0))])
    inputs, labels = torch.from_numpy(x), torch.arange(len(x)) // len(members)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = SmallCnn()
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(4):
            for part in torch.randperm(len(x)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(inputs[part]), labels[part]).backward()
                optimiser.step()
    return net.eval()


# --- by hand -----------------------------------------------------------------------------------------------------


def test_shares_by_hand(tmp_path: Path) -> None:
    """Inside [[0, 0], [1, 2]]: 3 and 1 of positive 3 + 1 + 2; two of the three largest; the largest."""
    row = [[[3, 2, 0], [1, -4, 0]]]
    found = values(measure(*image(row), tmp_path, region=(0, 0, 2, 1)))
    assert found == pytest.approx(
        {
            "relevance_mass": 4 / 6,
            "relevance_mass_gain": 4 / 6 - 1 / 3,
            "relevance_rank": 1 / 2,
            "relevance_rank_gain": 1 / 2 - 1 / 3,
            "pointing_game": 1,
            "mask_area": 1 / 3,
        }
    )
    sizes = values(measure(*image(row), tmp_path, region=(0, 0, 2, 1), relevance="absolute"))
    assert sizes["relevance_mass"] == pytest.approx(4 / 10)
    assert sizes["pointing_game"] == 0


def test_channels_of_a_pixel_add_up(tmp_path: Path) -> None:
    row = [[[3, 2]], [[-3, 2]]]
    found = values(measure(*image(row), tmp_path, region=(0, 1, 1, 1)))
    assert found["relevance_mass"] == 1
    assert found["mask_area"] == 1 / 2


def test_maps_without_relevance_are_a_random_map_s(tmp_path: Path) -> None:
    found = measure(*image([[[0, 0], [0, 0]]], [[[1, 0], [0, 0]]]), tmp_path, region=(0, 0, 1, 1))
    assert found["relevance_mass"].estimate.value == pytest.approx((1 / 4 + 1) / 2)
    assert found["relevance_rank"].estimate.value == pytest.approx((1 / 4 + 1) / 2)
    assert found["relevance_mass"].cautions[-1] == "1 of 2 maps have no relevance anywhere, and count as a random map's"


def test_columns_of_a_table(tmp_path: Path) -> None:
    spec = InputSpec(fields=tuple(Field(name=name, kind="number") for name in ("age", "job", "debt")))
    model = audited(lambda x: x @ torch.tensor([1.0, 0.0, 3.0]).double(), (3,), output="value", kind="number")
    model.spec = spec
    rows = AuditData("toy", batch(np.array([[1.0, 5.0, 1.0], [2, 5, 1]]), np.zeros(2)), spec)
    found = values(measure(model, rows, tmp_path, GRADIENT, columns=("debt",)))
    assert found["relevance_mass"] == pytest.approx(3 / 4)
    assert found["pointing_game"] == 1
    assert values(measure(model, rows, tmp_path, GRADIENT, columns=("job", "age")))["relevance_mass"] == pytest.approx(
        1 / 4
    )
    with pytest.raises(UserError, match="no column 'height'; the input has age, job, debt"):
        measure(model, rows, tmp_path, GRADIENT, columns=("height",))


def test_a_stretch_of_a_series(tmp_path: Path) -> None:
    model = audited(lambda x: x.flatten(1).sum(dim=1), (2, 5), output="value", kind="series")
    rows = data(batch(np.array([[[1, 1, 0, 0, 0], [0, 0, 0, 6, 0]]], dtype=np.float32), np.zeros(1)), kind="series")
    found = values(measure(model, rows, tmp_path, region=(3, 2)))
    assert found["relevance_mass"] == pytest.approx(6 / 8)
    assert found["mask_area"] == pytest.approx(2 / 5)


def test_words_of_texts(tmp_path: Path) -> None:
    model = word_model()
    texts = ["superb film", "the plot", "Superb superb plot film"]
    rows = AuditData("toy", batch(encoded(texts), np.zeros(3, dtype=np.int64)), model.spec, model.classes)
    found = measure(model, rows, tmp_path, "constant_map", words=("SUPERB",))
    assert found["mask_area"].estimate.value == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["relevance_mass"].estimate.value == pytest.approx((6 / 10 + 12 / 20) / 2)
    assert "1 of 3 rows have a mask of nothing or of all" in found["mask_area"].cautions[-1]


# --- masks from a file -------------------------------------------------------------------------------------------


def test_masks_are_matched_by_name(tmp_path: Path) -> None:
    model, rows = image([[[3, 1], [0, 0]]], [[[3, 1], [0, 1]]], [[[0, 0], [4, 0]]])
    masks = np.zeros((2, 2, 2), dtype=np.uint8)
    masks[0, 1, 0], masks[1, 0, 0] = 255, 255  # of the third row, then of the first
    ids = np.array([rows.test.ids[2], rows.test.ids[0]])
    np.savez(tmp_path / "masks.npz", masks=masks, ids=ids)
    ctx = context(tmp_path)
    ctx.base = tmp_path
    found = {m.metric: m for m in Localisation(explainer="given_map", masks="masks.npz").run(model, rows, ctx)}
    assert found["relevance_mass"].estimate.value == pytest.approx((1 + 3 / 4) / 2)
    assert found["relevance_mass"].estimate.n == 2
    assert "1 of 3 rows have no mask" in found["relevance_mass"].cautions[-1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"masks": np.ones((1, 2, 2))}, "needs the arrays 'masks' and 'ids'"),
        ({"masks": np.ones((1, 3, 2)), "ids": ["x"]}, "do not fit inputs of"),
        ({"masks": np.ones((1, 2, 2)), "ids": ["x", "y"]}, "do not fit inputs of"),
        ({"masks": np.ones((1, 2, 2)), "ids": ["x"]}, "none of its 1 ids"),
        (None, "cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_told(arrays: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    if arrays is None:
        path.write_text("no archive")
    else:
        np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        measure(*image([[[3, 1], [0, 0]]]), tmp_path, masks=path)


# --- planted marks -----------------------------------------------------------------------------------------------


def test_gradients_of_a_net_that_looks_for_a_mark_find_it(tmp_path: Path) -> None:
    model = audited(mark_net(), (1, 8, 8), 2, bounds=(0.0, 16.0))
    gate = Gate.parse(">= 0.1")
    options = {"plant": {"size": 3}, "samples": 64}
    found = measure(model, digits(), tmp_path, "integrated_gradients", **options)
    for metric in GAINS:
        assert gate.holds_for(*found[metric].estimate.interval())
    assert gate.holds_for(*found["pointing_game"].estimate.interval())
    assert found["mask_area"].estimate.value == 9 / 64
    random = measure(model, digits(), tmp_path, "random_map", **options)
    for metric in GAINS:
        low, high = random[metric].estimate.interval()
        assert low < 0.01
        assert gate.misses(low, high)


def test_a_region_that_the_model_does_not_look_at(tmp_path: Path) -> None:
    """The left edge of a digit is empty."""
    found = measure(cnn(), digits(), tmp_path, "integrated_gradients", samples=48, region=(0, 0, 8, 1))
    middle = measure(cnn(), digits(), tmp_path, "integrated_gradients", samples=48, region=(0, 2, 8, 4))
    gate = Gate.parse("> 0")
    assert gate.misses(*found["relevance_mass_gain"].estimate.interval())
    assert gate.holds_for(*middle["relevance_mass_gain"].estimate.interval())


@pytest.mark.parametrize(
    ("place", "corner"),
    [("top_left", (0, 0)), ("top_right", (0, 6)), ("bottom_left", (6, 0)), ("bottom_right", (6, 6))],
)
def test_marks_in_corners(place: Any, corner: tuple[int, int], tmp_path: Path) -> None:
    found = measure(cnn(), digits(), tmp_path, plant={"place": place, "value": 7}, samples=4, keep=4)
    maps = next(
        Evidence(tmp_path / "run-0" / r.path) for r in found["relevance_mass"].evidence if r.kind == "attributions"
    )
    top, left = corner
    assert (maps.column("x")[:, 0, top : top + 2, left : left + 2] == 7).all()
    assert not set(maps.ids) & set(digits().test.ids)
    sure = cnn().confidence_of(cnn().scores(torch.from_numpy(np.array(maps.column("x")))))
    assert sure is not None
    np.testing.assert_allclose(maps.column("confidence"), sure.numpy(), atol=1e-6)


def test_marks_at_random_are_the_upper_bound_by_default(tmp_path: Path) -> None:
    found = measure(cnn(), digits(), tmp_path, plant=Mark(size=3), samples=8, keep=8)
    maps = next(
        Evidence(tmp_path / "run-0" / r.path) for r in found["relevance_mass"].evidence if r.kind == "attributions"
    )
    x = torch.from_numpy(maps.column("x").copy())
    full = torch.nn.functional.avg_pool2d(x, 3, stride=1).flatten(1) == 16
    assert bool(full.any(dim=1).all())
    assert len({tuple(row.nonzero().flatten().tolist()) for row in full}) > 2
    # The map is of the marked image, for what the model says of it.
    assert maps.column("prediction").tolist() == cnn().predict(x).tolist()
    assert maps.column("target").tolist() == cnn().predict(x).tolist()


def test_what_is_stored(tmp_path: Path) -> None:
    found = measure(cnn(), digits(), tmp_path, GRADIENT, region=(2, 2, 4, 4), samples=12, keep=3)
    rows, maps = (Evidence(tmp_path / "run-0" / ref.path) for ref in found["relevance_mass"].evidence)
    assert rows.column("value").mean() == pytest.approx(found["relevance_mass"].estimate.value)
    assert maps.column("quality_relevance_mass").tolist() == pytest.approx(
        [rows.column("value")[rows.ids.index(i)] for i in maps.ids]
    )
    hits = Evidence(tmp_path / "run-0" / found["pointing_game"].evidence[0].path).column("value")
    assert hits.sum() == found["pointing_game"].estimate.k  # type: ignore[union-attr]


def test_ties_in_the_pointing_game_are_broken_at_random(tmp_path: Path) -> None:
    found = measure(cnn(), digits(), tmp_path, "constant_map", region=(0, 0, 4, 8), samples=200)
    low, high = found["pointing_game"].estimate.interval()
    assert low < 1 / 2 < high


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs one of region, columns, words, masks, plant, got none"),
        ({"region": (0, 0, 1, 1), "plant": {}}, "got region and plant"),
        ({"plant": {"size": 0}}, "greater than or equal to 1"),
        ({"plant": {"place": "middle"}}, "top_left"),
        ({"region": (0, 0, 1, 1), "relevance": "squared"}, "absolute"),
    ],
)
def test_mistakes_are_told_when_the_scenario_is_read(options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Localisation(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"region": (0, 0, 9, 1)}, UserError, "must lie in the image"),
        ({"region": (0, 1)}, UserError, "top, left, height, width"),
        ({"columns": ("age",)}, NotApplicable, "columns are of a table"),
        ({"words": ("age",)}, NotApplicable, "words are of a text"),
        ({"plant": {"size": 9}}, UserError, "larger than the image"),
        ({"region": (0, 0, 8, 8)}, ArithmeticError, "mask of nothing or of all"),
    ],
)
def test_masks_that_do_not_fit_are_told(options: Any, error: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        measure(cnn(), digits(), tmp_path, samples=4, **options)


@pytest.mark.parametrize(
    ("kind", "shape", "region", "error", "message"),
    [
        ("series", (1, 6), (4, 3), UserError, "must lie in the series of 6"),
        ("series", (1, 6), (0, 0, 1, 1), UserError, r"\[start, length\]"),
        ("number", (6,), (0, 2), NotApplicable, "image or a series"),
    ],
)
def test_regions_that_do_not_fit_are_told(
    kind: str, shape: tuple[int, ...], region: Any, error: Any, message: str, tmp_path: Path
) -> None:
    model = audited(lambda x: x.flatten(1).sum(dim=1), shape, output="value", kind=kind)
    rows = data(batch(np.zeros((2, *shape), dtype=np.float32), np.zeros(2)), kind=kind)
    with pytest.raises(error, match=message):
        measure(model, rows, tmp_path, region=region)


def test_a_mark_needs_a_brightness(tmp_path: Path) -> None:
    model = audited(lambda x: x.flatten(1).sum(dim=1), (1, 4, 4), output="value")
    rows = data(batch(np.zeros((2, 1, 4, 4), dtype=np.float32), np.zeros(2)))
    with pytest.raises(UserError, match="give it a value"):
        measure(model, rows, tmp_path, plant={})
    measure(model, rows, tmp_path, "constant_map", plant={"value": 1})


def test_from_a_scenario_to_a_verdict(tmp_path: Path) -> None:
    text = (
        "name: found\nmodel: toy\ndata: {source: given}\nchecks:\n"
        "  - explanation.localisation: {explainer: {saliency: {}}, plant: {size: 3}, samples: 32}\n"
        "    require: {relevance_mass_gain: '> 0', pointing_game: '>= 0.99'}\n"
    )
    model = audited(mark_net(), (1, 8, 8), 2, bounds=(0.0, 16.0))
    rows = data(batch(digits().test.x[:40], np.zeros(40, dtype=np.int64)), bounds=(0.0, 16.0))
    report = run(parse(text), home=tmp_path, models={"toy": model}, data=rows)
    gated = {f.gate: f.status for f in report.findings if f.gated}
    assert gated == {"relevance_mass_gain": "pass", "pointing_game": "fail"}
