"""What a page is about, chosen by the reader and held by the address: a run, one of its models, a place on a scale."""

from __future__ import annotations

from typing import Any

import streamlit as st

from audit.report._told import told
from audit.report._view import RunView
from dashboard import links
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.words import _


def run_with(family: str, title: str, absent: str) -> RunView | None:
    """The run that the reader chooses among those with a check of a family; None, and why, where there is none.

    Args:
        family: checks' names begin so: ``explanation.``.
        absent: what to say where no run has such a check.
    """
    st.title(title)
    runs = stored.runs(stored.home())
    asked = links.asked("run")
    known = {one.name: one for one in runs if one.name == asked or any(c.startswith(family) for c in one.checks)}
    if not runs:
        st.info(_("There are no runs yet. The overview says how to start."))
    elif asked is not None and asked not in {one.name for one in runs}:
        st.error(_("There is no run '{name}' here. Choose another in the overview.").format(name=plain(asked)))
    elif not known:
        st.info(absent)
    else:
        name = links.select("run", _("Run"), list(known), lambda name: stored.described(known[name]))
        view = stored.run(stored.home(), str(name))
        for problem in view.problems:
            st.error(plain(told(problem)), icon=":material/broken_image:")
        return view
    return None


def model_of(models: list[str]) -> str:
    """One of a run's models; there is nothing to choose where it has one."""
    if len(models) == 1:
        return models[0]
    return str(links.select("model", _("Model"), models))


def place(
    name: str, label: str, low: float, high: float, default: float, step: float, *, told: str = "", whole: bool = False
) -> float:
    """A place on a scale that the address holds; what it is without the reader's doing stays out of the address.

    Args:
        told: on hover.
        whole: write it without decimals.
    """
    try:
        given = min(high, max(low, float(links.asked(name) or default)))
    except ValueError:
        given = default
    key = f"place-{name}"
    st.session_state[key] = given

    def changed() -> None:
        chosen = st.session_state[key]
        links.note(**{name: f"{chosen:g}" if chosen != default else None})

    st.slider(
        label, low, high, step=step, key=key, on_change=changed, help=told or None, format="%d" if whole else None
    )
    return given


def leaf(name: str, pages: int) -> int:
    """The page of a gallery that is open, from 1; buttons turn it where there are several."""
    given = links.asked(name) or "1"
    number = min(max(1, int(given)), pages) if given.isdecimal() else 1
    if pages > 1:
        with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center", gap="small"):
            _turn(name, ":material/chevron_left:", _("Earlier"), number - 1, number > 1)
            st.markdown(_("page {n} of {all}").format(n=number, all=f"{pages:,}"), width="content")
            _turn(name, ":material/chevron_right:", _("Later"), number + 1, number < pages)
    return number


def _turn(name: str, icon: str, told: str, to: int, possible: bool) -> None:
    st.button(
        icon, key=f"turn-{name}-{icon}", help=told, on_click=links.note, kwargs={name: str(to)}, disabled=not possible
    )


def row(frame: Any, *, key: str, **shown: Any) -> int | None:
    """Draw a table and give the row of it that the reader has just clicked; None where nothing was clicked since.

    Args:
        frame: a data frame, with a style or without.
        shown: further arguments of `st.dataframe`.
    """
    clicked = f"{key}-clicked"

    def changed() -> None:
        if cells := st.session_state[key]["selection"]["cells"]:
            st.session_state[clicked] = int(cells[0][0])

    st.dataframe(frame, key=key, hide_index=True, on_select=changed, selection_mode="single-cell", **shown)
    found: int | None = st.session_state.pop(clicked, None)
    return found
