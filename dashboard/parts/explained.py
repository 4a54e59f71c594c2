"""One explained row as the page draws it: the input beside what each explainer says of it. One form for each kind of input."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from audit.numbers import show
from audit.report._attribution import BOUNDED, PERCENT
from audit.report._images import summed
from audit.report._sample import named
from audit.report._text_map import Token, shaded
from audit.text import decode
from dashboard import links
from dashboard.drawing import charts, pictures
from dashboard.drawing.pictures import Look, Part
from dashboard.parts import choosing, gallery
from dashboard.reading.evidence import Map
from dashboard.words import _

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS: tuple[Part, ...] = ("signed", "positive", "negative", "absolute")
SHARES = (
    "damage by top",
    "damage by top gain",
    "top k intersection",
    "top k under noise",
    "mask area",
    "relevance mass",
    "relevance share",
)
"""Numbers on a map that are shares, beside those whose names begin so."""
MOST_CHANNELS = 4
"""Channels of a series that are drawn: those that contribute most."""


@dataclass(frozen=True)
class Scene:
    """What a row's maps are drawn with.

    Args:
        classes: names of the classes; none of a regression.
        look: how maps of images are drawn, and which contributions of any kind.
    """

    classes: Sequence[str]
    look: Look

    def name_of(self, value: Any) -> str:
        """A class by its name, a value as a number."""
        return named(value, self.classes)


def look(found: Sequence[Map]) -> Look:
    """How the reader wants maps drawn: which contributions, and of images the opacity and the palette's ends."""
    columns = st.columns([2, 1, 1])
    said = {"signed": _("for and against"), "positive": _("for"), "negative": _("against"), "absolute": _("size alone")}
    with columns[0]:
        part: Any = links.select("sign", _("Contributions"), PARTS, lambda p: said[p], segmented=True)
    opacity, percentile = 1.0, 100.0
    if found[0].series.reader.form(found[0].row) == "image":
        many = max(np.size(summed(one.row["values"])) for one in found) > 1000
        with columns[1]:
            opacity = choosing.place("opacity", _("Opacity of the map"), 0.0, 1.0, 0.8, 0.05)
        with columns[2]:
            percentile = choosing.place(
                "clip", _("Palette ends at percentile"), 90.0, 100.0, 99.0 if many else 100.0, 0.5,
                told=_("Larger contributions take the colour at the end: a few cannot hide the rest."),
            )  # fmt: skip
    return Look(opacity, part, percentile)


def draw(found: Sequence[Map], scene: Scene) -> None:
    """The input, and every map of it beside it or below it."""
    forms: dict[str, Callable[[Sequence[Map], Scene], None]] = {
        "image": images, "text": texts, "series": series, "table": tables
    }  # fmt: skip
    forms[found[0].series.reader.form(found[0].row)](found, scene)


# --- images ------------------------------------------------------------------------------------------------------


def images(found: Sequence[Map], scene: Scene) -> None:
    """The picture and its maps side by side, each with its own scale and what is known of it."""
    columns = st.columns(1 + len(found))
    first = found[0]
    with columns[0]:
        gallery.picture(pictures.picture(first.row["x"], bounds_of(first)), _("input"))
        gallery.facts([(_("shape"), " × ".join(map(str, np.shape(first.row["x"]))))])
    for column, one in zip(columns[1:], found, strict=True):
        with column:
            limit = scene.look.limit(summed(one.row["values"]))
            gallery.picture(map_picture(one, scene.look, limit), one.label)
            gallery.facts([(_("scale"), scale_text(limit, scene.look)), *known_of(one)])
    legend(scene)


def bounds_of(one: Map) -> tuple[float, float]:
    """Black and white of a picture; without declared bounds its own smallest and largest value."""
    x = one.row["x"]
    return one.series.bounds or (float(np.nanmin(x)), float(np.nanmax(x)))


def map_picture(one: Map, look: Look, limit: float, values: NDArray[Any] | None = None) -> bytes:
    """A map over its input, edges of segments drawn."""
    feature = one.row.get("feature") if one.series.reader.unit in BOUNDED else None
    drawn = one.row["values"] if values is None else values
    return pictures.overlay(one.row["x"], drawn, bounds_of(one), look, limit, feature)


def difference_picture(before: Map, after: Map, look: Look, limit: float) -> bytes:
    """What sets two maps of one shape apart, with its sign and nothing seen through it."""
    change = summed(after.row["values"]) - summed(before.row["values"])
    return map_picture(after, Look(1.0, "signed", look.percentile), limit, change)


def legend(scene: Scene) -> None:
    """The palette with the words at its ends."""
    against, forward = (
        (_("speaks against the class"), _("speaks for it")) if scene.classes else (_("lowers"), _("raises the value"))
    )
    ends = {
        "signed": (against, forward),
        "positive": (_("nothing"), forward),
        "negative": (against, _("nothing")),
        "absolute": (_("no weight"), _("weighs most, for or against")),
    }[scene.look.part]
    bar = pictures.address(pictures.colour_bar(scene.look.part))
    st.html(
        f'<p class="palette">{html.escape(ends[0])} <img src="{bar}" alt=""> {html.escape(ends[1])}'
        f"<span>{html.escape(_('Each map has its own scale; its ends are given below it.'))}</span></p>"
    )


def scale_text(limit: float, look: Look) -> str:
    """The amount at the palette's ends."""
    shown = charts.short(limit)
    return {
        "signed": f"± {shown}",
        "positive": f"0 – {shown}",
        "negative": f"−{shown} – 0",
        "absolute": f"0 – {shown}",
    }[look.part]


# --- texts, series, tables ---------------------------------------------------------------------------------------


def texts(found: Sequence[Map], scene: Scene) -> None:
    """The text once per explainer, its pieces shaded; every piece tells its value on hover."""
    for one in found:
        values = scene.look.of(one.row["values"])
        tokens, limit = shaded(one.row["x"], values, one.row.get("feature"))
        words, numbers = st.columns([3, 1], gap="medium")
        with words:
            st.html(f"<h4>{html.escape(one.label)}</h4>{shaded_text(tokens)}")
        with numbers:
            gallery.facts([(_("scale"), f"± {charts.short(limit)}"), *known_of(one)])
    st.caption(
        _(
            "Orange with a solid line speaks for the class, blue with a dotted line against it; hover over a piece for its value."
        )
    )


def shaded_text(tokens: Sequence[Token]) -> str:
    """A text as HTML, its pieces shaded by what they contribute."""
    return f'<p class="shaded">{"".join(_piece(token) for token in tokens)}</p>'


def _piece(token: Token) -> str:
    text = html.escape(token.text)
    if not token.marked:
        return f'<span title="{html.escape(token.amount)}">{text}</span>' if token.value else text
    sign = "for" if token.share > 0 else "against"
    number = f"<sup>{html.escape(token.amount)}</sup>" if token.numbered else ""
    share = f"{100 * abs(token.share):.0f}%"
    return f'<span class="{sign}" style="--share: {share}" title="{html.escape(token.amount)}">{text}{number}</span>'


def series(found: Sequence[Map], scene: Scene) -> None:
    """The line of each channel, coloured by what each stretch contributes."""
    for one in found:
        x, values = (np.atleast_2d(np.asarray(one.row[name])) for name in ("x", "values"))
        x, amounts = (part.reshape(-1, part.shape[-1]) for part in (x, scene.look.of(values)))
        limit = scene.look.limit(amounts)
        order = np.argsort(-np.abs(amounts).sum(axis=1), kind="stable")[:MOST_CHANNELS]
        drawn, numbers = st.columns([3, 1], gap="medium")
        with drawn:
            for channel in sorted(order.tolist()):
                which = "" if len(x) == 1 else f", {channel_name(one, channel)}"
                charts.draw(
                    charts.relevance_line(
                        x[channel], amounts[channel], limit, title=f"{one.label}{which}", x_label=_("step"),
                        y_label=unit_of(one, _("value")), label=_("contribution"),
                    ),
                    _("Good: the coloured stretches are those that an expert would name."),
                    key=f"series-{one.label}-{channel}",
                )  # fmt: skip
            if len(order) < len(x):
                st.caption(
                    _("{n} of {all} channels are drawn, those that contribute most.").format(n=len(order), all=len(x))
                )
        with numbers:
            gallery.facts([(_("scale"), f"± {charts.short(limit)}"), *known_of(one)])


def channel_name(one: Map, channel: int) -> str:
    """A channel by its name."""
    names = one.series.evidence.meta.get("feature_names")
    return (
        str(names[channel]) if isinstance(names, list) and channel < len(names) else _("channel {n}").format(n=channel)
    )


def unit_of(one: Map, name: str) -> str:
    """An axis' title with the input's unit."""
    return f"{name} ({_(one.series.units)})" if one.series.units else name


def tables(found: Sequence[Map], scene: Scene) -> None:
    """A waterfall per explainer, from the base value to the score."""
    for start in range(0, len(found), 2):
        columns = st.columns(min(2, len(found)), gap="large")
        for column, one in zip(columns, found[start : start + 2], strict=False):
            with column:
                waterfall(one, scene, one.label, key=f"waterfall-{one.label}")
                gallery.facts(known_of(one))


def waterfall(one: Map, scene: Scene, title: str, *, key: str, within: tuple[float, float] | None = None) -> None:
    """One row's contributions, from the base value to the score.

    Args:
        within: ends of the axis, where several share one.
    """
    names, cells = one.series.reader.columns(one.row["x"])
    charts.draw(
        charts.waterfall(
            [f"{name} = {cell}" for name, cell in zip(names, cells, strict=True)], *steps(one, scene), title=title,
            label=_("score of {target}").format(target=scene.name_of(one.target)) if scene.classes else _("value"), within=within,
        ),
        _("Good: the bars reach from the base value to the score, and the longest are reasons that hold up."),
        key=key,
    )  # fmt: skip


def steps(one: Map, scene: Scene) -> tuple[list[float], float, float | None]:
    """A waterfall's contributions, where it starts, and where it ends if that is known."""
    base = float(one.row["base_value"]) if "base_value" in one.row else 0.0
    score = float(one.row["score"]) if "score" in one.row and scene.look.part == "signed" else None
    return scene.look.of(one.row["values"]).ravel().tolist(), base, score


# --- what is known of a map --------------------------------------------------------------------------------------


def known_of(one: Map) -> list[tuple[str, str]]:
    """Score, base value, the explainer's own error, and every quality number with the check that measured it."""
    row = one.row
    names = {"score": _("score"), "base_value": _("base value"), "error": _("own error")}
    found = [(said, show(float(row[name]))) for name, said in names.items() if name in row and np.ndim(row[name]) == 0]
    return found + [
        (f"{quality_name(q.name)} · {q.check.removeprefix('explanation.')}", quality_text(q.name, q.value))
        for q in one.quality
    ]


def quality_name(name: str) -> str:
    """What a number on a map measures, in the reader's words; an unknown one as its check stored it."""
    known = {
        "deletion gain": _("deletion gain"),
        "insertion gain": _("insertion gain"),
        "relative gap": _("relative gap"),
        "rank correlation": _("rank correlation"),
        "top k intersection": _("first features kept"),
        "correlation under noise": _("rank correlation under noise"),
        "top k under noise": _("first features kept under noise"),
        "own answer correlation": _("correlation with the original's map"),
        "damage by top": _("damage through its first features"),
        "damage by top gain": _("damage above random features'"),
        "effective features": _("effective features"),
        "infidelity": _("infidelity"),
        "mask area": _("area of the marked region"),
        "max sensitivity": _("largest sensitivity"),
        "relevance mass": _("relevance within the marked region"),
        "relevance share": _("relevance of the shortcut"),
        "real effect": _("real effect"),
        "told effect": _("effect as explained"),
    }
    return known.get(name, name)


def quality_text(name: str, value: float) -> str:
    """A share in percent, anything else as a number."""
    if name in SHARES or name.replace(" ", "_").startswith(PERCENT):
        return f"{charts.short(100 * value)} %"
    return charts.short(value, 4)


def curves(found: Sequence[Map], classes: Sequence[str]) -> None:
    """Deletion and insertion of this very row, by explainer; nothing where no check followed them."""
    known = {one.label: one.curves for one in found if one.curves}
    if not known:
        st.caption(_("No check followed deletion and insertion of this row: explanation.faithfulness does."))
        return
    y_label = _("probability of the class") if classes else _("value of the model")
    parts = (
        ("deletion", "removed", _("Deletion"), _("share of the features removed"),
         _("Good: the solid line, in the map's order, falls sooner than the dashed one, in random order: what the map names first matters.")),
        ("insertion", "kept", _("Insertion"), _("share of the features kept"),
         _("Good: the solid line, in the map's order, rises sooner than the dashed one, in random order: what the map names first suffices.")),
    )  # fmt: skip
    for column, (kind, share, title, x_label, good) in zip(st.columns(2, gap="large"), parts, strict=True):
        lines = {
            label: (about[share], about[f"{kind}_explained"], about[f"{kind}_random"]) for label, about in known.items()
        }
        with column:
            charts.draw(
                charts.removal(lines, title=title, x_label=x_label, y_label=y_label), good, key=f"removal-{kind}"
            )


def preview(row: Mapping[str, Any], kind: str, length: int = 60) -> str:
    """A text's beginning; empty of anything else."""
    if kind != "text":
        return ""
    text = " ".join(decode(row["x"]).split())
    return text if len(text) <= length else f"{text[:length].rstrip()} …"
