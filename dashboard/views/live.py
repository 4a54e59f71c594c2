"""Explore live: one input, what a registered model makes of it, why, and what it takes to change its answer. All of it in a worker process."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from audit.attacks import Attack
from audit.explainers import Explainer, usual
from audit.finding import EvidenceRef
from audit.model import Field
from audit.names import available, resolve
from audit.registry.card import ModelCard
from audit.report._attribution import AttributionReader
from audit.report._sample import named
from audit.run_folder import Evidence
from dashboard import links
from dashboard.drawing import charts, theme
from dashboard.parts import attacked, choosing, explained, gallery, markdown
from dashboard.parts.explained import Scene
from dashboard.reading import registered, scenarios, stored
from dashboard.reading.evidence import Examples, Map, MapSeries, Piece
from dashboard.words import _, ngettext
from dashboard.working.desk import SECONDS, Answered, answered, desk, request

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

MOST = 4
"""Explainers side by side."""
MOST_CLASSES = 10
"""Classes whose probabilities are drawn."""
COLUMNS = 8
"""Of a row that is edited, side by side."""
ALLOWED = (10, SECONDS, 120, 600)
"""Seconds that an answer may take."""
SUFFIXES = {
    "image": ["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "npy"],
    "series": ["npy", "npz"],
    "table": ["csv", "tsv", "npy"],
    "text": ["txt"],
    "tokens": ["npy", "npz"],
}
NEEDING_MORE = frozenset({"art", "transfer"})
"""Attacks that need a name of another library's, or a model of their own trained first."""
BINS = 200
"""Places on the slider of eps."""
START = 0.03
"""Where it starts, as a share of the input's range."""

Given = Mapping[str, Any]


def show() -> None:
    """Draw the page."""
    st.title(_("Explore live"))
    cards = {card.ref: card for card in registered.cards(stored.home())}
    if not cards:
        st.info(_("No model is registered in {home} yet.").format(home=stored.home()), icon=":material/inbox:")
        st.write(_("Register one, or have the demo register some:"))
        st.code("audit model add NAME FILE\naudit demo", language="console")
        return
    gallery.style()
    card, data = _model_and_data(cards)
    if card.output == "tokens":
        st.info(_("This model answers with tokens: there is no single score to explain or to attack."))
        return
    given = _input(card, data)
    if given is None:
        return
    reply = _explanation(card, data, given)
    if reply is not None and card.task == "classification":
        _attack(card, data, given)


def _model_and_data(cards: Mapping[str, ModelCard]) -> tuple[ModelCard, str | None]:
    columns = st.columns([3, 4, 1.6])
    with columns[0]:
        ref = str(
            links.select("model", _("Model"), list(cards), forgets=("data", "row", "explainers", "attack", "target"))
        )
    card = cards[ref]
    sources = scenarios.rows_for(card, stored.home())
    with columns[1]:
        chosen = links.select(
            "data", _("Rows at hand, and the background of explanations"), list(sources), lambda key: sources[key].said,
            empty="" if sources else _("no scenario or run of this model names data"), forgets=("row",),
        )  # fmt: skip
    with columns[2]:
        allowed = {str(seconds): f"{seconds} s" for seconds in ALLOWED}
        seconds = links.select(
            "seconds", _("Time for an answer"), list(allowed), lambda s: allowed[s], default=str(SECONDS)
        )
    desk().worker.seconds = float(seconds or SECONDS)
    kind = _(card.spec.kind)
    st.caption(
        _("{ref} · {task} · {kind} of shape {shape} · runs in a process of its own, which a time limit ends").format(
            ref=card.ref, task=_(card.task), kind=kind, shape=" × ".join(map(str, card.spec.shape))
        )
    )
    return card, str(sources[chosen].path) if chosen is not None else None


# --- the input ---------------------------------------------------------------------------------------------------


def _input(card: ModelCard, data: str | None) -> Given | None:
    """The input that the reader chose, uploaded or wrote; None where there is none yet."""
    kind = card.spec.kind
    ways = {"row": _("a row of the data"), "upload": _("upload a file")}
    if kind == "text":
        ways["text"] = _("type a text")
    if kind == "table":
        ways["edit"] = _("edit a row")
    if data is None:
        del ways["row"]
    first = "row" if data is not None else "text" if kind == "text" else "edit" if kind == "table" else "upload"
    way = links.select("by", _("Input"), list(ways), lambda w: ways[w], default=first, segmented=True)
    match way:
        case "row":
            return _row(card, data)
        case "text":
            return _typed()
        case "edit":
            return _edited(card, data)
    return _uploaded(kind)


def _row(card: ModelCard, data: str | None) -> Given | None:
    asked = links.asked("row") or "0"
    number = int(asked) if asked.isdecimal() else 0
    looked = answered(request("look", card, data, {"row": number}), _("reading the data …"), key="again-look")
    if looked is None:
        if number:
            links.link(_("Back to row 0"), "live", model=card.ref, data=links.asked("data"))
        return None
    _row_number(number, int(looked.facts["rows"]))
    return {"row": number}


def _row_number(number: int, rows: int) -> None:
    st.session_state["live-row"] = number

    def changed() -> None:
        links.note(row=str(st.session_state["live-row"]))

    st.number_input(
        ngettext("Row, of {n} test row", "Row, of {n} test rows", rows).format(n=f"{rows:,}"),
        0, rows - 1, step=1, key="live-row", on_change=changed, width=260,
    )  # fmt: skip


def _uploaded(kind: str) -> Given | None:
    file = st.file_uploader(
        _("A file with one input; of several rows the first is taken"), SUFFIXES[kind], key=f"upload-{kind}",
    )  # fmt: skip
    if file is None:
        st.info(_("Upload a file to begin. It stays on this machine and goes when you leave."))
        return None
    return {"file": str(desk().keep_file(file.name, file.getvalue()))}


def _typed() -> Given | None:
    st.session_state["live-text"] = links.asked("text") or ""

    def changed() -> None:
        links.note(text=st.session_state["live-text"] or None)

    text = st.text_area(_("Text"), key="live-text", placeholder=_("type or paste a text"), on_change=changed)
    return {"text": text} if text.strip() else None


def _edited(card: ModelCard, data: str | None) -> Given | None:
    """A row of the data, or of the middle of what is allowed, as a form; what is changed is fed."""
    cells: dict[str, Any] = {field.name: _middle(field) for field in card.spec.fields}
    if data is not None:
        asked = links.asked("row") or "0"
        number = int(asked) if asked.isdecimal() else 0
        looked = answered(request("look", card, data, {"row": number}), _("reading the data …"), key="again-look")
        if looked is None:
            return None
        _row_number(number, int(looked.facts["rows"]))
        cells = dict(looked.facts["cells"])
    frame = _editor(card, cells, f"edit-{card.ref}-{data}-{links.asked('row')}")
    st.caption(_("Blank cells are fed as missing values."))
    return {"file": str(desk().keep_file("row.csv", _csv(card, frame)))}


def _middle(field: Field) -> Any:
    if field.kind == "category":
        return field.categories[0]
    middle = sum(field.bounds) / 2 if field.bounds else 0.0
    return float(math.floor(middle)) if field.kind == "id" else middle


def _editor(card: ModelCard, cells: Mapping[str, Any], key: str) -> pd.DataFrame:
    """The row in lines of a few columns, each with its unit and what is valid."""
    import pandas as pd

    options: dict[str, Any] = {}
    for field in card.spec.fields:
        name = f"{field.name} ({field.units})" if field.units else field.name
        if field.kind == "category":
            options[field.name] = st.column_config.SelectboxColumn(name, options=list(field.categories))
        else:
            low, high = field.bounds or (None, None)
            options[field.name] = st.column_config.NumberColumn(name, min_value=low, max_value=high, format="%.6g")
    parts = []
    for start in range(0, len(card.spec.fields), COLUMNS):
        part = card.spec.fields[start : start + COLUMNS]
        frame = pd.DataFrame([{field.name: cells[field.name] for field in part}])
        numbers = [field.name for field in part if field.kind != "category"]
        frame[numbers] = frame[numbers].astype(float)
        parts.append(
            st.data_editor(frame, column_config=options, hide_index=True, key=f"{key}-{start}", num_rows="fixed")
        )
    return pd.concat(parts, axis=1)


def _csv(card: ModelCard, frame: pd.DataFrame) -> bytes:
    import pandas as pd

    out = io.StringIO()
    writer = csv.writer(out)
    names = [field.name for field in card.spec.fields]
    writer.writerow(names)
    row = frame.iloc[0]
    writer.writerow(["" if pd.isna(row[name]) else row[name] for name in names])
    return out.getvalue().encode()


# --- prediction and maps -----------------------------------------------------------------------------------------


def _explanation(card: ModelCard, data: str | None, given: Given) -> Answered | None:
    known = fitting(card)
    start = [name for name in (usual(card.capabilities),) if name in known]
    columns = st.columns([3, 1.4])
    with columns[0]:
        chosen = links.several(
            "explainers", _("Explainers (up to four)"), known, empty=", ".join(start) or _("none fits")
        )[:MOST]
    target = None
    if card.task == "classification":
        with columns[1]:
            target = links.select("target", _("Class explained"), list(card.classes), empty=_("the predicted one"))
    reply = answered(
        request("explain", card, data, given, explainers=chosen or start, target=target),
        _("asking the model …"), key="again-explain",
    )  # fmt: skip
    if reply is None:
        return None
    st.html(f'<p class="chosen">{html.escape(reply.facts["said"])}</p>')
    for note in reply.facts["notes"]:
        st.caption(markdown.plain(note))
    for problem in reply.facts["problems"]:
        st.warning(markdown.plain(problem), icon=":material/info:")
    if reply.facts["probabilities"] is not None:
        _probabilities(card, reply.facts)
    found = [_map(card, reply, one["label"], one["path"]) for one in reply.facts["maps"]]
    if found:
        explained.draw(found, Scene(card.classes, explained.look(found)))
    return reply


def fitting(card: ModelCard) -> list[str]:
    """Explainers that a model offers what they need for, the usual one first."""
    found = [name for name in available("explainers") if _explainer(name).needs <= set(card.capabilities)]
    first = usual(card.capabilities)
    return sorted(found, key=lambda name: name != first)


def _explainer(name: str) -> type[Explainer]:
    return resolve("explainers", name)


def _probabilities(card: ModelCard, facts: Mapping[str, Any]) -> None:
    shares = sorted(zip(card.classes, facts["probabilities"], strict=True), key=lambda one: -one[1])
    told = _("Good: one long bar where the answer is plain, several where it is not.")
    if len(shares) > MOST_CLASSES:
        told += " " + _("The {n} most likely of {all} classes.").format(n=MOST_CLASSES, all=f"{len(shares):,}")
    with st.columns([1, 1])[0]:
        charts.draw(_bars(shares[:MOST_CLASSES]), told, key="probabilities")


def _bars(shares: Sequence[tuple[str, float]]) -> alt.LayerChart | alt.FacetChart:
    import altair as alt
    import pandas as pd

    palette = theme.colours(theme.mode())
    frame = pd.DataFrame([{"class": name, "share": share, "said": charts.percent(share)} for name, share in shares])
    y = alt.Y("class:N", sort=None, title=_("class"), axis=alt.Axis(labelLimit=260))
    x = alt.X("share:Q", title=_("probability"), scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    tips = [alt.Tooltip("class:N", title=_("class")), alt.Tooltip("share:Q", title=_("probability"), format=".4~g")]
    bars = alt.Chart(frame).mark_bar(color=palette["s1"], cornerRadiusEnd=3).encode(y=y, x=x, tooltip=tips)
    numbers = alt.Chart(frame).mark_text(align="left", dx=4, color=palette["ink"]).encode(y=y, x=x, text="said:N")
    return alt.layer(bars, numbers).properties(
        title=_("Probability of each class"), height=charts.AROUND + 20 * len(shares)
    )


def _map(card: ModelCard, reply: Answered, label: str, path: str) -> Map:
    """Evidence of the worker as pages draw it."""
    evidence = Evidence(reply.folder / path)
    fields = card.spec.model_dump(mode="json")["fields"]
    bounds = card.spec.fields[0].bounds if len(card.spec.fields) == 1 else None
    reader = AttributionReader(evidence.meta, bounds, fields)
    series = MapSeries(_piece(card, path, "attributions"), label, "own", evidence, reader, bounds, fields, {})
    return Map(series, evidence.row(0), (), {})


def _piece(card: ModelCard, path: str, kind: Any) -> Piece:
    return Piece("live", "", card.ref, {}, EvidenceRef(path=path, kind=kind))


# --- attack ------------------------------------------------------------------------------------------------------


def attacks_on(card: ModelCard) -> dict[str, type[Attack]]:
    """Attacks that fit a model and its input, by name."""
    kinds = {"table": ("tabular",), "text": ("character_edits", "word_edits")}.get(card.spec.kind)
    found = {name: resolve("attacks", name) for name in available("attacks") if name not in NEEDING_MORE}
    free = card.spec.bounds is not None and all(f.kind in ("image", "number", "series") for f in card.spec.fields)
    return {
        name: attack
        for name, attack in found.items()
        if attack.needs <= set(card.capabilities) and (free if attack.norms else name in (kinds or ()))
    }


def _attack(card: ModelCard, data: str | None, given: Given) -> None:
    st.subheader(_("Under attack"))
    known = attacks_on(card)
    if not known:
        st.caption(_("No attack fits this model: within eps it takes an input of numbers with declared bounds."))
        return
    columns = st.columns([2, 1, 3])
    with columns[0]:
        name = links.select("attack", _("Attack"), list(known), empty=_("choose one"))
    if name is None:
        st.caption(_("An attack seeks the same input, changed a little, that the model answers otherwise."))
        return
    spec, norm, eps = _bounded(card, name, known[name], columns[1:])
    reply = answered(
        request("attack", card, data, given, attack=spec, norm=norm, eps=eps), _("attacking …"), key="again-attack"
    )  # fmt: skip
    if reply is not None:
        _outcome(card, name, reply)


def _bounded(card: ModelCard, name: str, attack: type[Attack], columns: Any) -> tuple[Any, str | None, float | None]:
    """What the attack may do: norm and eps, or how many columns or words it may change."""
    if not attack.norms:
        parameter, label, most = (
            ("max_changed", _("Columns that may change"), len(card.spec.fields))
            if card.spec.tabular
            else ("max_edits", _("Words that may change"), 20)
        )
        with columns[1]:
            count = (
                int(choosing.place("most", label, 1.0, float(most), float(min(most, 3)), 1.0, whole=True))
                if most > 1
                else 1
            )
        return {name: {parameter: count}}, None, None
    norms = [norm for norm in ("linf", "l2", "l1") if norm in attack.norms]
    with columns[0]:
        norm = str(links.select("norm", _("Norm"), norms))
    low, high = card.spec.bounds or (0.0, 1.0)
    elements = math.prod(card.spec.shape)
    most = (high - low) * {"linf": 0.5, "l2": elements**0.5 / 4, "l1": elements / 8}[norm]
    step = most / BINS
    units = f" ({card.spec.units})" if card.spec.units else ""
    with columns[1]:
        eps = choosing.place(
            f"eps_{norm}", _("eps: largest change{units}").format(units=units), step, most, step * round(2 * START * BINS), step,
            told=_("In the units that the model is fed, {low} to {high}.").format(low=f"{low:g}", high=f"{high:g}"),
        )  # fmt: skip
    return name, norm, eps


def _outcome(card: ModelCard, name: str, reply: Answered) -> None:
    facts = reply.facts
    spent = ngettext("{n} query", "{n} queries", facts["queries"]).format(n=f"{facts['queries']:,}")
    if not facts["broken"]:
        said = _("withstood: {attack} found no other answer than {answer} ({spent})").format(
            attack=name, answer=facts["answer"], spent=spent
        )
        st.html(f'<p class="chosen tone pass">✓ {html.escape(said)}</p>')
        st.caption(
            _("That this attack found nothing is no proof that there is nothing: try a stronger one, or more eps.")
        )
        return
    evidence = Evidence(reply.folder / facts["example"])
    row = evidence.row(0)
    before, after = (named(row[key], card.classes) for key in ("prediction", "adversarial_prediction"))
    st.html(
        f'<p class="chosen tone fail">✗ {html.escape(_("broken: {before} → {after} ({spent})").format(before=before, after=after, spent=spent))}</p>'
    )
    if facts["constraints"]:
        st.caption(markdown.plain(facts["constraints"]))
    bounds = card.spec.fields[0].bounds if len(card.spec.fields) == 1 else None
    one = Examples(_piece(card, facts["example"], "adversarial"), name, "", evidence, bounds)
    attacked.example(one, 0, card.spec.model_dump(mode="json")["fields"])
