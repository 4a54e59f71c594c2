"""Pages read as a browser reads them."""

from __future__ import annotations

import re
from collections.abc import Collection
from html.parser import HTMLParser

VOID_TAGS = frozenset(("meta", "img", "br", "hr", "input", "link"))


class Page(HTMLParser):
    """What a page refers to, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def said(self) -> str:
        """All text, blanks flattened."""
        return " ".join(" ".join(self.words).split())

    def every(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [attrs for name, attrs in self.tags if name == tag]


def check(text: str, files: Collection[str] = ()) -> Page:
    """Parse a page and see that it is whole, needs nothing but the `files` it links to, and can be read aloud."""
    page = Page(text)
    assert not page.open
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            if (value := attrs.get(name)) is None:
                continue
            if tag == "img":
                assert value.startswith("data:image/png;base64,")
            elif value not in files:
                assert value.startswith("#")
                assert value[1:] in ids
        for value in attrs.values():
            for target in re.findall(r"url\(([^)]*)\)", value or ""):
                assert target.startswith("#")
                assert target[1:] in ids
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert all(image.get("alt") for image in page.every("img"))
    assert all(drawing.get("aria-label") for drawing in page.every("svg") if drawing.get("aria-hidden") != "true")
    assert all(cell.get("scope") for cell in page.every("th"))
    return page
