"""What an attack makes of the maps: the original's, the adversarial example's for the same class and for its new one, on one scale."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from audit.report._images import summed
from audit.report._text_map import shaded
from dashboard.drawing import charts
from dashboard.parts import explained, gallery
from dashboard.parts.explained import Scene
from dashboard.parts.markdown import plain
from dashboard.reading.evidence import Map
from dashboard.words import _

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 0.05
"""Beside the bars of waterfalls, as a share of their reach."""
CHANNELS = 2
"""Channels of a series that are drawn: those that contribute most."""


@dataclass(frozen=True)
class Shift:
    """The maps of one explainer.

    Args:
        before: of the original, for the class that it is answered as.
        after: of the adversarial example, for that same class.
        own: of the adversarial example, for the class that it is answered as; None where that is the same.
    """

    before: Map
    after: Map
    own: Map | None

    @property
    def maps(self) -> list[Map]:
        """All of them, the original's first."""
        return [self.before, self.after, *([self.own] if self.own is not None else [])]

    def said(self, one: Map, scene: Scene) -> str:
        """What a map is of, and for which class."""
        target = scene.name_of(one.target)
        return _("original, for {target}").format(target=target) if one is self.before else _("attacked, for {target}").format(target=target)  # fmt: skip


def draw(found: Sequence[Shift], scene: Scene) -> None:
    """Every explainer's maps beside one another."""
    forms: dict[str, Callable[[Shift, Scene], None]] = {
        "image": _images, "text": _texts, "series": _series, "table": _tables
    }  # fmt: skip
    for one in found:
        st.html(f"<h4>{html.escape(one.before.label)}</h4>")
        forms[one.before.series.reader.form(one.before.row)](one, scene)


def _images(shift: Shift, scene: Scene) -> None:
    limit = scene.look.limit(*(summed(one.row["values"]) for one in shift.maps))
    drawn = [(shift.said(one, scene), explained.map_picture(one, scene.look, limit)) for one in shift.maps]
    title = _("difference of the two for {target}").format(target=scene.name_of(shift.before.target))
    drawn.insert(2, (title, explained.difference_picture(shift.before, shift.after, scene.look, limit)))
    for column, (caption, png) in zip(st.columns(4), drawn, strict=False):
        with column:
            gallery.picture(png, caption)
    _told(explained.scale_text(limit, scene.look))


def _told(scale: str) -> None:
    st.caption(
        _("All maps of this row share the scale {scale}. Good: the maps for one class change no more than the input does.").format(
            scale=plain(scale)
        )
    )  # fmt: skip


def _texts(shift: Shift, scene: Scene) -> None:
    pieces = [shaded(one.row["x"], scene.look.of(one.row["values"]), one.row.get("feature")) for one in shift.maps]
    limit = max(own for _tokens, own in pieces)
    for column, one, (tokens, own) in zip(st.columns(len(pieces), gap="medium"), shift.maps, pieces, strict=True):
        shared = [replace(token, share=round(token.share * own / (limit or 1.0), 4)) for token in tokens]
        with column:
            st.html(f"<p><b>{html.escape(shift.said(one, scene))}</b></p>{explained.shaded_text(shared)}")
    _told(f"± {charts.short(limit)}")


def _series(shift: Shift, scene: Scene) -> None:
    def rows(one: Map, name: str) -> NDArray[Any]:
        values = np.atleast_2d(np.asarray(one.row[name], dtype=float))
        return values.reshape(-1, values.shape[-1])

    amounts = [scene.look.of(rows(one, "values")) for one in shift.maps]
    limit = scene.look.limit(*amounts)
    weight = np.sum([np.abs(part).sum(axis=1) for part in amounts], axis=0)
    for channel in sorted(np.argsort(-weight, kind="stable")[:CHANNELS].tolist()):
        for column, one, part in zip(st.columns(len(amounts), gap="medium"), shift.maps, amounts, strict=True):
            which = "" if len(part) == 1 else f", {explained.channel_name(one, channel)}"
            with column:
                charts.draw(
                    charts.relevance_line(
                        rows(one, "x")[channel], part[channel], limit, title=f"{shift.said(one, scene)}{which}",
                        x_label=_("step"), y_label=explained.unit_of(one, _("value")), label=_("contribution"),
                    ),
                    _("Good: the coloured stretches are those that an expert would name."),
                    key=f"shift-{one.label}-{channel}-{shift.maps.index(one)}",
                )  # fmt: skip
    _told(f"± {charts.short(limit)}")


def _tables(shift: Shift, scene: Scene) -> None:
    """Waterfalls on the way to the same class on one axis, and to the new one where there are more than two."""
    ends = [charts.reach(*explained.steps(one, scene)) for one in (shift.before, shift.after)]
    low, high = min(first for first, _last in ends), max(last for _first, last in ends)
    margin = MARGIN * (high - low)
    shared = (low - margin, high + 2 * margin)  # the numbers stand to the right of the bars
    drawn = shift.maps if len(scene.classes) > 2 else shift.maps[:2]
    for start in range(0, len(drawn), 2):
        for column, one in zip(st.columns(2, gap="large"), drawn[start : start + 2], strict=False):
            with column:
                explained.waterfall(
                    one, scene, shift.said(one, scene), key=f"shift-{one.label}-{drawn.index(one)}",
                    within=None if one is shift.own else shared,
                )  # fmt: skip
    st.caption(_("Good: what tips the answer is what was changed, and the other contributions stay as they were."))
