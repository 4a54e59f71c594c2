"""Attacks: how much is left under attack and at which price, what broke each sample, and whether the attacks were any good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import streamlit as st

from audit.numbers import show as show_number
from audit.report._about import title_of
from audit.report._view import RunView
from dashboard import links
from dashboard.parts import attacked, choosing, corruptions, masking, price, security_curve, stated, success
from dashboard.parts.markdown import plain
from dashboard.reading import evidence
from dashboard.reading.evidence import Examples
from dashboard.reading.measured import Number, numbers
from dashboard.words import _, status_sign

FAMILY = "robustness."
HEADLINES = {
    "robust_accuracy", "accuracy_at_largest_eps", "median_distance", "certified_accuracy", "smoothed_accuracy", "accuracy", "mce",
    "broken_controls", "fidelity",
}  # fmt: skip
"""Metrics whose undivided number stands in the table at the top."""
LINES = 14
"""Of that table, before it scrolls."""
WIDTHS = {
    "status": 104,
    "entry": 142,
    "access": 104,
    "within": 74,
    "metric": 222,
    "value": 62,
    "interval": 140,
    "n": 46,
    "required": 66,
}
"""Pixels of its columns."""


def show() -> None:
    """Draw the page."""
    view = choosing.run_with(
        FAMILY,
        _("Attacks"),
        _("No run attacked its model yet: a scenario with a check such as robustness.evasion does."),
    )
    if view is None:
        return
    changed = {piece.step for piece in evidence.pieces(view, "adversarial")}
    models = list(dict.fromkeys(r.model for r in view.recorded if r.check.startswith(FAMILY) or r.step in changed))
    if not models:
        st.info(_("No check of robustness has measured anything in this run."))
        return
    model = choosing.model_of(models)
    found = numbers(view, model, FAMILY)
    _summary(found)
    _attacks(found)
    series, problems = evidence.examples(view, model)
    for problem in problems:
        st.error(_("Cannot be shown: {problem}").format(problem=plain(problem)), icon=":material/broken_image:")
    parts = _parts(view, model, found, _ordered(series))
    if not parts:
        st.info(_("Nothing of it can be drawn."))
        return
    names = list(parts)
    asked = links.asked("evidence")
    first = "examples" if "examples" in parts and any(one.piece.ref.path == asked for one in series) else names[0]
    part = links.select("part", _("Part"), names, _title, default=first, segmented=True)
    parts[part if part in parts else names[0]]()


def _title(part: str) -> str:
    return {
        "curve": _("Security curve"),
        "success": _("Success"),
        "examples": _("Examples"),
        "cost": _("Distances and queries"),
        "masking": _("Masking"),
        "corruptions": _("Corruptions"),
        "others": _("Back door and theft"),
    }[part]


def _ordered(series: Sequence[Examples]) -> list[Examples]:
    """Attacks before corruptions before what other families changed; two of one name are told apart by their entries."""
    same = Counter(one.label for one in series)
    named = [
        one
        if same[one.label] == 1
        else replace(one, label=f"{one.label} · {one.piece.step.split('[')[0].removeprefix(FAMILY)}")
        for one in series
    ]
    return sorted(named, key=lambda one: (not one.piece.check.startswith(FAMILY), bool(one.by)))


def _parts(view: RunView, model: str, found: Sequence[Number], series: list[Examples]) -> dict[str, Callable[[], None]]:
    """What this run has something to show for, in the order of the page."""
    metrics, checks = {one.metric for one in found}, {one.check.removeprefix(FAMILY) for one in found}
    known: dict[str, tuple[bool, Callable[[], None]]] = {
        "curve": (
            any(one.threat is not None and one.threat.norm for one in found),
            lambda: security_curve.curves(view, model, found),
        ),
        "success": ("attack_success" in metrics, lambda: success.success(view, model, found, series)),
        "examples": (bool(series), lambda: attacked.gallery(view, series)),
        "cost": (
            bool(metrics & {"queries", "median_distance"}),
            lambda: price.cost(view, model, found, series),
        ),
        "masking": ("gradient_masking" in checks or "evasion" in checks, lambda: masking.masking(view, found)),
        "corruptions": ("corruptions" in checks, lambda: corruptions.corruptions(view, model)),
        "others": (bool(checks & {"backdoor", "extraction"}), lambda: corruptions.others(view, model, found)),
    }
    return {name: draw for name, (there, draw) in known.items() if there}


def _summary(found: Sequence[Number]) -> None:
    """One line for every adversary: who, within which bounds, and how much is left."""
    import pandas as pd

    rows = []
    for one in found:
        if one.dims or one.metric not in HEADLINES:
            continue
        rows.append(
            {
                "status": status_sign(one.status),
                "entry": one.step.removeprefix(FAMILY),
                "access": stated.adversary(one),
                "within": _within(one),
                "metric": title_of(one.check, one.metric),
                "value": one.value,
                "interval": one.interval,
                "n": one.n,
                "required": (one.finding.required or "") if one.finding else "",
            }
        )
    if not rows:
        return
    names = {
        "status": _("status"), "entry": _("check"), "access": _("adversary"), "within": _("within"), "metric": _("measured"),
        "value": _("value"), "interval": _("95 % interval"), "n": "n", "required": _("required"),
    }  # fmt: skip
    frame = pd.DataFrame(rows).astype({"n": "Int64"})
    frame = frame.loc[:, ~frame.isin(["", None]).all()]
    st.dataframe(
        frame,
        hide_index=True,
        key="summary",
        height=38 + 35 * min(len(rows), LINES),
        placeholder="",
        column_config={name: st.column_config.Column(label, width=WIDTHS.get(name)) for name, label in names.items()}
        | {"value": st.column_config.NumberColumn(names["value"], format="%.4g", width=WIDTHS["value"])},
    )


def _attacks(found: Sequence[Number]) -> None:
    """Which attacks stand behind each entry, in a line."""
    entries: dict[str, dict[str, None]] = {}
    for one in found:
        if one.check == "robustness.evasion":
            entries.setdefault(one.entry.removeprefix(FAMILY), {}).update(
                dict.fromkeys(success.attacks_of(found, one.step))
            )
    said = "; ".join(f"{entry}: {', '.join(names)}" for entry, names in entries.items() if names)
    if said:
        st.caption(_("Attacks: {entries}.").format(entries=plain(said)))


def _within(one: Number) -> str:
    """How far the adversary may go: ``linf ≤ 0.8``."""
    if one.threat is None or one.threat.norm is None:
        return ""
    return one.threat.norm if one.threat.eps is None else f"{one.threat.norm} ≤ {show_number(one.threat.eps)}"
