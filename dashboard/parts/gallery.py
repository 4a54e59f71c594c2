"""Samples as tiles to choose from, and pictures with their captions."""

from __future__ import annotations

import html

import streamlit as st

from dashboard import links
from dashboard.drawing import pictures
from dashboard.parts.markdown import plain

TILES = 18
"""Samples of a gallery that are shown at once."""
_STYLE = """
.pixels { margin: 0; } .pixels img { width: 100%; max-width: 460px; image-rendering: pixelated; border: 1px solid var(--line); border-radius: 4px; display: block; }
.pixels figcaption { font-weight: 600; font-size: 14px; line-height: 1.3; min-height: 2.6em; display: flex; align-items: flex-end; margin: 0 0 4px; overflow-wrap: anywhere; }
.palette { font-size: 13px; color: var(--soft); margin: 2px 0 0; } .palette img { width: 160px; height: 10px; vertical-align: middle; }
.palette span { margin-left: 18px; }
.st-key-gallery button { padding: 4px 6px; min-height: 0; }
.st-key-gallery button img { max-height: 72px !important; height: 72px !important; width: auto; image-rendering: pixelated; display: block; margin: 0 auto 2px; border-radius: 2px; }
.st-key-gallery button[kind="primary"] { background: color-mix(in srgb, var(--link) 20%, var(--paper)); border: 2px solid var(--link); color: var(--ink); }
.st-key-gallery button p { font-size: 12.5px; line-height: 1.25; }
.chosen { font-size: 1.35rem; font-weight: 600; margin: 0; white-space: normal; }
.chosen.kind { font-size: 1.05rem; margin-top: 10px; }
dl.numbers { margin: 4px 0 0 !important; padding: 0 !important; font-size: 13px; max-width: 460px; }
.numbers div { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 8px; padding: 2px 0; margin: 0; border-bottom: 1px solid var(--line); }
.numbers dt { color: var(--soft); font-weight: 400; margin: 0; padding: 0; overflow-wrap: anywhere; }
.numbers dd { margin: 0 0 0 auto; padding: 0; font-variant-numeric: tabular-nums; }
.shaded, .passage { line-height: 2; font-size: 15.5px; overflow-wrap: anywhere; white-space: pre-wrap; margin: 0; }
.shaded span { border-radius: 3px; padding: 1px 2px; }
.shaded .for { background: color-mix(in oklab, var(--s2) calc(var(--share) * .6), transparent); border-bottom: 2px solid var(--s2); }
.shaded .against { background: color-mix(in oklab, var(--s1) calc(var(--share) * .6), transparent); border-bottom: 2px dotted var(--s1); }
.shaded sup { font-size: 10.5px; color: var(--soft); }
.passage mark { background: color-mix(in srgb, var(--s2) 28%, transparent); color: inherit; font-weight: 600; text-decoration: underline; text-decoration-thickness: 2px; border-radius: 2px; }
"""


def style() -> None:
    """Put the rules of galleries, pictures and texts into the page."""
    st.html(f"<style>{_STYLE}</style>")


def tile(row: str, said: str, png: bytes | None, *, text: str = "", chosen: bool) -> None:
    """A sample that a click chooses.

    Args:
        row: its id; the address takes it.
        said: what the model made of it.
        png: its picture; without one the tile is its words.
        text: its beginning, where it is a text.
    """
    label = plain(f"{said}: {text}" if text else said)
    if png is not None:
        label = f"![{plain(said)}]({pictures.address(png)}) {plain(said)}"
    st.button(
        label, key=f"tile-{row}", on_click=links.note, kwargs={"sample": row}, type="primary" if chosen else "secondary"
    )


def picture(png: bytes, caption: str) -> None:
    """A picture as wide as its column, its pixels squares."""
    said = html.escape(caption)
    st.html(
        f'<figure class="pixels"><figcaption>{said}</figcaption><img src="{pictures.address(png)}" alt="{said}"></figure>'
    )


def facts(rows: list[tuple[str, str]]) -> None:
    """Names and values below each other."""
    body = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in rows)
    if body:
        st.html(f'<dl class="numbers">{body}</dl>')
