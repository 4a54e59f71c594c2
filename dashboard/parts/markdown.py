"""Texts of a run in Streamlit's Markdown: as they are, whoever wrote them."""

from __future__ import annotations

import re

MARKED = frozenset(r"\`*_{}[]()#+-.!|<>~$:&")
"""Characters that mean something there."""
FOUND = re.compile(r"https?:(?=//)|www(?=\.)|(?<=[\w.+-])@(?=[\w-]+\.\w)|:(?=(?:material/|streamlit:))", re.IGNORECASE)
"""What it makes a link or a picture of though every character of it is escaped: addresses and the names of icons."""
JOINER = "\u2060"
"""Has no width and breaks no line."""


def plain(text: object) -> str:
    """A text as it is, where Markdown would make a picture, a link, a colour or a formula of it."""
    broken = FOUND.sub(rf"\g<0>{JOINER}", str(text))
    return "".join(f"\\{c}" if c in MARKED else c for c in broken)
