"""How much is left over eps: attacked from above, certified from below, and what the gates ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import streamlit as st

from audit.numbers import show
from audit.report._evidence import DAMAGE, lines_of
from audit.report._view import RunView
from audit.report._words import gate_of
from dashboard.drawing import charts, robustness
from dashboard.drawing.robustness import Curve, Limit, Point
from dashboard.parts import stated
from dashboard.reading import evidence
from dashboard.reading.measured import Number
from dashboard.words import _

FAMILY = "robustness."
STORED = ("security_curve", "certified_smoothing")
"""Checks that store a curve over eps."""


def curves(view: RunView, model: str, found: Sequence[Number]) -> None:
    """Accuracy over eps, a chart for each norm, the best measured first: attacks give upper bounds, certificates lower ones."""
    problems: list[str] = []
    by_norm: dict[str, list[Curve]] = {}
    units: dict[str, str] = {
        one.threat.norm: one.threat.units for one in found if one.threat is not None and one.threat.norm
    }
    for norm, curve in [*_measured(found), *_stored(view, model, found, problems)]:
        by_norm.setdefault(norm, []).append(curve)
    stated.told(problems)
    for norm in sorted(by_norm, key=lambda norm: -sum(len(curve.points) for curve in by_norm[norm])):
        limits = _limits(found, norm)
        unit = f", {_(units[norm])}" if units.get(norm) else ""
        charts.draw(
            robustness.over_eps(
                by_norm[norm], limits, title=_("Accuracy under attack, {norm}").format(norm=norm), label=f"eps ({norm}{unit})"
            ),
            _good(by_norm[norm], limits, _smoothed(found, norm)),
            key=f"curve-{norm}",
        )  # fmt: skip
    if not by_norm:
        st.caption(_("None of the attacks is bound by a norm: there is no eps to draw over."))


def _good(found: Sequence[Curve], limits: Sequence[Limit], smoothed: bool) -> str:
    """What good looks like, and what each kind of line bounds."""
    said = [_("Good: the attacked lines stay high as far as an adversary may go.")]
    if limits:
        said.append(_("A thick stroke is a gate: the line has to pass above it."))
    said.append(_("Attacks bound the accuracy from above: a stronger one may find more."))
    if any(curve.certified for curve in found):
        said.append(
            _("Certificates bound it from below: no attack can break more than they leave open; what lies between the two is unknown.")
        )  # fmt: skip
    if smoothed:
        said.append(
            _("The smoothed model is another one than that which is attacked: its certificate holds for itself alone.")
        )
    said.append(_("Bars and bands are 95 % intervals."))
    return " ".join(said)


def _smoothed(found: Sequence[Number], norm: str) -> bool:
    return any(
        one.check == "robustness.certified_smoothing" and one.threat is not None and one.threat.norm == norm
        for one in found
    )


def _limits(found: Sequence[Number], norm: str) -> list[Limit]:
    """Gates on the accuracy at one eps; one at a place is enough."""
    limits: dict[tuple[float, float], Limit] = {}
    for one in found:
        if one.metric not in ("robust_accuracy", "certified_accuracy") or one.dims or one.finding is None:
            continue
        gate = gate_of(one.finding)
        if gate is None or gate.baseline or one.threat is None or one.threat.norm != norm or one.threat.eps is None:
            continue
        told = f"{gate.comparison} {show(gate.threshold)}".replace(">=", "≥").replace("<=", "≤")
        limits.setdefault((one.threat.eps, gate.threshold), Limit(one.threat.eps, gate.threshold, told))
    return list(limits.values())


def _measured(found: Sequence[Number]) -> Iterator[tuple[str, Curve]]:
    """Numbers that hold for one eps: evasion by scenario entry, from its accuracy without attack on; bounds by method."""
    lines: dict[tuple[str, str, bool], list[Point]] = {}
    clean_by_entry = {one.entry: one for one in found if one.metric == "clean_accuracy"}
    for one in found:
        if one.threat is None or one.threat.norm is None or one.threat.eps is None:
            continue
        if one.check == "robustness.evasion" and one.metric == "robust_accuracy" and not one.dims:
            name, proven = _("attacked: {entry}").format(entry=one.entry.removeprefix(FAMILY)), False
        elif one.check == "robustness.certified_bounds" and set(one.dims) == {"method"}:
            name, proven = _("certified: {method}").format(method=one.dims["method"]), True
        else:
            continue
        line = lines.setdefault((one.threat.norm, name, proven), [])
        if not line and not proven and (unharmed := clean_by_entry.get(one.entry)) is not None:
            line.append((0.0, unharmed.value, unharmed.low, unharmed.high))
        line.append((one.threat.eps, one.value, one.low, one.high))
    for (norm, name, proven), points in lines.items():
        yield norm, Curve(name, proven, sorted(points, key=lambda point: point[0]))


def _stored(view: RunView, model: str, found: Sequence[Number], problems: list[str]) -> Iterator[tuple[str, Curve]]:
    """Curves that the checks stored whole."""
    norms = {one.step: one.threat.norm for one in found if one.threat is not None and one.threat.norm}
    names = {"security_curve": _("attacked: {entry}"), "certified_smoothing": _("certified, smoothed model: {entry}")}
    for check in STORED:
        for piece in stated.pieces(view, model, "curve", FAMILY + check):
            if piece.step not in norms or (stored := evidence.opened(view, piece, problems)) is None:
                continue
            try:
                lines = lines_of(stored)
            except DAMAGE as error:
                problems.append(evidence.said(view, piece, error))
                continue
            name = names[check].format(entry=piece.step.removeprefix(FAMILY))
            for line in lines:
                low, high = (line.y if side is None else side for side in (line.low, line.high))
                points: list[Point] = [
                    (float(x), float(y), float(a), float(b))
                    for x, y, a, b in zip(line.x, line.y, low, high, strict=True)
                ]
                yield norms[piece.step], Curve(name, check != "security_curve", points)
