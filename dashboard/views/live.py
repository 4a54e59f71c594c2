"""Explore live: one input, what a registered model makes of it, why, and what it takes to change its answer. All of it in a worker process."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from audit.attacks import Attack
from audit.explainers import Explainer, usual
from audit.finding import EvidenceRef
from audit.model import Field
from audit.names import available, resolve
from audit.numbers import show as shown
from audit.registry.card import ModelCard
from audit.report._attribution import AttributionReader
from audit.report._sample import named
from audit.report._told import told
from audit.run_folder import Evidence
from audit.text import decode
from dashboard import links
from dashboard.drawing import charts, evidence_charts, pictures, theme
from dashboard.drawing.pictures import Look
from dashboard.parts import attacked, choosing, explained, feeding, gallery, shifted
from dashboard.parts.explained import Scene
from dashboard.parts.feeding import Fed
from dashboard.parts.markdown import plain
from dashboard.parts.shifted import Shift
from dashboard.reading import registered, scenarios, stored
from dashboard.reading.evidence import Examples, Map, MapSeries, Piece
from dashboard.reading.recalled import Recalled
from dashboard.words import _, ngettext
from dashboard.working.desk import SECONDS, Answered, answered, desk, request

if TYPE_CHECKING:
    import altair as alt

MOST = 4
"""Explainers side by side."""
MOST_CLASSES = 10
"""Classes whose probabilities are drawn."""
MOST_CHANNELS = 4
"""Channels of a series that are drawn."""
ALLOWED = (10, 30, SECONDS, 120, 600)
"""Seconds that an answer may take."""
NEEDING_MORE = frozenset({"art", "transfer"})
"""Attacks that need a name of another library's, or a model of their own trained first."""
BINS = 200
"""Places on the slider of eps."""
START = 0.03
"""Where it starts, as a share of the input's range."""
ROUNDING = 1e-6
"""Share of eps by which a distance may round beyond it."""


@dataclass(frozen=True)
class Asking:
    """What every question of the page is about."""

    card: ModelCard
    data: str | None
    fed: Fed

    def request(self, do: str, given: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A question about the input, or about another one."""
        return request(do, self.card, self.data, self.fed.given if given is None else given, **more)

    @property
    def classes(self) -> list[str]:
        """Names of the classes; none of a regression."""
        return list(self.card.classes)


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
    desk().worker.start()  # its libraries are read while the reader looks at what there is to choose
    card, data = _model_and_data(cards)
    if card is None:
        return
    if card.output == "tokens":
        st.info(_("This model answers with tokens: there is no single score to explain or to attack."))
        return
    fed = feeding.fed(card, data)
    if fed is None:
        return
    asking = Asking(card, data, fed)
    if not _prediction(asking):
        return
    chosen, look = _explanation(asking)
    if card.task == "classification":
        st.subheader(_("Under attack"))
        st.fragment(_attack)(asking, chosen, look)


def _model_and_data(cards: Mapping[str, ModelCard]) -> tuple[ModelCard | None, str | None]:
    asked = links.asked("model")
    if asked is not None and asked not in cards:
        newest = next((ref for ref, card in cards.items() if card.name == asked), None)
        links.note(model=newest)  # a run names a model without its version
        asked = None if newest is not None else asked
    else:
        asked = None
    columns = st.columns([3, 4, 1.6])
    with columns[0]:
        ref = links.select(
            "model", _("Model"), list(cards), empty=_("choose one") if asked else "",
            forgets=("data", "row", "explainers", "attack", "target", "by", *feeding.STORED),
        )  # fmt: skip
    if ref is None:
        st.error(
            _("There is no model '{model}' in {home} (any more): choose another, or register it with 'audit model add'.").format(
                model=plain(asked), home=plain(stored.home())
            ),
            icon=":material/error:",
        )  # fmt: skip
        return None, None
    card = cards[ref]
    sources = scenarios.rows_for(card, stored.home())
    with columns[1]:
        chosen = links.select(
            "data", _("Rows at hand, and the background of explanations"), list(sources), lambda key: f"{sources[key].said.split(' · ')[0]} ({key})",
            empty="" if sources else _("no scenario or run of this model names data"), forgets=("row",),
        )  # fmt: skip
    with columns[2]:
        allowed = {str(seconds): f"{seconds} s" for seconds in ALLOWED}
        seconds = links.select(
            "seconds", _("Time for an answer"), list(allowed), lambda s: allowed[s], default=str(SECONDS)
        )
    desk().worker.seconds = float(seconds or SECONDS)
    st.caption(
        _("{ref} · {task} · {kind} of shape {shape} · runs in a process of its own, which a time limit ends").format(
            ref=plain(card.ref), task=_(card.task), kind=_(card.spec.kind), shape=" × ".join(map(str, card.spec.shape))
        )
    )
    return card, str(sources[chosen].path) if chosen is not None else None


# --- the answer --------------------------------------------------------------------------------------------------


def _prediction(asking: Asking) -> bool:
    """What the model answers, beside the input as it was fed; False where it does not answer."""
    card, classes = asking.card, asking.classes
    reply = answered(asking.request("predict"), _("asking the model …"), key="again-predict")
    if reply is None:
        return False
    facts = reply.facts
    answer = _answer(facts["prediction"], facts["confidence"], classes)
    text, tone = _("predicted {answer}").format(answer=answer), "info"
    if facts["label"] is not None:
        text = _("true {label}, predicted {answer}").format(label=_name(facts["label"], classes), answer=answer)
        if card.task == "classification":
            right = facts["label"] == facts["prediction"]
            tone = "pass" if right else "fail"
            text += " · " + ("✓ " + _("right") if right else "✗ " + _("wrong"))
    st.html(f'<p class="chosen tone {tone}">{html.escape(text)}</p>')
    if asking.fed.then is not None:
        _then(asking, *asking.fed.then, facts)
    if facts["notes"]:
        st.caption(plain(" · ".join(map(told, facts["notes"]))))
    row = Evidence(reply.folder / facts["input"]).row(0)
    first, second = st.columns([1, 1.6], gap="large")
    if not asking.fed.seen:
        with first:
            _input_as_fed(card, row["x"])
    if facts["probabilities"] is not None:
        with first if asking.fed.seen else second:
            _probabilities(card, facts)
    return True


def _name(value: Any, classes: Sequence[str]) -> str:
    """A class by its name, a value as a number."""
    return named(int(value) if classes else float(value), classes)


def _answer(value: Any, sure: float | None, classes: Sequence[str]) -> str:
    return _name(value, classes) + (f" ({charts.percent(sure)})" if sure is not None else "")


def _then(asking: Asking, found: Recalled, side: str, facts: Mapping[str, Any]) -> None:
    """What the model said of the stored sample in the run, beside what it says now."""
    answer, sure = found.said(side)
    if answer is None:
        return
    said = _answer(answer.item(), sure, asking.classes)
    same = abs(float(answer) - float(facts["prediction"])) <= ROUNDING * max(1.0, abs(float(answer)))
    if same:
        st.caption(_("In the run: predicted {answer}. It is the same answer.").format(answer=plain(said)))
        return
    other = found.digest != asking.card.digest
    why = (
        _("In the run: predicted {answer}. The answer differs: the run audited {then}, which is another model than {now}.")
        if other
        else _("In the run: predicted {answer}. The answer differs though the model is the same: it may be randomised, or the libraries are others.")
    )  # fmt: skip
    st.warning(
        why.format(answer=plain(said), then=plain(found.model), now=plain(asking.card.ref)), icon=":material/compare_arrows:"
    )  # fmt: skip


def _input_as_fed(card: ModelCard, x: Any) -> None:
    """The input as the model was fed it."""
    kind = card.spec.kind
    if kind == "image" and x.ndim > 1:
        bounds = card.spec.bounds or (float(np.nanmin(x)), float(np.nanmax(x)))
        with st.container(width=300):
            gallery.picture(pictures.picture(x, bounds), _("input"))
    elif kind == "text":
        st.html(f'<h4>{html.escape(_("input"))}</h4><p class="passage">{html.escape(decode(x))}</p>')
    elif kind == "series":
        _line(card, x)
    else:
        _cells(card, x)


def _line(card: ModelCard, x: Any) -> None:
    channels = np.atleast_2d(np.asarray(x, dtype=float))
    channels = channels.reshape(-1, channels.shape[-1])[:MOST_CHANNELS]
    steps = channels.shape[1]
    columns = {
        "x": np.tile(np.arange(steps), len(channels)),
        "y": channels.ravel(),
        "series": np.repeat([_("channel {n}").format(n=i) for i in range(len(channels))], steps),
    }
    units = _(card.spec.units or "")
    charts.draw(
        evidence_charts.curve(
            columns, title=_("Input"), x_label=_("step"),
            y_label=_("value ({units})").format(units=units) if units else _("value"),
        ),
        _("Good: nothing is cut off, and the values lie where the model was trained."),
        key="input-line",
    )  # fmt: skip


def _cells(card: ModelCard, x: Any) -> None:
    """The cells of a row, each with its name."""
    import pandas as pd

    names, cells = _reader(card, {"input_kind": card.spec.kind, "feature_names": [f.name for f in card.spec.fields] if card.spec.tabular else []}).columns(np.asarray(x))  # fmt: skip
    frame = pd.DataFrame({_("column"): names, _("value"): cells})
    st.dataframe(frame, hide_index=True, key="input-cells", height=38 + 35 * min(len(frame), 9))


def _probabilities(card: ModelCard, facts: Mapping[str, Any]) -> None:
    shares = sorted(zip(card.classes, facts["probabilities"], strict=True), key=lambda one: -one[1])
    good = _("Good: one long bar where the answer is plain, several where it is not.")
    if len(shares) > MOST_CLASSES:
        good += " " + _("The {n} most likely of {all} classes.").format(n=MOST_CLASSES, all=f"{len(shares):,}")
    charts.draw(_bars(shares[:MOST_CLASSES]), good, key="probabilities")


def _bars(shares: Sequence[tuple[str, float]]) -> alt.LayerChart | alt.FacetChart:
    import altair as alt
    import pandas as pd

    palette = theme.colours(theme.mode())
    frame = pd.DataFrame([{"class": name, "share": share, "said": charts.percent(share)} for name, share in shares])
    order = [name for name, _share in shares]  # in the chart itself: one that is drawn anew keeps the order that it had
    y = alt.Y("class:N", sort=order, title=_("class"), axis=alt.Axis(labelLimit=260))
    x = alt.X("share:Q", title=_("probability"), scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    tips = [alt.Tooltip("class:N", title=_("class")), alt.Tooltip("share:Q", title=_("probability"), format=".4~g")]
    bars = alt.Chart(frame).mark_bar(color=palette["s1"], cornerRadiusEnd=3).encode(y=y, x=x, tooltip=tips)
    numbers = alt.Chart(frame).mark_text(align="left", dx=4, color=palette["ink"]).encode(y=y, x=x, text="said:N")
    return alt.layer(bars, numbers).properties(
        title=_("Probability of each class"), height=charts.AROUND + 20 * len(shares)
    )


# --- maps --------------------------------------------------------------------------------------------------------


def _explanation(asking: Asking) -> tuple[list[str], Look]:
    """The maps side by side; gives the explainers, and how their maps are drawn."""
    card = asking.card
    st.subheader(_("Why"))
    known = fitting(card)
    start = [name for name in (usual(card.capabilities),) if name in known]
    columns = st.columns([3, 1.4])
    with columns[0]:
        chosen = links.several(
            "explainers", _("Explainers (up to four)"), known, empty=", ".join(start) or _("none fits")
        )
    if len(chosen) > MOST:
        st.caption(_("The first four are drawn."))
    chosen = (chosen or start)[:MOST]
    target = None
    if card.task == "classification":
        with columns[1]:
            target = links.select("target", _("Class explained"), list(card.classes), empty=_("the predicted one"))
    found = [one for name in chosen if (one := _map(asking, name, target)) is not None]
    if not found:
        return chosen, Look()
    look = explained.look(found)
    explained.draw(found, Scene(asking.classes, look))
    return chosen, look


def fitting(card: ModelCard) -> list[str]:
    """Explainers that a model offers what they need for, the usual one first."""
    found = [name for name in available("explainers") if _explainer(name).needs <= set(card.capabilities)]
    first = usual(card.capabilities)
    return sorted(found, key=lambda name: name != first)


def _explainer(name: str) -> type[Explainer]:
    return resolve("explainers", name)


def _map(asking: Asking, name: str, target: str | None, given: Mapping[str, Any] | None = None) -> Map | None:
    """What an explainer says of the input, or of another one; None, and a line that says why, where it says nothing."""
    doing = _("asking {explainer} …").format(explainer=name)
    asked = asking.request("explain", given, explainer=name, target=target)
    reply = answered(asked, doing, key=f"again-{name}-{target}-{(given or {}).get('field')}")
    if reply is None:
        return None
    if reply.facts["quick"] and given is None:
        st.caption(
            _("To answer soon, {explainer} goes less far here than in an audit ({method}); its own error says how far off that leaves it.").format(
                explainer=plain(name), method=plain(reply.facts["method"])
            )
        )  # fmt: skip
    return _drawn(asking.card, reply, name)


def _drawn(card: ModelCard, reply: Answered, label: str) -> Map:
    """Evidence of the worker as pages draw it."""
    path = reply.facts["path"]
    evidence = Evidence(reply.folder / path)
    reader = _reader(card, evidence.meta)
    series = MapSeries(_piece(card, path, "attributions"), label, "own", evidence, reader, _bounds(card), _fields(card), {})  # fmt: skip
    return Map(series, evidence.row(0), (), {})


def _reader(card: ModelCard, meta: Mapping[str, Any]) -> AttributionReader:
    return AttributionReader(meta, _bounds(card), _fields(card))


def _fields(card: ModelCard) -> Sequence[Mapping[str, Any]]:
    fields: list[dict[str, Any]] = card.spec.model_dump(mode="json")["fields"]
    return fields


def _bounds(card: ModelCard) -> tuple[float, float] | None:
    fields: Sequence[Field] = card.spec.fields
    return fields[0].bounds if len(fields) == 1 else None


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


def _attack(asking: Asking, explainers: Sequence[str], look: Look) -> None:
    card = asking.card
    known = attacks_on(card)
    if not known:
        st.caption(
            _("No attack fits this model: attacks within eps change numbers between bounds that the model's input declares, and this one declares none.")
        )  # fmt: skip
        return
    columns = st.columns([2, 1, 3])
    with columns[0]:
        name = links.select("attack", _("Attack"), list(known), empty=_("choose one"))
    if name is None:
        st.caption(_("An attack seeks the same input, changed a little, that the model answers otherwise."))
        return
    spec, norm, eps = _bounded(card, name, known[name], columns[1:])
    nearest = norm is not None and known[name].minimal
    asked = asking.request("attack", attack=spec, norm=norm, eps=None if nearest else eps)
    reply = answered(asked, _("attacking …"), key="again-attack")
    if reply is None:
        return
    broken = bool(reply.facts["broken"]) and (not nearest or reply.facts["size"] <= float(eps or 0) * (1 + ROUNDING))
    if broken:
        _broken_line(asking, reply)
    else:
        _withstood_line(name, reply, f"{shown(eps)}{_unit(card)}" if eps is not None else "")
    if nearest:
        _nearest(asking, name, reply, float(eps or 0.0))
    elif eps is not None:
        _tried(desk().earlier(asked, "eps"), _unit(card))
    if broken:
        _example(asking, name, reply, explainers, look)


def _unit(card: ModelCard) -> str:
    return f" {_(card.spec.units)}" if card.spec.units else ""


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
    units = f" ({_(card.spec.units)})" if card.spec.units else ""
    with columns[1]:
        eps = choosing.place(
            f"eps_{norm}", _("eps: largest change{units}").format(units=units), step, most, step * round(2 * START * BINS), step,
            told=_("In the units that the model is fed, {low} to {high}.").format(low=f"{low:g}", high=f"{high:g}"),
        )  # fmt: skip
    return name, norm, eps


def _spent(reply: Answered) -> str:
    """What asking cost."""
    queries = int(reply.facts["queries"])
    return ngettext("{n} query, {seconds} s", "{n} queries, {seconds} s", queries).format(
        n=f"{queries:,}", seconds=charts.short(reply.seconds, 2)
    )


def _withstood_line(name: str, reply: Answered, eps: str) -> None:
    about = {"attack": name, "eps": eps, "answer": reply.facts["answer"], "spent": _spent(reply)}
    said = (
        _("withstood: {attack} found no other answer than {answer} within eps {eps} ({spent})").format(**about)
        if eps
        else _("withstood: {attack} found no other answer than {answer} ({spent})").format(**about)
    )
    st.html(f'<p class="chosen tone pass">✓ {html.escape(said)}</p>')
    st.caption(_("That this attack found nothing is no proof that there is nothing: try a stronger one, or more eps."))


def _broken_line(asking: Asking, reply: Answered) -> None:
    row = Evidence(reply.folder / reply.facts["example"]).row(0)
    before, after = (named(row[key], asking.classes) for key in ("prediction", "adversarial_prediction"))
    said = _("broken: {before} → {after} ({spent})").format(before=before, after=after, spent=_spent(reply))
    st.html(f'<p class="chosen tone fail">✗ {html.escape(said)}</p>')
    if reply.facts["constraints"]:
        st.caption(plain(told(reply.facts["constraints"])))


def _nearest(asking: Asking, name: str, reply: Answered, eps: float) -> None:
    """How near the nearest other answer lies that an attack of minimal norm found, whatever eps is."""
    size, unit = reply.facts["size"], _unit(asking.card)
    if size is None:
        st.caption(_("{attack} found no other answer at any distance.").format(attack=plain(name)))
    elif size > eps * (1 + ROUNDING):
        st.caption(
            _("The nearest other answer that {attack} found is {size}{unit} away: from that eps on it is shown.").format(
                attack=plain(name), size=charts.short(size), unit=plain(unit)
            )
        )  # fmt: skip
    else:
        st.caption(
            _("The smallest eps that breaks this input with {attack} is {size}{unit}.").format(
                attack=plain(name), size=charts.short(size), unit=plain(unit)
            )
        )


def _tried(found: Sequence[tuple[float, Answered]], unit: str) -> None:
    """Between which values of eps, of those that were tried on this input, the answer falls."""
    if len(found) < 2:
        return
    broke = [eps for eps, reply in found if reply.facts["broken"]]
    held = [eps for eps, reply in found if not reply.facts["broken"]]
    about = {
        "n": len(found), "unit": plain(unit),
        "held": shown(max(held, default=0.0)), "broke": shown(min(broke, default=0.0)),
    }  # fmt: skip
    if not broke:
        said = _("Of {n} values of eps that were tried it withstood all, up to {held}{unit}.")
    elif not held:
        said = _("Of {n} values of eps that were tried every one broke it, down to {broke}{unit}.")
    else:
        said = _("Of {n} values of eps that were tried, the largest that it withstood is {held}{unit}, the smallest that broke it {broke}{unit}.")  # fmt: skip
    st.caption(said.format(**about))


def _example(asking: Asking, name: str, reply: Answered, explainers: Sequence[str], look: Look) -> None:
    """The original, the change and the result, and what the explainers say of each."""
    card, path = asking.card, reply.facts["example"]
    evidence = Evidence(reply.folder / path)
    one = Examples(_piece(card, path, "adversarial"), name, "", evidence, _bounds(card))
    attacked.example(one, 0, _fields(card))
    found = [
        shift for label in explainers if (shift := _shift(asking, label, reply.folder / path, evidence)) is not None
    ]
    if not found:
        return
    st.subheader(_("What the attack makes of the maps"))
    shifted.draw(found, Scene(asking.classes, look))


def _shift(asking: Asking, explainer: str, folder: Any, evidence: Evidence) -> Shift | None:
    """Maps of an explainer before and after; None where it gives none."""
    row = evidence.row(0)
    before, after = (asking.classes[int(row[key])] for key in ("prediction", "adversarial_prediction"))
    example = {"stored": str(folder), "sample": evidence.ids[0], "field": "adversarial"}
    asked = ((None, asking.fed.given), (before, example), (after, example))
    maps = []
    for target, given in asked:
        if (one := _map(asking, explainer, target, given)) is None:
            return None
        maps.append(one)
    return Shift(*maps)
