"""Words of the dashboard: ``_("English text")`` in the language chosen in the sidebar.

Source strings are English and whole sentences; what changes in them is named: ``_("{n} runs").format(n=n)``. Words that come from elsewhere
(statuses, severities) are listed in `audit.catalogues`.
"""

from __future__ import annotations

import streamlit as st

from audit.finding import Severity, Status
from audit.language import LANGUAGES, choose, gettext, is_chosen
from audit.language import ngettext as _ngettext
from audit.report._words import STATUS, VERDICTS
from dashboard import links

LANGUAGE = "language"
"""Where a session keeps the reader's choice."""

__all__ = ["_", "choose_language", "ngettext", "severity_word", "status_sign", "status_word", "verdict_word"]


def choose_language() -> None:
    """The choice in the sidebar; what follows in this run of the script speaks it."""
    known = links.asked("lang") or st.session_state.get(LANGUAGE)
    with st.sidebar:
        chosen = links.select("lang", "Language · 语言", list(LANGUAGES), lambda code: LANGUAGES[code], default=known)
    st.session_state[LANGUAGE] = chosen
    links.note(lang=chosen if chosen != "en" else None)  # the menu of pages forgets the address
    choose(str(chosen))


def _speak() -> None:
    """A fragment runs again by itself, in a thread that has heard of no language."""
    if not is_chosen():
        choose(str(st.session_state.get(LANGUAGE, "en")))


def _(text: str) -> str:
    """The text in the reader's language."""
    _speak()
    return gettext(text)


def ngettext(one: str, many: str, n: int) -> str:
    """`one` or `many` by the count `n`, in the reader's language."""
    _speak()
    return _ngettext(one, many, n)


def status_word(status: Status | str) -> str:
    """``pass``, ``not applicable`` … as a reader says it."""
    return _(STATUS[Status(status)].word)


def status_sign(status: Status | str) -> str:
    """``✓ pass``: a sign and a word, for no status is told by its colour alone."""
    return f"{STATUS[Status(status)].icon} {status_word(status)}"


def verdict_word(word: str) -> str:
    """``✓ Passed``: the verdict as a list shows it."""
    status, headline = VERDICTS.get(word, (Status.ERROR, word))
    return f"{STATUS[status].icon} {_(headline)}"


def severity_word(severity: Severity | str) -> str:
    """``high`` … as a reader says it."""
    return _(str(severity))
