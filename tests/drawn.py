"""What a page of the dashboard has drawn, as `streamlit.testing` holds it."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image


def html(app: Any) -> str:
    """Everything that is drawn as HTML."""
    return "\n".join(element.proto.body for element in app.get("html"))


def charts(app: Any) -> dict[str, list[list[dict[str, Any]]]]:
    """Rows behind every chart by its title."""
    found = {}
    for element in app.get("vega_lite_chart"):
        title = json.loads(element.proto.spec)["title"]
        sets = [pa.ipc.open_stream(one.data.data).read_pandas().to_dict("records") for one in element.proto.datasets]
        text = title if isinstance(title, str) else title["text"]
        found[text if isinstance(text, str) else " ".join(text)] = sets
    return found


def figures(app: Any) -> dict[str, np.ndarray]:
    """Pictures by their captions, of equal ones the last."""
    found = re.findall(r'<figcaption>(.*?)</figcaption><img src="data:image/png;base64,([^"]+)"', html(app))
    return {caption: np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))) for caption, body in found}


def tiles(app: Any) -> list[Any]:
    """Samples to choose from."""
    return [button for button in app.button if str(button.key).startswith("tile-")]
