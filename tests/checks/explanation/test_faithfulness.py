"""Faithfulness through the check's own run: gains by hand, planted maps, and what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from texts import LENGTH, text_model
from torch import Tensor
from toys import audited, batch, context, data, digits, trained_cnn
from tweets import trained, tweet_data

from audit import names
from audit.checks.explanation._removal import alike
from audit.checks.explanation.faithfulness import Faithfulness
from audit.data import AuditData
from audit.explainers import Attribution, Explainer
from audit.explainers._features import features_of
from audit.explainers.saliency import Saliency
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Capability, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError
from audit.run_folder import Evidence
from audit.text import encode

CLEARLY_ABOVE = Gate.parse("> 0")
MARGIN = Gate.parse("> 0.02")


class Planted(Explainer):
    """Base of maps that owe nothing to the model."""

    needs: ClassVar[frozenset[Capability]] = frozenset()
    complete: ClassVar[bool] = False

    def run(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Attribution:
        return Attribution(self.map(model, x, target, background, rng), target, "logit")

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        raise NotImplementedError


class RandomMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return rng.uniform(tuple(x.shape[1:]))


class ConstantMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return torch.ones_like(x)


class ReversedMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return -Saliency().run(model, x, target, background, rng).values


class BrokenMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return torch.full_like(x, float("nan"))


class FlatMap(Planted):
    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return x.flatten(1).sum(dim=1)


class GivenMap(Planted):
    """The input itself is the map."""

    def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
        return x.clone()


class _Entry:
    def __init__(self, found: type[Explainer]) -> None:
        self._found = found

    def load(self) -> type[Explainer]:
        return self._found


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted explainers, as an installed package would bring them."""
    kinds = {"random": RandomMap, "constant": ConstantMap, "reversed": ReversedMap, "broken": BrokenMap}
    entries = {name: _Entry(kind) for name, kind in {**kinds, "flat": FlatMap, "given": GivenMap}.items()}
    monkeypatch.setattr(names, "_installed", lambda group: entries if group == "explainers" else {})


def measure(
    check: Faithfulness, model: AuditedModel, audit_data: AuditData, tmp_path: Path, **options: Any
) -> dict[tuple[str, str], Measurement]:
    """Measurements by metric and baseline; the undivided one under ''."""
    found = list(check.run(model, audit_data, context(tmp_path, **options)))
    return {(m.metric, m.dims.get("baseline", "")): m for m in found}


def stored(measurement: Measurement, kind: str, tmp_path: Path, run: int = 0) -> Evidence:
    ref = next(ref for ref in measurement.evidence if ref.kind == kind)
    return Evidence(tmp_path / f"run-{run}" / ref.path)


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def rows_of(x: Any, labels: Any = None, **options: Any) -> AuditData:
    x = np.asarray(x, dtype=np.float32)
    return data(batch(x, np.zeros(len(x), dtype=np.int64) if labels is None else labels), kind="number", **options)


# --- by hand -----------------------------------------------------------------------------------------------------


def test_gains_by_hand(tmp_path: Path) -> None:
    """f = 3a + 2b + c at (1, 1, 1). Deletion from 0: 6, 3, 1, 0 under the explained order, area 7/3; any order and its reverse
    have the areas of 6, 4, 2, 0: 3. Insertion: 0, 3, 5, 6, area 11/3. From 1/2 every loss is half."""
    model = audited(lambda x: x @ torch.tensor([3.0, 2.0, 1.0]), (3,), output="value", kind="number")
    check = Faithfulness(explainer={"integrated_gradients": {"baseline": "zero"}}, baselines=("zero", 0.5), steps=3)
    found = measure(check, model, rows_of([(1, 1, 1), (2, 2, 2)]), tmp_path)
    for metric in ("deletion_gain", "insertion_gain"):
        # The second row loses 2 per feature to 0, and 1.5 to 1/2.
        assert found[metric, "zero"].estimate.value == pytest.approx((2 / 3 + 4 / 3) / 2)
        assert found[metric, "0.5"].estimate.value == pytest.approx((1 / 3 + 1) / 2)
        assert found[metric, ""].estimate.value == pytest.approx((1 + 2 / 3) / 2)
    gains = stored(found["deletion_gain", ""], "outcomes", tmp_path)
    by_id = dict(zip(gains.ids, gains.column("value").tolist(), strict=True))
    test = rows_of([(1, 1, 1), (2, 2, 2)]).test
    assert [by_id[row] for row in test.ids] == pytest.approx([0.5, 7 / 6])


def test_curves_by_hand(tmp_path: Path) -> None:
    """A margin 2a − b + 1: class 1's probability as features leave, most important first."""
    model = audited(lambda x: x @ torch.tensor([2.0, -1.0]) + 1, (2,), 2, output="margin", kind="number")
    check = Faithfulness(explainer="input_x_gradient", baselines=("zero", 1.0), steps=2)
    found = measure(check, model, rows_of([(3, 2)], [1]), tmp_path)
    curve = stored(found["deletion_gain", ""], "curve", tmp_path)
    series = curve.column("series")
    sigmoid = lambda m: 1 / (1 + np.exp(-m))  # noqa: E731
    zero, one = sigmoid(np.array([5.0, -1.0, 1.0])), sigmoid(np.array([5.0, 1.0, 2.0]))
    np.testing.assert_allclose(curve.column("y")[series == "deletion, explained"], (zero + one) / 2)
    np.testing.assert_allclose(curve.column("x")[series == "deletion, explained"], [0, 0.5, 1])
    kept_zero, kept_one = sigmoid(np.array([1.0, 7.0, 5.0])), sigmoid(np.array([2.0, 6.0, 5.0]))
    np.testing.assert_allclose(curve.column("y")[series == "insertion, explained"], (kept_zero + kept_one) / 2)
    area = lambda y: (y[0] + 2 * y[1] + y[2]) / 4  # noqa: E731
    either = (area(zero) + area(sigmoid(np.array([5.0, 7.0, 1.0])))) / 2  # a first, b first: an order and its reverse
    assert found["deletion_gain", "zero"].estimate.value == pytest.approx(either - area(zero))


# --- planted maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", ["saliency", "integrated_gradients"])
def test_gradient_maps_of_a_trained_net_are_faithful(explainer: str, tmp_path: Path) -> None:
    found = measure(Faithfulness(explainer=explainer, samples=96), cnn(), digits(), tmp_path)
    assert len(found) == 6
    for measurement in found.values():
        assert CLEARLY_ABOVE.holds_for(*measurement.estimate.interval()), measurement


@pytest.mark.parametrize("explainer", ["random", "constant"])
def test_maps_that_owe_nothing_to_the_model_fail_at_a_small_margin(explainer: str, tmp_path: Path) -> None:
    found = measure(Faithfulness(explainer=explainer, samples=256), cnn(), digits(), tmp_path)
    for metric in ("deletion_gain", "insertion_gain"):
        low, high = found[metric, ""].estimate.interval()
        assert low < 0 < high
        assert MARGIN.misses(low, high)


def test_a_reversed_map_fails(tmp_path: Path) -> None:
    found = measure(Faithfulness(explainer="reversed", samples=64), cnn(), digits(), tmp_path)
    for measurement in found.values():
        assert CLEARLY_ABOVE.misses(*measurement.estimate.interval()), measurement


def test_no_gain_where_no_order_matters(tmp_path: Path) -> None:
    """A model that answers the same whatever it is given, in numbers that do not add up in binary."""
    model = audited(lambda x: torch.full((len(x), 3), 0.1) + 0 * x[:, :1], (5,), 3, kind="number")
    rows = rows_of(np.random.default_rng(0).normal(size=(30, 5)))
    for one in measure(Faithfulness(explainer="random", baselines=("zero", 1.0)), model, rows, tmp_path).values():
        assert one.estimate.interval() == (0, 0)


def test_ties_are_broken_at_random(tmp_path: Path) -> None:
    """In the order of the columns, a constant map would find the one that matters first every time."""
    model = audited(lambda x: x[:, 0], (8,), output="value", kind="number")
    x = 1 + np.random.default_rng(0).random((256, 8)) / 100
    found = measure(Faithfulness(explainer="constant", baselines=("zero", 0.1)), model, rows_of(x), tmp_path)
    low, high = found["deletion_gain", ""].estimate.interval()
    assert low < 0 < high
    assert high - low < 0.1


# --- what is removed, and with what ------------------------------------------------------------------------------


def test_a_pixel_goes_in_all_its_channels(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1).sum(dim=1)

    model = audited(forward, (3, 4, 4), output="value")
    x = np.random.default_rng(0).random((2, 3, 4, 4)).astype(np.float32) + 1
    rows = data(batch(x, np.zeros(2)))
    measure(Faithfulness(explainer="given", baselines=("zero", -1.0)), model, rows, tmp_path)
    for inputs in seen:
        for gone in (inputs == 0, inputs == -1):
            assert bool((gone.all(dim=1) == gone.any(dim=1)).all())
    counts = {int((inputs[row] <= 0).all(dim=0).sum()) for inputs in seen for row in range(len(inputs))}
    assert counts == set(range(17))


@pytest.mark.parametrize(("kind", "expected"), [("image", {"", "mean", "blur"}), ("number", {"", "mean", "rows"})])
def test_default_replacements(kind: str, expected: set[str], tmp_path: Path) -> None:
    shape = (1, 4, 4) if kind == "image" else (5,)
    model = audited(lambda x: x.flatten(1).sum(dim=1), shape, output="value", kind=kind)
    x = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    found = measure(Faithfulness(explainer="given"), model, data(batch(x, np.zeros(3)), kind=kind), tmp_path)
    assert {baseline for _, baseline in found} == expected


def table_model(forward: Callable[[Tensor], Tensor]) -> tuple[AuditedModel, AuditData]:
    spec = InputSpec(
        fields=(
            Field(name="age", kind="number"),
            Field(name="job", kind="category", categories=("clerk", "smith", "cook")),
        )
    )
    model = AuditedModel(
        name="table", digest="", task="regression", classes=(), output="value", spec=spec,
        capabilities=implied("value", gradients=False, layers=False), forward=forward,
    )  # fmt: skip
    members = batch(np.array([(20.0, 0), (30, 2), (40, 2), (np.nan, 1)]), np.zeros(4))
    return model, AuditData("toy", batch(np.array([(50.0, 1), (60, 1)]), np.zeros(2)), spec, (), members)


def test_the_mean_of_a_category_is_its_most_frequent_value(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return x.nan_to_num().sum(dim=1)

    model, rows = table_model(forward)
    measure(Faithfulness(explainer="given", baselines=("mean", "zero")), model, rows, tmp_path)
    ages, jobs = torch.cat(seen).unique(dim=0).T
    assert set(ages.tolist()) == {50.0, 60.0, 30.0, 0.0}
    assert set(jobs.tolist()) == {1.0, 2.0, 0.0}


def test_rows_are_drawn_from_the_background(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return x.nan_to_num().sum(dim=1)

    model, rows = table_model(forward)
    measure(Faithfulness(explainer="given", baselines=("rows", "zero")), model, rows, tmp_path)
    pairs = {tuple(row) for row in torch.cat(seen).nan_to_num(-1).tolist()}
    assert rows.train is not None
    assert pairs & {tuple(row) for row in np.nan_to_num(rows.train.x, nan=-1.0).tolist()}


def test_the_background_is_members_before_test_rows(tmp_path: Path) -> None:
    model, rows = table_model(lambda x: x.nan_to_num().sum(dim=1))
    with_members = measure(Faithfulness(explainer="given"), model, rows, tmp_path)
    assert with_members["deletion_gain", ""].cautions == ()
    alone = AuditData("toy", rows.test, rows.spec)
    without = measure(Faithfulness(explainer="given"), model, alone, tmp_path)
    assert "test rows" in without["deletion_gain", ""].cautions[0]


# --- models ------------------------------------------------------------------------------------------------------


def test_a_black_box_with_shap_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    labels = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(np.int64)
    estimator = LogisticRegression().fit(x, labels)
    spec = InputSpec(fields=tuple(Field(name=f"c{j}", kind="number") for j in range(4)))
    model = AuditedModel(
        name="table", digest="", task="classification", classes=("no", "yes"), output="probability", spec=spec,
        capabilities=implied("probability", gradients=False, layers=False),
        forward=lambda z: torch.as_tensor(estimator.predict_proba(z.numpy())),
    )  # fmt: skip
    rows = AuditData("toy", batch(x[:60], labels[:60]), spec, ("no", "yes"), batch(x[60:], labels[60:]))
    check = Faithfulness(explainer={"shap_values": {"background": 8}}, steps=4)
    found = measure(check, model, rows, tmp_path)
    for metric in ("deletion_gain", "insertion_gain"):
        assert CLEARLY_ABOVE.holds_for(*found[metric, ""].estimate.interval())
    maps = stored(found["deletion_gain", ""], "attributions", tmp_path)
    assert maps.meta["feature_names"] == ["c0", "c1", "c2", "c3"]
    assert maps.meta["input_kind"] == "table"
    assert set(maps.column("method")) == {"all coalitions, interventional, 8 background rows"}


def test_labels_alone_are_followed_as_they_flip(tmp_path: Path) -> None:
    model = audited(lambda x: (x[:, 0] > 0.5).long(), (4,), 2, output="label", kind="number", gradients=False)
    x = np.random.default_rng(0).random((40, 4)) * 0.1 + [1, 0, 0, 0]
    found = measure(Faithfulness(explainer="given", baselines=("zero", 0.1)), model, rows_of(x), tmp_path)
    measurement = found["deletion_gain", ""]
    # The label flips as soon as the first column goes: of 4 features in 4 steps that leaves an area of 1/8.
    assert any("labels only" in caution for caution in measurement.cautions)
    gains = stored(measurement, "outcomes", tmp_path).column("value")
    assert gains.max() <= 7 / 8 - 1 / 8
    assert CLEARLY_ABOVE.holds_for(*measurement.estimate.interval())


def test_the_target_is_the_prediction_or_the_label(tmp_path: Path) -> None:
    model = audited(lambda x: torch.stack([x[:, 0], x[:, 1]], dim=1), (2,), 2, kind="number")
    rows = rows_of([(3, 1), (2, 5)], [1, 1])
    for target, expected in (("prediction", {0, 1}), ("label", {1})):
        check = Faithfulness(explainer="given", baselines=("zero", 0.5), target=target)
        found = measure(check, model, rows, tmp_path)
        ref = next(r for r in found["deletion_gain", ""].evidence if r.kind == "attributions")
        maps = Evidence(tmp_path / ("run-0" if target == "prediction" else "run-1") / ref.path)
        assert set(maps.column("target").tolist()) == expected
        assert sorted(maps.column("prediction").tolist()) == [0, 1]
        assert maps.column("label").tolist() == [1, 1]


# --- what leaves in one piece ------------------------------------------------------------------------------------


class WordMap(Planted):
    """A random value for each word, as an explainer of words gives it."""

    def run(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Attribution:
        words = features_of(x, model.spec)
        values = words.spread(rng.uniform((x.shape[1],)).double()[:, : words.most])
        return Attribution(values, target, "logit", features=words)


LENGTHY = ("it was a remarkably uninspiring performance", "so is an astonishingly good one", "we go", "delightful", "")


def by_long_words() -> tuple[AuditedModel, AuditData]:
    """A model of texts that likes long words, and random texts: the case in which any map looks faithful against random orders."""
    rng = np.random.default_rng(0)
    vocabulary = sorted({word for text in LENGTHY for word in text.split()})
    texts = [" ".join(rng.choice(vocabulary, int(rng.integers(3, 9)))) for _ in range(150)]

    def share(found: list[str]) -> Any:
        long = np.array([sum(len(word) > 6 for word in text.split() if word[0].isascii()) for text in found])
        p = 1 / (1 + np.exp(1 - long))
        return np.stack([1 - p, p], axis=1)

    model = text_model(share)
    x = encode(texts, LENGTH)
    return model, AuditData("texts", batch(x, np.ones(len(x))), model.spec, model.classes)


@pytest.mark.parametrize("explainer", ["random", "constant", "by word"])
def test_long_words_help_no_map_that_owes_nothing_to_the_model(
    explainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"random": RandomMap, "constant": ConstantMap, "by word": WordMap}
    monkeypatch.setattr(names, "_installed", lambda group: {"mine": _Entry(kinds[explainer])})
    model, rows = by_long_words()
    found = measure(Faithfulness(explainer="mine", samples=150, target="label"), model, rows, tmp_path)
    for metric in ("deletion_gain", "insertion_gain"):
        low, high = found[metric, ""].estimate.interval()
        assert low < 0.005
        assert high > -0.005
        assert MARGIN.misses(low, high)


def test_words_of_one_length_are_chance() -> None:
    """What random orders are drawn by must not hang on which texts are together."""
    model = text_model(lambda found: np.zeros((len(found), 2)))
    x = torch.from_numpy(encode(["ab cd", "a bcde"], LENGTH))
    map_ = Attribution(torch.zeros(x.shape), torch.zeros(2, dtype=torch.int64), "logit")
    assert not alike(map_, features_of(x, model.spec))
    by_word = Attribution(map_.values, map_.target, "logit", features=features_of(x, model.spec))
    assert alike(by_word, features_of(x, model.spec))
    pixels = torch.zeros(1, 3, 4, 4)
    spec = audited(lambda z: z, (3, 4, 4)).spec
    plain = Attribution(pixels, torch.zeros(1, dtype=torch.int64), "logit")
    assert alike(plain, features_of(pixels, spec))
    assert alike(plain, features_of(pixels, spec, "patch", 2))
    assert not alike(plain, features_of(pixels, spec, "patch", 3))


def test_words_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """p = 1/2 with neither word, 1 with "good", 0 with "bad"; both words gone in one step each, blanks or U+FFFD in their place."""
    seen: set[str] = set()

    def answer(found: list[str]) -> Any:
        seen.update(found)
        p = np.array([(1 + ("good" in text) - ("bad" in text)) / 2 for text in found])
        return np.stack([1 - p, p], axis=1)

    class Given(Planted):
        def map(self, model: Any, x: Tensor, target: Tensor, background: Tensor, rng: Any) -> Tensor:
            return (x == ord("g")).float() - (x == ord("b")).float()

    monkeypatch.setattr(names, "_installed", lambda group: {"mine": _Entry(Given)})
    model = text_model(answer)
    rows = AuditData("t", batch(encode(["good or bad", "  "], LENGTH), [1, 1]), model.spec, model.classes)
    check = Faithfulness(explainer="mine", target="label", steps=3, random_orders=40)
    found = measure(check, model, rows, tmp_path)
    assert {baseline for _, baseline in found} == {"", "blank", "unknown"}
    assert {"good or    ", "     or bad", "\ufffd" * 4 + " or bad", "good or " + "\ufffd" * 3} <= seen
    gains = stored(found["deletion_gain", "blank"], "outcomes", tmp_path)
    curve = stored(found["deletion_gain", ""], "curve", tmp_path)
    # 1/2, 0, 0, 1/2 under the explained order, and no word at all in the second text, whose curve stays at 1/2
    explained = curve.column("y")[curve.column("series") == "deletion, explained"]
    np.testing.assert_allclose(explained, [1 / 2, 1 / 4, 1 / 4, 1 / 2])
    both = dict(zip(gains.ids, gains.column("value"), strict=True))
    assert both[rows.test.ids[1]] == 0
    assert 0.25 < both[rows.test.ids[0]] <= 0.5  # random orders: 1/2, f, f, 1/2 with f of 0, 1/2 and 1
    assert "1 of 2 rows hold no word that could leave" in found["deletion_gain", ""].cautions[-1]


def test_texts_of_a_trained_transformer(tmp_path: Path) -> None:
    check = Faithfulness(
        explainer={"layer_integrated_gradients": {"steps": 8}},
        samples=32,
        steps=6,
        random_orders=4,
        target="label",
        keep=2,
    )
    found = measure(check, trained(), tweet_data(60), tmp_path)
    for metric in ("deletion_gain", "insertion_gain"):
        assert MARGIN.holds_for(*found[metric, ""].estimate.interval())
    maps = stored(found["deletion_gain", ""], "attributions", tmp_path)
    assert maps.meta["unit"] == "token"
    assert maps.meta["input_kind"] == "text"
    curve = stored(found["deletion_gain", ""], "curve", tmp_path)
    assert curve.meta["x_label"] == "share of words removed or kept"
    assert len(set(curve.column("x").tolist())) == 7


def test_a_text_gets_the_same_gain_among_longer_ones(tmp_path: Path) -> None:
    model, rows = by_long_words()
    few = AuditData("t", rows.test.take(np.arange(3)), rows.spec, rows.classes)
    check = Faithfulness(explainer="random", samples=20, steps=4)
    gains = [
        stored(measure(check, model, part, tmp_path)["deletion_gain", "blank"], "outcomes", tmp_path, run)
        for run, part in enumerate((few, AuditData("t", rows.test.take(np.arange(20)), rows.spec, rows.classes)))
    ]
    alone, among = (dict(zip(g.ids, g.column("value").tolist(), strict=True)) for g in gains)
    assert {row: among[row] for row in alone} == pytest.approx(alone)


@pytest.mark.parametrize(("unit", "size", "pieces"), [("patch", 4, 4), ("patch", 3, 9), ("segment", 6, None)])
def test_pieces_of_an_image(unit: Any, size: int, pieces: int | None, tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1).sum(dim=1)

    model = audited(forward, (1, 8, 8), output="value")
    check = Faithfulness(explainer="given", samples=4, unit=unit, size=size, baselines=("zero", -1.0), steps=16)
    subject = torch.from_numpy(digits().test.x[:4] + 1)
    found = measure(check, model, data(batch(subject, np.zeros(4))), tmp_path)
    patterns = torch.cat([(x <= 0).flatten(1) for x in seen]).unique(dim=0)
    if pieces is not None:
        corners = torch.nn.functional.max_pool2d(patterns.reshape(-1, 1, 8, 8).float(), size, ceil_mode=True)
        assert corners[0].numel() == pieces
        assert set(corners.flatten(1).sum(dim=1).tolist()) == set(range(pieces + 1))
    number = features_of(subject, model.spec, unit, size).number.flatten(1)
    for gone in patterns:  # whole pieces of some image
        assert any(all(gone[image == piece].unique().numel() == 1 for piece in image.unique()) for image in number)
    assert CLEARLY_ABOVE.holds_for(*found["deletion_gain", ""].estimate.interval())
    curve = stored(found["deletion_gain", ""], "curve", tmp_path)
    assert curve.meta["x_label"] == f"share of {unit}s removed or kept"


@pytest.mark.parametrize("explainer", ["random", "constant"])
def test_large_segments_help_no_map_that_owes_nothing_to_the_model(explainer: str, tmp_path: Path) -> None:
    check = Faithfulness(explainer=explainer, samples=200, unit="segment", size=16, steps=4, random_orders=4)
    found = measure(check, cnn(), digits(), tmp_path)
    for metric in ("deletion_gain", "insertion_gain"):
        assert MARGIN.misses(*found[metric, ""].estimate.interval())


# --- what is stored, and that it repeats -------------------------------------------------------------------------


def test_what_is_stored(tmp_path: Path) -> None:
    check = Faithfulness(explainer={"integrated_gradients": {"steps": 20}}, samples=40, keep=3, steps=5)
    found = measure(check, cnn(), digits(), tmp_path)
    undivided = found["insertion_gain", ""]
    maps = stored(undivided, "attributions", tmp_path)
    assert len(maps) == 3
    assert maps.row(0)["values"].shape == (1, 8, 8)
    assert {"x", "values", "target", "prediction", "label", "score", "base_value", "error"} <= set(maps.fields)
    assert maps.meta["explainer"] == "integrated_gradients"
    assert maps.meta["parameters"]["steps"] == 20
    assert maps.meta["classes"] == [str(c) for c in range(10)]
    gains = stored(undivided, "outcomes", tmp_path)
    assert len(gains) == 40
    assert gains.column("value").mean() == pytest.approx(undivided.estimate.value)
    by_baseline = [stored(found["insertion_gain", b], "outcomes", tmp_path).column("value") for b in ("mean", "blur")]
    np.testing.assert_allclose(np.mean(by_baseline, axis=0), gains.column("value"))
    curve = stored(undivided, "curve", tmp_path)
    assert set(curve.column("series")) == {
        f"{what}, {which}" for what in ("deletion", "insertion") for which in ("explained", "random")
    }
    shares = curve.column("x")[curve.column("series") == "deletion, random"]
    np.testing.assert_allclose(shares, 1 - shares[::-1])
    assert (curve.column("low") <= curve.column("y")).all()
    assert (curve.column("y") <= curve.column("high")).all()
    assert (curve.column("high") <= 1).all()


def test_each_row_keeps_its_own_curves(tmp_path: Path) -> None:
    found = measure(Faithfulness(explainer="integrated_gradients", samples=6, steps=8), cnn(), digits(), tmp_path)
    maps = stored(found["deletion_gain", ""], "attributions", tmp_path)
    for position in range(len(maps)):
        row = maps.row(position)
        for kind, share in (("deletion", "removed"), ("insertion", "kept")):
            areas = {
                which: np.trapezoid(row[f"curve_{kind}_{which}"], row[f"curve_{share}"])
                for which in ("explained", "random")
            }
            sign = 1 if kind == "insertion" else -1
            gain = sign * (areas["explained"] - areas["random"])
            assert gain == pytest.approx(float(row[f"quality_{kind}_gain"]), abs=1e-12)
            assert (row[f"curve_{share}"][0], row[f"curve_{share}"][-1]) == (0, 1)
        assert row["curve_deletion_explained"][0] == row["curve_insertion_explained"][-1]
        assert row["curve_deletion_explained"][0] == pytest.approx(float(row["confidence"]))


def test_the_confidence_is_the_probability_of_the_predicted_class(tmp_path: Path) -> None:
    model = audited(lambda x: torch.stack([x[:, 0], x[:, 1]], dim=1), (2,), 2, kind="number")
    check = Faithfulness(explainer="given", baselines=("zero", 0.5), target="label")
    found = measure(check, model, rows_of([(0, 0), (0, np.log(3))], [0, 0]), tmp_path)
    maps = stored(found["deletion_gain", ""], "attributions", tmp_path)
    np.testing.assert_allclose(np.sort(maps.column("confidence")), [0.5, 0.75], rtol=1e-6)
    value = audited(lambda x: x.sum(dim=1), (2,), output="value", kind="number")
    found = measure(Faithfulness(explainer="given", baselines=("zero", 0.5)), value, rows_of([(1, 2)] * 2), tmp_path)
    assert "confidence" not in stored(found["deletion_gain", ""], "attributions", tmp_path, run=1).fields


def test_nothing_is_kept_where_nothing_is_asked_for(tmp_path: Path) -> None:
    found = measure(Faithfulness(explainer="given", samples=5, keep=0, steps=2), cnn(), digits(), tmp_path)
    assert "attributions" not in {ref.kind for ref in found["deletion_gain", ""].evidence}


def test_runs_repeat_whatever_the_order_of_the_data(tmp_path: Path) -> None:
    check = Faithfulness(explainer="saliency", samples=40, steps=4)
    first = measure(check, cnn(), digits(), tmp_path)
    again = measure(check, cnn(), digits(), tmp_path)
    assert {key: m.estimate for key, m in first.items()} == {key: m.estimate for key, m in again.items()}
    shuffled = AuditData(
        "toy", digits().test.take(np.arange(len(digits().test))[::-1]), digits().spec, digits().classes, digits().train
    )
    other = measure(check, cnn(), shuffled, tmp_path)
    gains = [stored(m["deletion_gain", ""], "outcomes", tmp_path, run) for m, run in ((first, 0), (other, 2))]
    by_id = [dict(zip(g.ids, g.column("value").tolist(), strict=True)) for g in gains]
    assert by_id[0] == pytest.approx(by_id[1], abs=1e-5)
    seeded = measure(check, cnn(), digits(), tmp_path, seed=1)
    assert seeded["deletion_gain", ""].estimate != first["deletion_gain", ""].estimate


def test_more_samples_hold_the_fewer(tmp_path: Path) -> None:
    few = measure(Faithfulness(explainer="given", samples=10, steps=2), cnn(), digits(), tmp_path)
    many = measure(Faithfulness(explainer="given", samples=20, steps=2), cnn(), digits(), tmp_path)
    ids = [set(stored(m["deletion_gain", ""], "outcomes", tmp_path, run).ids) for run, m in enumerate((few, many))]
    assert len(ids[0]) == 10
    assert ids[0] < ids[1]


def test_random_orders_and_background_change_what_is_asked(tmp_path: Path) -> None:
    asked = []
    for options in ({"random_orders": 2}, {"random_orders": 8}):
        model = cnn()
        measure(Faithfulness(explainer="given", samples=8, steps=4, **options), model, digits(), tmp_path)
        asked.append(model.rows_forward)
    # 2 replacements, 3 points between the ends, 8 rows: 48 rows per order
    assert asked[1] - asked[0] == 6 * 48
    estimates = [
        measure(Faithfulness(explainer="given", samples=8, steps=4, background=n), cnn(), digits(), tmp_path)
        for n in (1, 100)
    ]
    assert estimates[0]["deletion_gain", "mean"].estimate != estimates[1]["deletion_gain", "mean"].estimate
    assert estimates[0]["deletion_gain", "blur"].estimate == estimates[1]["deletion_gain", "blur"].estimate


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_incomplete_attributions_are_a_caution(tmp_path: Path) -> None:
    check = Faithfulness(explainer={"integrated_gradients": {"steps": 1, "max_steps": 1}}, samples=16, steps=2)
    cautions = measure(check, cnn(), digits(), tmp_path)["deletion_gain", ""].cautions
    assert any("do not add up" in caution for caution in cautions)


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="BrokenMap gave NaN"):
        measure(Faithfulness(explainer="broken", samples=4), cnn(), digits(), tmp_path)


def test_values_of_another_shape_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FlatMap gave values of shape"):
        measure(Faithfulness(explainer="flat", samples=4), cnn(), digits(), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explainer": "integrated_gradient"}, "did you mean 'integrated_gradients'"),
        (
            {"explainer": {"saliency": {"abs": True}}},
            "no parameter of explainer 'saliency' called 'abs'; known: absolute",
        ),
        ({"baselines": ("zero",)}, "two or more different"),
        ({"baselines": ("zero", "zero")}, "two or more different"),
        ({"random_orders": 3}, "multiple of 2"),
        ({"steps": 1}, "greater than or equal to 2"),
    ],
)
def test_mistakes_are_told_when_the_scenario_is_read(options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Faithfulness(**options)


def test_replacements_that_do_not_fit_are_told(tmp_path: Path) -> None:
    model = audited(lambda x: x.sum(dim=1), (2,), output="value", kind="number")
    with pytest.raises(UserError, match="needs an image"):
        measure(Faithfulness(explainer="given", baselines=("blur", "zero")), model, rows_of([(1, 2)]), tmp_path)
    with pytest.raises(UserError, match="unit 'patch' needs a size"):
        measure(Faithfulness(explainer="given", unit="patch"), cnn(), digits(), tmp_path)
    texts, tweets = by_long_words()
    for baselines, message in (
        (("blank", "rows"), "'rows' does not suit a text"),
        (("zero", "blank"), "'zero' does not suit a text: choose blank or unknown"),
    ):
        with pytest.raises(UserError, match=message):
            measure(Faithfulness(explainer="given", baselines=baselines), texts, tweets, tmp_path)
    with pytest.raises(UserError, match="'blank' does not suit a number"):
        measure(Faithfulness(explainer="given", baselines=("blank", "zero")), model, rows_of([(1, 2)]), tmp_path)


def test_it_needs_what_its_explainer_needs() -> None:
    assert Faithfulness(explainer="saliency").requirements() == {Capability.GRADIENTS}
    assert Faithfulness(explainer="shap_values").requirements() == frozenset()


def test_a_single_feature_leaves_no_order(tmp_path: Path) -> None:
    check = Faithfulness(samples=4, unit="patch", size=100)
    with pytest.raises(NotApplicable, match="every row is a single patch"):
        list(check.run(audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0)), digits(), context(tmp_path)))
