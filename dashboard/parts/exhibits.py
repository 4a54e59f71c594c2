"""Stored evidence below a finding: curves, matrices, tables as they are; maps and attacks by a link to their page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from audit.finding import EvidenceRef
from audit.numbers import show
from audit.parameters import UserError
from audit.report import _evidence
from audit.report._told import told
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import Evidence
from dashboard import links
from dashboard.drawing import charts, evidence_charts
from dashboard.parts.markdown import plain
from dashboard.words import _

PAGES = {"attributions": "saliency", "adversarial": "attacks"}
"""Evidence that has a page of its own."""


def exhibit(view: RunView, ref: EvidenceRef, *, key: str) -> None:
    """Draw one piece of evidence; damage is a line that names the file."""
    try:
        evidence = view.run.evidence(ref)
        if not len(evidence):
            raise UserError(f"evidence {ref.path} holds no rows")
        _draw(view, ref, evidence, key)
    except _evidence.DAMAGE as error:
        said = str(error) if isinstance(error, UserError) else f"{ref.path}: {type(error).__name__}: {error}"
        st.error(plain(_("Cannot be shown: {problem}").format(problem=told(view.problem(said)))))


def _draw(view: RunView, ref: EvidenceRef, evidence: Evidence, key: str) -> None:
    name = told(clean(evidence.meta.get("title") or ref.path.rsplit("/", 1)[-1]).replace("_", " "))
    match ref.kind:
        case "attributions" | "adversarial":
            _page_link(view, ref, evidence)
        case "curve":
            _curve(evidence, name, key)
        case "roc":
            charts.draw(
                evidence_charts.roc(evidence.column("fpr"), evidence.column("tpr"), title=name),
                _("Good: the line lies on the diagonal, where members cannot be told from non-members."),
                key=key,
            )
        case "confusion_matrix":
            _confusion(evidence, key)
        case "outcomes":
            values = evidence.column("value")
            st.caption(
                _("Outcomes per row, kept for comparison in pairs: {name}, {n} rows, mean {mean}").format(
                    name=plain(name), n=f"{len(values):,}", mean=show(float(values.mean()))
                )
            )
        case _:
            st.caption(plain(name))
            _table(evidence, key)


def _page_link(view: RunView, ref: EvidenceRef, evidence: Evidence) -> None:
    kind = _(_evidence.KINDS[ref.kind])
    told = evidence.meta.get("explainer") or evidence.meta.get("attack") or ""
    label = _("{kind} ({method}): {n} rows").format(kind=kind, method=clean(told), n=f"{len(evidence):,}")
    if links.offered(PAGES[ref.kind]):
        links.link(label, PAGES[ref.kind], icon=":material/image_search:", run=view.run.name, evidence=ref.path)
    else:
        st.caption(plain(label))


def _curve(evidence: Evidence, name: str, key: str) -> None:
    meta = evidence.meta
    columns = {
        field: evidence.column(field) for field in evidence.fields if field in ("x", "y", "low", "high", "series")
    }
    charts.draw(
        evidence_charts.curve(
            columns,
            title=name,
            x_label=told(str(meta.get("x_label") or "x")),
            y_label=told(str(meta.get("y_label") or "y")),
            x_scale=str(meta.get("x_scale", "linear")),
            y_scale=str(meta.get("y_scale", "linear")),
        ),
        plain(
            told(clean(meta.get("note") or "")) or _("The band is the interval at each point, where one was stored.")
        ),
        key=key,
    )


def _confusion(evidence: Evidence, key: str) -> None:
    matrix, table = _evidence._confusion(evidence)
    if matrix is None:
        if table is not None:
            _frame(table.header, table.rows, key)
            st.caption(plain(table.note))
        return
    cells = [
        (true, said, int(count.replace(",", "")), share)
        for true, row in matrix.rows
        for said, (count, share, _right) in zip(matrix.classes, row, strict=True)
    ]
    charts.draw(
        evidence_charts.confusion(cells, list(matrix.classes)),
        _("Good: every row of the test data lies on the diagonal.") + f" {matrix.note}".rstrip(),
        key=key,
    )


def _table(evidence: Evidence, key: str) -> None:
    columns: dict[str, Any] = {"row": list(evidence.ids)}
    columns |= {name: column for name in evidence.fields if (column := evidence.column(name)).ndim == 1}
    _frame(tuple(columns), list(zip(*columns.values(), strict=True)), key)


def _frame(header: Sequence[str], rows: Sequence[Sequence[Any]], key: str) -> None:
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=[told(name.replace("_", " ")) for name in header])
    st.dataframe(frame, hide_index=True, key=key)
