"""Figures against scikit-learn, and the honest answer where there is nothing to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from toys import audited, batch, context, data

from audit.checks.performance.regression import Regression
from audit.data import AuditData
from audit.finding import Mean, Measurement
from audit.gate import Gate
from audit.model import AuditedModel, NonFiniteOutput
from audit.run_folder import Evidence


def lookup(predicted: Any) -> AuditedModel:
    """Answers row i with `predicted[i]`; the input is the row's number."""
    values = torch.as_tensor(predicted)
    return audited(
        lambda x: values[x.reshape(-1).long()][:, None], (1,), kind="series", output="value", gradients=False
    )


def numbered(labels: Any, groups: dict[str, Any] | None = None) -> AuditData:
    labels = np.asarray(labels, dtype=np.float64)
    return data(batch(np.arange(len(labels), dtype=np.float32)[:, None], labels, groups), kind="series")


def measure(predicted: Any, audit_data: AuditData, tmp_path: Path) -> dict[str, Measurement]:
    found = list(Regression().run(lookup(predicted), audit_data, context(tmp_path)))
    declared = {metric.name: metric for metric in Regression.metrics}
    assert all(m.estimate.kind in declared[m.metric].kinds for m in found)
    return {m.metric + "".join(f"[{k}={v}]" for k, v in m.dims.items()): m for m in found}


RNG = np.random.default_rng(0)
LABELS = RNG.normal(10, 5, 200)
GOOD = LABELS + RNG.normal(0, 1, 200)
BAD = RNG.permutation(LABELS)


def test_every_figure_is_that_of_scikit_learn(tmp_path: Path) -> None:
    found = measure(GOOD, numbered(LABELS), tmp_path)
    assert found["mae"].estimate.value == pytest.approx(metrics.mean_absolute_error(LABELS, GOOD))
    assert found["rmse"].estimate.value == pytest.approx(metrics.root_mean_squared_error(LABELS, GOOD))
    assert found["r2"].estimate.value == pytest.approx(metrics.r2_score(LABELS, GOOD))
    error = np.abs(LABELS - GOOD)
    assert found["mae"].estimate.se == pytest.approx(error.std(ddof=1) / np.sqrt(200))  # type: ignore[union-attr]
    assert not any(m.unresolved or m.cautions for m in found.values())


def test_a_good_model_and_a_bad_one_are_told_apart(tmp_path: Path) -> None:
    good, bad = (measure(predicted, numbered(LABELS), tmp_path) for predicted in (GOOD, BAD))
    assert good["r2"].estimate.interval()[0] > 0.9
    assert bad["r2"].estimate.interval()[1] < 0
    for metric in ("mae", "rmse"):
        assert good[metric].estimate.interval()[1] < 2 < bad[metric].estimate.interval()[0]


def test_the_interval_of_rmse_is_that_of_the_central_limit(tmp_path: Path) -> None:
    low, high = measure(GOOD, numbered(LABELS), tmp_path)["rmse"].estimate.interval()
    squared = (LABELS - GOOD) ** 2
    half = 1.96 * squared.std(ddof=1) / np.sqrt(200)
    assert low == pytest.approx(np.sqrt(squared.mean() - half), rel=0.03)
    assert high == pytest.approx(np.sqrt(squared.mean() + half), rel=0.03)


def test_outcomes_and_predictions_are_stored(tmp_path: Path) -> None:
    audit_data = numbered(LABELS)
    found = measure(GOOD, audit_data, tmp_path)
    (run,) = tmp_path.iterdir()
    outcomes, table = (Evidence(run / ref.path) for ref in found["mae"].evidence)
    assert (outcomes.kind, table.kind) == ("outcomes", "table")
    assert outcomes.ids == table.ids == audit_data.test.ids
    np.testing.assert_allclose(outcomes.column("value"), np.abs(LABELS - GOOD))
    np.testing.assert_allclose(table.column("prediction"), GOOD)
    np.testing.assert_allclose(table.column("label"), LABELS)


def test_error_per_group(tmp_path: Path) -> None:
    sex = np.array(["f", "m"] * 100)
    found = measure(GOOD, numbered(LABELS, {"sex": sex}), tmp_path)
    for value in ("f", "m"):
        inside = sex == value
        estimate = found[f"mae[group=sex:{value}]"].estimate
        assert isinstance(estimate, Mean)
        assert estimate.n == 100
        assert estimate.value == pytest.approx(np.abs(LABELS - GOOD)[inside].mean())


def test_labels_that_are_all_equal_have_no_r2(tmp_path: Path) -> None:
    found = measure(np.arange(30.0), numbered(np.full(30, 0.1)), tmp_path)
    assert set(found) == {"mae", "rmse"}
    assert "R² is not defined" in found["rmse"].cautions[0]


def test_labels_that_hardly_differ_decide_no_gate_on_r2(tmp_path: Path) -> None:
    labels = np.zeros(30)
    labels[0] = 1
    found = measure(np.zeros(30), numbered(labels), tmp_path)
    assert "all labels are equal" in str(found["r2"].unresolved)
    assert found["rmse"].unresolved is None


@pytest.mark.parametrize("n", [1, 2, 19])
def test_few_rows_decide_no_gate(n: int, tmp_path: Path) -> None:
    found = measure(GOOD[:n], numbered(LABELS[:n]), tmp_path)
    assert "too few" in str(found["rmse"].unresolved)
    assert "r2" not in found or "too few" in str(found["r2"].unresolved)
    if n == 1:
        low, high = found["mae"].estimate.interval()
        assert not Gate.parse("<= 100").holds_for(low, high)


def test_nan_answers_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteOutput, match="1 of 200 rows, first row 7"):
        measure(np.where(np.arange(200) == 7, np.nan, GOOD), numbered(LABELS), tmp_path)
