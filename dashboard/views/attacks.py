"""Attacks: how much is left under attack and at which price, what broke each sample, and whether the attacks were any good."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from audit.numbers import show as show_number
from audit.report._view import RunView
from audit.report._words import ACCESS
from dashboard import links
from dashboard.drawing import robustness
from dashboard.parts import attacked, choosing
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
    series, problems = evidence.examples(view, model)
    for problem in problems:
        st.error(_("Cannot be shown: {problem}").format(problem=plain(problem)), icon=":material/broken_image:")
    parts = _parts(view, model, found, sorted(series, key=lambda one: not one.piece.check.startswith(FAMILY)))
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


def _parts(view: RunView, model: str, found: Sequence[Number], series: list[Examples]) -> dict[str, Callable[[], None]]:
    """What this run has something to show for, in the order of the page."""
    metrics, checks = {one.metric for one in found}, {one.check.removeprefix(FAMILY) for one in found}
    known: dict[str, tuple[bool, Callable[[], None]]] = {
        "curve": (
            any(one.threat is not None and one.threat.norm for one in found),
            lambda: robustness.curves(view, model, found),
        ),
        "success": ("attack_success" in metrics, lambda: robustness.success(view, model, found)),
        "examples": (bool(series), lambda: attacked.gallery(view, series)),
        "cost": (
            bool(metrics & {"queries", "median_distance"}),
            lambda: robustness.cost(view, model, found),
        ),
        "masking": ("gradient_masking" in checks or "evasion" in checks, lambda: robustness.masking(view, found)),
        "corruptions": ("corruptions" in checks, lambda: robustness.corruptions(view, model)),
        "others": (bool(checks & {"backdoor", "extraction"}), lambda: robustness.others(view, model, found)),
    }
    return {name: draw for name, (there, draw) in known.items() if there}


def _summary(found: Sequence[Number]) -> None:
    """One line for every adversary: who, within which bounds, and how much is left."""
    import pandas as pd

    rows = []
    for one in found:
        if one.dims or one.metric not in HEADLINES:
            continue
        threat = one.threat
        rows.append(
            {
                "status": status_sign(one.status),
                "entry": one.step.removeprefix(FAMILY),
                "attacks": ", ".join(robustness.attacks_of(found, one.step)),
                "access": _(ACCESS.get(threat.access, threat.access)).split(" (")[0] if threat else "",
                "norm": (threat.norm or "") if threat else "",
                "eps": show_number(threat.eps) if threat and threat.eps is not None else "",
                "metric": _(one.finding.title if one.finding and one.finding.title else one.metric.replace("_", " ")),
                "value": one.value,
                "interval": one.interval,
                "n": one.n,
            }
        )
    if not rows:
        return
    names = {
        "status": _("status"), "entry": _("check"), "attacks": _("attacks"), "access": _("adversary"), "norm": _("norm"),
        "eps": "eps", "metric": _("measured"), "value": _("value"), "interval": _("95 % interval"), "n": "n",
    }  # fmt: skip
    frame = pd.DataFrame(rows)
    frame = frame.loc[:, ~frame.isin(["", None]).all()]
    st.dataframe(
        frame,
        hide_index=True,
        key="summary",
        height=38 + 35 * min(len(rows), LINES),
        column_config={name: st.column_config.Column(label) for name, label in names.items()}
        | {name: st.column_config.NumberColumn(names[name], format="%.4g") for name in ("value",)},
    )
