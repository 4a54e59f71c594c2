"""Texts of a run in Streamlit's Markdown: as they are, whoever wrote them."""

from __future__ import annotations

import re

MARKED = frozenset(r"\`*_{}[]()#+-.!|<>~$:&")
"""Characters that mean something there."""
FOUND = re.compile(r"https?:(?=//)|www(?=\.)|(?<=[\w.+-])@(?=[\w-]+\.\w)|:(?=(?:material/|streamlit:))", re.IGNORECASE)
"""What it makes a link or a picture of though every character of it is escaped: addresses and the names of icons."""
JOINER = "\u2060"
"""Has no width and breaks no line."""

LONGEST = 10_000
"""Characters after which nobody reads on, and a browser takes long to draw what follows."""


def plain(text: object) -> str:
    """A text as it is, where Markdown would make a picture, a link, a colour or a formula of it."""
    said = str(text)
    if len(said) > LONGEST:
        said = f"{said[:LONGEST]} …"
    broken = FOUND.sub(rf"\g<0>{JOINER}", said)
    return "".join(f"\\{c}" if c in MARKED else c for c in broken)
