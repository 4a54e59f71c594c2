"""The drawing of a gate: everything stands where its number says."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from audit.report._gate_line import HEIGHT, WIDTH, gate_line


def drawn(finding: Any) -> ET.Element:
    """The parsed drawing."""
    return ET.fromstring(gate_line(finding))


def by_class(root: ET.Element, name: str) -> list[ET.Element]:
    """Elements of a class."""
    return [element for element in root.iter() if element.get("class") == name]


def scale(root: ET.Element) -> Any:
    """From drawn x to value, by the two numbers at the axis' ends."""
    texts = [t for t in root.iter("text") if t.get("class") is None]
    (x0, v0), (x1, v1) = [(float(t.get("x") or 0), float((t.text or "").replace(",", ""))) for t in texts]
    return lambda x: v0 + (float(x) - x0) / (x1 - x0) * (v1 - v0)


def test_everything_stands_where_its_number_is(make: Any) -> None:
    f = make.finding(estimate=make.Proportion(k=248, n=540), required=">= 0.6")
    root = drawn(f)
    at = scale(root)
    bar, *caps = by_class(root, "interval")
    assert at(bar.get("x1")) == pytest.approx(f.interval[0], abs=2e-3)
    assert at(bar.get("x2")) == pytest.approx(f.interval[1], abs=2e-3)
    assert len(caps) == 2
    (point,) = by_class(root, "point")
    assert at(point.get("cx")) == pytest.approx(248 / 540, abs=2e-3)
    (threshold,) = by_class(root, "threshold")
    assert at(threshold.get("x1")) == pytest.approx(0.6, abs=2e-3)
    (met,) = by_class(root, "met")
    assert float(met.get("x") or 0) == pytest.approx(float(threshold.get("x1") or 0), abs=0.1)
    assert float(met.get("x") or 0) + float(met.get("width") or 0) == pytest.approx(WIDTH - 8, abs=0.1)


def test_the_accepted_side_is_that_of_the_gate(make: Any) -> None:
    root = drawn(make.finding(estimate=make.Mean(value=5, se=1, n=30), required="<= 3"))
    (met,) = by_class(root, "met")
    assert float(met.get("x") or 0) == 8
    assert not by_class(drawn(make.finding(estimate=make.Exact(value=5), required="== 3")), "met")


def test_an_open_side_is_an_arrow(make: Any) -> None:
    estimate = make.Bound(value=1.2, side="lower", level=0.95, n=1000, ceiling=5.6)
    root = drawn(make.finding(estimate=estimate, required="<= 3"))
    bar, *ends = by_class(root, "interval")
    assert [end.tag for end in ends] == ["line", "polyline"]
    assert float(bar.get("x2") or 0) == WIDTH - 8


def test_a_paired_gate_draws_the_difference(make: Any) -> None:
    f = make.finding(
        estimate=make.Proportion(k=500, n=540),
        required=">= baseline - 0.01",
        status=make.Status.PASS,
        interval=(-0.004, 0.012),
    )
    root = drawn(f)
    assert not by_class(root, "point")
    (label,) = by_class(root, "required")
    assert label.text == "baseline -0.01"
    at = scale(root)
    assert at(by_class(root, "interval")[0].get("x1")) == pytest.approx(-0.004, abs=5e-4)


@pytest.mark.parametrize(
    ("value", "required"),
    [(0.0, ">= 0"), (1e9, "<= 3"), (1e-9, "<= 0"), (-5.0, ">= -5"), (0.5, "> 0.5"), (12345.678, "< 1e-12")],
)
def test_any_numbers_stay_inside_the_drawing(make: Any, value: float, required: str) -> None:
    root = drawn(make.finding(estimate=make.Exact(value=value), required=required))
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            if (x := element.get(name)) is not None:
                assert -0.1 <= float(x) <= WIDTH + 0.1
    assert root.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"


def test_rates_stay_between_zero_and_one(make: Any) -> None:
    root = drawn(make.finding(estimate=make.Proportion(k=540, n=540), required=">= 0.1"))
    assert [t.text for t in root.iter("text") if t.get("class") is None][1] == "1"


@pytest.mark.parametrize(
    ("value", "required", "low", "high"),
    [
        (0.981, ">= 0.95", (0.9, 0.95), (1, 1)),
        (0.0, "== 0", (0, 0), (0.01, 1)),
        (1.4, ">= 0.9", (0.5, 0.9), (1.5, 2)),
        (-0.2, ">= 0", (-0.3, -0.2), (0.001, 0.1)),
    ],
)
def test_the_axis_passes_zero_and_one_only_where_a_value_does(
    make: Any, value: float, required: str, low: tuple[float, float], high: tuple[float, float]
) -> None:
    root = drawn(make.finding(estimate=make.Mean(value=value, se=0.009 if value else 0.0, n=540), required=required))
    ends = [float(t.text or "") for t in root.iter("text") if t.get("class") is None]
    assert low[0] <= ends[0] <= low[1]
    assert high[0] <= ends[1] <= high[1]


def test_nothing_is_drawn_of_nothing(make: Any) -> None:
    assert gate_line(make.finding(required=">= 0.6", status=make.Status.ERROR)) == ""
    assert gate_line(make.finding(estimate=make.Exact(value=1))) == ""
