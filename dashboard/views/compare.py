"""Compare: two runs, gate by gate and sample by sample."""

from __future__ import annotations

import streamlit as st

from dashboard.words import _


def show() -> None:
    """Draw the page."""
    st.title(_("Compare"))
