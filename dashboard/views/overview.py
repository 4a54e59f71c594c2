"""Overview: every run, what it came to, and what was not tested."""

from __future__ import annotations

import streamlit as st

from dashboard import links, stored
from dashboard.words import _, verdict_word


def show() -> None:
    """Draw the page."""
    st.title(_("Overview"))
    for summary in stored.runs(stored.home()):
        links.link(f"{verdict_word(summary.word)} · {summary.name}", "run", run=summary.name)
