"""Corruptions: each against its definition, the check's numbers, and a planted pair."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.robustness import _image_corruptions as images
from audit.checks.robustness import _series_corruptions as series
from audit.checks.robustness import _table_corruptions as tables
from audit.checks.robustness.corruptions import Corruptions, _mce, _Source
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement, Proportion, part_name
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import UserError
from audit.plan import bind
from audit.rng import ExampleRng
from audit.scenario import parse
from audit.scenario.problems import ScenarioError
from audit.stored import Report

NAMES = [name for members in images.FAMILIES.values() for name in members]


def rng(n: int, purpose: str = "x") -> ExampleRng:
    return ExampleRng(0, "test", [str(i) for i in range(n)], purpose)


@cache
def photos(side: int, channels: int = 3) -> Tensor:
    """Two smooth colour images in 0..1."""
    drawn = torch.rand((2, channels, side, side), generator=torch.Generator().manual_seed(0)).numpy()
    return torch.from_numpy(np.stack([ndimage.gaussian_filter(image, (0, side / 16, side / 16)) for image in drawn]))


# --- images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3), (96, 3), (20, 2)])
def test_every_corruption_stays_an_image_and_changes_it(name: str, side: int, channels: int) -> None:
    x = photos(side, channels)
    changed = images.corrupt(x, name, 5, rng(2))
    assert changed.shape == x.shape
    assert bool(((changed >= 0) & (changed <= 1)).all())
    assert float((changed - x).abs().mean()) > 1e-3
    assert torch.equal(changed, images.corrupt(x, name, 5, rng(2)))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_corrupted_as_it_would_be_alone(name: str) -> None:
    x = photos(32)
    together = images.corrupt(x, name, 3, rng(2))
    alone = images.corrupt(x[1:], name, 3, rng(2).take([1]))
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("elastic", "snow", "pixelate", "frost", "fog")])
def test_a_higher_severity_changes_more(name: str) -> None:
    x = photos(96)
    change = [float((images.corrupt(x, name, s, rng(2)) - x).abs().mean()) for s in range(1, 6)]
    assert change == sorted(change)


def test_noise_has_the_moments_it_says() -> None:
    x = torch.full((4, 1, 100, 100), 0.5)

    def moments(name: str, severity: int = 1) -> tuple[float, float]:
        changed = images._BY_NAME[name](x, images._IMAGENET[name][severity - 1], 1.0, rng(4))
        return float(changed.mean()), float(changed.std())

    assert moments("gaussian_noise") == pytest.approx((0.5, 0.08), abs=0.003)
    assert moments("speckle_noise") == pytest.approx((0.5, 0.5 * 0.15), abs=0.003)
    assert moments("shot_noise") == pytest.approx((0.5, math.sqrt(0.5 / 60)), abs=0.003)
    salted = images.corrupt(x, "impulse_noise", 5, rng(4))
    assert float((salted != 0.5).float().mean()) == pytest.approx(0.27, abs=0.01)
    assert float((salted == 1).float().mean()) == pytest.approx(0.135, abs=0.01)


def test_blurs_against_scipy() -> None:
    x = photos(224)
    blurred = images.corrupt(x, "gaussian_blur", 2, rng(2))
    wanted = np.stack(
        [[ndimage.gaussian_filter(c, 2, mode="mirror", truncate=4) for c in image] for image in x.numpy()]
    )
    np.testing.assert_allclose(blurred.numpy(), wanted, atol=2e-5)
    point = torch.zeros(1, 1, 225, 225)
    point[..., 112, 112] = 1.0
    disk = images._defocus_blur(point, (4, 0.1), 1.0, rng(1))[0, 0]
    assert int((disk > 1e-6).sum()) == sum(a * a + b * b <= 16 for a in range(-4, 5) for b in range(-4, 5))
    assert float(disk.sum()) == pytest.approx(1, abs=1e-5)
    streak = images._along(point, 10, 3, torch.zeros(1))[0, 0]
    rows, columns = (streak > 1e-4).nonzero(as_tuple=True)
    assert rows.unique().tolist() == [112]
    assert columns.max() - columns.min() == pytest.approx(10, abs=2)
    assert float(streak.sum()) == pytest.approx(1, abs=1e-4)


def test_lengths_follow_the_size_of_the_image() -> None:
    """What a blur does to an image twice as large is what it does to the image, twice as large."""
    small, large = photos(112), nn.functional.interpolate(photos(112), scale_factor=2, mode="bilinear")
    for name in ("gaussian_blur", "zoom_blur"):
        a = images.corrupt(small, name, 3, rng(2))
        b = nn.functional.avg_pool2d(images.corrupt(large, name, 3, rng(2)), 2)
        assert float((a - b).abs().mean()) < 0.15 * float((a - small).abs().mean())
    eight, sixteen = (float(images._defocus_blur(p, (1.5, 0.1), 1.0, rng(2)).var()) for p in (photos(8), photos(16)))
    assert eight < float(photos(8).var()), "below 32 pixels a blur still blurs"
    assert sixteen < float(photos(16).var())


def test_brightness_moves_the_hsv_value_alone() -> None:
    import colorsys

    x = photos(32)
    changed = images.corrupt(x, "brightness", 2, rng(2))
    for before, after in zip(x[0].flatten(1).T[::50].tolist(), changed[0].flatten(1).T[::50].tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(h, s, min(v + 0.1, 1)), abs=1e-4)
    black = images.corrupt(torch.zeros(1, 3, 32, 32), "brightness", 2, rng(1))
    assert float(black.min()) == float(black.max()) == pytest.approx(0.1)


def test_contrast_and_fog_in_closed_form() -> None:
    x = photos(32)
    mean = x.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(images.corrupt(x, "contrast", 1, rng(2)), 0.75 * (x - mean) + mean)
    white = torch.ones(2, 1, 32, 32)
    fog = images.corrupt(white, "fog", 4, rng(2))
    assert float(fog.min()) == pytest.approx(0.5, abs=1e-5), "(1 + 1·0) · 1 / (1 + 1)"
    assert float(fog.max()) == pytest.approx(1.0, abs=1e-5)
    rough, smooth = (images._plasma(torch.zeros(4, 1, 64, 64), decay, rng(4)) for decay in (1.2, 3.0))
    assert float(rough.diff(dim=3).abs().mean()) > 2 * float(smooth.diff(dim=3).abs().mean())


def test_geometry_against_scipy() -> None:
    x = photos(96, 1)
    flipped = 2 * rng(2).integers(2) - 1
    turned = images.corrupt(x, "rotate", 5, rng(2))
    for image, result, sign in zip(x, turned, flipped.tolist(), strict=True):
        wanted = [
            ndimage.rotate(image[0].numpy(), way * 30 * sign, reshape=False, order=1, mode="mirror") for way in (1, -1)
        ]
        inner = slice(20, -20)
        assert min(np.abs(w[inner, inner] - result[0].numpy()[inner, inner]).max() for w in wanted) < 1e-3
    moved = images._sample(x, images._pixels(x) + x.new_tensor([3.0, -2.0]))
    torch.testing.assert_close(moved[..., 10:-10, 10:-10], x[..., 8:-12, 13:-7], atol=1e-5, rtol=0)
    for name in ("translate", "scale", "shear", "elastic"):
        for side in (32, 96):
            flat = torch.full((2, 1, side, side), 0.3)
            torch.testing.assert_close(images.corrupt(flat, name, 5, rng(2)), flat, atol=1e-5, rtol=0)


def test_digital_corruptions_against_their_definition() -> None:
    x = photos(96)
    pixels = images.corrupt(x, "pixelate", 2, rng(2))
    torch.testing.assert_close(pixels, nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3))
    losses = [float((images.corrupt(x, "jpeg", s, rng(2)) - x).abs().mean()) for s in (1, 5)]
    assert 0 < losses[0] < losses[1] < 0.1


# --- tables and series -------------------------------------------------------------------------------------------

SPEC = InputSpec(
    fields=(
        Field(name="income", kind="number"),
        Field(name="age", kind="number"),
        Field(name="home", kind="category", categories=("rent", "own", "other")),
        Field(name="only", kind="category", categories=("one",)),
    )
)


def table(n: int) -> Tensor:
    drawn = np.random.default_rng(0)
    columns = [drawn.uniform(1, 9, n), drawn.uniform(20, 60, n), drawn.integers(0, 3, n), np.zeros(n)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))


def test_cells_of_a_table_are_hit_at_the_rate_of_the_severity() -> None:
    x = table(2000)
    absent = torch.full((4,), torch.nan)
    hit = {s: tables.corrupt(x, "missing_values", s, rng(2000), SPEC, absent).isnan() for s in range(1, 6)}
    for severity, found in hit.items():
        assert float(found.double().mean()) == pytest.approx(tables.SHARE[severity - 1], abs=0.01)
        assert bool((found <= hit[5]).all()), "what is hit at one severity is hit at the next"
    errors = tables.corrupt(x, "unit_errors", 5, rng(2000), SPEC, absent)
    ratio = (errors / x)[:, :2]
    assert torch.equal(errors[:, 2:], x[:, 2:])
    assert {round(v, 6) for v in ratio.unique().tolist()} <= {round(f, 6) for f in (*tables.FACTORS, 1.0)} | {1.0}
    assert float((ratio != 1).double().mean()) == pytest.approx(0.4, abs=0.02)
    swapped = tables.corrupt(x, "swapped_categories", 5, rng(2000), SPEC, absent)
    assert torch.equal(swapped[:, [0, 1, 3]], x[:, [0, 1, 3]])
    changed = swapped[:, 2] != x[:, 2]
    assert float(changed.double().mean()) == pytest.approx(0.4, abs=0.03)
    assert set(swapped[:, 2].tolist()) == {0.0, 1.0, 2.0}


def test_stand_ins_are_medians_and_commonest_categories() -> None:
    x = torch.tensor([[1.0, 5.0, 0.0, 0.0], [2.0, torch.nan, 2.0, 0.0], [9.0, 7.0, 2.0, 0.0]], dtype=torch.float64)
    assert tables.stand_ins(x, SPEC).tolist() == [2.0, 6.0, 2.0, 0.0]
    numbers = InputSpec(fields=(Field(name="a", kind="number"),))
    assert set(tables.applicable(numbers)) == {"missing", "units"}


def test_series_corruptions_in_closed_form() -> None:
    x = torch.sin(torch.linspace(0, 60, 4000))[None] * torch.tensor([[1.0], [3.0]])
    noisy = series.corrupt(x, "white_noise", 2, rng(2))
    for clean, changed in zip(x, noisy, strict=True):
        assert 20 * math.log10(float(clean.norm() / (changed - clean).norm())) == pytest.approx(20, abs=0.3)
    gains = (series.corrupt(x, "gain", 3, rng(2)).norm(dim=1) / x.norm(dim=1)).log10() * 20
    assert gains.abs().tolist() == pytest.approx([6, 6], abs=1e-3)
    clipped = series.corrupt(x, "clipping", 2, rng(2))
    assert clipped.abs().amax(dim=1).tolist() == pytest.approx([0.6, 1.8], abs=1e-3)
    gap = series.corrupt(torch.ones(2, 1, 1000), "dropout", 5, rng(2)) == 0
    assert gap.sum(dim=2).flatten().tolist() == [400, 400]
    assert bool((gap.int().diff(dim=2).abs().sum(dim=2) <= 2).all()), "one gap, without a break"


# --- the check ---------------------------------------------------------------------------------------------------


def measured(
    check: Corruptions, model: AuditedModel, rows: AuditData, tmp_path: Path, **options: Any
) -> dict[str, Measurement]:
    found = list(check.run(model, rows, context(tmp_path, **options)))
    declared = {metric.name: metric.kinds for metric in Corruptions.metrics}
    assert all(m.estimate.kind in declared[m.metric] for m in found)
    by_name = {part_name(m.metric, m.dims): m for m in found}
    assert len(by_name) == len(found)
    return by_name


def some_digits(n: int = 60) -> AuditData:
    return data(digits().test.take(np.arange(n)), n_classes=10, bounds=(0.0, 16.0))


def digit_model(net: Any = None) -> AuditedModel:
    return audited(net or trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def test_the_mean_is_over_all_corruptions_and_severities(tmp_path: Path) -> None:
    found = measured(Corruptions(severities=(5, 1)), digit_model(), some_digits(40), tmp_path)
    parts = [found[f"accuracy[corruption={name}]"].estimate.value for name in NAMES]  # type: ignore[union-attr]
    whole = found["accuracy"].estimate
    assert whole.kind == "mean"
    assert whole.n == 40
    assert whole.value == pytest.approx(np.mean(parts))
    families = [found[f"accuracy[family={name}]"].estimate.value for name in images.FAMILIES]  # type: ignore[union-attr]
    assert whole.value == pytest.approx(np.mean(families))
    assert found["clean_accuracy"].estimate.value - whole.value == pytest.approx(  # type: ignore[union-attr]
        found["accuracy_drop"].estimate.value  # type: ignore[union-attr]
    )
    mild, strong = (found[f"accuracy[severity={s}]"].estimate.value for s in (1, 5))  # type: ignore[union-attr]
    assert mild > strong + 0.1
    assert "accuracy[severity=3]" not in found
    kinds = {ref.kind for ref in found["accuracy"].evidence}
    assert kinds == {"outcomes", "curve", "table", "adversarial"}


def test_families_samples_and_keep_change_what_is_done(tmp_path: Path) -> None:
    found = measured(Corruptions(families=("digital",), samples=20, keep=0), digit_model(), some_digits(), tmp_path)
    assert found["accuracy"].estimate.n == 20
    assert {m.dims["corruption"] for m in found.values() if "corruption" in m.dims} == set(images.FAMILIES["digital"])
    assert not [ref for ref in found["accuracy"].evidence if ref.kind == "adversarial"]
    with pytest.raises(UserError, match="knows no corruptions of family typos"):
        measured(Corruptions(families=("typos",)), digit_model(), some_digits(), tmp_path)


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    model, check = digit_model(), Corruptions(families=("noise", "geometric"), severities=(4,))
    whole = measured(check, model, some_digits(), tmp_path)["accuracy"].estimate
    model.micro_batch = 7
    assert measured(check, model, some_digits(), tmp_path)["accuracy"].estimate == whole


class Halves(nn.Module):
    """Class 1 where the right half is brighter."""

    def forward(self, x: Tensor) -> Tensor:
        margin = x[..., 4:].mean(dim=(1, 2, 3)) - x[..., :4].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


class Corner(nn.Module):
    """Class 1 where one pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        margin = x[:, 0, 0, 7] - 8.0
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


@cache
def halves(n: int = 80) -> AuditData:
    """Images whose one half is bright: a broad sign and a single pixel both tell the class."""
    drawn = np.random.default_rng(0)
    labels = drawn.integers(0, 2, n)
    x = drawn.uniform(2, 6, (n, 1, 8, 8))
    for image, label in zip(x, labels, strict=True):
        image[0, :, 4 * label : 4 * label + 4] += 8
    return data(batch(x.astype(np.float32), labels), bounds=(0.0, 16.0))


def go(tmp_path: Path, net: nn.Module, params: str, require: str, **models: AuditedModel) -> Report:
    text = (
        "name: c\nmodel: toy\ndata: {source: given}\nthreads: 1\n"
        + (f"models: {{{', '.join(f'{name}: {name}' for name in models)}}}\n" if models else "")
        + f"checks:\n  - robustness.corruptions: {params}\n    require: {require}\n"
    )
    toy = audited(net, (1, 8, 8), 2, bounds=(0.0, 16.0))
    return run(parse(text), home=tmp_path, models={"toy": toy, **models}, data=halves())


def test_a_comparison_survives_the_weather_and_a_fixed_threshold_does_not(tmp_path: Path) -> None:
    params = "{families: [weather], severities: [5]}"
    for net, status in ((Halves(), "pass"), (Corner(), "fail")):
        report = go(tmp_path, net, params, '{accuracy: ">= 0.95", clean_accuracy: ">= 0.95"}')
        found = {f.metric: f for f in report.findings if f.gated}
        assert found["clean_accuracy"].status == "pass"
        assert found["accuracy"].status == status, found["accuracy"].message


def test_mce_is_one_against_itself_and_more_against_a_better_reference(tmp_path: Path) -> None:
    corner = audited(Corner(), (1, 8, 8), 2, bounds=(0.0, 16.0), name="ref")
    params = "{families: [weather], severities: [4, 5], reference: ref}"
    itself = go(tmp_path, Corner(), params, '{mce: "<= 1.01"}', ref=corner)
    found = next(f for f in itself.findings if f.gated)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(1)
    broad = audited(Halves(), (1, 8, 8), 2, bounds=(0.0, 16.0), name="ref")
    worse = next(f for f in go(tmp_path, Corner(), params, '{mce: "< 2"}', ref=broad).findings if f.gated)
    assert worse.status == "fail"
    assert any("counted as one error" in caution for caution in worse.cautions)


def test_mce_in_closed_form(tmp_path: Path) -> None:
    """Errors of all severities together, a ratio for each corruption, then their mean: (10/20 + 30/10) / 2."""
    wrong = torch.zeros((2, 40, 2, 2), dtype=torch.bool)
    wrong[0, :10, 0, 0] = wrong[1, :10, 0, 0] = wrong[1, 20:30, 0, 1] = True
    wrong[0, :30, 1, 1] = wrong[1, :10, 1, 0] = True
    source = _Source({"noise": ("a", "b")}, lambda x, *_: x)
    found = _mce(~wrong, source, context(tmp_path)).estimate
    assert found.value == pytest.approx((10 / 20 + 30 / 10) / 2)
    low, high = found.interval()
    assert 1 < low < found.value < high


def test_a_reference_for_another_task_is_refused(tmp_path: Path) -> None:
    other = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0), name="ref")
    report = go(tmp_path, Halves(), "{reference: ref}", '{mce: "< 2"}', ref=other)
    found = next(f for f in report.findings if f.gated)
    assert found.status == "error"
    assert "same task" in found.message


def test_all_right_is_judged_as_a_rate(tmp_path: Path) -> None:
    found = measured(Corruptions(families=("digital",), severities=(1,)), audited(Halves(), (1, 8, 8), 2, bounds=(0.0, 16.0)), halves(), tmp_path)  # fmt: skip
    assert found["accuracy"].estimate == Proportion(k=80, n=80)


def tabular(takes_missing: bool) -> AuditedModel:
    def forward(x: Tensor) -> Tensor:
        if not takes_missing and bool(x.isnan().any()):
            raise ValueError("Input contains NaN")
        margin = x[:, 0].nan_to_num(nan=5.0) - 5
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    return AuditedModel(
        name="t", digest="t", task="classification", classes=("0", "1"), spec=SPEC, output="logit",
        capabilities=implied("logit", gradients=False, layers=False), forward=forward,
    )  # fmt: skip


@pytest.mark.parametrize("takes_missing", [True, False])
def test_tables_lose_what_the_hit_column_carried(tmp_path: Path, takes_missing: bool) -> None:
    x = table(300).numpy()
    rows = AuditData("toy", batch(x, (x[:, 0] > 5).astype(np.int64)), SPEC, ("0", "1"))
    found = measured(Corruptions(), tabular(takes_missing), rows, tmp_path)
    assert found["accuracy[family=categories]"].estimate.value == 1, "the model does not look at them"
    missing = found["accuracy[family=missing,severity=5]"].estimate.value  # type: ignore[union-attr]
    assert missing == pytest.approx(1 - 0.4 / 2, abs=0.06), "the middle value is a toss-up"
    assert found["accuracy[family=units,severity=5]"].estimate.value < 0.9  # type: ignore[union-attr]
    assert bool(found["accuracy"].cautions) == (not takes_missing)


def test_series_stay_in_their_bounds(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.stack([x.sum(dim=1), -x.sum(dim=1)], dim=1)

    x = np.random.default_rng(0).uniform(-1, 1, (12, 50)).astype(np.float32)
    model = audited(forward, (50,), bounds=(-1.0, 1.0), kind="series")
    rows = data(batch(x, (x.sum(axis=1) < 0).astype(np.int64)), bounds=(-1.0, 1.0), kind="series")
    found = measured(Corruptions(), model, rows, tmp_path)
    assert max(float(part.abs().max()) for part in seen) <= 1
    assert {m.dims["family"] for m in found.values() if "family" in m.dims} == set(series.FAMILIES)


def test_texts_take_the_families_of_texts(tmp_path: Path) -> None:
    from audit.checks.robustness._text_corruptions import FAMILIES
    from audit.text import encode

    texts = ["the service was very good indeed", "what a bad, bad meal that was"] * 6
    codes = np.asarray(encode(texts, 60))

    def forward(x: Tensor) -> Tensor:
        good = ((x[:, :-1] == ord("g")) & (x[:, 1:] == ord("o"))).any(dim=1).float()
        return torch.stack([1 - good, good], dim=1)

    model = audited(forward, (60,), kind="text", gradients=False)
    rows = data(batch(codes, np.array([1, 0] * 6)), kind="text")
    found = measured(Corruptions(), model, rows, tmp_path)
    assert found["clean_accuracy"].estimate.value == 1
    assert {m.dims["family"] for m in found.values() if "family" in m.dims} == set(FAMILIES)
    assert found["accuracy[family=ocr,severity=5]"].estimate.value < 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ("{families: [nois]}", "did you mean 'noise'"),
        ("{severities: [6]}", "less than or equal to 5"),
        ("{families: []}", "at least 1"),
        ("{sevrities: [1]}", "sevrities"),
    ],
)
def test_a_typo_costs_one_line(params: str, wanted: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        bind(parse(f"name: c\nmodel: toy\ndata: {{source: given}}\nchecks:\n  - robustness.corruptions: {params}\n"))
    assert wanted in str(caught.value)


def test_an_image_without_bounds_is_told_where_to_declare_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bounds"):
        measured(Corruptions(), audited(trained_cnn(), (1, 8, 8), 10), some_digits(), tmp_path)
