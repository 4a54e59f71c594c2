"""What the checks of privacy measured, one part of the page each: attacks, budgets, records, attributes, reconstructions, texts."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from audit.numbers import show
from audit.report._evidence import bounds_of
from audit.report._reconstructed import ReconstructedReader
from audit.report._view import RunView
from audit.report._words import clean
from audit.run_folder import Evidence
from dashboard import links
from dashboard.drawing import charts, privacy_charts
from dashboard.drawing.charts import Dot
from dashboard.drawing.privacy_charts import Line, Mark, Shown
from dashboard.parts import gallery, stated
from dashboard.parts.markdown import plain
from dashboard.reading import evidence
from dashboard.reading.evidence import Piece
from dashboard.reading.measured import Number
from dashboard.words import _

FAMILY = "privacy."
BLIND = "blind_auc"
MOST = 20
"""Records that are seen without scrolling."""


def _of(measured: Sequence[Number], check: str, *metrics: str) -> list[Number]:
    return [one for one in measured if one.check == FAMILY + check and (not metrics or one.metric in metrics)]


def _pieces(view: RunView, model: str, kind: str, check: str) -> list[Piece]:
    return [piece for piece in evidence.pieces(view, kind, FAMILY + check) if piece.model == model]


def _each(view: RunView, found: Sequence[Piece], draw: Callable[[Piece, Evidence], None], problems: list[str]) -> None:
    """Draw pieces of evidence; damage becomes a line and the others still show."""
    for piece in found:
        evidence.safely(view, piece, lambda stored, piece=piece: draw(piece, stored), problems)  # type: ignore[misc]


def _steps(found: Sequence[Number]) -> list[str]:
    return list(dict.fromkeys(one.step for one in found))


def _entry(step: str) -> str:
    return step.removeprefix(FAMILY)


def _cautions(found: Sequence[Number]) -> None:
    """What limits the numbers, each said once."""
    said = list(dict.fromkeys(caution for one in found for caution in one.cautions))
    if said:
        with st.expander(_("What limits these numbers ({n})").format(n=len(said))):
            st.html("".join(f"<p>{html.escape(caution)}</p>" for caution in said))


def _blind(view: RunView, found: Sequence[Number]) -> None:
    """The control that comes first: where inputs alone tell members, no number of the model means anything."""
    controls = {
        (one.entry, one.told): one for one in found if one.metric == BLIND
    }  # cells of a matrix share one control
    for one in controls.values():
        voided = any(
            other.finding is not None and other.finding.status == "void" for other in found if other.entry == one.entry
        )
        told = _("{value} ({told})").format(value=show(one.value), told=one.told)
        if voided:
            st.error(
                _("Blind control of {step}: inputs alone tell members from others, AUC {told}. Every other number here is void.").format(
                    step=plain(_entry(one.entry)), told=told
                ),
                icon=":material/block:",
            )  # fmt: skip
        else:
            st.caption(
                _("Blind control of {step}: inputs alone, without the model, reach an AUC of {told}; 0.5 is chance, so members and "
                  "non-members were drawn alike as far as it can see.").format(step=plain(_entry(one.entry)), told=told)
            )  # fmt: skip


# --- membership --------------------------------------------------------------------------------------------------


def membership(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """The blind control, then each attack over all false positive rates, then the numbers that are compared."""
    found, problems = _of(measured, "membership_inference"), list[str]()
    _blind(view, found)
    steps = _steps(found)
    step = str(links.select("step", _("Check"), steps, _entry)) if len(steps) > 1 else steps[0]
    own = [one for one in found if one.step == step]
    lines: list[Line] = []

    def keep(piece: Piece, stored: Evidence) -> None:
        lines.append(Line(_attack(piece), stored.column("fpr"), stored.column("tpr")))

    _each(view, [p for p in _pieces(view, model, "roc", "membership_inference") if p.step == step], keep, problems)
    stated.told(problems)
    marks = [_mark(one) for one in own if one.metric == "tpr_at_fpr" and "attack" in one.dims]
    areas = [one for one in own if one.metric == "auc" and "attack" in one.dims]
    control = [one for one in own if one.metric == BLIND]
    left, right = st.columns([3, 2], gap="large")
    with left:
        if lines:
            charts.draw(
                privacy_charts.roc(lines, marks, title=_("Members told from non-members")),
                _("Good: every line lies on the diagonal of chance, on the left too, where nobody is accused wrongly. Bars are 95 % "
                  "intervals at false positive rates of 1 % and 0.1 %; a hollow mark has too few non-members to decide anything."),
                key=f"roc-{step}",
            )  # fmt: skip
    with right:
        dots = [Dot(_("inputs alone (control)"), "", one.value, one.low, one.high, one.told) for one in control]
        dots += [Dot(one.dims["attack"], "", one.value, one.low, one.high, one.told) for one in areas]
        if dots:
            charts.draw(
                charts.dots(dots, title=_("Area under each curve"), label=_("membership AUC"), around=0.5),
                _("Good: all intervals hold the dashed line at 0.5. The control sees no model: where it is off the line, nothing else counts."),
                key=f"areas-{step}",
            )  # fmt: skip
    _rates(own)
    _cautions([one for one in own if one.metric != BLIND])


def _attack(piece: Piece) -> str:
    return piece.name.removeprefix("roc-")


def _mark(one: Number) -> Mark:
    return Mark(one.dims["attack"], float(one.dims["fpr"]), one.value, one.low, one.high, one.told, not one.unresolved)


def _rates(own: Sequence[Number]) -> None:
    """Members found at each rate, and the advantage, by attack."""
    import pandas as pd

    attacks = list(dict.fromkeys(one.dims["attack"] for one in own if "attack" in one.dims))
    rows = []
    for attack in attacks:
        row: dict[str, str] = {_("attack"): attack}
        for one in own:
            if one.dims.get("attack") != attack or one.metric not in ("tpr_at_fpr", "advantage"):
                continue
            name = _("advantage")
            if one.metric == "tpr_at_fpr":
                name = _("found at {rate} false positives").format(rate=f"{100 * float(one.dims['fpr']):g} %")
            doubt = f" ? {_('decides nothing')}" if one.unresolved else ""
            row[name] = f"{show(one.value)} ({one.interval}){doubt}" if one.interval else f"{show(one.value)}{doubt}"
        rows.append(row)
    if rows:
        st.dataframe(pd.DataFrame(rows).fillna("–"), hide_index=True, key="rates")


# --- epsilon -----------------------------------------------------------------------------------------------------


def budget(view: RunView, model: str, measured: Sequence[Number], claim: float | None) -> None:
    """The claim, what the ledger comes to, and what the audit proved of the training itself."""
    problems: list[str] = []
    accounted = {
        _accountant(one.dims["accountant"]): one.value
        for one in _of(measured, "dp_accounting", "epsilon")
        if "accountant" in one.dims
    }
    shown = list(_shown(_of(measured, "dp_audit")))
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
    for one in [*_of(measured, "dp_accounting", "violations", "excess"), *_of(measured, "dp_audit", "excess")]:
        if not one.dims and one.finding is not None:
            stated.status_line(view, one)

    def draw(piece: Piece, stored: Evidence) -> None:
        line = Line(_("canaries"), stored.column("fpr"), stored.column("tpr"))
        charts.draw(
            privacy_charts.roc([line], [], title=_("Canaries told by their scores: {entry}").format(entry=_entry(piece.step))),
            _("Good: the line lies near the diagonal; how far above it a training may go is what its epsilon says."),
            key=f"canaries-{piece.ref.path}",
        )  # fmt: skip

    _each(view, _pieces(view, model, "roc", "dp_audit"), draw, problems)
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
            " · ".join([_entry(one.step), *(f"{k} {v}" for k, v in one.dims.items())]),
            one.value,
            ceilings.get((one.step, *sorted(one.dims.items())), one.value),
            one.cautions[-1] if one.cautions else one.told,
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


# --- records -----------------------------------------------------------------------------------------------------

_RECORDS = (("membership_inference", "exposed"), ("memorisation", "members"))
"""Checks and their tables of records."""


def _tables(view: RunView, model: str) -> list[Piece]:
    return [p for check, name in _RECORDS for p in _pieces(view, model, "table", check) if p.name == name]


def has_records(view: RunView, model: str) -> bool:
    """Whether a check listed records of the training set."""
    return bool(_tables(view, model))


def records(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """Which rows of the training set are exposed most, by number, never by content."""
    import pandas as pd

    problems: list[str] = []
    named = {
        "rank": _("rank"), "row": _("row of the training set"), "score": _("score"), "distance": _("distance to the sample"),
        "non_members_above": _("non-members that score higher"), "samples": _("samples nearest to it"),
    }  # fmt: skip

    def draw(piece: Piece, stored: Evidence) -> None:
        st.markdown(f"**{plain(clean(stored.meta.get('title', piece.name)))}**")
        columns = {named[name]: stored.column(name) for name in named if name in stored.fields}
        frame = pd.DataFrame({**columns, _("row id"): list(stored.ids)})
        formats = {
            named[name]: st.column_config.NumberColumn(format="%.4g") for name in ("score", "distance") if name in stored.fields
        }  # fmt: skip
        st.dataframe(
            frame,
            hide_index=True,
            key=f"records-{piece.ref.path}",
            width="content",
            height=38 + 35 * min(len(frame), MOST),
            column_config=formats,
        )

    for one in _of(measured, "membership_inference", "exposed_records"):
        stated.status_line(view, one)
    _each(view, _tables(view, model), draw, problems)
    stated.told(problems)
    st.caption(
        _("Row numbers and ids only: what stands in them is shown to whoever holds the data. Good: no record scores above all "
          "non-members, or as few as chance brings.")
    )  # fmt: skip


# --- attributes --------------------------------------------------------------------------------------------------


def attributes(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """How well a sensitive column is guessed with the model beside imputing it without."""
    found, problems = _of(measured, "attribute_inference"), list[str]()
    _blind(view, found)
    words = {"attack_accuracy": _("with the model"), "imputation_accuracy": _("without the model")}
    dots = [
        Dot(_rows_of(one), words[one.metric], one.value, one.low, one.high, one.told)
        for one in found
        if one.metric in words and not set(one.dims) - {"rows"}
    ]
    if dots:
        charts.draw(
            charts.dots(dots, title=_("Sensitive columns guessed right"), label=_("share of rows guessed right")),
            _("Good: both points of a line coincide: asking the model adds nothing to what the other columns tell anyhow."),
            key="guessed",
        )  # fmt: skip
    gained = [
        Dot(_rows_of(one), _told_metric(one), one.value, one.low, one.high, one.told)
        for one in found
        if one.metric in ("leak", "memorised") and not one.dims
    ]
    if gained:
        charts.draw(
            charts.dots(gained, title=_("Gained by asking the model"), label=_("share of rows"), share=False, around=0.0),
            _("Good: both intervals hold zero. A leak on members and on others alike is what the model learnt of the world; on members only "
              "it is memory."),
            key="gained",
        )  # fmt: skip
    good = _(
        "Good: both lines coincide at the left too, where the adversary is surest: no few records are given away wholly."
    )
    places = st.columns(2, gap="large")
    for at, piece in enumerate(_pieces(view, model, "curve", "attribute_inference")):
        name = ", ".join(f"{k} {v}" for k, v in piece.cell.items() if k != "model") or _entry(piece.step)
        title = _("Rows that the adversary is surest of: {entry}").format(entry=name)
        with places[at % 2]:
            stated.stored_curve(view, piece, title, good, problems)
    stated.told(problems)


def _rows_of(one: Number) -> str:
    rows = {"non_members": _("non-members")}.get(one.dims.get("rows", ""), _("members"))
    column = one.cell.get("column") or _entry(one.step)
    return f"{column}, {rows}" if one.metric.endswith("accuracy") else column


def _told_metric(one: Number) -> str:
    return {"leak": _("on members"), "memorised": _("members minus others")}[one.metric]


# --- reconstructions ---------------------------------------------------------------------------------------------


def inversion(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """What the model is led to for each class, beside the mean of the class and the rows nearest to it."""
    found, problems = _of(measured, "model_inversion"), list[str]()
    _blind(view, found)
    for one in found:
        if not one.dims and one.metric in ("member_auc", "nearest_is_member", "reached"):
            stated.status_line(view, one)
    gallery.style()

    def draw(piece: Piece, stored: Evidence) -> None:
        reader = ReconstructedReader(stored, bounds_of(view, stored, piece.step), 1)
        classes = list(stored.ids)
        name = links.select("class", _("Class"), classes)
        sample = reader.sample(classes.index(str(name)))
        st.markdown(f"**{plain(clean(sample.title))}**")
        for column, picture in zip(st.columns(4), sample.pictures, strict=False):
            with column:
                gallery.picture(base64.b64decode(picture.src.partition(",")[2]), picture.label)
        for drawing in sample.drawings:
            st.html(drawing)
        for listed in sample.lists:
            _bars(listed)
        st.caption(plain(clean("; ".join(sample.lines))))

    _each(view, _pieces(view, model, "reconstruction", "model_inversion"), draw, problems)
    stated.told(problems)
    st.caption(
        _("Good: the reconstruction looks like the mean of its class and is no nearer to members than to rows held out. One that shows a "
          "single person's picture is a leak.")
    )  # fmt: skip


def _bars(listed: Any) -> None:
    """Columns in which a reconstruction is furthest from the mean of its class."""
    import pandas as pd

    rows = [(clean(bar.feature), clean(bar.value), clean(bar.amount)) for bar in listed.bars]
    st.dataframe(pd.DataFrame(rows, columns=list(listed.header)), hide_index=True, key="columns", width="content")


# --- memorisation ------------------------------------------------------------------------------------------------


def memorisation(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """Canaries by exposure, snippets continued word for word, samples nearest to members; each beside its control."""
    found, problems = _of(measured, "memorisation"), list[str]()
    _blind(view, found)
    _exposure(found)
    words = {"extractable": _("from training"), "extractable_held_out": _("held out (control)")}
    continued = [
        Dot(one.dims.get("prefix", _("all prefixes")), words[one.metric], one.value, one.low, one.high, one.told)
        for one in found
        if one.metric in words
    ]
    if continued:
        charts.draw(
            charts.dots(continued, title=_("Snippets continued word for word"), label=_("share of snippets")),
            _("Good: both points coincide: what the model says of its training it says of texts that it never saw."),
            key="continued",
        )
    near = [
        Dot(_(one.finding.title if one.finding else one.metric), "", one.value, one.low, one.high, one.told)
        for one in found
        if one.metric in ("member_excess", "copies") and not one.dims
    ]
    if near:
        charts.draw(
            charts.dots(near, title=_("Samples and their nearest members"), label=_("share beyond chance"), share=False, around=0.0),
            _("Good: intervals hold zero: samples are no nearer to members than to rows held out."),
            key="nearest",
        )  # fmt: skip
    _listing(view, model, "memorisation", "canaries", problems)
    stated.told(problems)
    _cautions(found)


def _exposure(found: Sequence[Number]) -> None:
    words = {"exposure": _("this model"), "reference_exposure": _("never saw it (control)")}
    exposed = [
        Dot(one.dims.get("canary", _("the most exposed")), words[one.metric], one.value, one.low, one.high, one.told)
        for one in found
        if one.metric in words
    ]
    if exposed:
        charts.draw(
            charts.dots(exposed, title=_("Exposure of canaries"), label=_("exposure (bits)"), share=False),
            _(
                "Good: near zero, and no larger than in a model that never saw the canary; each bit halves the guesses that a thief needs."
            ),
            key="exposure",
        )


def _listing(view: RunView, model: str, check: str, name: str, problems: list[str]) -> None:
    """A stored table as it is."""
    import pandas as pd

    def draw(piece: Piece, stored: Evidence) -> None:
        st.markdown(f"**{plain(clean(stored.meta.get('title', piece.name)))}**")
        columns = {
            name.replace("_", " "): stored.column(name) for name in stored.fields if stored.column(name).ndim == 1
        }
        st.dataframe(
            pd.DataFrame({_("name"): list(stored.ids), **columns}),
            hide_index=True,
            key=f"table-{piece.ref.path}",
            width="content",
        )

    _each(view, [p for p in _pieces(view, model, "table", check) if p.name == name], draw, problems)


# --- personal data -----------------------------------------------------------------------------------------------


def pii(view: RunView, model: str, measured: Sequence[Number]) -> None:
    """Personal data found, by kind, masked; random digits that would have passed beside it."""
    found, problems = _of(measured, "pii"), list[str]()
    for one in found:
        if not one.dims and one.metric in ("found", "from_training"):
            stated.status_line(view, one)
    words = {"found": _("found"), "from_training": _("given back from training")}
    kinds = [
        Dot(one.dims["kind"].replace("_", " "), words[one.metric], one.value, one.low, one.high, one.told)
        for one in found
        if one.metric in words and set(one.dims) == {"kind"} and one.value
    ]
    if kinds:
        charts.draw(
            charts.dots(kinds, title=_("Personal data by kind"), label=_("different values"), share=False),
            _("Good: none at all."),
            key="kinds",
        )
    control = [
        Dot(one.dims["kind"].replace("_", " "), "", one.value, one.low, one.high, one.told)
        for one in found
        if one.metric == "chance" and "kind" in one.dims
    ]
    if control:
        charts.draw(
            charts.dots(
                control, title=_("Random digits that would pass (control)"), label=_("share of random numbers")
            ),
            _("Good: small: then a number that passes its check is one."),
            key="chance",
        )
    _listing(view, model, "pii", "found", problems)
    stated.told(problems)
    _cautions(found)
