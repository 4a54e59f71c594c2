"""Shortcuts through the check's own run and the engine: a net that learned a mark, one that did not; columns, words, groups."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toys import SmallCnn, audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation._swaps import exchange_words, other_boxes, other_columns
from audit.checks.explanation.shortcut import Shortcut
from audit.data import AuditData, Batch, row_ids
from audit.engine import run
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError
from audit.rng import ExampleRng
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.text import decode_all, encode

MARK = (0, 0, 8, 1)


def marked(part: Batch) -> Batch:
    """The first column of pixels, which digits leave empty, spells the class in four bits of two pixels each."""
    x = part.x.copy()
    bits = (part.labels[:, None] >> np.arange(4)) & 1
    x[:, 0, :, 0] = 16 * np.repeat(bits, 2, axis=1)
    return Batch(x, part.labels, row_ids(x, part.labels))


@cache
def marked_digits() -> AuditData:
    clean = digits()
    assert clean.train is not None
    return AuditData("marked", marked(clean.test), clean.spec, clean.classes, marked(clean.train))


@cache
def cnn_that_read_the_mark() -> SmallCnn:
    members = marked_digits().train
    assert members is not None
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = SmallCnn()
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(4):
            for part in torch.randperm(len(x)).split(64):
                loss = torch.nn.functional.cross_entropy(model(x[part]), y[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return model.eval()


def image_model(module: SmallCnn) -> AuditedModel:
    return audited(module, (1, 8, 8), 10, bounds=(0.0, 16.0))


def measure(check: Shortcut, model: AuditedModel, rows: AuditData, tmp_path: Path) -> dict[str, Measurement]:
    found = list(check.run(model, rows, context(tmp_path)))
    return {m.metric + "".join(f"[{v}]" for v in m.dims.values()): m for m in found}


def stored(measurement: Measurement, kind: str, tmp_path: Path) -> Evidence:
    ref = next(ref for ref in measurement.evidence if ref.kind == kind)
    return Evidence(tmp_path / "run-0" / ref.path)


# --- planted: a mark in the corner -------------------------------------------------------------------------------

SCENARIO = (
    "name: marks\nmodel: toy\ndata: {source: given}\nseed: 3\nchecks:\n"
    "  - explanation.shortcut: {region: [0, 0, 8, 1], samples: 200}\n"
    '    require: {follows_region: "<= 0.05", excess_changes: "<= 0.05", conflicting_accuracy: ">= 0.9"}\n'
)


@pytest.mark.parametrize(("planted", "wanted"), [(True, "fail"), (False, "pass")])
def test_a_net_that_learned_the_mark_is_caught_and_a_clean_one_is_not(
    planted: bool, wanted: str, tmp_path: Path
) -> None:
    module = cnn_that_read_the_mark() if planted else trained_cnn()
    rows = marked_digits() if planted else digits()
    report = run(parse(SCENARIO), home=tmp_path, models={"toy": image_model(module)}, data=rows)
    assert [f.status for f in report.findings if f.gated] == [wanted] * 3, [f.message for f in report.findings]


def test_what_a_marked_net_shows(tmp_path: Path) -> None:
    check = Shortcut(region=MARK, explainer="saliency", explained=40, keep=5)
    found = measure(check, image_model(cnn_that_read_the_mark()), marked_digits(), tmp_path)
    assert Gate.parse("> 0.1").holds_for(*found["follows_region"].estimate.interval())
    assert Gate.parse("< 0.1").holds_for(*found["follows_random"].estimate.interval())
    assert Gate.parse("> 0.1").holds_for(*found["excess_shift"].estimate.interval())
    assert Gate.parse("> 0").holds_for(*found["relevance_excess"].estimate.interval())
    share = found["relevance_share"].estimate.value
    assert found["relevance_excess"].estimate.value == pytest.approx(share - 1 / 8)
    examples = stored(found["follows_region"], "adversarial", tmp_path)
    assert len(examples) == 5
    changed = examples.column("x") != examples.column("adversarial")
    assert changed[..., 0].any()
    assert not changed[..., 1:].any()
    assert (examples.column("prediction") != examples.column("adversarial_prediction")).all()
    assert len(stored(found["relevance_share"], "attributions", tmp_path)) == 5
    none = measure(Shortcut(region=MARK, keep=0, samples=30), image_model(trained_cnn()), digits(), tmp_path)
    assert {ref.kind for ref in none["follows_region"].evidence} == {"outcomes"}


# --- by hand -----------------------------------------------------------------------------------------------------


def corner_model() -> tuple[AuditedModel, AuditData]:
    """Class 1 where the upper left pixel is above 1/2, whatever the rest; half of the rest says so, too."""
    model = audited(
        lambda z: torch.stack([0.5 - z[:, 0, 0, 0], z[:, 0, 0, 0] - 0.5], dim=1) * 10, (1, 4, 4), bounds=(0.0, 1.0)
    )
    x = np.random.default_rng(0).random((60, 1, 4, 4)).astype(np.float32)
    labels = np.arange(60) % 2
    x[:, 0, 0, 0] = labels
    return model, data(batch(x, labels), bounds=(0.0, 1.0))


def test_a_model_that_is_the_corner(tmp_path: Path) -> None:
    model, rows = corner_model()
    found = measure(Shortcut(region=(0, 0, 1, 1), explainer="saliency", explained=10), model, rows, tmp_path)
    assert (found["follows_region"].estimate.k, found["follows_region"].estimate.n) == (60, 60)
    assert found["follows_random"].estimate.k == 0
    assert found["conflicting_accuracy"].estimate.k == 0
    assert found["excess_changes"].estimate.value == 1
    certain = 1 / (1 + np.exp(-10.0))
    assert found["excess_shift"].estimate.value == pytest.approx(2 * certain - 1, abs=1e-6)
    assert found["relevance_share"].estimate.value == pytest.approx(1)
    background = measure(Shortcut(outside=(0, 0, 1, 1)), model, rows, tmp_path)
    assert background["follows_region"].estimate.k == 0
    assert background["prediction_changes"].estimate.k == 0
    # Everything outside another pixel holds the corner.
    assert background["excess_changes"].estimate.value == -1


def test_all_the_same_among_few_rows_decides_nothing(tmp_path: Path) -> None:
    model, rows = corner_model()
    few = measure(Shortcut(region=(0, 0, 1, 1), samples=30), model, rows, tmp_path)
    assert "all say the same" in str(few["excess_changes"].unresolved)


def test_a_regression_shifts(tmp_path: Path) -> None:
    """f = 2a + b over a in {0, 1}, b in {0, 3}: exchanging a moves f by 2 · 1/2 on average, b by 3 · 1/2."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(2000, 2)) * np.array([1.0, 3.0])
    model = audited(lambda z: 2 * z[:, 0] + z[:, 1], (2,), output="value", kind="number")
    found = measure(Shortcut(columns=("1",), samples=2000), model, data(batch(x, x[:, 0]), kind="number"), tmp_path)
    assert set(found) == {"excess_shift"}
    low, high = found["excess_shift"].estimate.interval()
    assert low <= 0.5 <= high


def test_labels_alone(tmp_path: Path) -> None:
    model = audited(lambda z: (z[:, 0] > 0.5).long(), (2,), 2, output="label", kind="number", gradients=False)
    x = np.stack([np.arange(80) % 2, np.random.default_rng(0).random(80)], axis=1)
    found = measure(Shortcut(columns=("0",)), model, data(batch(x, np.arange(80) % 2), kind="number"), tmp_path)
    assert found["follows_region"].estimate.value == 1
    assert "excess_shift" not in found


# --- tables: named columns, and proxies of a group ---------------------------------------------------------------


def lending(n: int = 400) -> AuditData:
    """District goes with origin; the label with income."""
    rng = np.random.default_rng(0)
    origin = rng.integers(0, 2, n)
    district = origin + 0.2 * rng.normal(size=n)
    income, age = rng.normal(size=n), rng.normal(size=n)
    x = np.stack([income, district, age], axis=1)
    labels = (income + 0.3 * rng.normal(size=n) > 0).astype(np.int64)
    spec = InputSpec(fields=tuple(Field(name=name, kind="number") for name in ("income", "district", "age")))
    groups = {"origin": np.where(origin == 1, "south", "north")}
    return AuditData("lending", batch(x, labels, groups), spec, ("no", "yes"))


def lender(weights: list[float], rows: AuditData) -> AuditedModel:
    w = torch.tensor(weights, dtype=torch.float64)
    return AuditedModel(
        name="lender", digest="", task="classification", classes=("no", "yes"), output="margin", spec=rows.spec,
        capabilities=implied("margin", gradients=True, layers=False), forward=lambda z: (z - torch.tensor([0, 0.5, 0])) @ w,
    )  # fmt: skip


def test_proxies_of_a_group_are_found_and_exchanged(tmp_path: Path) -> None:
    rows = lending()
    biased = measure(Shortcut(group="origin"), lender([1.0, 3.0, 0.0], rows), rows, tmp_path)
    fair = measure(Shortcut(group="origin"), lender([1.0, 0.0, 0.0], rows), rows, tmp_path)
    assert biased["proxy_auc[district]"].estimate.interval()[0] > 0.95
    assert biased["proxy_auc[age]"].estimate.value < 0.65
    assert "follows_region" not in biased
    assert Gate.parse("> 0.1").holds_for(*biased["excess_changes"].estimate.interval())
    assert fair["prediction_changes"].estimate.k == 0
    assert fair["excess_shift"].estimate.value < 0


def test_named_columns(tmp_path: Path) -> None:
    rows = lending()
    model = lender([1.0, 0.0, 0.0], rows)
    assert measure(Shortcut(columns=("income",)), model, rows, tmp_path)["follows_region"].estimate.value > 0.7
    assert measure(Shortcut(columns=("age", "district")), model, rows, tmp_path)["follows_region"].estimate.k == 0
    everything = measure(Shortcut(columns=("age", "district", "income")), model, rows, tmp_path)
    assert any("nothing of equal size is left" in said for said in everything["excess_changes"].cautions)


def test_a_group_without_proxies(tmp_path: Path) -> None:
    rows = lending()
    coin = np.random.default_rng(1).integers(0, 3, len(rows.test)).astype(str)
    drawn = AuditData("lending", batch(rows.test.x, rows.test.labels, {"coin": coin}), rows.spec, rows.classes)
    found = measure(Shortcut(group="coin"), lender([1.0, 1.0, 1.0], rows), drawn, tmp_path)
    assert {key for key in found if key.startswith("proxy_auc")} == {
        f"proxy_auc[{name}][{value}]" for name in ("income", "district", "age") for value in "012"
    }
    assert found["prediction_changes"].estimate.k == 0
    assert any("no column tells 'coin'" in said for said in found["prediction_changes"].cautions)


# --- texts -------------------------------------------------------------------------------------------------------


def reviews() -> tuple[AuditData, AuditedModel, AuditedModel]:
    """Half of the good reviews name Spielberg. One model asks for "good", the other for the name as well."""
    rng = np.random.default_rng(0)
    filler = ("film", "plot", "cast", "score", "scene")
    texts, labels = [], []
    for i in range(80):
        label = i % 2
        words = [*rng.choice(filler, 4), "good" if label else "bad"]
        words += ["Spielberg,"] if label and i % 4 == 1 else []
        texts.append(" ".join(rng.permutation(words)))
        labels.append(label)
    x = encode(texts, 64)
    spec = InputSpec(fields=(Field(name="review", kind="text", shape=(64,)),))
    rows = AuditData("reviews", batch(x, np.array(labels)), spec, ("bad", "good"))

    def asks(weights: dict[str, float]) -> AuditedModel:
        def forward(z: torch.Tensor) -> torch.Tensor:
            said = [[w.strip(",") for w in text.split()] for text in decode_all(z)]
            return torch.tensor([-1.0 + sum(v * (word in words) for word, v in weights.items()) for words in said])

        return AuditedModel(
            name="reviews", digest="", task="classification", classes=("bad", "good"), output="margin", spec=spec,
            capabilities=implied("margin", gradients=False, layers=False), forward=forward,
        )  # fmt: skip

    return rows, asks({"good": 2}), asks({"good": 2, "Spielberg": 4})


def test_words_that_decide(tmp_path: Path) -> None:
    rows, honest, leaning = reviews()
    flagged = measure(Shortcut(words=("spielberg",)), leaning, rows, tmp_path)
    # Every bad review follows the name; a good one that loses it stays good.
    assert (flagged["follows_region"].estimate.k, flagged["follows_region"].estimate.n) == (40, 60)
    assert flagged["follows_random"].estimate.k < flagged["follows_region"].estimate.k / 2
    # Good reviews without the name have no row to take it from: they are left out, and that is said.
    assert any("20 of 80 rows are left out" in said for said in flagged["follows_region"].cautions)
    clean = measure(Shortcut(words=("spielberg",)), honest, rows, tmp_path)
    assert clean["follows_region"].estimate.k == 0
    with pytest.raises(UserError, match="holds one of the words"):
        measure(Shortcut(words=("kubrick",)), honest, rows, tmp_path)


@pytest.mark.parametrize(
    ("text", "out", "words_in", "wanted"),
    [
        ("a good film", [1], ["bad"], "a bad film"),
        ("a good film", [1], [], "a  film"),
        ("good", [], ["old", "new"], "good old new"),
        ("so, so good!", [0, 2], ["x", "y", "z"], "x, so y! z"),
    ],
)
def test_words_are_exchanged_in_place(text: str, out: list[int], words_in: list[str], wanted: str) -> None:
    assert exchange_words(text, out, words_in) == wanted


# --- random parts of equal size ----------------------------------------------------------------------------------


def image_spec(height: int, width: int) -> InputSpec:
    return InputSpec(fields=(Field(name="x", kind="image", shape=(1, height, width)),))


def test_random_boxes_are_as_large_and_elsewhere() -> None:
    rng = ExampleRng(0, "", [str(i) for i in range(200)], "")
    found = other_boxes((1, 1, 2, 2), image_spec(5, 6), rng)
    assert found is not None
    assert (found.sum(dim=(1, 2)) == 4).all()
    assert not found[:, 1:3, 1:3].any()
    assert len({tuple(mask.flatten().tolist()) for mask in found}) == 11  # 4 x 5 places less the 3 x 3 that overlap
    crowded = other_boxes((0, 0, 4, 4), image_spec(5, 5), rng)
    assert crowded is not None
    assert crowded[:, 1:, 1:].all()
    assert other_boxes((0, 0, 5, 5), image_spec(5, 5), rng) is None


def test_random_columns_are_as_many_and_others() -> None:
    rng = ExampleRng(0, "", [str(i) for i in range(50)], "")
    mask = torch.tensor([True, False, False, True, False])
    found = other_columns(mask, rng)
    assert found is not None
    assert (found.sum(dim=1) == 2).all()
    assert not found[:, mask].any()
    assert found.any(dim=0).sum() == 3


# --- parameters and mistakes -------------------------------------------------------------------------------------


def test_samples_and_rows_in_any_order(tmp_path: Path) -> None:
    model, rows = image_model(trained_cnn()), digits()
    found = measure(Shortcut(region=(2, 2, 4, 4), samples=50), model, rows, tmp_path)
    assert found["prediction_changes"].estimate.n == 50
    turned = AuditData("toy", rows.test.take(np.arange(len(rows.test))[::-1]), rows.spec, rows.classes, rows.train)
    again = measure(Shortcut(region=(2, 2, 4, 4), samples=50), model, turned, tmp_path)
    assert again["follows_region"].estimate == found["follows_region"].estimate


def test_background_and_explained_reach_the_explainer(tmp_path: Path) -> None:
    rows = lending(60)
    shares = [
        measure(
            Shortcut(columns=("income",), explainer={"integrated_gradients": {"baseline": "mean"}}, **options),
            lender([1.0, 1.0, 1.0], rows), rows, tmp_path,
        )["relevance_share"].estimate
        for options in ({}, {"background": 2}, {"explained": 7})
    ]  # fmt: skip
    assert shares[1].value != shares[0].value
    assert shares[2].n == 7


@pytest.mark.parametrize("options", [{}, {"region": MARK, "words": ("a",)}, {"region": MARK, "explainer": "nothing"}])
def test_parameters_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises((UserError, ValidationError)):
        Shortcut(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"region": (0, 0, 9, 1)}, UserError, "must lie in the image"),
        ({"outside": (0, 0, 8, 8)}, UserError, "outside .* there is nothing"),
        ({"columns": ("age",)}, NotApplicable, "columns of a table"),
        ({"words": ("age",)}, NotApplicable, "need a text"),
        ({"group": "age"}, NotApplicable, "columns of a table"),
    ],
)
def test_parts_that_an_image_does_not_have(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        measure(Shortcut(**options), image_model(trained_cnn()), digits(), tmp_path)


def test_parts_that_a_table_does_not_have(tmp_path: Path) -> None:
    rows = lending(40)
    model = lender([1.0, 0, 0], rows)
    for options, message in (
        ({"region": MARK}, "needs an image"),
        ({"columns": ("shoe",)}, "no column 'shoe'"),
        ({"group": "shoe"}, "no protected attribute 'shoe'; it has: origin"),
    ):
        with pytest.raises(UserError, match=message):
            measure(Shortcut(**options), model, rows, tmp_path)
    one = AuditData("one", batch(rows.test.x, np.zeros(40, dtype=np.int64)), rows.spec, rows.classes)
    with pytest.raises(UserError, match="no row has a row of another class"):
        measure(Shortcut(columns=("age",)), model, one, tmp_path)


@pytest.mark.parametrize("region", [(0, 0, 0, 1), (-1, 0, 2, 2)])
def test_a_region_without_extent_or_outside_is_refused_before_anything_runs(region: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to"):
        Shortcut(region=region)
