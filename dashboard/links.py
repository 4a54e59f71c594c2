"""Addresses: every view has one that opens it again. ``run?run=NAME&finding=ID`` is a page and what it shows.

``?page=run&run=NAME`` at the root leads to the same page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import urlencode

import streamlit as st
from streamlit.navigation.page import Page

PAGE = "page"
KEPT = ("lang",)
"""Parameters that every address hands on."""


def offer(found: dict[str, Page]) -> None:
    """Say which pages there are, by name."""
    st.session_state["_pages"] = found


def page(name: str) -> Page:
    """A page by its name."""
    found: Page = st.session_state["_pages"][name]
    return found


def asked(name: str) -> str | None:
    """What the address says of a parameter."""
    value = st.query_params.get(name)
    return value or None


def note(**where: str | None) -> None:
    """Write into the address what is shown now; None takes a parameter out."""
    for name, value in where.items():
        if value is None:
            st.query_params.pop(name, None)
        elif st.query_params.get(name) != value:
            st.query_params[name] = value


def parameters(where: Mapping[str, str | None]) -> dict[str, str]:
    """Parameters of an address, those that are handed on included."""
    kept = {name: value for name in KEPT if (value := st.query_params.get(name))}
    return kept | {name: value for name, value in where.items() if value}


def address(name: str, **where: str | None) -> str:
    """The address of a view, relative to the dashboard's root."""
    query = urlencode(parameters(where))
    return f"{name}?{query}" if query else name


def go(name: str, **where: str | None) -> NoReturn:
    """Open another view."""
    st.switch_page(page(name), query_params=parameters(where))


def link(label: str, name: str, *, icon: str | None = None, help: str | None = None, **where: str | None) -> None:
    """A link to another view."""
    st.page_link(page(name), label=label, icon=icon, help=help, query_params=parameters(where))


def follow(current: Page) -> None:
    """Lead ``?page=NAME&…`` to its page; an unknown name leads nowhere."""
    name = st.query_params.get(PAGE)
    if name is None:
        return
    rest = {key: value for key, value in st.query_params.items() if key != PAGE}
    if name in st.session_state["_pages"] and page(name) is not current:
        st.switch_page(page(name), query_params=rest)
    st.query_params.pop(PAGE)
