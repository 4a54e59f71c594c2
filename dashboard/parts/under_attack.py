"""What the attacks of a run made of a row: the original and the attacked input, each with its map, and the difference between them."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st

from audit.report._images import planes, summed
from dashboard import links
from dashboard.drawing import charts, paired, pictures
from dashboard.parts import explained, gallery, shifted
from dashboard.parts.explained import Scene
from dashboard.reading.evidence import Map, Moved
from dashboard.words import _

OWN, SAME = "own", "same"


def draw(found: Sequence[Moved], scene: Scene, live: Callable[[Map, str], None]) -> None:
    """Every stored attack on a row, those that change the answer first.

    Args:
        live: draws a way to explain a map's input live, in these words.
    """
    target = OWN
    if any(len(one.after) > 1 for one in found):
        # Of two classes, one's map is all but the other's with its signs turned round.
        usual = SAME if len(scene.classes) == 2 else OWN
        said = {OWN: _("for the class it is taken for"), SAME: _("for the class of the original")}
        st.caption(_("The attacked input is explained"))
        target = str(links.select("shifted", _("The attacked input is explained"), (OWN, SAME), lambda t: said[t], default=usual, segmented=True))  # fmt: skip
    for one in sorted(found, key=lambda one: not one.changed):
        after = one.after[-1] if target == SAME else one.after[0]
        _heading(one, scene)
        form = one.before.series.reader.form(one.before.row)
        forms: dict[str, Callable[[Map, Map, Scene], None]] = {"image": _images, "table": _tables}
        forms.get(form, _others)(one.before, after, scene)
        st.caption(_good(one, after))
        live(after, _("Explain the attacked input live"))


def _heading(one: Moved, scene: Scene) -> None:
    """Which kind of attack it was, in a line that a glance takes in."""
    answers = [answered(each, scene) for each in (one.before, one.after[0])]
    if one.changed:
        tone, text = "fail", _("✗ The attack changes the answer: {before} → {after}")
    else:
        tone, text = "pass", _("✓ The attack keeps the answer and seeks another map: {before} → {after}")
    said = html.escape(text.format(before=answers[0], after=answers[1]))
    st.html(f'<p class="chosen kind tone {tone}">{said}</p>')


def answered(one: Map, scene: Scene) -> str:
    """What the model made of an input, and how sure it was."""
    sure = f" ({charts.percent(float(one.row['confidence']))})" if "confidence" in one.row else ""
    return scene.name_of(one.row["prediction"]) + sure


def _good(one: Moved, after: Map) -> str:
    if not one.changed:
        return _("Good: the difference is pale. The answer is the same, and so should be its reasons.")
    if after.target == one.before.target:
        return _(
            "Good: the difference is pale. What speaks for a class should not move further than under noise of the same size, which the check measures beside it."
        )
    return _(
        "Good: the two maps differ, so that a reader sees that the answer is another, and the new one rests on what was changed."
    )


def _titles(before: Map, after: Map, scene: Scene) -> tuple[str, str]:
    said = _("map of the original, for {target}"), _("map of the attacked, for {target}")
    return (
        said[0].format(target=scene.name_of(before.target)),
        said[1].format(target=scene.name_of(after.target)),
    )


# --- images ------------------------------------------------------------------------------------------------------


def _images(before: Map, after: Map, scene: Scene) -> None:
    """Inputs above their maps: the original left, the attacked right, between them what sets them apart."""
    st.html(f"<h4>{html.escape(before.label)}</h4>")
    limit = scene.look.limit(*(summed(one.row["values"]) for one in (before, after)))
    bounds = explained.bounds_of(before)
    change, largest = pictures.magnified(before.row["x"], after.row["x"])
    factor = (bounds[1] - bounds[0]) / 2 / largest if largest else 1.0
    titles = _titles(before, after, scene)
    rows = (
        (
            (_("original: {answer}").format(answer=answered(before, scene)), pictures.picture(before.row["x"], bounds)),
            (_("change, × {factor}").format(factor=charts.short(factor)), change),
            (_("attacked: {answer}").format(answer=answered(after, scene)), pictures.picture(after.row["x"], bounds)),
        ),
        (
            (titles[0], explained.map_picture(before, scene.look, limit)),
            (_("difference of the maps"), explained.difference_picture(before, after, scene.look, limit)),
            (titles[1], explained.map_picture(after, scene.look, limit)),
        ),
    )
    for drawn in rows:
        for column, (caption, png) in zip(st.columns(3, gap="medium"), drawn, strict=True):
            with column:
                gallery.picture(png, caption)
    facts = [(_("shared scale"), explained.scale_text(limit, scene.look)), *_largest(before, after)]
    _facts(before, after, facts)
    grey = planes(before.row["x"]).ndim == 2
    st.caption(
        _("Of the change and of the difference, blue is less, orange is more, and white is nothing.")
        if grey
        else _("Of the difference, blue is less, orange is more, and white is nothing; of the change, grey is nothing.")
    )


def _largest(before: Map, after: Map) -> list[tuple[str, str]]:
    """By how much any element of the input was changed."""
    first, second = (np.asarray(one.row["x"], dtype=float) for one in (before, after))
    if first.shape != second.shape:
        return []
    units = f" {_(before.series.units)}" if before.series.units else ""
    return [(_("largest change"), f"{charts.short(float(np.nan_to_num(np.abs(second - first)).max(initial=0.0)))}{units}")]  # fmt: skip


def _facts(before: Map, after: Map, between: list[tuple[str, str]]) -> None:
    """What is known of each map below it, and of both between them."""
    first, second = _quality(before), _quality(after)
    both = [fact for fact in first if fact in second]
    left, right = ([fact for fact in facts if fact not in both] for facts in (first, second))
    for column, facts in zip(st.columns(3, gap="medium"), (left, [*between, *both], right), strict=True):
        with column:
            gallery.facts(facts)


def _quality(one: Map) -> list[tuple[str, str]]:
    return [(explained.quality_name(q.name), explained.quality_text(q.name, q.value)) for q in one.quality]


# --- tables, series, texts ---------------------------------------------------------------------------------------


def _tables(before: Map, after: Map, scene: Scene) -> None:
    """Bars in pairs; a feature that was changed is named with both values."""
    st.html(f"<h4>{html.escape(before.label)}</h4>")
    names, cells = before.series.reader.columns(before.row["x"])
    changed = after.series.reader.columns(after.row["x"])[1]
    written = [
        f"{name} = {old}" if old == new else f"{name} = {old} → {new}"
        for name, old, new in zip(names, cells, changed, strict=True)
    ]
    turned = [old != new for old, new in zip(cells, changed, strict=True)]
    first, second = (scene.look.of(one.row["values"]).ravel() for one in (before, after))
    charts.draw(
        paired.paired_bars(
            written, first, second, _titles(before, after, scene), turned,
            title=_("What each feature contributes, before and after"), label=_("contribution"),
        ),
        _("Features with the largest contributions come first; an arrow stands where the attack changed the value."),
        key=f"paired-{before.series.piece.step}-{after.series.piece.name}",
    )  # fmt: skip
    count = _("{n} of {all}").format(n=sum(turned), all=len(turned))
    _facts(before, after, [(_("features changed"), count)])


def _others(before: Map, after: Map, scene: Scene) -> None:
    """Lines or words, original and attacked beside one another."""
    shifted.draw([shifted.Shift(before, after, None)], scene)
    _facts(before, after, _largest(before, after))
