"""Sensitivity through the check's own run: linear and quadratic models by hand, captum's estimator, planted maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_maps import install
from pydantic import ValidationError
from torch import Tensor
from toys import Linear, audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation.sensitivity import Sensitivity
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable
from audit.rng import ExampleRng
from audit.run_folder import Evidence
from audit.scenario import parse

GRADIENT = {"saliency": {"absolute": False}}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def measure(
    model: AuditedModel, rows: AuditData, tmp_path: Path, explainer: Any = GRADIENT, **options: Any
) -> dict[str, Measurement]:
    check = Sensitivity(explainer=explainer, **options)
    return {m.metric: m for m in check.run(model, rows, context(tmp_path))}


def table(x: Any, bounds: tuple[float, float] | None = None) -> AuditData:
    x = np.asarray(x, dtype=np.float32)
    return data(batch(x, np.zeros(len(x), dtype=np.int64)), kind="number", bounds=bounds)


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def test_the_gradient_of_a_linear_model_never_moves(tmp_path: Path) -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,), kind="number", bounds=(-10.0, 10.0))
    found = measure(model, table([(3, 4), (1, 1), (0, 2)]), tmp_path, radius=0.5)
    assert [m.estimate.value for m in found.values()] == [0, 0]
    assert found["max_sensitivity"].estimate.n == 3


def test_the_gradient_of_a_square_by_hand(tmp_path: Path) -> None:
    """f = (x² + y²) / 2 has the gradient (x, y): its change is the change of the input."""
    model = audited(lambda x: x.square().sum(dim=1) / 2, (2,), output="value", kind="number", bounds=(0.0, 10.0))
    rows = table([(3, 4), (6, 8)])
    found = measure(model, rows, tmp_path, radius=0.1, draws=50)
    per_row = Evidence(tmp_path / "run-0" / found["max_sensitivity"].evidence[0].path)
    largest = np.sqrt(2) * 0.1 * 10 / np.linalg.norm(rows.test.x, axis=1)  # a corner of the box
    for row, bound in zip(rows.test.ids, largest, strict=True):
        measured = per_row.column("value")[per_row.ids.index(row)]
        assert 0.75 * bound < measured <= bound
    assert found["average_sensitivity"].estimate.value < found["max_sensitivity"].estimate.value


def test_captum_s_estimator_with_the_same_perturbations(tmp_path: Path) -> None:
    from captum.metrics import sensitivity_max

    check = Sensitivity(explainer=GRADIENT, samples=12, draws=4)
    ctx, model = context(tmp_path), cnn()
    found = next(iter(check.run(model, digits(), ctx)))
    subject = check.subject(model, digits(), ctx)
    drawn = ExampleRng(ctx.seed, ctx.check_id, subject.batch.ids, "perturbations").uniform((4, 1, 8, 8), -1.0, 1.0)
    moved = (subject.x[:, None] + 0.02 * 16 * drawn).clamp(0, 16).flatten(0, 1)

    def gradient(inputs: Any, target: Tensor) -> tuple[Tensor, ...]:
        x = (inputs[0] if isinstance(inputs, tuple) else inputs).clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(model.target_score(x, target).sum(), x)

    expected = sensitivity_max(gradient, subject.x, lambda _: moved, n_perturb_samples=4, target=subject.target)
    per_row = Evidence(tmp_path / "run-0" / found.evidence[0].path).column("value")
    np.testing.assert_allclose(per_row, expected, rtol=1e-5)


def test_a_constant_map_stays_and_the_gradient_of_a_trained_net_moves(tmp_path: Path) -> None:
    gate = Gate.parse("<= 0.1")
    still = measure(cnn(), digits(), tmp_path, "constant_map", samples=48, radius=0.05)
    moving = measure(cnn(), digits(), tmp_path, samples=48, radius=0.05)
    assert gate.holds_for(*still["max_sensitivity"].estimate.interval())
    assert gate.misses(*moving["max_sensitivity"].estimate.interval())


def test_averaging_over_the_line_makes_a_map_steadier_than_the_gradient(tmp_path: Path) -> None:
    slope, line = (
        measure(cnn(), digits(), tmp_path, explainer, samples=32, draws=5)
        for explainer in (GRADIENT, {"integrated_gradients": {"steps": 16, "max_steps": 16}})
    )
    assert line["max_sensitivity"].estimate.interval()[1] < slope["max_sensitivity"].estimate.interval()[0]


def test_a_random_explainer_draws_the_same_for_both_inputs(tmp_path: Path) -> None:
    found = measure(cnn(), digits(), tmp_path, "random_map", samples=8)
    assert found["max_sensitivity"].estimate.value == 0


def test_radius_and_draws_change_the_number(tmp_path: Path) -> None:
    base, wider, more = (
        measure(cnn(), digits(), tmp_path, samples=24, **options)["max_sensitivity"].estimate.value
        for options in ({"draws": 3}, {"draws": 3, "radius": "1/10"}, {"draws": 12})
    )
    assert wider > base
    assert more > base


def test_perturbed_inputs_stay_in_their_box_and_categories_and_gaps_where_they_are(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        return x.nan_to_num().sum(dim=1)

    spec = InputSpec(
        fields=(
            Field(name="age", kind="number", bounds=(0.0, 100.0)),
            Field(name="income", kind="number"),
            Field(name="job", kind="category", categories=("clerk", "smith", "cook")),
        )
    )
    model = AuditedModel(
        name="table", digest="", task="regression", classes=(), output="value", spec=spec,
        capabilities=implied("value", gradients=False, layers=False), forward=forward,
    )  # fmt: skip
    x = np.array([(0.5, 1000.0, 1), (99.5, 2000, 2), (50, np.nan, 0)])
    rows = AuditData("toy", batch(x, np.zeros(3)), spec)
    measure(model, rows, tmp_path, "asking", radius=0.1)
    moved = torch.cat(seen)
    assert 0 <= moved[:, 0].min() < 0.5
    assert 99.5 < moved[:, 0].max() <= 100
    assert set(moved[:, 2].tolist()) == {0.0, 1.0, 2.0}
    known = moved[:, 1][~moved[:, 1].isnan()]
    assert 900 <= known.min() < 1000  # a tenth of the background's range
    assert 2000 < known.max() <= 2100
    assert bool(moved[:, 1].isnan().any())


def test_a_map_of_zeros_has_no_relative_change(tmp_path: Path) -> None:
    model = audited(lambda x: x.relu().sum(dim=1), (2,), output="value", kind="number", bounds=(-1.0, 1.0))
    found = measure(model, table([(-0.01, -0.01), (0.5, 0.5), (-0.9, -0.9)]), tmp_path, radius=0.1)
    assert found["max_sensitivity"].estimate.n == 2  # far from the kink a map of zeros stays one
    assert "1 of 3 rows have a map of zeros" in found["max_sensitivity"].cautions[-1]


def test_what_is_stored(tmp_path: Path) -> None:
    found = measure(cnn(), digits(), tmp_path, samples=8, keep=2)["max_sensitivity"]
    maps = next(Evidence(tmp_path / "run-0" / ref.path) for ref in found.evidence if ref.kind == "attributions")
    rows = Evidence(tmp_path / "run-0" / found.evidence[0].path)
    assert len(maps) == 2
    assert maps.column("quality_max_sensitivity").tolist() == pytest.approx(
        [rows.column("value")[rows.ids.index(i)] for i in maps.ids]
    )


def test_texts_cannot_move_a_little(tmp_path: Path) -> None:
    from texts import rows as encoded
    from texts import word_model

    model = word_model()
    texts = AuditData("toy", batch(encoded(["good", "bad"]), np.zeros(2, dtype=np.int64)), model.spec, model.classes)
    with pytest.raises(NotApplicable, match="codes of a text"):
        measure(model, texts, tmp_path, "constant_map")


@pytest.mark.parametrize("options", [{"radius": 0}, {"radius": 2}, {"draws": 0}])
def test_mistakes_are_told_when_the_scenario_is_read(options: Any) -> None:
    with pytest.raises(ValidationError):
        Sensitivity(**options)


def test_from_a_scenario_to_a_verdict(tmp_path: Path) -> None:
    text = (
        "name: still\nmodel: toy\ndata: {source: given}\nchecks:\n"
        "  - explanation.sensitivity: {explainer: constant_map, samples: 16, draws: 2}\n"
        "    require: {max_sensitivity: '<= 0.1', average_sensitivity: '<= 0.1'}\n"
    )
    report = run(parse(text), home=tmp_path, models={"toy": cnn()}, data=digits())
    assert (report.exit_code, report.verdict.word) == (0, "pass")
