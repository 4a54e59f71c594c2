"""Texts of a run in Streamlit's Markdown: as they are, whoever wrote them."""

from __future__ import annotations

MARKED = frozenset(r"\`*_{}[]()#+-.!|<>~$:&")
"""Characters that mean something there."""


def plain(text: object) -> str:
    """A text as it is, where Markdown would make a picture, a link, a colour or a formula of it."""
    return "".join(f"\\{c}" if c in MARKED else c for c in str(text))
