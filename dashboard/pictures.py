"""Arrays as PNG pictures, every pixel one pixel; enlarged to whole multiples by nearest neighbour."""

from __future__ import annotations

import base64


def svg_address(drawing: str, style: str = "") -> str:
    """An inline SVG as the address of an image, with a style sheet of its own.

    Args:
        drawing: ``<svg …>…</svg>``.
        style: CSS rules; an image sees none of the page's.
    """
    start = drawing.index(">") + 1
    head = drawing[:start].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    text = f"{head}<style>{style}</style>{drawing[start:]}"
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"
