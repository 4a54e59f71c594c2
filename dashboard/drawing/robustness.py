"""Charts of robustness: what is left over eps, certified below and attacked above; success, price, controls, corruptions."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from audit.numbers import show
from audit.report._evidence import DAMAGE, lines_of
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import Evidence, safe_name
from dashboard import links
from dashboard.drawing import charts, evidence_charts, pictures
from dashboard.drawing.charts import Dot
from dashboard.parts.markdown import plain
from dashboard.reading import evidence
from dashboard.reading.evidence import Piece
from dashboard.reading.measured import Number
from dashboard.words import _, status_sign

MOST_CLASSES = 20
"""Classes of a chart: those that are broken most."""
SMALLEST = 30
"""Rows of the table of the smallest distances."""
FAMILY = "robustness."


def attacks_of(found: Sequence[Number], step: str) -> list[str]:
    """Names of the attacks whose numbers a step holds."""
    named = [d for one in found if one.step == step for key, d in one.dims.items() if key in ("attack", "after")]
    return list(dict.fromkeys(named))


def _pieces(view: RunView, model: str, kind: str, check: str) -> list[Piece]:
    return [piece for piece in evidence.pieces(view, kind, FAMILY + check) if piece.model == model]


def told(problems: Sequence[str]) -> None:
    """Damage, a line each."""
    for problem in dict.fromkeys(problems):
        st.error(_("Cannot be shown: {problem}").format(problem=plain(problem)), icon=":material/broken_image:")


# --- security curve, certified against empirical -----------------------------------------------------------------


class _Lines:
    """Lines of a chart as columns."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {"x": [], "y": [], "low": [], "high": [], "series": []}

    def add(self, name: str, x: float, y: float, low: float | None, high: float | None) -> None:
        nan = float("nan")
        row = (x, y, nan if low is None else low, nan if high is None else high, name)
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)

    def drawn(self) -> dict[str, Any]:
        return {name: np.asarray(values) for name, values in self.columns.items()}


def curves(view: RunView, model: str, found: Sequence[Number]) -> None:
    """Accuracy over eps, a chart for each norm: attacks give upper bounds, certificates lower ones."""
    problems: list[str] = []
    by_norm: dict[str, _Lines] = {}
    units: dict[str, str] = {}
    for one in found:
        if one.threat is not None and one.threat.norm:
            units.setdefault(one.threat.norm, one.threat.units or "")
    for norm, name, points in [*_measured_lines(found), *_stored_lines(view, model, found, problems)]:
        lines = by_norm.setdefault(norm, _Lines())
        for x, y, low, high in points:
            lines.add(name, x, y, low, high)
    told(problems)
    for norm, lines in sorted(by_norm.items()):
        unit = f", {units[norm]}" if units.get(norm) else ""
        charts.draw(
            evidence_charts.curve(
                lines.drawn(), title=_("Accuracy under attack, {norm}").format(norm=norm), x_label=f"eps ({norm}{unit})",
                y_label=_("accuracy"),
            ),
            _("Good: the attacked lines stay high as far as an adversary may go, and the certified ones lie close below them. No attack can "
              "break more than the certificate leaves open; what lies between the two is unknown."),
            key=f"curve-{norm}",
        )  # fmt: skip
    if not by_norm:
        st.caption(_("None of the attacks is bound by a norm: there is no eps to draw over."))


Point = tuple[float, float, float | None, float | None]


def _measured_lines(found: Sequence[Number]) -> Iterator[tuple[str, str, list[Point]]]:
    """Numbers that hold for one eps: evasion by scenario entry, from its accuracy without attack on; bounds by method."""
    lines: dict[tuple[str, str], list[Point]] = {}
    clean_by_entry = {one.entry: one for one in found if one.metric == "clean_accuracy"}
    for one in found:
        if one.threat is None or one.threat.norm is None or one.threat.eps is None:
            continue
        if one.check == "robustness.evasion" and one.metric == "robust_accuracy" and not one.dims:
            name = _("attacked: {entry}").format(entry=one.entry.removeprefix(FAMILY))
        elif one.check == "robustness.certified_bounds" and set(one.dims) == {"method"}:
            name = _("certified: {method}").format(method=one.dims["method"])
        else:
            continue
        line = lines.setdefault((one.threat.norm, name), [])
        if not line and one.metric == "robust_accuracy" and (unharmed := clean_by_entry.get(one.entry)) is not None:
            line.append((0.0, unharmed.value, unharmed.low, unharmed.high))
        line.append((one.threat.eps, one.value, one.low, one.high))
    for (norm, name), points in lines.items():
        yield norm, name, sorted(points, key=lambda point: point[0])


def _stored_lines(
    view: RunView, model: str, found: Sequence[Number], problems: list[str]
) -> Iterator[tuple[str, str, list[Point]]]:
    """Curves that the checks stored whole."""
    norms = {one.step: one.threat.norm for one in found if one.threat is not None and one.threat.norm}
    wanted = (
        ("security_curve", _("attacked: {entry}")),
        ("certified_smoothing", _("certified, smoothed model: {entry}")),
    )
    for check, name in wanted:
        for piece in _pieces(view, model, "curve", check):
            if piece.step not in norms or (stored := evidence.opened(view, piece, problems)) is None:
                continue
            try:
                lines = lines_of(stored)
            except DAMAGE as error:
                problems.append(evidence.said(view, piece, error))
                continue
            for line in lines:
                low, high = (line.y if side is None else side for side in (line.low, line.high))
                points = [tuple(map(float, point)) for point in zip(line.x, line.y, low, high, strict=True)]
                yield norms[piece.step], name.format(entry=piece.step.removeprefix(FAMILY)), points  # type: ignore[misc]


# --- success -----------------------------------------------------------------------------------------------------


def success(view: RunView, model: str, found: Sequence[Number]) -> None:
    """Which share of the rows each attack breaks, and of which class."""
    rows = [one for one in found if one.metric == "attack_success" and not set(one.dims) - {"attack", "after"}]
    dots = [
        Dot(_attack_name(one), _cell_name(one), one.value, one.low, one.high, one.told)
        for one in sorted(rows, key=lambda one: not one.dims)
    ]
    charts.draw(
        charts.dots(
            dots, title=_("Success of each attack"), label=_("share of the rightly answered rows that it breaks")
        ),
        _(
            "Good: all far left. An attack far left of the others adds nothing; the line of all together is the adversary's best."
        ),
        key="success-by-attack",
    )
    problems: list[str] = []
    steps = list(dict.fromkeys(one.step for one in rows))
    step = (
        steps[0]
        if len(steps) == 1
        else links.select("step", _("Success by class, of"), steps, lambda s: s.removeprefix(FAMILY))
    )
    cells = _by_class(view, model, found, str(step), problems)
    told(problems)
    if cells:
        charts.draw(
            charts.heat(
                cells, title=_("Success by attack and class: {step}").format(step=str(step).removeprefix(FAMILY)), row_title=_("attack"),
                column_title=_("true class"), label=_("share broken"),
            ),
            _("Good: all cells pale, and none much darker than its neighbours: a class that breaks first is where to look."),
            key="success-by-class",
        )  # fmt: skip


def _attack_name(one: Number) -> str:
    named = [value if key == "attack" else _("after {attack}").format(attack=value) for key, value in one.dims.items()]
    return " · ".join(named) or _("all together")


def _cell_name(one: Number) -> str:
    return one.step.removeprefix(FAMILY)


def _by_class(
    view: RunView, model: str, found: Sequence[Number], step: str, problems: list[str]
) -> list[tuple[str, str, float, str]]:
    """Cells of success by attack and class: counted from the stored rows, the worst case as it was measured."""
    worst = {one.dims["class"]: one for one in found if one.step == step and set(one.dims) == {"class"}}
    pieces = [piece for piece in _pieces(view, model, "outcomes", "evasion") if piece.step == step]
    base = next((piece for piece in pieces if piece.name == "clean"), None)
    names: list[str] = []
    if base is not None and (stored := evidence.opened(view, base, problems)) is not None:
        names = [clean(name) for name in stored.meta.get("classes") or ()]
    cells: list[tuple[str, str, float, str]] = []
    attacks = {safe_name(f"outcomes-{attack}"): attack for attack in attacks_of(found, step)}
    classes = sorted(worst, key=lambda name: -worst[name].value)[:MOST_CLASSES]
    order = [name for name in worst if name in classes]
    for piece in pieces:
        if base is None or piece.name not in attacks:
            continue
        counted = evidence.per_class(view, piece, base, problems)
        known = {names[at]: tally for at, tally in counted.items() if at < len(names)}
        for name in order:
            if name in known:
                n, k = known[name]
                cells.append((attacks[piece.name], name, k / n, _("{k} of {n}").format(k=k, n=n)))
    cells += [(_("all together"), name, worst[name].value, worst[name].told) for name in order]
    return cells


# --- distances and queries ---------------------------------------------------------------------------------------


def cost(view: RunView, model: str, found: Sequence[Number]) -> None:
    """How far it is to the nearest mistake, and how many answers an adversary needs."""
    problems: list[str] = []
    for piece in _pieces(view, model, "table", "security_curve"):
        if piece.name != "distances" or (stored := evidence.opened(view, piece, problems)) is None:
            continue
        try:
            _distances(stored, piece, found)
        except DAMAGE as error:
            problems.append(evidence.said(view, piece, error))
    told(problems)
    spent = [one for one in found if one.metric == "queries"]
    if spent:
        charts.draw(
            charts.dots(
                [Dot(_attack_name(one), _cell_name(one), one.value, one.low, one.high, one.told) for one in spent],
                title=_("Queries spent"), label=_("mean queries per attacked row"), share=False, log=True,
            ),
            _("Good: many, where an adversary has few. White-box attacks need few by nature; those that see answers only are the price "
              "that an outsider pays."),
            key="queries",
        )  # fmt: skip


def _distances(stored: Evidence, piece: Piece, found: Sequence[Number]) -> None:
    import pandas as pd

    distance, by = np.asarray(stored.column("distance"), dtype=float), stored.column("found_by").astype(str)
    seen = np.isfinite(distance) & (distance > 0)
    units = clean(stored.meta.get("units") or "")
    norm = next((one.threat.norm for one in found if one.step == piece.step and one.threat is not None), None)
    median = next((one for one in found if one.step == piece.step and one.metric == "median_distance"), None)
    entry = piece.step.removeprefix(FAMILY)
    if seen.any():
        charts.draw(
            charts.histogram(
                {name: distance[seen & (by == name)] for name in dict.fromkeys(by[seen].tolist())},
                title=_("Smallest perturbation that breaks each row: {entry}").format(entry=entry),
                label=_("minimal distance, {norm}").format(norm=norm or ""), unit=units,
                marked=median.value if median is not None else None,
            ),
            _("Good: the whole hill lies right of what an adversary may change.")
            + (_(" The dashed line is the median, {value} ({told}).").format(value=show(median.value), told=median.told) if median else ""),
            key=f"distances-{piece.step}",
        )  # fmt: skip
    wrong, unbroken = int((distance == 0).sum()), int(np.isinf(distance).sum())
    st.caption(
        _("{n} rows: {wrong} are wrong without any attack, {unbroken} were never broken.").format(
            n=f"{len(distance):,}", wrong=wrong, unbroken=unbroken
        )
    )
    order = np.flatnonzero(seen)[np.argsort(distance[seen], kind="stable")][:SMALLEST]
    with st.expander(_("The {n} rows with the smallest distances").format(n=len(order))):
        frame = pd.DataFrame(
            {
                _("row"): [stored.ids[i] for i in order],
                _("true class"): [str(stored.column("label")[i]) for i in order],
                _("distance"): distance[order],
                _("found by"): by[order],
            }
        )
        st.dataframe(
            frame, hide_index=True, key=f"smallest-{piece.step}",
            column_config={_("distance"): st.column_config.NumberColumn(format="%.4g")},
        )  # fmt: skip


# --- controls ----------------------------------------------------------------------------------------------------


def masking(view: RunView, found: Sequence[Number]) -> None:
    """Whether the attacks would have seen it if there were something to see."""
    for one in found:
        if one.metric == "broken_controls":
            status_line(view, one)
            rows = [s for s in found if s.step == one.step and s.metric == "success"]
            if rows:
                charts.draw(
                    charts.dots(
                        [Dot(s.dims.get("method", ""), _("rows fooled"), s.value, s.low, s.high, s.told) for s in rows],
                        title=_("The attack and what must not do better: {entry}").format(entry=one.step.removeprefix(FAMILY)),
                        label=_("share of rows fooled"),
                    ),
                    _("Good: nothing lies right of the attack in the first line. What knows less and finds more shows that gradients are hidden."),
                    key=f"controls-{one.step}",
                )  # fmt: skip
    rows = [n for n in found if n.metric == "robust_accuracy" and not n.dims and n.check == "robustness.evasion"]
    if rows:
        st.subheader(_("Controls inside each attack"))
        for one in rows:
            status_line(view, one)
    if not any(one.metric == "broken_controls" for one in found):
        st.caption(_("No check compared the attacks with stronger and weaker ones: robustness.gradient_masking does."))


def named(one: Number) -> str:
    """The step of a number without its family."""
    return one.step.removeprefix(f"{one.check.split('.')[0]}.")


def status_line(view: RunView, one: Number) -> None:
    """A line with the status of what rests on the control, and what is said of it."""
    status = one.status
    finding = one.finding
    title = f", {_(finding.title)}" if finding and finding.title else ""
    text = finding.message if finding else f"{one.metric.replace('_', ' ')} {show(one.value)}"
    items = "".join(f"<li>{html.escape(caution)}</li>" for caution in one.cautions)
    st.html(
        f'<p><span class="tone {status}">{html.escape(status_sign(status))}</span> <b>{html.escape(named(one))}</b>{html.escape(title)}: '
        f"{html.escape(text)}</p>" + (f'<ul class="listed">{items}</ul>' if items else "")
    )
    if finding is not None and links.offered("run"):
        links.link(_("Open the finding"), "run", icon=":material/fact_check:", run=view.run.name, finding=finding.id)


# --- corruptions, back door, theft -------------------------------------------------------------------------------


def corruptions(view: RunView, model: str) -> None:
    """Accuracy by family and severity, and each corruption by itself."""
    problems: list[str] = []
    good = _(
        "Good: flat lines close to the accuracy without corruption; severity 1 is what every camera does, 5 is hardly readable."
    )
    for piece in _pieces(view, model, "curve", "corruptions"):
        stored_curve(view, piece, _("Accuracy by severity"), good, problems)
    for piece in _pieces(view, model, "table", "corruptions"):
        if (stored := evidence.opened(view, piece, problems)) is None:
            continue
        try:
            cells = list(_by_severity(stored))
        except DAMAGE as error:
            problems.append(evidence.said(view, piece, error))
            continue
        charts.draw(
            charts.heat(
                cells, title=_("Accuracy lost, by corruption and severity"), row_title=_("corruption"), column_title=_("severity"),
                label=_("share answered wrongly"),
            ),
            _("Good: pale cells. A dark line is a corruption to train against, or to refuse inputs for."),
            key=f"corruptions-{piece.step}",
        )  # fmt: skip
    told(problems)


def _by_severity(stored: Evidence) -> Iterator[tuple[str, str, float, str]]:
    for name in stored.fields:
        if name.startswith("severity_"):
            for row, accuracy in zip(stored.ids, stored.column(name), strict=True):
                told = _("accuracy {value}").format(value=show(float(accuracy)))
                yield clean(row).replace("_", " "), name.removeprefix("severity_"), 1 - float(accuracy), told


def stored_curve(view: RunView, piece: Piece, title: str, good: str, problems: list[str]) -> None:
    """A stored curve as it is."""
    if (stored := evidence.opened(view, piece, problems)) is None:
        return
    try:
        columns = {name: stored.column(name) for name in stored.fields if name in ("x", "y", "low", "high", "series")}
        meta = stored.meta
        drawn = evidence_charts.curve(
            columns, title=title, x_label=str(meta.get("x_label") or "x"), y_label=str(meta.get("y_label") or "y"),
            x_scale=str(meta.get("x_scale", "linear")), y_scale=str(meta.get("y_scale", "linear")),
        )  # fmt: skip
    except DAMAGE as error:
        problems.append(evidence.said(view, piece, error))
        return
    charts.draw(drawn, good, key=f"stored-{piece.ref.path}")


def others(view: RunView, model: str, found: Sequence[Number]) -> None:
    """Triggers of a back door, and the copy that a thief trains."""
    problems: list[str] = []
    for piece in _pieces(view, model, "attributions", "backdoor"):
        _triggers(view, piece, problems)
    good = _("Good: the line stays low for as many queries as anybody may ask.")
    for piece in _pieces(view, model, "curve", "extraction"):
        stored_curve(view, piece, _("Fidelity of a stolen copy"), good, problems)
    told(problems)
    for one in found:
        if one.check in ("robustness.backdoor", "robustness.extraction") and not one.dims and one.finding is not None:
            status_line(view, one)


def _triggers(view: RunView, piece: Piece, problems: list[str]) -> None:
    """The smallest trigger found for each class."""
    if (stored := evidence.opened(view, piece, problems)) is None or stored.meta.get("input_kind") != "image":
        return
    st.subheader(_("Smallest trigger found for each class"))
    bounds: Mapping[str, Any] = stored.meta
    low, high = bounds.get("bounds") or (0.0, 1.0)
    try:
        tiles = [
            (clean(name), pictures.picture(stored.row(at)["x"], (low, high), 120))
            for at, name in enumerate(stored.ids[:MOST_CLASSES])
        ]
    except DAMAGE as error:
        problems.append(evidence.said(view, piece, error))
        return
    with st.container(horizontal=True):
        for name, png in tiles:
            st.image(png, caption=name, width=120)
    st.caption(
        _("Good: all of them are large. One that is much smaller than the others is how a planted back door looks.")
    )
