"""Certified accuracy of the smoothed classifier through the engine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Linear, audited, batch, data, digits, trained_cnn

from audit.data import AuditData
from audit.engine import run
from audit.finding import Finding
from audit.model import AuditedModel
from audit.plan import bind
from audit.scenario import parse
from audit.scenario.problems import ScenarioError
from audit.stored import Report

SCENARIO = "name: r\nmodel: toy\ndata: {{source: given}}\nthreads: 1\nchecks:\n  - robustness.certified_smoothing: {params}\n    require: {require}\n"


def go(
    tmp_path: Path, model: AuditedModel, rows: AuditData, params: str, require: str = '{certified_accuracy: ">= 0.5"}'
) -> Report:
    text = SCENARIO.format(params=params, require=require)
    return run(parse(text), home=tmp_path, models={"toy": model}, data=rows)


def found(report: Report, metric: str = "certified_accuracy", **dims: str) -> Finding:
    return next(f for f in report.findings if f.metric == metric and f.dims == dims)


def value(report: Report, metric: str = "certified_accuracy", **dims: str) -> float:
    estimate = found(report, metric, **dims).estimate
    assert estimate is not None
    return float(estimate.value)


@cache
def line(n: int = 40) -> tuple[AuditedModel, AuditData, np.ndarray]:
    """Points at known distances from the line 3x + 4y = 5, on both sides."""
    distance = np.linspace(-1, 1, n)
    x = (np.array([0.6, 0.8]) * (1 + distance[:, None])).astype(np.float32)
    labels = (distance > 0).astype(np.int64)
    model = audited(Linear([3.0, 4.0], -5.0), (2,), bounds=(-10.0, 10.0), kind="series")
    return model, data(batch(x, labels), bounds=(-10.0, 10.0), kind="series"), np.abs(distance)


@cache
def rows(n: int = 40) -> AuditData:
    return data(digits().test.take(np.arange(n)), n_classes=10, bounds=(0.0, 16.0))


def digits_model(net: nn.Module) -> AuditedModel:
    return audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0))


class Brittle(nn.Module):
    """Sees only pixels that are whole numbers: right on the digits as they are, blind to noisy copies."""

    def forward(self, x: Tensor) -> Tensor:
        return trained_cnn()(torch.where((x - x.round()).abs() < 0.01, x, 0.0))


def test_a_linear_model_is_certified_no_further_than_its_line(tmp_path: Path) -> None:
    model, points, distance = line()
    report = go(tmp_path, model, points, "{sigma: 0.5, radius: 0.3, n: 4000}")
    radii = report.stored.evidence(next(r for r in found(report).evidence if r.kind == "table")).column("radius")
    assert (radii <= distance).all()
    assert (radii[distance < 0.9] > distance[distance < 0.9] - 0.12).all()
    assert abs(value(report) - (distance > 0.3).mean()) < 0.11
    assert value(report) <= (distance > 0.3).mean()


def test_a_net_that_bears_noise_is_certified_and_a_brittle_one_is_not(tmp_path: Path) -> None:
    params, gate = "{sigma: 3, radius: 2, radii: [1, 4], n: 400, n0: 50}", '{certified_accuracy: ">= 0.4"}'
    trained = go(tmp_path, digits_model(trained_cnn()), rows(), params, gate)
    brittle = go(tmp_path, digits_model(Brittle()), rows(), params, gate)
    assert found(trained).status == "pass", found(trained).message
    assert found(brittle).status == "fail", found(brittle).message
    assert value(trained, radius="1") >= value(trained) >= value(trained, radius="4")
    assert value(trained, "smoothed_accuracy") >= value(trained, radius="1")
    assert value(trained, "mean_radius") > value(brittle, "mean_radius")
    assert value(trained, "median_radius") > value(brittle, "median_radius")
    assert any("smoothed classifier only" in caution for caution in found(trained).cautions)
    curve = trained.stored.evidence(next(r for r in found(trained).evidence if r.kind == "curve"))
    assert (np.diff(curve.column("y")) <= 0).all()
    assert curve.column("y")[0] == pytest.approx(value(trained, "smoothed_accuracy"))


def test_abstentions_and_wrong_classes_are_not_certified(tmp_path: Path) -> None:
    model, points, _ = line()
    few = go(tmp_path, model, points, "{sigma: 0.5, radius: 0.1, n: 20}")
    assert value(few, "abstention") > 0.2
    table = few.stored.evidence(next(r for r in found(few).evidence if r.kind == "table"))
    assert (table.column("radius")[table.column("abstains")] == 0).all()
    assert (table.column("smoothed_label")[table.column("abstains")] == -1).all()
    wrong = data(batch(points.test.x, 1 - points.test.labels), bounds=(-10.0, 10.0), kind="series")
    report = go(tmp_path, model, wrong, "{sigma: 0.5, radius: 0.1, n: 200}")
    assert value(report) == value(report, "mean_radius") == value(report, "smoothed_accuracy") == 0


def test_alpha_n0_samples_and_sigma_count(tmp_path: Path) -> None:
    model, points, _ = line()
    base = go(tmp_path, model, points, "{sigma: 0.5, radius: 0.2, n: 200}")
    strict = go(tmp_path, model, points, "{sigma: 0.5, radius: 0.2, n: 200, alpha: 1e-9}")
    assert value(strict, "mean_radius") < value(base, "mean_radius")
    wide = go(tmp_path, model, points, "{sigma: 1, radius: 0.2, n: 200}")
    assert value(wide, "mean_radius") != value(base, "mean_radius")
    careless = go(tmp_path, model, points, "{sigma: 0.5, radius: 0.2, n: 200, n0: 1}")
    assert value(careless, "abstention") > value(base, "abstention")
    assert found(go(tmp_path, model, points, "{sigma: 0.5, radius: 0.2, n: 200, samples: 7}")).estimate.n == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ("{sigma: 0.25, radius: 0.376, n: 100}", "out of reach"),
        ("{sigma: 0.25, radius: 0.1, n: 5}", "no radius above 0 "),
        ("{sigma: 0.25, radius: 0.1, radii: [0]}", "above 0"),
        ("{sigma: 0, radius: 0.1}", "greater than 0"),
        ("{sigma: 1, radius: 0.1, alpha: 0.5}", "less than 0.5"),
    ],
)
def test_what_can_never_be_certified_is_refused_at_once(params: str, wanted: str) -> None:
    with pytest.raises(ScenarioError, match=wanted):
        bind(parse(SCENARIO.format(params=params, require="{}")))
    bind(parse(SCENARIO.format(params="{sigma: 0.25, radius: 0.375, n: 100}", require="{}")))
