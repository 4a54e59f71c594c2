"""Infidelity through the check's own run: the two known values of linear models, captum's numbers, planted maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_maps import install
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from texts import rows as encoded
from texts import word_model
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation._perturbations import Perturbing
from audit.checks.explanation.infidelity import Infidelity
from audit.data import AuditData
from audit.engine import run
from audit.explainers._features import features_of
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable
from audit.rng import ExampleRng
from audit.run_folder import Evidence
from audit.scenario import parse

GRADIENT = {"saliency": {"absolute": False}}
TIMES_INPUT = "input_x_gradient"
EVERY = ("gaussian", "noisy_baseline", "removal")
W = torch.tensor([3.0, -2.0, 1.0, 0.5, 0.0])


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def measure(
    model: AuditedModel, rows: AuditData, tmp_path: Path, explainer: Any = GRADIENT, **options: Any
) -> dict[tuple[str, str], Measurement]:
    """Measurements by metric and perturbation; the undivided one under ''."""
    found = list(Infidelity(explainer=explainer, **options).run(model, rows, context(tmp_path)))
    return {(m.metric, m.dims.get("perturbation", "")): m for m in found}


def value(found: dict[tuple[str, str], Measurement], metric: str, kind: str = "") -> float:
    return found[metric, kind].estimate.value


def linear() -> tuple[AuditedModel, AuditData]:
    model = audited(lambda x: x @ W.to(x), (5,), output="value", kind="number")
    x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    return model, data(batch(x, np.zeros(12)), kind="number")


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


# --- known values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("explainer", "options"),
    [
        (GRADIENT, {}),
        ({"integrated_gradients": {"baseline": "zero"}}, {"baseline": "zero"}),
        ({"integrated_gradients": {"baseline": "mean"}}, {}),
        ({"integrated_gradients": {"baseline": 0.3}}, {"baseline": 0.3}),
        (TIMES_INPUT, {"baseline": "zero"}),
        ({"smoothgrad": {"samples": 2}}, {}),
    ],
)
def test_a_linear_model_is_foretold_by_its_weights_and_by_its_contributions(
    explainer: Any, options: Any, tmp_path: Path
) -> None:
    found = measure(*linear(), tmp_path, explainer, perturbations=EVERY, **options)
    assert {kind for _, kind in found} == {"", *EVERY}
    for measurement in found.values():
        assert measurement.estimate.value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("explainer", "options"),
    [
        ({"integrated_gradients": {"baseline": "zero"}}, {"contributions": False, "baseline": "zero"}),
        ({"integrated_gradients": {"baseline": "zero"}}, {"baseline": 0.5}),
        (GRADIENT, {"contributions": True}),
        ("doubled", {}),
        ("random_map", {}),
    ],
)
def test_the_wrong_reading_of_a_map_misses(explainer: Any, options: Any, tmp_path: Path) -> None:
    found = measure(*linear(), tmp_path, explainer, perturbations=EVERY, **options)
    assert value(found, "normalised_infidelity") > 0.1


def test_a_map_of_zeros_has_one_and_twice_the_truth_too(tmp_path: Path) -> None:
    for explainer in ("no_map", "doubled"):
        found = measure(*linear(), tmp_path, explainer)
        assert value(found, "normalised_infidelity") == pytest.approx(1)


def test_the_best_scale_makes_up_for_a_wrong_one(tmp_path: Path) -> None:
    assert value(measure(*linear(), tmp_path, "doubled", optimal_scaling=True), "infidelity") == pytest.approx(
        0, abs=1e-9
    )
    zeros = measure(*linear(), tmp_path, "no_map", optimal_scaling=True)
    assert value(zeros, "normalised_infidelity") == pytest.approx(1)


def test_a_squared_model_by_hand(tmp_path: Path) -> None:
    """f = x² + y² at (1, 2) from 0: the gradient is (2, 4). One of two goes: the map foretells 2 or 8, 1 or 4 is lost. Half of
    each in the long run: error (1 + 16) / 2, drop (1 + 16) / 2. The contributions (1, 4) are right."""
    model = audited(lambda x: x.square().sum(dim=1), (2,), output="value", kind="number")
    rows = data(batch(np.array([[1, 2]], dtype=np.float32), np.zeros(1)), kind="number")
    options = {"perturbations": ("removal",), "size": 0.5, "baseline": "zero", "draws": 2000}
    slopes = measure(model, rows, tmp_path, GRADIENT, **options)
    assert value(slopes, "infidelity") == pytest.approx(8.5, rel=0.1)
    assert value(slopes, "normalised_infidelity") == pytest.approx(1)
    whole = measure(model, rows, tmp_path, {"integrated_gradients": {"baseline": "zero"}}, **options)
    assert value(whole, "infidelity") == pytest.approx(0, abs=1e-9)


# --- the reference -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("contributions", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_captum_s_numbers_with_the_same_perturbations(
    kind: Any, contributions: bool, scaled: bool, tmp_path: Path
) -> None:
    from captum.metrics import infidelity

    explainer = {"integrated_gradients": {"steps": 8, "max_steps": 8}} if contributions else GRADIENT
    check = Infidelity(explainer=explainer, perturbations=(kind,), samples=6, draws=5, optimal_scaling=scaled)
    ctx, model = context(tmp_path), cnn()
    found = next(iter(check.run(model, digits(), ctx)))
    subject = check.subject(model, digits(), ctx)
    maps = next(Evidence(tmp_path / "run-0" / ref.path) for ref in found.evidence if ref.kind == "attributions")
    perturbing = Perturbing(kind, model.spec, torch.tensor(1.6), 0.25, contributions)
    features = features_of(subject.x, model.spec)
    rng = ExampleRng(ctx.seed, ctx.check_id, subject.batch.ids, kind)
    (drawn,) = perturbing.draws(subject.x, torch.zeros_like(subject.x), features, 5, rng)
    expected = infidelity(
        lambda x, target: model.target_score(x, target).double(),
        lambda _: (drawn.weight.flatten(0, 1), drawn.x.flatten(0, 1)),
        subject.x,
        torch.from_numpy(maps.column("values").copy()).double(),
        additional_forward_args=subject.target,
        n_perturb_samples=5,
        normalize=scaled,
    )
    per_row = Evidence(tmp_path / "run-0" / found.evidence[0].path).column("value")
    np.testing.assert_allclose(per_row, expected, rtol=1e-5, atol=1e-7)


# --- planted maps ------------------------------------------------------------------------------------------------


def test_maps_of_a_trained_net_foretell_and_a_random_one_does_not(tmp_path: Path) -> None:
    gate = Gate.parse("<= 0.9")
    options = {"samples": 48, "draws": 20, "perturbations": ("gaussian",), "noise": 0.02}
    own = measure(cnn(), digits(), tmp_path, GRADIENT, **options)
    random = measure(cnn(), digits(), tmp_path, "random_map", **options)
    assert gate.holds_for(*own["normalised_infidelity", ""].estimate.interval())
    assert gate.misses(*random["normalised_infidelity", ""].estimate.interval())
    assert value(own, "infidelity") < value(random, "infidelity")


def test_contributions_foretell_removals_better_than_slopes(tmp_path: Path) -> None:
    options = {"samples": 48, "draws": 20, "perturbations": ("removal",), "size": 0.75}
    slopes = measure(cnn(), digits(), tmp_path, GRADIENT, **options)
    whole = measure(cnn(), digits(), tmp_path, "integrated_gradients", **options)
    assert (
        whole["normalised_infidelity", ""].estimate.interval()[1]
        < slopes["normalised_infidelity", ""].estimate.interval()[0]
    )


# --- what is changed ---------------------------------------------------------------------------------------------


def drawn(kind: Any, x: Any, spec: InputSpec, size: float = 0.25, count: int = 200, **options: Any) -> Any:
    x = torch.as_tensor(x, dtype=torch.float32) if spec.kind != "text" else torch.as_tensor(x)
    perturbing = Perturbing(
        kind, spec, options.pop("noise", torch.tensor(0.5)), size, options.pop("contributions", False)
    )
    rng = ExampleRng(0, "", [str(i) for i in range(len(x))], kind)
    baseline = options.pop("baseline", torch.zeros_like(x))
    parts = list(perturbing.draws(x, baseline, features_of(x, spec), count, rng))
    return x, torch.cat([p.x for p in parts], dim=1), torch.cat([p.weight for p in parts], dim=1)


def spec_of(kind: str, shape: tuple[int, ...], bounds: tuple[float, float] | None = None) -> InputSpec:
    return InputSpec(fields=(Field(name="x", kind=kind, shape=shape, bounds=bounds),))


def test_squares_are_square_cross_all_channels_and_reach_every_pixel() -> None:
    _, moved, weight = drawn("removal", torch.ones(2, 3, 8, 6), spec_of("image", (3, 8, 6)), size=0.5)
    gone = moved == 0
    assert torch.equal(gone, weight == 1)
    assert bool((gone.sum(dim=(3, 4)) == 9).all())  # half of the shorter side: three by three, in each channel
    assert bool((gone.all(dim=2) == gone.any(dim=2)).all())
    assert bool(gone.any(dim=1).all())
    rows_hit, columns_hit = gone[0, 0, 0].any(dim=1), gone[0, 0, 0].any(dim=0)
    assert (rows_hit.sum(), columns_hit.sum()) == (3, 3)


def test_windows_of_a_series_are_one_stretch() -> None:
    _, moved, _ = drawn("removal", torch.ones(2, 2, 12), spec_of("series", (2, 12)), size=0.25)
    gone = moved == 0
    assert bool((gone.sum(dim=3) == 3).all())
    assert bool((gone[..., 1:] & ~gone[..., :-1]).sum(dim=3).le(1).all())
    assert bool(gone.any(dim=1).all())


def test_random_columns_and_words() -> None:
    _, moved, _ = drawn("removal", torch.ones(2, 10), spec_of("number", (10,)), size=0.3)
    assert bool(((moved == 0).sum(dim=2) == 3).all())
    texts = encoded(["one two three", "alone"], 16)
    spec = spec_of("text", (16,))
    _, moved, weight = drawn(
        "removal", texts, spec, size=0.34, contributions=True, baseline=torch.where(texts > 0, 32, texts)
    )
    said = {"".join(map(chr, row)).rstrip("\x00") for row in moved[0].tolist()}
    assert {s.strip() for s in said} == {"two three", "one     three", "one two"}
    assert {"".join(map(chr, row)).strip("\x00 ") for row in moved[1].tolist()} == {""}
    assert bool((weight[0] == (moved[0] != texts[0])).all())


def test_noise_has_its_size_stays_in_its_box_and_leaves_what_is_at_its_baseline() -> None:
    spec = spec_of("number", (3,), (0.0, 100.0))
    x, moved, weight = drawn("gaussian", [[50.0, 100.0, 0.0]], spec, count=4000, noise=torch.tensor(5.0))
    assert float((moved - 50)[..., 0].std()) == pytest.approx(5, rel=0.05)
    assert moved[..., 1:].min() >= 0
    assert moved[..., 1].max() == 100
    torch.testing.assert_close(weight, (x[:, None] - moved).double())
    _, moved, weight = drawn("gaussian", [[50.0, 100.0, 0.0]], spec, noise=torch.tensor(5.0), contributions=True)
    assert bool((moved[..., 2] == 0).all())
    assert bool((weight[..., 2] == 0).all())
    torch.testing.assert_close(weight[..., 0], (50 - moved[..., 0].double()) / 50)
    _, moved, _ = drawn(
        "noisy_baseline",
        [[50.0, 100.0, 60.0]],
        spec,
        count=4000,
        noise=torch.tensor(2.0),
        baseline=torch.full((1, 3), 20.0),
    )
    assert moved.mean(dim=1).flatten().tolist() == pytest.approx([20, 20, 20], abs=0.2)


def test_categories_and_missing_values_get_no_noise() -> None:
    spec = InputSpec(fields=(Field(name="a", kind="number"), Field(name="b", kind="category", categories=("x", "y"))))
    noise = torch.tensor([1.0, 0.0])
    _, moved, weight = drawn("gaussian", [[float("nan"), 1.0], [2.0, 0.0]], spec, noise=noise)
    assert bool(moved[0, :, 0].isnan().all())
    assert bool((moved[..., 1] == torch.tensor([[1.0], [0.0]])).all())
    assert bool(weight.isfinite().all())
    assert float(weight[1, :, 0].abs().min()) > 0


def test_draws_are_the_same_however_many_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in EVERY:
        options = (kind, torch.rand(2, 1, 6, 6), spec_of("image", (1, 6, 6)))
        _, whole, _ = drawn(*options, count=7)
        with monkeypatch.context() as patch:
            patch.setattr("audit.checks.explanation._perturbations._ELEMENTS", 150)
            _, parts, _ = drawn(*options, count=7)
        torch.testing.assert_close(whole, parts, rtol=0, atol=0)


# --- models and options ------------------------------------------------------------------------------------------


def test_noise_size_and_draws_change_the_number(tmp_path: Path) -> None:
    model, rows = audited(lambda x: x.square().sum(dim=1), (5,), output="value", kind="number"), linear()[1]
    values = [
        value(measure(model, rows, tmp_path, GRADIENT, **{"baseline": "zero", **options}), "infidelity")
        for options in ({}, {"noise": 0.5}, {"size": 0.8}, {"draws": 20}, {"baseline": 1.0})
    ]
    assert len(set(values)) == 5


def test_texts_lose_words(tmp_path: Path) -> None:
    model = word_model()
    texts = AuditData(
        "toy", batch(encoded(["superb film", "dull film"]), np.zeros(2, dtype=np.int64)), model.spec, model.classes
    )
    with pytest.raises(NotApplicable, match="set contributions to true"):
        measure(model, texts, tmp_path, "no_map", contributions=False)
    found = measure(model, texts, tmp_path, "no_map", draws=4)
    assert set(found) == {
        (metric, kind) for metric in ("infidelity", "normalised_infidelity") for kind in ("", "removal")
    }
    assert value(found, "normalised_infidelity") == pytest.approx(1)


def test_a_black_box_of_probabilities(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    labels = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(np.int64)
    estimator = LogisticRegression().fit(x, labels)
    spec = InputSpec(fields=tuple(Field(name=f"c{j}", kind="number") for j in range(4)))
    model = AuditedModel(
        name="table", digest="", task="classification", classes=("no", "yes"), output="probability", spec=spec,
        capabilities=implied("probability", gradients=False, layers=False),
        forward=lambda z: torch.as_tensor(estimator.predict_proba(z.numpy())), native=estimator,
    )  # fmt: skip
    rows = AuditData("toy", batch(x[:40], labels[:40]), spec, ("no", "yes"), batch(x[40:], labels[40:]))
    found = measure(model, rows, tmp_path, "exact_shap", draws=20, perturbations=("removal",))
    assert found["normalised_infidelity", ""].estimate.interval()[1] < 0.5


def test_a_ratio_of_few_rows_decides_nothing(tmp_path: Path) -> None:
    """Resampled, one row always is itself: an interval without width."""
    few = measure(cnn(), digits(), tmp_path, samples=19)["normalised_infidelity", ""]
    assert "19 rows are too few" in str(few.unresolved)
    enough = measure(cnn(), digits(), tmp_path, samples=20)["normalised_infidelity", ""]
    assert enough.unresolved is None


def test_sizes_without_signs_are_a_caution(tmp_path: Path) -> None:
    found = measure(*linear(), tmp_path, "saliency")
    assert "no value of saliency is negative" in found["infidelity", ""].cautions[-1]


def test_a_score_that_never_moves_is_an_error(tmp_path: Path) -> None:
    model = audited(lambda x: x.sum(dim=1) * 0, (5,), output="value", kind="number")
    with pytest.raises(ArithmeticError, match="never moves"):
        measure(model, linear()[1], tmp_path, "random_map")


@pytest.mark.parametrize(
    "options",
    [{"perturbations": ("removal", "removal")}, {"noise": 0}, {"size": 2}, {"draws": 1}, {"perturbations": ("blur",)}],
)
def test_mistakes_are_told_when_the_scenario_is_read(options: Any) -> None:
    with pytest.raises(ValidationError):
        Infidelity(**options)


def test_from_a_scenario_to_a_verdict(tmp_path: Path) -> None:
    text = (
        "name: foretold\nmodel: toy\ndata: {source: given}\nchecks:\n"
        "  - explanation.infidelity: {explainer: {saliency: {absolute: false}}, samples: 20, draws: 10, noise: 1/50}\n"
        "    require: {'normalised_infidelity[perturbation=gaussian]': '<= 0.9', normalised_infidelity: '<= 1e-6'}\n"
    )
    report = run(parse(text), home=tmp_path, models={"toy": cnn()}, data=digits())
    gated = {f.gate: f.status for f in report.findings if f.gated}
    assert gated == {"normalised_infidelity[perturbation=gaussian]": "pass", "normalised_infidelity": "fail"}
