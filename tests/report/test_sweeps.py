"""Curves over the matrix: which metrics get one, and that they hold what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import audit.report._sweeps as module
from audit.report._charts import Series
from audit.report._sweeps import sweeps
from audit.report._view import RunView


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Series]]]:
    """What was handed to the drawing."""
    seen: list[tuple[str, list[Series]]] = []

    def record(series: list[Series], *, title: str, **more: Any) -> str:
        seen.append((title, series))
        return "<svg></svg>"

    monkeypatch.setattr(module, "curve", record)
    return seen


def swept(stored: Callable[..., Any], make: Any, cells: list[dict[str, str]], required: str | None = None) -> RunView:
    """A run of one check over cells: accuracy overall and by attack."""
    s = stored()
    for i, cell in enumerate(cells):
        inner = ",".join(f"{k}={v}" for k, v in cell.items())
        for own in ({}, {"attack": "pgd"}):
            s.add(
                make.finding(
                    f"robustness.evasion[{inner}]", "robust_accuracy", make.Proportion(k=500 - 100 * i, n=540), required,
                    check="robustness.evasion", dims={**cell, **own}, cell=cell,
                )
            )  # fmt: skip
    return RunView(s.finish())


def test_a_swept_metric_is_a_curve_with_its_intervals(
    stored: Callable[..., Any], make: Any, drawn: list[tuple[str, list[Series]]]
) -> None:
    view = swept(stored, make, [{"eps": "2"}, {"eps": "0.5"}, {"eps": "1"}])
    (chart,) = sweeps(view)
    assert chart.title == "robustness.evasion: robust accuracy over eps"
    ((_, series),) = drawn
    assert [line.name for line in series] == ["overall", "attack pgd"]
    assert series[0].x.tolist() == [0.5, 1, 2]
    assert series[0].y.tolist() == [400 / 540, 300 / 540, 500 / 540]
    low, high = make.Proportion(k=400, n=540).interval()
    assert series[0].low is not None
    assert series[0].high is not None
    assert (series[0].low[0], series[0].high[0]) == (low, high)


def test_models_are_series_and_no_axis(
    stored: Callable[..., Any], make: Any, drawn: list[tuple[str, list[Series]]]
) -> None:
    cells = [{"eps": eps, "model": model} for eps in ("1", "2") for model in ("a@1", "b@1")]
    sweeps(swept(stored, make, cells))
    ((_, series),) = drawn
    assert [line.name for line in series] == [
        "model a@1",
        "model a@1, attack pgd",
        "model b@1",
        "model b@1, attack pgd",
    ]


@pytest.mark.parametrize("cells", [[{"eps": "1"}], [{"norm": "l2"}, {"norm": "linf"}], []])
def test_nothing_swept_is_no_curve(stored: Callable[..., Any], make: Any, cells: list[dict[str, str]]) -> None:
    assert sweeps(swept(stored, make, cells)) == []


def test_an_open_side_is_no_number(
    stored: Callable[..., Any], make: Any, drawn: list[tuple[str, list[Series]]]
) -> None:
    s = stored()
    for eps in ("1", "2"):
        bound = make.Bound(value=0.4, side="lower", level=0.95, n=100)
        s.add(make.finding(f"a.b[eps={eps}]", "m", bound, check="a.b", dims={"eps": eps}, cell={"eps": eps}))
    sweeps(RunView(s.finish()))
    series = drawn[0][1][0]
    assert series.high is not None
    assert np.isnan(series.high).all()


def test_an_unfinished_sweep_shows_what_it_has(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    for eps in ("1", "2"):
        f = make.finding(f"a.b[eps={eps}]", "m", make.Exact(value=float(eps)), check="a.b")
        s.writer.record(
            make.Recorded(
                step=f.step, id="a.b", check="a.b", model="m", cell={"eps": eps},
                measurement=make.Measurement(metric="m", estimate=f.estimate),
            )
        )  # fmt: skip
    (chart,) = sweeps(RunView(s.close()))
    assert 'aria-label="a.b: m over eps"' in chart.chart
