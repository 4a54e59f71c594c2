"""Gates as they are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.gate import Gate
from audit.parameters import UserError


@pytest.mark.parametrize(
    ("text", "comparison", "threshold", "baseline"),
    [
        (">= 0.60", ">=", 0.6, False),
        ("<8/255", "<", 8 / 255, False),
        ("> -1e-5", ">", -1e-5, False),
        ("== 0", "==", 0.0, False),
        (">= baseline - 0.01", ">=", -0.01, True),
        ("< baseline + 1/4", "<", 0.25, True),
        (">= baseline", ">=", 0.0, True),
    ],
)
def test_reads(text: str, comparison: str, threshold: float, baseline: bool) -> None:
    gate = Gate.parse(text)
    assert (gate.comparison, gate.baseline) == (comparison, baseline)
    assert math.isclose(gate.threshold, threshold, rel_tol=1e-12, abs_tol=1e-12)
    assert Gate.parse(str(gate)) == Gate.parse(str(Gate.parse(str(gate))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.6",
        ">=",
        ">= x",
        "=> 1",
        ">= baseline 3",
        ">= baseline -",
        "== baseline",
        ">= nan",
        ">= 1/0",
        ">= inf",
        ">= 1 2",
    ],
)
def test_refuses_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        Gate.parse(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, derandomize=True)
@given(st.sampled_from([">=", ">", "<=", "<"]), st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 5))
def test_an_interval_meets_misses_or_straddles(comparison: str, threshold: float, low: float, width: float) -> None:
    gate, high = Gate(comparison, threshold), low + width  # type: ignore[arg-type]
    points = [low, low + (high - low) / 2, high]
    met = [gate.met_by(p) for p in points]
    assert gate.holds_for(low, high) == all(met)
    assert gate.misses(low, high) == (not any(met))
    assert gate.opposite().holds_for(low, high) == gate.misses(low, high)


def test_equality_is_met_by_a_point_only() -> None:
    gate = Gate.parse("== 0")
    assert gate.holds_for(0, 0)
    assert not gate.holds_for(-1, 1)
    assert not gate.misses(-1, 1)
    assert gate.misses(1, 2)
