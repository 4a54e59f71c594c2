"""Run: the verdict and its gates, then every finding with what stands behind it."""

from __future__ import annotations

import streamlit as st

from dashboard import links, stored
from dashboard.words import _, verdict_word


def show() -> None:
    """Draw the page."""
    name = links.asked("run")
    if name is None:
        st.info(_("Choose a run in the overview."))
        return
    view = stored.run(stored.home(), name)
    st.title(view.title)
    st.write(verdict_word(view.verdict.word), view.verdict.sentence)
