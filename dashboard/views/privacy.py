"""Privacy: who can be told from the model's answers, what its training claims and what an audit could show, and what privacy costs."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from audit.finding import Finding, Status
from audit.parameters import UserError
from audit.report._about import title_of
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import clean, part_of
from dashboard import links
from dashboard.drawing.privacy_charts import Allowed
from dashboard.parts import budget, choosing, frontiers, leaks, ledger, membership, stated
from dashboard.parts.markdown import plain
from dashboard.reading import stored, trainings
from dashboard.reading.measured import Number, numbers
from dashboard.words import _, status_sign

if TYPE_CHECKING:
    from audit.privacy.accounting import TrainingRecord

FAMILY = "privacy."
LINES = 12
"""Of the table at the top, before it scrolls."""
WIDTHS = {
    "status": 112,
    "check": 146,
    "metric": 262,
    "value": 82,
    "interval": 156,
    "n": 50,
    "required": 62,
    "access": 94,
}
"""Pixels of its columns."""


def show() -> None:
    """Draw the page."""
    home = stored.home()
    found = trainings.frontiers(home)
    view = choosing.run_with(
        FAMILY,
        _("Privacy"),
        _(
            "No run asked what its model gives away yet: a scenario with a check such as privacy.membership_inference does."
        ),
    )
    if view is None:
        if found and not links.asked("run"):
            st.subheader(_("Utility against privacy"))
            frontiers.show(found, "")
        return
    models = list(dict.fromkeys(r.model for r in view.recorded if r.check.startswith(FAMILY)))
    if not models:
        st.info(_("No check of privacy has measured anything in this run."))
        return
    model = choosing.model_of(models)
    measured = numbers(view, model, FAMILY)
    _summary(measured)
    _unmeasured(view, model)
    parts = _parts(view, model, measured, found)
    if not parts:
        st.info(_("Nothing of it can be drawn."))
        return
    part = links.select("part", _("Part"), list(parts), _title, segmented=True)
    parts[str(part)]()


def _title(part: str) -> str:
    return {
        "membership": _("Who was trained on"),
        "budget": _("Claimed and measured epsilon"),
        "training": _("Ledger and training"),
        "records": _("Most exposed records"),
        "attributes": _("Attributes"),
        "inversion": _("Reconstructions"),
        "memorisation": _("Memorisation"),
        "pii": _("Personal data"),
        "frontier": _("Utility against privacy"),
    }[part]


def _parts(
    view: RunView, model: str, measured: Sequence[Number], found: Sequence[trainings.Found]
) -> dict[str, Callable[[], None]]:
    """What there is to show, in the order of the page."""
    checks = {one.check.removeprefix(FAMILY) for one in measured}
    facts = view.models.get(model, {})
    digest = str(facts.get("digest", ""))
    told = bool(facts.get("ledger")) or trainings.folder_of(stored.home(), facts) is not None
    known: dict[str, tuple[bool, Callable[[], None]]] = {
        "membership": ("membership_inference" in checks, lambda: membership.membership(view, model, measured)),
        "budget": (bool(checks & {"dp_accounting", "dp_audit"}), lambda: budget.budget(view, model, measured, _claim(facts, measured))),
        "training": (told, lambda: _training(facts, measured)),
        "records": (membership.has_records(view, model), lambda: membership.records(view, model, measured)),
        "attributes": ("attribute_inference" in checks, lambda: leaks.attributes(view, model, measured)),
        "inversion": ("model_inversion" in checks, lambda: leaks.inversion(view, model, measured)),
        "memorisation": ("memorisation" in checks, lambda: leaks.memorisation(view, model, measured)),
        "pii": ("pii" in checks, lambda: leaks.pii(view, model, measured)),
        "frontier": (bool(found), lambda: frontiers.show(found, digest)),
    }  # fmt: skip
    return {name: draw for name, (there, draw) in known.items() if there}


# --- what was measured -------------------------------------------------------------------------------------------


def _summary(measured: Sequence[Number]) -> None:
    """Every number that speaks of the model as a whole, and every one with a gate."""
    import pandas as pd

    shown = [one for one in measured if set(one.dims) <= {"fpr"} or (one.finding and one.finding.gated)]
    if not shown:
        return
    rows = [
        {
            "status": f"? {_('decides nothing')}"
            if one.unresolved and one.status == Status.INFO
            else status_sign(one.status),
            "check": one.entry.removeprefix(FAMILY),
            "metric": _title_of(one),
            "value": one.value,
            "interval": one.interval,
            "n": one.n,
            "required": (one.finding.required or "") if one.finding else "",
            "access": stated.adversary(one),
        }
        for one in shown
    ]
    names = {
        "status": _("status"), "check": _("check"), "metric": _("measured"), "value": _("value"),
        "interval": _("95 % interval"), "n": "n", "required": _("required"), "access": _("adversary"),
    }  # fmt: skip
    frame = pd.DataFrame(rows).astype({"n": "Int64"})
    st.dataframe(
        frame.loc[:, ~frame.isin(["", None]).all()],
        hide_index=True,
        key="summary",
        height=38 + 35 * min(len(rows), LINES),
        placeholder="",
        column_config={name: st.column_config.Column(label, width=WIDTHS.get(name)) for name, label in names.items()}
        | {"value": st.column_config.NumberColumn(names["value"], format="%.4g", width=WIDTHS["value"])},
    )


def _title_of(one: Number) -> str:
    """What was measured, and of which part."""
    if one.metric == "tpr_at_fpr" and "fpr" in one.dims:
        found = _("members found at {rate} false positives").format(rate=f"{100 * float(one.dims['fpr']):g} %")
        rest = ", ".join(f"{k} {v}" for k, v in {**one.dims, **one.cell}.items() if k != "fpr")
        return f"{found} ({rest})" if rest else found
    title = title_of(one.check, one.metric)
    part = part_of(one.finding) if one.finding else ", ".join(f"{k} {v}" for k, v in {**one.dims, **one.cell}.items())
    return f"{title} ({part})" if part else title


def _unmeasured(view: RunView, model: str) -> None:
    """Checks that measured nothing, and why."""
    absent: dict[str, Finding] = {}
    for finding in view.findings:
        if finding.check.startswith(FAMILY) and finding.model == model and finding.estimate is None:
            absent.setdefault(finding.step, finding)
    items = "".join(
        f'<li><span class="tone {one.status}">{html.escape(status_sign(one.status))}</span> <b>{html.escape(step.removeprefix(FAMILY))}</b>: '
        f"{html.escape(told(one.message))}</li>"
        for step, one in absent.items()
    )
    if items:
        st.html(f'<ul class="listed">{items}</ul>')


# --- ledger ------------------------------------------------------------------------------------------------------


def _record(facts: Mapping[str, Any]) -> TrainingRecord | None:
    """The ledger; None, and a line, where it cannot be read."""
    try:
        return trainings.ledger(stored.home(), facts)
    except UserError as error:
        st.error(_("Cannot be shown: {problem}").format(problem=plain(clean(error))), icon=":material/broken_image:")
        return None


def _claim(facts: Mapping[str, Any], measured: Sequence[Number]) -> Allowed | None:
    """What was claimed: by the scenario where it brings a claim of its own, else by the ledger."""
    record = _record(facts)
    delta = record.target_delta if record is not None else 0.0
    for one in measured:
        given = (one.finding.params if one.finding else {}).get("claim")
        if isinstance(given, Mapping) and isinstance(given.get("epsilon"), (int, float)):
            own = given.get("delta")
            return Allowed(float(given["epsilon"]), float(own) if isinstance(own, (int, float)) else delta)
    if record is not None and record.claim is not None:
        return Allowed(record.claim.epsilon, record.target_delta)
    bounds = {(one.step, one.metric): one.value for one in measured if one.check.endswith("dp_audit") and not one.dims}
    for (step, metric), value in bounds.items():
        if metric == "epsilon_lower_bound" and (step, "excess") in bounds:
            return Allowed(value - bounds[step, "excess"], delta)
    return None


def _training(facts: Mapping[str, Any], measured: Sequence[Number]) -> None:
    """The ledger of the model, and how its training went."""
    record = _record(facts)
    audited = next(
        (one for one in measured if one.check.endswith("dp_accounting") and one.metric == "violations"), None
    )
    if record is not None:
        st.subheader(_("Privacy ledger"))
        ledger.show(record, audited.cautions if audited else None)
    st.subheader(_("Course of the training"))
    folder = trainings.folder_of(stored.home(), facts)
    if folder is None:
        st.caption(_("The folder of this very training is not below HOME/trainings: its history is not known here."))
        return
    claim = record.claim if record else None
    ledger.course(
        folder,
        regression=facts.get("task") == "regression",
        claim=claim.epsilon if claim else None,
        delta=record.target_delta if record else None,
    )
