"""Epsilon as it was claimed, as the ledger comes to it, and as an audit could show it to have been spent."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from audit.numbers import show
from audit.report._told import told
from audit.report._view import RunView
from audit.run_folder import Evidence
from dashboard.drawing import charts, privacy_charts
from dashboard.drawing.privacy_charts import Allowed, Line, Shown
from dashboard.parts import stated
from dashboard.reading.evidence import Piece
from dashboard.reading.measured import Number
from dashboard.words import _

AUDIT, ACCOUNTING = "privacy.dp_audit", "privacy.dp_accounting"


def _of(measured: Sequence[Number], check: str, *metrics: str) -> list[Number]:
    return [one for one in measured if one.check == check and (not metrics or one.metric in metrics)]


def budget(view: RunView, model: str, measured: Sequence[Number], claimed: Allowed | None) -> None:
    """The claim, what the ledger comes to, and what the audit proved of the training itself."""
    problems: list[str] = []
    claim = claimed.epsilon if claimed else None
    accounted = {
        _accountant(one.dims["accountant"]): one.value
        for one in _of(measured, ACCOUNTING, "epsilon")
        if "accountant" in one.dims
    }
    shown = list(_shown(_of(measured, AUDIT)))
    if not accounted and not shown:
        st.info(_("Neither the ledger nor an audit gave an epsilon here."))
        return
    charts.draw(
        privacy_charts.budget(claim, accounted, shown, title=_("Epsilon: claimed, computed, and proven spent")),
        _("Good: points at or left of the claim, and a solid bar that ends left of it while its pale ceiling reaches beyond: then the audit "
          "could have shown a lie and did not. That is “not falsified”, never a proof of privacy."),
        key="budget",
    )  # fmt: skip
    _decided(claim, shown)
    for one in [*_of(measured, ACCOUNTING, "violations", "excess"), *_of(measured, AUDIT, "excess")]:
        if not one.dims and one.finding is not None:
            stated.status_line(view, one)

    def draw(piece: Piece, stored: Evidence) -> None:
        line = Line(_("canaries"), stored.column("fpr"), stored.column("tpr"))
        entry = piece.step.removeprefix("privacy.")
        charts.draw(
            privacy_charts.roc(
                [line], [], title=_("Canaries told by their scores: {entry}").format(entry=entry),
                x_label=_("false positive rate: canaries left out that are called trained on"), y_label=_("true positive rate: canaries found"),
                allowed=claimed,
            ),
            _("Good: the line lies near the diagonal of chance, and below the dotted line: on average over trainings no attack passes it where "
              "the claim is true; at the far left, where few canaries count, a line may cross it by chance.") if claimed else
            _("Good: the line lies near the diagonal; how far above it a training may go is what its epsilon says."),
            key=f"canaries-{piece.ref.path}",
        )  # fmt: skip

    stated.each(view, stated.pieces(view, model, "roc", AUDIT), draw, problems)
    stated.told(problems)


def _accountant(name: str) -> str:
    return {
        "rdp": _("Rényi (RDP)"),
        "prv": _("numerical (PRV)"),
        "clt": _("central limit (errs both ways)"),
        "exact": _("closed form"),
        "tuned": _("with the choice among trials"),
    }.get(name, name)


def _shown(found: Sequence[Number]) -> Sequence[Shown]:
    """Bounds of the audits; each with the ceiling of its own procedure."""
    ceilings = {(one.step, *sorted(one.dims.items())): one.value for one in found if one.metric == "ceiling"}
    return [
        Shown(
            " · ".join([one.named, *(f"{k} {v}" for k, v in one.dims.items())]),
            one.value,
            ceilings.get((one.step, *sorted(one.dims.items())), one.value),
            told(one.cautions[-1]) if one.cautions else one.told,
        )
        for one in found
        if one.metric == "epsilon_lower_bound"
    ]


def _decided(claim: float | None, shown: Sequence[Shown]) -> None:
    """What the audit comes to, in a sentence."""
    if not shown:
        st.caption(
            _(
                "No audit tried the training itself: privacy.dp_audit does, from canaries ('canaries: 1000' in a training file)."
            )
        )
    elif claim is None:
        st.caption(_("Nothing is claimed: there is only what was shown."))
    elif (proven := max(one.bound for one in shown)) > claim:
        st.error(
            _("Falsified: at least epsilon {bound} was spent, and {claim} is claimed.").format(bound=show(proven), claim=show(claim)),
            icon=":material/gavel:",
        )  # fmt: skip
    elif (ceiling := max(one.ceiling for one in shown)) <= claim:
        st.warning(
            _("This audit could not have shown more than epsilon {ceiling}: the claim of {claim} was out of its reach, and nothing is decided.").format(
                ceiling=show(ceiling), claim=show(claim)
            ),
            icon=":material/help:",
        )  # fmt: skip
    else:
        st.success(
            _("Not falsified: the audit could have shown up to epsilon {ceiling} and showed {bound}; claimed is {claim}.").format(
                ceiling=show(ceiling), bound=show(proven), claim=show(claim)
            ),
            icon=":material/check:",
        )  # fmt: skip
