"""The security curve through the engine: closed form, planted pair, masks that void it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Linear, audited, batch, data, digits, trained_cnn

from audit.data import AuditData
from audit.engine import run
from audit.finding import Bound, Finding, Mean, Proportion, Resampled
from audit.model import AuditedModel
from audit.plan import bind
from audit.scenario import parse
from audit.scenario.problems import ScenarioError
from audit.stored import Report

DUAL = {"linf": 7.0, "l2": 5.0, "l1": 4.0}
"""Norm of (3, 4) that divides the margin into the distance."""


def go(tmp_path: Path, model: AuditedModel, rows: AuditData, params: str, require: str = '{area: ">= 0"}') -> Report:
    text = (
        "name: r\nmodel: toy\ndata: {source: given}\nthreads: 1\nchecks:\n"
        f"  - robustness.security_curve: {params}\n    require: {require}\n"
    )
    return run(parse(text), home=tmp_path, models={"toy": model}, data=rows)


def found(report: Report) -> dict[str, Finding]:
    """Findings by metric, and by ``metric@eps``."""
    assert not [f for f in report.findings if f.status == "error"], report.findings
    return {f"{f.metric}@{f.dims['eps']}" if "eps" in f.dims else str(f.metric): f for f in report.findings}


def estimate(finding: Finding) -> Any:
    assert finding.estimate is not None
    return finding.estimate


def stored(report: Report, finding: Finding, kind: str) -> Any:
    return report.stored.evidence(next(ref for ref in finding.evidence if ref.kind == kind))


def line(n: int = 60, wrong: int = 6) -> tuple[AuditedModel, AuditData, np.ndarray[Any, Any]]:
    """The line 3a + 4b = 5 in a box that it crosses far from the bounds, rows around it, some with a wrong label; their margins."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, 2)).astype(np.float32) + np.float32(0.5)
    margin = x @ np.array([3.0, 4.0]) - 5
    labels = (margin > 0).astype(np.int64)
    labels[:wrong] = 1 - labels[:wrong]
    model = audited(Linear([3.0, 4.0], -5.0), (2,), bounds=(-20.0, 20.0), kind="series")
    distance = np.abs(margin)
    distance[:wrong] = 0
    return model, data(batch(x, labels), bounds=(-20.0, 20.0), kind="series"), distance


@cache
def few(n: int = 40) -> AuditData:
    return data(digits().test.take(np.arange(n)), n_classes=10, bounds=(0.0, 16.0))


def cnn(net: Any = None, **options: Any) -> AuditedModel:
    return audited(net or trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0), **options)


# --- closed form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["fmn: {steps: 40}", "fab_t: {steps: 10}"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_curve_of_a_line_is_the_closed_form(tmp_path: Path, norm: str, attack: str) -> None:
    model, rows, margin = line()
    distance = margin / DUAL[norm]
    largest = 0.5
    report = go(tmp_path, model, rows, f"{{attacks: [{attack}], norm: {norm}, eps: [0.1, 0.25, {largest}]}}")
    by = found(report)
    table = stored(report, by["area"], "table")
    assert table.ids == rows.test.ids
    assert np.allclose(table.column("distance"), distance, rtol=1e-3)
    for eps in (0.1, 0.25, largest):
        assert estimate(by[f"robust_accuracy@{eps:g}"]) == Proportion(k=int((distance > eps).sum()), n=60)
        threat = by[f"robust_accuracy@{eps:g}"].threat_model
        assert threat is not None
        assert (threat.access, threat.norm, threat.eps, threat.bounds) == ("white_box", norm, eps, (-20.0, 20.0))
        assert threat.realised is not None
        assert threat.realised <= eps
    assert estimate(by["accuracy_at_largest_eps"]).k == int((distance > largest).sum())
    area = estimate(by["area"])
    assert isinstance(area, Mean)
    assert area.value == pytest.approx(np.minimum(distance, largest).mean() / largest, rel=1e-3)
    median = estimate(by["median_distance"])
    assert isinstance(median, Resampled)
    assert median.n == 54
    assert median.value == pytest.approx(np.median(distance[6:]), rel=1e-3)
    low, high = median.interval()
    assert low < median.value < high
    curve = stored(report, by["area"], "curve")
    assert curve.column("x").tolist() == [0, 0.1, 0.25, largest]
    assert curve.column("y")[0] == pytest.approx(54 / 60)
    assert (curve.column("low") <= curve.column("y")).all()
    assert (curve.column("high") >= curve.column("y")).all()


def test_a_grid_that_is_not_given_ends_at_chance(tmp_path: Path) -> None:
    model, rows, margin = line()
    distance = margin / 7
    report = go(tmp_path, model, rows, "{attacks: [fmn: {steps: 40}], points: 4}")
    by = found(report)
    eps = sorted(float(key.split("@")[1]) for key in by if "@" in key)
    chance = np.sort(distance)[30 - 1]  # half of 60 rows left is what two classes give by chance
    assert len(eps) == 4
    assert chance * 0.999 <= eps[-1] <= chance * 1.1
    assert np.allclose(np.diff([0.0, *eps]), eps[0], rtol=1e-4)
    assert estimate(by["accuracy_at_largest_eps"]).value <= 0.5
    assert estimate(by[f"robust_accuracy@{eps[-2]:g}"]).value > 0.5


# --- planted pair ------------------------------------------------------------------------------------------------


def test_a_plain_net_breaks_and_a_robust_line_holds(tmp_path: Path) -> None:
    gates = '{"robust_accuracy[eps=3]": ">= 0.5", median_distance: ">= 3", area: ">= 0.5"}'
    params = "{attacks: [fmn: {steps: 30}], eps: [1, 3, 6]}"
    broken = [f for f in go(tmp_path, cnn(), few(), params, gates).findings if f.gated]
    assert {f.status for f in broken} == {"fail"}, [f.message for f in broken]
    x = np.concatenate([np.full((60, 2), 9.0), np.full((60, 2), 1.0)]).astype(np.float32)
    x += np.random.default_rng(0).uniform(-0.5, 0.5, x.shape).astype(np.float32)
    wide = audited(Linear([1.0, 1.0], -10.0), (2,), bounds=(0.0, 10.0), kind="series")
    rows = data(batch(x, np.repeat([1, 0], 60)), bounds=(0.0, 10.0), kind="series")
    held = [f for f in go(tmp_path, wide, rows, params, gates).findings if f.gated]
    assert {f.status for f in held} == {"pass"}, [f.message for f in held]


def test_stored_examples_are_the_rows_that_fell(tmp_path: Path) -> None:
    subject = cnn()
    report = go(tmp_path, subject, few(), "{attacks: [fmn: {steps: 15}], keep: 3, norm: l2, samples: 20}")
    kept = stored(report, found(report)["area"], "adversarial")
    assert len(kept) == 3
    row = kept.row(0)
    assert int(subject.predict(torch.from_numpy(np.array(row["adversarial"]))[None])) != int(row["label"])
    table = stored(report, found(report)["area"], "table")
    assert len(table) == 20
    assert row["size"] == pytest.approx(table.column("distance")[table.ids.index(kept.ids[0])])


# --- attacks with an eps -----------------------------------------------------------------------------------------


def test_attacks_with_an_eps_run_where_nothing_smaller_was_found(tmp_path: Path) -> None:
    subject, grid = cnn(), "eps: [0.4, 1.2, 2.4]"
    first = go(tmp_path, subject, few(), f"{{attacks: [pgd: {{steps: 8}}], {grid}}}")
    alone = found(first)
    accuracies = [estimate(alone[f"robust_accuracy@{eps}"]).value for eps in ("0.4", "1.2", "2.4")]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1] > 0
    examples = [ref for ref in alone["area"].evidence if ref.kind == "adversarial"]
    assert [ref.path.rsplit("/", 1)[-1] for ref in examples] == [
        "adversarial-pgd_eps=0.4", "adversarial-pgd_eps=1.2", "adversarial-pgd_eps=2.4",
    ]  # fmt: skip
    broken = [row for ref in examples for row in first.stored.evidence(ref).ids]
    assert len(broken) == len(set(broken)), "what fell at a smaller eps is not attacked again"
    report = go(tmp_path, subject, few(), f"{{attacks: [fmn: {{steps: 20}}, pgd: {{steps: 8}}], {grid}}}")
    both = found(report)
    for eps in ("0.4", "1.2", "2.4"):
        assert estimate(both[f"robust_accuracy@{eps}"]).k <= estimate(alone[f"robust_accuracy@{eps}"]).k
    table = stored(report, both["area"], "table")
    assert set(table.column("found_by").tolist()) <= {"fmn", "pgd", ""}
    assert "fmn" in table.column("found_by").tolist()
    assert np.isfinite(table.column("distance")).all()


def test_a_median_that_no_attack_reached_is_a_bound_that_decides_nothing(tmp_path: Path) -> None:
    report = go(tmp_path, cnn(), few(), "{attacks: [pgd: {steps: 8}], eps: [0.4, 1]}", '{median_distance: ">= 0.5"}')
    median = found(report)["median_distance"]
    assert isinstance(median.estimate, Bound)
    assert median.estimate.value == 1.0
    assert median.status == "inconclusive"
    assert "never broken" in median.message


# --- controls ----------------------------------------------------------------------------------------------------


class Masked(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = trained_cnn(), kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "noise":
            return self.net(x + torch.randn_like(x))
        if self.kind == "constant":
            return self.net(x) * 0 + 5 * torch.eye(10)[0]
        return self.net(x.round())


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("rounded", ("zero gradients", "full range")), ("noise", ("randomised",)), ("constant", ("zero gradients",))],
)
def test_masked_gradients_make_the_numbers_void(tmp_path: Path, kind: str, wanted: tuple[str, ...]) -> None:
    gates = '{area: ">= 0.5", accuracy_at_largest_eps: ">= 0.5", median_distance: ">= 1"}'
    gated = [
        f for f in go(tmp_path, cnn(Masked(kind)), few(), "{attacks: [fmn: {steps: 10}]}", gates).findings if f.gated
    ]
    assert len(gated) == 3
    for finding in gated:
        assert finding.status == "void"
        assert kind != "constant" or "full range" not in finding.message
        assert all(part in finding.message for part in wanted), finding.message


def test_randomised_models_are_judged_by_their_mean(tmp_path: Path) -> None:
    report = go(tmp_path, cnn(Masked("noise")), few(12), "{attacks: [pgd: {steps: 5}], eps: [1, 4], eot: 4}")
    area = found(report)["area"]
    assert area.status != "void"
    assert any("4 answers" in caution for caution in area.cautions)


def test_a_cap_on_queries_is_part_of_the_threat_model(tmp_path: Path) -> None:
    by = found(go(tmp_path, cnn(), few(), "{attacks: [fmn], queries: 9, eps: [1, 2]}"))
    assert estimate(by["queries"]).value == 9
    threat = by["area"].threat_model
    assert threat is not None
    assert threat.queries == 9


def test_nothing_right_is_nothing_to_attack(tmp_path: Path) -> None:
    wrong = batch(few(5).test.x, (few(5).test.labels + 1) % 10)
    by = found(go(tmp_path, cnn(), data(wrong, n_classes=10, bounds=(0.0, 16.0)), "{points: 2}"))
    assert estimate(by["area"]).value == 0
    assert "median_distance" not in by
    assert any("nothing to attack" in caution for caution in by["area"].cautions)


def test_two_runs_are_equal(tmp_path: Path) -> None:
    params = "{attacks: [fab_t: {steps: 4, restarts: 2, targets: 2}], samples: 10}"
    first, second = (
        (go(tmp_path / str(i), cnn(), few(), params).path / "measurements.jsonl").read_bytes() for i in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ("{attacks: [pgd]}", "give the grid"),
        ("{attacks: [fmn], eps: [2, 1]}", "must rise"),
        ("{attacks: [fmn], eps: [0, 1]}", "must rise"),
        ("{attacks: [fmn], eps: [1], points: 3}", "points"),
        ("{attacks: [fnm]}", "did you mean 'fmn'"),
        ("{attacks: [fmn: {gamma: 2}]}", "gamma"),
        ("{eot: 8, queries: 4}", "queries"),
    ],
)
def test_a_typo_costs_milliseconds_and_one_line(params: str, wanted: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        bind(parse(f"name: r\nmodel: toy\ndata: {{source: given}}\nchecks:\n  - robustness.security_curve: {params}\n"))
    assert len(caught.value.problems) == 1
    assert wanted in str(caught.value)
