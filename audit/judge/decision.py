"""One estimate against one gate."""

from __future__ import annotations

from dataclasses import dataclass

from audit.finding import LEVEL, Bound, Estimate, Exact, Resampled, Status
from audit.gate import Gate
from audit.numbers import show, show_interval


@dataclass(frozen=True)
class Decision:
    """What one gate comes to, before waivers."""

    status: Status
    message: str
    p_value: float | None = None
    """Two-sided, of the decided direction; None where correction for multiple testing does not apply."""


def decide(estimate: Estimate, gate: Gate, level: float = LEVEL) -> Decision:
    """Judge one estimate against one gate: pass, fail or inconclusive."""
    low, high = estimate.interval(level)
    said = describe_estimate(estimate, level)
    if isinstance(estimate, Bound):
        return _decide_bound(estimate, gate, said)
    if isinstance(estimate, Resampled) and len(set(estimate.replicates)) == 1:
        return Decision(
            Status.INCONCLUSIVE, f"{said}: every resample gives the same value, so its interval says nothing"
        )
    p_value = None
    if gate.direction != "equal" and not isinstance(estimate, Exact):
        p_value = min(1.0, 2 * min(estimate.p_value(gate), estimate.p_value(gate.opposite())))
    if gate.holds_for(low, high):
        return Decision(Status.PASS, f"{said} meets {gate}", p_value)
    if gate.misses(low, high):
        return Decision(Status.FAIL, f"{said} misses {gate}", p_value)
    needed = None if gate.direction == "equal" else estimate.n_to_resolve(gate, level)
    if needed is not None:
        would = f"about n = {needed:,} with this same result would decide"
    else:
        would = "no larger n would decide at this very result"
    return Decision(Status.INCONCLUSIVE, f"{said} straddles {gate}: {would}", p_value)


def _decide_bound(estimate: Bound, gate: Gate, said: str) -> Decision:
    low, high = estimate.interval()
    if gate.misses(low, high):
        return Decision(Status.FAIL, f"{said} contradicts {gate}")
    if gate.holds_for(low, high):
        return Decision(Status.PASS, f"{said} meets {gate}")
    if estimate.could_falsify(gate):
        return Decision(
            Status.PASS, f"{said} does not falsify {gate}; it could have shown as much as {show(estimate.ceiling)}"
        )
    ceiling = "an unknown ceiling" if estimate.ceiling is None else f"at most {show(estimate.ceiling)}"
    return Decision(
        Status.INCONCLUSIVE, f"{said} does not falsify {gate}, but the procedure could have shown {ceiling}"
    )


def describe_estimate(estimate: Estimate, level: float = LEVEL) -> str:
    """``0.83 (95 % interval 0.79 to 0.86, n = 450)``."""
    low, high = estimate.interval(level)
    n = f"n = {estimate.n:,}" if estimate.n is not None else ""
    if isinstance(estimate, Exact):
        return show(estimate.value) + (f" ({n})" if n else "")
    if isinstance(estimate, Bound):
        return f"{estimate.side} bound {show(estimate.value)} ({estimate.level:.4g} confidence, {n})"
    return f"{show(estimate.value)} ({level * 100:g} % interval {show_interval(low, high)}, {n})"
