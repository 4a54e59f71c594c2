"""Saliency explorer: which parts of a sample the explainers name, beside one another, under attack, and how good the maps are."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from audit.numbers import show as shown
from audit.report._sample import named
from audit.report._view import RunView
from dashboard import links
from dashboard.drawing import charts, pictures
from dashboard.drawing.pictures import Look
from dashboard.parts import choosing, explained, gallery, under_attack
from dashboard.parts.explained import Scene
from dashboard.parts.markdown import plain
from dashboard.reading import evidence
from dashboard.reading.evidence import Examples, Map, Maps, MapSeries, Piece, Rows
from dashboard.reading.recalled import reference
from dashboard.words import _, ngettext

FAMILY = "explanation."
MOST = 4
"""Explainers side by side."""
MOST_ROWS = 1200
"""Rows of a table that are drawn as points."""


def show() -> None:
    """Draw the page."""
    view = choosing.run_with(
        FAMILY,
        _("Saliency explorer"),
        _("No run holds explanations yet: a scenario with a check such as explanation.faithfulness makes them."),
    )
    if view is None:
        return
    gallery.style()
    pieces = evidence.pieces(view, "attributions", FAMILY)
    models = evidence.models_of(pieces)
    if not models:
        st.info(
            _(
                "This run stores no maps: none of its checks explained anything, or they were told to keep none (keep: 0)."
            )
        )
        return
    _of_the_evidence(pieces)
    maps = evidence.maps(view, choosing.model_of(models))
    for problem in maps.problems:
        st.error(_("Cannot be shown: {problem}").format(problem=plain(problem)), icon=":material/broken_image:")
    if not maps.rows.ids:
        st.info(_("No map of this run can be shown."))
        return
    classes = _classes(maps)
    chosen = _gallery(maps, classes)
    if chosen is not None:
        _sample(view, maps, classes, chosen)
    if _form(maps) == "table":
        _whole_table(maps, classes)


def _of_the_evidence(pieces: Sequence[Piece]) -> None:
    """An address that names evidence and no model is about the model whose evidence it is."""
    path = links.asked("evidence")
    if path is not None and links.asked("model") is None:
        links.note(model=next((one.model for one in pieces if one.ref.path == path), None))


def _classes(maps: Maps) -> list[str]:
    return next((one.reader.classes for one in maps.series if one.reader.classes), [])


def _form(maps: Maps) -> str:
    first = maps.of_role("own")[0]
    return first.reader.form({"x": first.evidence.cell(0, "x")})


# --- gallery -----------------------------------------------------------------------------------------------------


def _gallery(maps: Maps, classes: Sequence[str]) -> str | None:
    """The samples that the filters leave, as tiles; gives the chosen one's id."""
    rows = maps.rows
    kept = _filtered(maps, classes)
    order = _wrong_first(rows, kept)
    said, turning = st.columns([3, 1], vertical_alignment="bottom")
    said.caption(
        ngettext("{n} of {all} sample", "{n} of {all} samples", len(rows.ids)).format(
            n=f"{len(order):,}", all=f"{len(rows.ids):,}"
        )
        + (_(", wrong answers first, then those that the model is least sure of") if rows.right is not None else "")
    )
    if not order:
        st.info(_("No sample is left: loosen the filters."))
        return None
    with turning:
        number = choosing.leaf("tiles", -(-len(order) // gallery.TILES))
    asked = links.asked("sample")
    chosen = asked if asked in set(rows.ids) else _first_of_evidence(maps, order)
    with st.container(horizontal=True, key="gallery", gap="small"):
        for at in order[(number - 1) * gallery.TILES : number * gallery.TILES]:
            _tile(maps, at, classes, chosen)
    return chosen


def _first_of_evidence(maps: Maps, order: Sequence[int]) -> str:
    """The row to start with: of the evidence that the address names, the first that the filters leave; else the first of all."""
    path = links.asked("evidence")
    held = next((one.places for one in maps.series if one.piece.ref.path == path), {})
    ids = [maps.rows.ids[at] for at in order]
    return next((row for row in ids if row in held), ids[0])


def _filtered(maps: Maps, classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    rows = maps.rows
    kept = np.ones(len(rows.ids), dtype=bool)
    right, fates = rows.right, set(rows.fate)
    columns = st.columns(4)
    if right is not None and rows.label is not None:
        present = {named(label, classes): int(label) for label in np.unique(rows.label)}
        with columns[0]:
            if (name := links.select("class", _("True class"), list(present), empty=_("all classes"))) is not None:
                kept &= rows.label == present[name]
        with columns[1]:
            said = {"wrong": _("wrong answers"), "right": _("right answers")}
            answers = links.select("answers", _("Answers"), list(said), lambda a: said[a], empty=_("right and wrong"))
            kept &= right if answers == "right" else ~right if answers == "wrong" else True
    told = {"broken": _("broken by an attack"), "withstood": _("withstood every attack"), "untried": _("not attacked")}
    told = {fate: said for fate, said in told.items() if fate in fates and len(fates) > 1}
    if maps.attacked:
        told["map"] = _("with a map under attack")
    if told:
        with columns[2]:
            fate = links.select(
                "fate", _("Under attack"), list(told), lambda f: told[f], empty=_("whatever became of it")
            )
            if fate == "map":
                kept &= np.array([row in maps.attacked for row in rows.ids])
            elif fate is not None:
                kept &= np.array([one == fate for one in rows.fate])
    if np.isfinite(rows.confidence).any():
        with columns[3]:
            most = choosing.place(
                "sure", _("Confidence at most"), 0.0, 1.0, 1.0, 0.01, told=_("Probability of the predicted class.")
            )
            kept &= ~(rows.confidence > most)
    return kept


def _wrong_first(rows: Rows, kept: np.ndarray[Any, Any]) -> list[int]:
    if rows.right is None:
        return [int(i) for i in np.flatnonzero(kept)]
    order = np.lexsort((np.nan_to_num(rows.confidence), rows.right))
    return [int(i) for i in order if kept[i]]


def _tile(maps: Maps, at: int, classes: Sequence[str], chosen: str) -> None:
    rows = maps.rows
    row = rows.ids[at]
    said = named(rows.prediction[at], classes)
    if rows.right is not None and rows.label is not None:
        said = f"✓ {said}" if rows.right[at] else f"✗ {named(rows.label[at], classes)} → {said}"
    series, place = _first(maps, row)
    fields = {"x": series.evidence.cell(place, "x")}
    form = series.reader.form(fields)
    png = None
    if form == "image":
        png = pictures.picture(fields["x"], explained.bounds_of(Map(series, fields, (), {})), pictures.SMALL)
    elif np.isfinite(rows.confidence[at]):
        said = f"{said} ({charts.percent(float(rows.confidence[at]))})"
    gallery.tile(row, said, png, text=explained.preview(fields, form), chosen=row == chosen)


def _first(maps: Maps, row: str) -> tuple[MapSeries, int]:
    return next((one, one.places[row]) for one in maps.of_role("own") if row in one.places)


# --- one sample --------------------------------------------------------------------------------------------------


def _sample(view: RunView, maps: Maps, classes: Sequence[str], chosen: str) -> None:
    everything = maps.of(chosen)
    at = maps.rows.ids.index(chosen)
    _heading(view, maps.rows, at, classes)
    said = _("Explain another class live") if classes else _("Explain it live by any explainer")
    _live(view, _first(maps, chosen)[0], chosen, said)
    found, look = _chosen_maps(maps, everything, classes)
    if not found:
        st.info(_("None of the chosen explainers stored a map of this sample for this class."))
        return
    scene = Scene(classes, look)
    explained.draw(found, scene)
    st.subheader(_("Deletion and insertion of this sample"))
    explained.curves(found, classes)
    _under_attack(view, maps, chosen, scene)
    _adversarial(view, maps, chosen, classes)


def _heading(view: RunView, rows: Rows, at: int, classes: Sequence[str]) -> None:
    answer = named(rows.prediction[at], classes)
    sure = f" ({charts.percent(float(rows.confidence[at]))})" if np.isfinite(rows.confidence[at]) else ""
    if rows.label is None:
        text, tone = _("predicted {answer}").format(answer=answer + sure), "info"
    else:
        label = named(rows.label[at], classes)
        text = _("true {label}, predicted {answer}").format(label=label, answer=answer + sure)
        tone = "info" if rows.right is None else "pass" if rows.right[at] else "fail"
        if rows.right is not None:
            text += " · " + ("✓ " + _("right") if rows.right[at] else "✗ " + _("wrong"))
    fate = {"broken": _("an attack within eps breaks it"), "withstood": _("it withstood every attack of the run")}.get(
        rows.fate[at]
    )
    st.html(f'<p class="chosen tone {tone}">{html.escape(text)}</p>')
    st.caption(plain(" · ".join(filter(None, (_("row {row}").format(row=rows.ids[at]), fate)))))


def _live(view: RunView, series: MapSeries, row: str, said: str) -> None:
    """A way to explain an input for any class, by any explainer."""
    if links.offered("live"):
        piece = series.piece
        links.link(
            said, "live", icon=":material/experiment:", model=reference(view.models.get(piece.model, {}), piece.model),
            run=view.run.name, evidence=piece.ref.path, sample=row,
        )  # fmt: skip


def _chosen_maps(maps: Maps, everything: Sequence[Map], classes: Sequence[str]) -> tuple[list[Map], Look]:
    """The maps side by side, and how they are drawn."""
    targets = list(dict.fromkeys(one.target for one in everything))
    labels = [label for label in maps.explainers if any(one.label == label for one in everything)]
    columns = st.columns([3, 1.4])
    with columns[0]:
        wanted = links.several("explainers", _("Explainers (up to four)"), labels, empty=_("the first four"))
        if len(wanted) > MOST:
            st.caption(_("The first four are drawn."))
        wanted = (wanted or _of_evidence(maps, labels))[:MOST]
    with columns[1]:
        names = {str(target): named(target, classes) if classes else _("the value") for target in targets}
        target = int(links.select("target", _("Class explained"), list(names), lambda t: names[t]) or targets[0])
    found = [one for label in wanted for one in everything if one.label == label and one.target == target]
    return found, explained.look(everything)


def _of_evidence(maps: Maps, labels: list[str]) -> list[str]:
    """Explainers to start with: the one whose evidence the address names comes first."""
    asked = links.asked("evidence")
    first = [one.label for one in maps.series if one.piece.ref.path == asked and one.label in labels]
    return list(dict.fromkeys([*first, *labels]))


def _under_attack(view: RunView, maps: Maps, chosen: str, scene: Scene) -> None:
    """What the attacks of the run made of the sample, where they stored maps."""
    if (
        not maps.attacked and _form(maps) == "text"
    ):  # words have no neighbours within eps, and no check attacks their maps
        return
    st.subheader(_("Original and attacked, with both maps"))
    if found := maps.moved(chosen):
        under_attack.draw(found, scene, lambda one, said: _live(view, one.series, chosen, said))
    elif maps.attacked:
        st.caption(
            ngettext(
                "No attack stored a map of this sample, but of {n} other.",
                "No attack stored a map of this sample, but of {n} others.",
                len(maps.attacked),
            ).format(n=f"{len(maps.attacked):,}")
        )
        st.button(
            _("Show the samples with attacked maps"), icon=":material/filter_alt:", on_click=links.note,
            kwargs={"fate": "map", "sample": None, "class": None, "answers": None, "sure": None, "tiles": None},
        )  # fmt: skip
    else:
        st.caption(
            _(
                "No attack stored maps: explanation.adversarial_shift does of attacks that change the answer, explanation.stability_under_attack of those that keep it."
            )
        )


def _adversarial(view: RunView, maps: Maps, chosen: str, classes: Sequence[str]) -> None:
    """Where this very sample was broken, with a way there."""
    found, _problems = evidence.examples(view, maps.series[0].piece.model)
    holding = [one for one in found if not one.by and chosen in one.evidence.ids]
    if not holding:
        return
    st.subheader(_("Adversarial examples of this sample"))
    for one in holding:
        said = _adversarial_line(one, chosen, classes)
        if links.offered("attacks"):
            links.link(
                said, "attacks", icon=":material/security:", help=_("See the example"), run=view.run.name,
                model=links.asked("model"), evidence=one.piece.ref.path, sample=chosen,
            )  # fmt: skip
        else:
            st.write(plain(said))


def _adversarial_line(one: Examples, chosen: str, classes: Sequence[str]) -> str:
    row = one.evidence.row(one.evidence.ids.index(chosen))
    before, after = (named(row.get(name), classes) for name in ("prediction", "adversarial_prediction"))
    size = f", {_('size')} {shown(float(row['size']))} {one.meta.get('norm') or ''}".rstrip() if "size" in row else ""
    return f"{one.label}: {before} → {after}{size}"


# --- all rows of a table -----------------------------------------------------------------------------------------


def _whole_table(maps: Maps, classes: Sequence[str]) -> None:
    """Bars, beeswarm and dependence over every stored row of one explainer."""
    st.subheader(_("All stored rows"))
    series = _table_series(maps)
    x, values = (np.asarray(series.evidence.column(name), dtype=float) for name in ("x", "values"))
    x, values = x.reshape(len(x), -1), values.reshape(len(x), -1)
    if classes:
        aims = {str(int(t)): named(t, classes) for t in np.unique(series.columns["target"])}
        kept = np.ones(len(x), dtype=bool)
        if len(aims) > 1:
            aim = links.select(
                "aim", _("Rows explained for"), list(aims), lambda t: aims[t], empty=_("each row's own class")
            )
            kept = series.columns["target"] == int(aim) if aim is not None else kept
        x, values = x[kept], values[kept]
    names = series.reader.columns(x[0])[0]
    taken = np.linspace(0, len(x) - 1, min(len(x), MOST_ROWS)).round().astype(int)
    few, amounts = x[taken], values[taken]
    cells = [series.reader.columns(row)[1] for row in few]
    label = _("contribution")
    told = _("{explainer}, {n} rows").format(explainer=plain(series.label), n=f"{len(x):,}")
    st.caption(
        told + (_("; points are {n} of them, evenly taken").format(n=f"{len(few):,}") if len(few) < len(x) else "")
    )
    left, right = st.columns(2, gap="large")
    with left:
        charts.draw(
            charts.mean_sizes(
                names, values, title=_("Which features weigh most"), label=_("mean size of the contribution")
            ),
            _("Good: the longest bars are features that the decision may rest on."),
            key="mean-sizes",
        )
    with right:
        charts.draw(
            charts.beeswarm(names, amounts, few, cells, title=_("Every row's contributions"), label=label),
            _("Good: high and low values lie on the sides where an expert expects them."),
            key="beeswarm",
        )
    order = np.argsort(-np.abs(np.nan_to_num(values)).mean(axis=0), kind="stable").tolist()
    feature = links.select("feature", _("Feature"), [names[i] for i in order])
    at = names.index(str(feature))
    categories = bool(series.fields and len(series.fields) == len(names) and series.fields[at].get("categories"))
    charts.draw(
        charts.dependence(
            few[:, at], amounts[:, at], [row[at] for row in cells], categories=categories,
            title=_("How the contribution of {feature} depends on its value").format(feature=names[at]),
            x_label=str(feature), label=label,
        ),
        _("Good: the points follow a shape that makes sense; where they spread at one value, other features decide with it."),
        key="dependence",
    )  # fmt: skip


def _table_series(maps: Maps) -> MapSeries:
    """The series of the explainer that the reader chooses, the one with most rows."""
    label = str(links.select("over", _("Explainer of all rows"), maps.explainers))
    same = [one for one in maps.of_role("own") if one.label == label]
    return max(same, key=lambda one: len(one.evidence))
