"""Run: the verdict and its gates, then every finding with what stands behind it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from html import escape

import streamlit as st

from audit.finding import Finding
from audit.language import speaking, spoken
from audit.numbers import show_seconds
from audit.parameters import UserError
from audit.report import render, renderer
from audit.report._coverage import HEADINGS
from audit.report._measured import MAX_ROWS, Cell, Grid, grids, lines
from audit.report._told import told
from audit.report._view import RunView
from audit.report.html import facts as manifest_facts
from dashboard import links
from dashboard.parts import banner, exhibits, gates, opened
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.reading.stored import RunSummary
from dashboard.words import _, severity_word, status_sign

FORMATS = {
    "html": "text/html",
    "json": "application/json",
    "junit": "application/xml",
    "sarif": "application/json",
    "markdown": "text/markdown",
}
PRINTED = 100
"""Gates that are printed."""
LINE = 40
"""Characters that a line of a list is worth beside its text, where columns are to be equally high."""
PARTS = ("gates", "not_tested", "measured", "evidence", "manifest")


def show() -> None:
    """Draw the page."""
    known = {summary.name: summary for summary in stored.runs(stored.home())}
    asked = links.asked("run")
    if not known:
        st.title(_("Run"))
        st.info(_("There are no runs yet. The overview says how to start."))
        return
    if asked is not None and asked not in known:
        st.title(_("Run"))
        st.error(_("There is no run '{name}' here. Choose another in the overview.").format(name=plain(asked)))
        return
    heading, choice = st.columns([2, 3], gap="large")
    with choice:
        name = str(
            links.select(
                "run",
                _("Run"),
                list(known),
                lambda name: stored.described(known[name]),
                forgets=("finding", "step", "grid"),
            )
        )
    try:
        view = stored.run(stored.home(), name)
    except UserError as error:  # its manifest cannot be read: there is nothing but its name
        with heading:
            st.title(plain(name))
        st.error(plain(told(known[name].problem or str(error))), icon=":material/broken_image:")
        return
    with heading:
        st.title(plain(view.title))
        if said := view.manifest.get("description"):
            st.write(plain(said))
    _facts(view, known[name])
    banner.show(view)
    for problem in view.problems:
        st.error(plain(told(problem)), icon=":material/broken_image:")
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        part = links.select("part", _("Part"), PARTS, _part_name, segmented=True)
        with st.popover(_("Download"), icon=":material/download:"):
            _downloads(view)
    {
        "gates": _gates, "not_tested": _not_tested, "measured": _measured, "evidence": _evidence, "manifest": _manifest
    }[str(part)](view)  # fmt: skip


def _part_name(part: str) -> str:
    return {
        "gates": _("Gates and findings"),
        "not_tested": _("Not tested"),
        "measured": _("Measured"),
        "evidence": _("Evidence"),
        "manifest": _("Scenario and manifest"),
    }[part]


def _facts(view: RunView, summary: RunSummary) -> None:
    """Which model, on which data, and when."""
    models = ", ".join(f"{model.shown} ({model.digest[:12]})" for model in summary.models)
    total = view.timings.get("total")
    facts = [
        _("model {models}").format(models=models) if models else "",
        _("data {source}").format(source=view.data["source"]) + (f" ({view.rows})" if view.rows else "")
        if view.data.get("source")
        else "",
        f"{str(view.manifest['started'])[:16].replace('T', ' ')} UTC" if view.manifest.get("started") else "",
        _("took {time}").format(time=show_seconds(float(total))) if isinstance(total, (int, float)) else "",
    ]
    st.caption(plain(" · ".join(fact for fact in facts if fact)))


def _downloads(view: RunView) -> None:
    for form, mime in FORMATS.items():
        st.download_button(
            {
                "html": _("Report (HTML)"),
                "json": _("Everything (JSON)"),
                "junit": _("For a test server (JUnit)"),
                "sarif": _("For a code host (SARIF)"),
                "markdown": _("Summary (Markdown)"),
            }[form],
            _rendered(form, view),
            file_name=f"{view.run.name}.{renderer(form).suffix}",
            mime=mime,
            key=f"download-{form}",
            icon=":material/download:",
            on_click="ignore",
            width="stretch",
        )
    st.download_button(
        _("Evidence (ZIP)"),
        lambda: _zipped(view),
        file_name=f"{view.run.name}-evidence.zip",
        mime="application/zip",
        key="download-evidence",
        icon=":material/folder_zip:",
        on_click="ignore",
        disabled=not view.evidence,
        width="stretch",
    )


def _rendered(form: str, view: RunView) -> Callable[[], str]:
    language = spoken()  # the report is made when it is asked for, in a thread that has heard of no language

    def text() -> str:
        with speaking(language):
            return render(form, view.run)

    return text


def _zipped(view: RunView) -> bytes:
    """The evidence folder as it lies there, with manifest, measurements and findings."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(view.run.path.rglob("*")):
            inside = path.relative_to(view.run.path)
            if path.is_file() and not path.is_symlink() and not inside.parts[0].startswith("."):
                archive.write(path, inside.as_posix())
    return out.getvalue()


def _gates(view: RunView) -> None:
    found = view.gates
    if not found:
        st.info(_("Nothing was gated: this run only measured.") if view.findings else _("Nothing was judged."))
        return
    chosen = _filtered(found)
    if chosen:
        gates.table(chosen, key="gates", with_model=len(view.models) > 1)
        st.caption(f"{gates.key_line()} {_('Choose a row to open its finding.')}")
        st.html(f'<div class="printed">{gates.lined(view.run.name, chosen[:PRINTED])}</div>')  # a table is cut on paper
    else:
        st.info(_("No gate is like that."))
    asked = links.asked("finding")
    finding = next((f for f in view.findings if f.id == asked), None)
    if finding is not None:
        with st.container(border=True):
            opened.show(view, finding)
    elif asked is not None:
        st.error(_("This run holds no finding '{name}'.").format(name=plain(asked)))


def _filtered(found: Sequence[Finding]) -> list[Finding]:
    """The gates of the severities and statuses that are asked for."""
    severities = [
        str(severity) for severity in dict.fromkeys(f.severity for f in sorted(found, key=lambda f: -f.severity.rank))
    ]
    statuses = [str(status) for status in dict.fromkeys(f.status for f in found)]
    if len(found) <= gates.SHOWN and not links.asked("severity") and not links.asked("status"):
        return list(found)
    left, right = st.columns(2)
    with left:
        severity = links.several("severity", _("Severity"), severities, severity_word, empty=_("every severity"))
    with right:
        status = links.several("status", _("Status"), statuses, status_sign, empty=_("every status"))
    return [
        f for f in found if (not severity or str(f.severity) in severity) and (not status or str(f.status) in status)
    ]


def _not_tested(view: RunView) -> None:
    st.subheader(_("What was not tested"))
    st.write(_("A pass says nothing about any of this."))
    columns, heights = st.columns(2, gap="large"), [0, 0]
    for kind, heading in HEADINGS.items():
        found = [(gap.subject, gap.text) for gap in view.not_tested if gap.kind == kind]
        if not found:
            continue
        shorter = heights.index(min(heights))
        heights[shorter] += sum(len(subject) + len(text) + LINE for subject, text in found)
        with columns[shorter]:
            st.markdown(f"**{_(heading)}**")
            said = {text for _subject, text in found}
            if len(found) > 1 and len(said) == 1:  # one sentence for all of them
                st.html(f"<p>{escape(said.pop())}</p>{opened.listed([(subject, '') for subject, _text in found])}")
            else:
                st.html(opened.listed(found))


def _measured(view: RunView) -> None:
    import pandas as pd

    st.subheader(_("Measured") if view.findings else _("Measured, not judged"))
    undivided, divided = lines(view), {grid.title: grid for grid in grids(view)}
    if undivided:
        rows = [
            {_("Check"): line.step, _("Metric"): line.title, _("Measured"): _said(line.cell), _("95 % interval"): line.cell.interval or "–", "n": line.cell.n}
            for line in undivided
        ]  # fmt: skip
        st.markdown(f"**{_('Overall numbers without a gate')}**")
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="undivided")
    if divided:
        st.markdown(f"**{_('Numbers by part')}**")
        grid = divided[str(links.select("grid", _("Check and part"), list(divided)))]
        st.dataframe(pd.DataFrame(_grid_rows(grid)), hide_index=True, key="grid")
        if len(grid.rows) > MAX_ROWS:
            st.caption(
                _("{n} of {all} rows are shown; the JSON report holds all.").format(
                    n=MAX_ROWS, all=f"{len(grid.rows):,}"
                )
            )
    if not undivided and not divided:
        st.info(_("Every number of this run has a gate."))


def _grid_rows(grid: Grid) -> list[dict[str, str]]:
    return [
        dict(zip(grid.heads, parts, strict=True))
        | {column: _said(cells[column], interval=True) if column in cells else "–" for column in grid.columns}
        for parts, cells in grid.shown
    ]


def _said(cell: Cell, *, interval: bool = False) -> str:
    value = f"{cell.value} ({cell.interval})" if interval and cell.interval else cell.value
    return f"{value} · {status_sign(cell.status)}" if cell.status else value


def _evidence(view: RunView) -> None:
    st.subheader(_("Evidence"))
    if not view.evidence:
        st.info(_("This run stored no evidence."))
        return
    steps = list(dict.fromkeys(step for _ref, step in view.evidence))
    step = links.select("step", _("Check"), steps)
    for ref, owner in view.evidence:
        if owner == step:
            exhibits.exhibit(view, ref, key=f"evidence-{ref.path}")


def _manifest(view: RunView) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(_("Scenario as it was run"))
        st.code(view.scenario_text, language="yaml", wrap_lines=True)
        if view.waivers:
            st.subheader(_("Waivers"))
            st.html(
                opened.listed([(w.finding, f"{w.reason} ({w.owner}, {w.expires}): {w.effect}") for w in view.waivers])
            )
    with right:
        st.subheader(_("Manifest"))
        for heading, rows in manifest_facts(view).items():
            st.html(opened.facts(heading, rows))
