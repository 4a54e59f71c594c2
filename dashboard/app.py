"""The dashboard's entry: its pages, and the frame around each. ``audit dashboard`` serves it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from audit import __version__
from audit.parameters import UserError
from audit.report._words import clean
from dashboard import links, words
from dashboard.drawing import theme
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.words import _

SIDEBAR = 232  # pixels: tables want the rest
ICON, LOGO = (Path(__file__).parent / name for name in ("icon.svg", "logo.svg"))


@dataclass(frozen=True)
class View:
    """A page: ``dashboard/views/NAME.py`` with ``show()``.

    Args:
        name: file, address and ``?page=`` of the page.
        title: in the reader's language.
        icon: a Material symbol.
    """

    name: str
    title: str
    icon: str

    @property
    def shown(self) -> Callable[[], None]:
        """Imports the page when it is opened, and not before."""

        def show() -> None:
            try:
                importlib.import_module(f"dashboard.views.{self.name}").show()
            except UserError as error:
                _told(str(error))
            except OSError as error:
                _told(f"{error.filename}: {error.strerror}" if error.filename else str(error))

        return show


def _told(line: str) -> None:
    """What a reader can mend, without the folders that lead to this home."""
    st.error(plain(clean(line.replace(f"{stored.home().resolve()}/", ""))), icon=":material/error:")


def views() -> list[View]:
    """Every page, the first is the one to start with: a new page is one file and one line here."""
    return [
        View("overview", _("Overview"), ":material/list_alt:"),
        View("run", _("Run"), ":material/fact_check:"),
        View("saliency", _("Saliency"), ":material/image_search:"),
        View("attacks", _("Attacks"), ":material/security:"),
        View("privacy", _("Privacy"), ":material/shield_person:"),
        View("compare", _("Compare"), ":material/compare_arrows:"),
        View("models", _("Models"), ":material/deployed_code:"),
        View("live", _("Explore live"), ":material/experiment:"),
        View("new_audit", _("New audit"), ":material/play_circle:"),
    ]


def main() -> None:
    """Draw the frame, then the page that the address names."""
    st.set_page_config(
        page_title="assay",
        page_icon=str(ICON),
        layout="wide",
        initial_sidebar_state=SIDEBAR,
        menu_items={"About": f"assay {__version__}"},
    )
    st.logo(str(LOGO), size="large", icon_image=str(ICON))
    words.choose_language()
    found = views()
    pages = {
        view.name: st.Page(view.shown, title=view.title, icon=view.icon, url_path=view.name, default=view is found[0])
        for view in found
    }
    links.offer(pages)
    page = st.navigation(list(pages.values()))
    links.follow(page)
    theme.apply()
    page.run()


main()
