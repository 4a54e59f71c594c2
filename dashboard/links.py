"""Addresses: every view has one that opens it again. ``run?run=NAME&finding=ID`` is a page and what it shows.

``?page=run&run=NAME`` at the root leads to the same page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlencode

import streamlit as st
from streamlit.navigation.page import Page

from dashboard.parts.markdown import plain

PAGE = "page"
KEPT = ("lang",)
"""Parameters that every address hands on."""


def offer(found: dict[str, Page]) -> None:
    """Say which pages there are, by name."""
    st.session_state["_pages"] = found


def offered(name: str) -> bool:
    """Whether there is a page of this name."""
    return name in st.session_state.get("_pages", {})


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


def select(
    name: str,
    label: str,
    options: Sequence[str],
    shown: Callable[[str], str] = str,
    *,
    default: str | None = None,
    empty: str = "",
    segmented: bool = False,
    forgets: Sequence[str] = (),
) -> str | None:
    """A choice that the address holds: what is chosen is written into it, and an address that names an option chooses it.

    Args:
        name: of the parameter.
        shown: an option as the reader sees it.
        default: chosen where the address says nothing; without it the first option, or none where `empty` is given.
        empty: what stands there while nothing is chosen.
        segmented: draw a row of buttons instead of a list.
        forgets: parameters that mean nothing once another option is chosen.
    """
    given = asked(name)
    first = default if default in options else None if empty or not options else options[0]
    current = given if given in options else first
    key = f"choice-{name}"
    st.session_state[key] = current

    def changed() -> None:
        note(**{name: st.session_state[key], **dict.fromkeys(forgets)})

    if segmented:
        st.segmented_control(
            label, options, format_func=shown, key=key, on_change=changed, label_visibility="collapsed", required=True
        )
    else:
        missing: dict[str, Any] = {"index": None, "placeholder": empty} if empty else {}
        st.selectbox(label, options, format_func=shown, key=key, on_change=changed, **missing)
    return current


def typed(name: str, label: str, placeholder: str = "") -> str:
    """A text that the address holds."""
    current = asked(name) or ""
    key = f"typed-{name}"
    st.session_state[key] = current

    def changed() -> None:
        note(**{name: st.session_state[key] or None})

    st.text_input(label, key=key, placeholder=placeholder, on_change=changed)
    return current


def several(
    name: str, label: str, options: Sequence[str], shown: Callable[[str], str] = str, *, empty: str = ""
) -> list[str]:
    """Any number of options, held by the address."""
    given = st.query_params.get_all(name)
    current = [option for option in options if option in given]
    key = f"several-{name}"
    st.session_state[key] = current

    def changed() -> None:
        st.query_params[name] = list(st.session_state[key])

    st.multiselect(label, options, format_func=shown, key=key, placeholder=empty or None, on_change=changed)
    return current


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
    """A link to another view.

    The browser's address does not follow a link that stays on its page: this one names its page, which `follow` takes out again and
    so has the address written anew.
    """
    query = parameters(where)
    if page(name) is st.session_state.get("_page"):
        query[PAGE] = name
    st.page_link(page(name), label=plain(label), icon=icon, help=help, query_params=query)


def follow(current: Page) -> None:
    """Lead ``?page=NAME&…`` to its page; an unknown name leads nowhere."""
    st.session_state["_page"] = current
    name = st.query_params.get(PAGE)
    if name is None:
        return
    rest = {key: st.query_params.get_all(key) for key in st.query_params if key != PAGE}
    if offered(name) and page(name) is not current:
        st.switch_page(page(name), query_params=rest)
    st.query_params.pop(PAGE)
