"""Looks: the report's own colours, light and dark, and Streamlit's settings. Nothing is read from the user's own settings folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from audit.report.html import TEMPLATES

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

Mode = Literal["light", "dark"]

SERIES = ("s1", "s2", "s3", "s4", "s5", "s6")
"""Names of the colours of a chart's lines, in order; a colour-blind reader can tell them apart."""


@cache
def colours(mode: Mode) -> dict[str, str]:
    """The colours of the HTML report by name (``pass``, ``fail``, ``ink``, ``s1`` …)."""
    light, dark = re.findall(r":root \{(.*?)\}", (TEMPLATES / "style.css").read_text(encoding="utf-8"), re.DOTALL)[:2]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if mode == "light" else dark))


def mode() -> Mode:
    """Whether the reader looks at a light or a dark page."""
    return "dark" if st.context.theme.type == "dark" else "light"


def options() -> dict[str, Any]:
    """Streamlit's settings, as ``audit dashboard`` gives them to the server."""
    sides = {
        side: {
            "primaryColor": colours(side)["link"],
            "backgroundColor": colours(side)["paper"],
            "secondaryBackgroundColor": colours(side)["card"],
            "textColor": colours(side)["ink"],
            "linkColor": colours(side)["link"],
            "borderColor": colours(side)["line"],
        }
        for side in ("light", "dark")
    }
    themes = {f"theme.{side}.{name}": value for side, found in sides.items() for name, value in found.items()}  # type: ignore[attr-defined]
    return {
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": False,
        "server.fileWatcherType": "none",
        "server.headless": True,
        "server.runOnSave": False,
        **themes,
    }


@cache
def _gate_rules() -> str:
    sheet = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^svg\.gate.*$", sheet, re.MULTILINE))


def gate_style(status: str) -> str:
    """The report's own rules for a gate's drawing, for a picture that sees none of the page's."""
    named = "".join(f"--{name}: {value};" for name, value in colours(mode()).items())
    return f"svg {{ {named} --tone: var(--{status}); }}\n{_gate_rules()}"


def toned(frame: pd.DataFrame, column: str, statuses: Sequence[str]) -> Styler:
    """A table whose `column` has the colours of the rows' statuses; its text says the same by a sign and a word."""
    palette = colours(mode())
    return frame.style.format(na_rep="").apply(
        lambda _: [f"color: {palette[status]}" for status in statuses], subset=[column]
    )


def apply() -> None:
    """Put the style sheet into the page."""
    st.html(f"<style>{_style(mode())}</style>")


@cache
def _style(looks: Mode) -> str:
    light, dark = colours("light"), colours("dark")
    named = f"--drawn: {colours(looks)['paper']};"  # what pictures and charts were drawn for: paper is light
    named += "".join(f"--{name}: light-dark({light[name]}, {dark[name]});" for name in light if name in dark)
    return f".stApp {{ {named} }}\n{_RULES}"


_RULES = """
.stMainBlockContainer { padding: 3.4rem 1.7rem 3rem; max-width: 1760px; }
.stAppHeader { height: 3rem; min-height: 3rem; }
.stMainBlockContainer h1 { font-size: 2rem; line-height: 1.2; padding: .25rem 0; }
[data-testid="stBaseButton-primary"], .stMultiSelect [data-tag] * { color: var(--paper); }
.stMainBlockContainer h2 { font-size: 1.5rem; } .stMainBlockContainer h3 { font-size: 1.25rem; }
.verdict { padding: 16px 20px; border: 1px solid var(--tone); border-left-width: 10px; border-radius: 8px; color: var(--ink);
  background: color-mix(in srgb, var(--tone) 7%, var(--paper)); }
.verdict .head { display: flex; gap: 18px; align-items: center; }
.verdict .sign { flex: none; width: 52px; height: 52px; border-radius: 50%; background: var(--tone); color: var(--paper); font-size: 30px;
  line-height: 52px; text-align: center; font-weight: 700; }
.verdict .said { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.verdict .word { font-size: 28px; line-height: 1.2; font-weight: 700; color: var(--tone); margin: 0; }
.verdict .sentence { font-size: 17px; margin: 2px 0 0; }
.verdict p.soft { color: var(--soft); margin: 10px 0 0; font-size: 14.5px; overflow-wrap: anywhere; }
.stHtml .verdict dl.counts { padding: 0; flex: none; display: grid; grid-auto-flow: column; grid-template-rows: auto auto; gap: 0 20px; margin: 0;
  text-align: right; }
.verdict .counts dt { font-size: 14px; } .verdict .counts dd { margin: 0; font-size: 22px; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.reasons { display: grid; grid-template-columns: max-content minmax(120px, 1fr) 260px minmax(150px, 1fr); gap: 0 18px; margin-top: 12px; font-size: 14.5px; }
.reasons > div { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1; align-items: center; min-height: 50px;
  border-top: 1px solid color-mix(in srgb, var(--ink) 14%, transparent); overflow-wrap: anywhere; }
.stHtml .reasons a { color: var(--ink); font-weight: 600; text-decoration-color: var(--soft); } .reasons .entry { color: var(--soft); font-size: 13px; } .reasons .wide { grid-column: 3 / -1; }
.verdict.small { padding: 10px 14px; border-left-width: 7px; } .verdict.small .head { gap: 12px; }
.verdict.small .sign { width: 34px; height: 34px; line-height: 34px; font-size: 20px; }
.verdict.small .word { font-size: 19px; } .verdict.small .sentence { font-size: 14.5px; }
.stHtml p.tally a { color: var(--tone); text-decoration: none; } .stHtml p.tally a:hover { text-decoration: underline; }
.stHtml p.tally { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0; font-variant-numeric: tabular-nums; }
.stHtml h3.opened { font-size: 1.35rem; margin: 0 0 4px; padding: 0; scroll-margin-top: 72px; }
.stHtml img.gate { width: 360px; max-width: 100%; margin: 4px 0 0; }
.stHtml dl.facts { margin: 0 0 8px; padding: 0; font-size: 14px; }
.stHtml h4 { font-size: 1rem; margin: 14px 0 4px; padding: 0; } .stHtml h4:first-child { margin-top: 0; }
.facts div { display: grid; grid-template-columns: minmax(110px, 30%) 1fr; gap: 10px; padding: 2px 0; border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); font-weight: 400; }
.facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
.stHtml ul.listed { margin: 0 0 10px; padding-left: 20px; font-size: 14.5px; overflow-wrap: anywhere; }
.tone { color: var(--tone); font-weight: 600; white-space: nowrap; }
.pass { --tone: var(--pass); } .fail { --tone: var(--fail); } .inconclusive { --tone: var(--inconclusive); } .void { --tone: var(--void); }
.error { --tone: var(--error); } .not_applicable { --tone: var(--not_applicable); } .info { --tone: var(--info); } .waived { --tone: var(--waived); }
.printed { display: none; }
@media print {
  [data-testid=stSidebar], .stAppHeader, .stSelectbox, .stMultiSelect, .stTextInput, .stButtonGroup, .stPopover, .st-key-gates { display: none !important; }
  .stApp { color-scheme: light !important; print-color-adjust: exact; }
  :is(html, body, #root, .stApp, .stAppViewContainer, .stMain) { background: var(--paper, #fff) !important; }
  .stApp :is(h1, h2, h3, h4, p, li, dt, dd, b, a, span):not(.tone, .word) { color: var(--ink) !important; }
  .stMainBlockContainer { padding: 0; max-width: none; }
  .reasons { grid-template-columns: max-content minmax(120px, 1fr) 210px minmax(120px, 1fr); gap: 0 10px; }
  .reasons img { width: 210px; } .reasons img, img.gate, .stVegaLiteChart { background: var(--drawn); }
  .printed { display: block; } .reasons > div, dl.facts div, .verdict { break-inside: avoid; }
}
"""
