"""How a reader gives one input: a row of data, a stored sample of a run, an uploaded file, a typed text, an edited row of a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from audit.model import Field
from audit.parameters import UserError
from audit.registry.card import ModelCard
from audit.report._told import told
from dashboard import links
from dashboard.parts.markdown import plain
from dashboard.reading import stored
from dashboard.reading.recalled import Recalled, recall
from dashboard.words import _, ngettext
from dashboard.working.desk import answered, desk, request

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 8
"""Of a row that is edited, side by side."""
MEGABYTES = 100
"""Of an uploaded file at most."""
ADDRESSED = 1500
"""Characters of a text that an address holds; a longer one is not in it."""
SUFFIXES = {
    "image": ["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "npy"],
    "series": ["npy", "npz"],
    "table": ["csv", "tsv", "npy"],
    "text": ["txt"],
    "tokens": ["npy", "npz"],
}
STORED = ("run", "evidence", "sample", "side")
"""What an address names a stored sample by."""


@dataclass(frozen=True)
class Fed:
    """An input as a request names it.

    Args:
        then: the stored sample that it is, and which side of it.
        seen: whether its form shows all of it already.
    """

    given: Mapping[str, Any]
    then: tuple[Recalled, str] | None = None
    seen: bool = False


def fed(card: ModelCard, data: str | None) -> Fed | None:
    """The input that the reader chose, uploaded or wrote; None where there is none yet."""
    kind = card.spec.kind
    ways = {"row": _("a row of the data"), "stored": _("a stored sample of a run"), "upload": _("upload a file")}
    if kind == "text":
        ways["text"] = _("type a text")
    if kind == "table":
        ways["edit"] = _("edit a row")
    if data is None:
        del ways["row"]
    recalled = all(links.asked(name) for name in STORED[:3])
    if not recalled:
        del ways["stored"]
    first = "row" if data is not None else "text" if kind == "text" else "edit" if kind == "table" else "upload"
    way = links.select("by", _("Input"), list(ways), lambda w: ways[w], default="stored" if recalled else first, segmented=True)  # fmt: skip
    match way:
        case "stored":
            return _stored(card)
        case "row":
            given = _row(card, data)
        case "text":
            given = _typed(card)
        case "edit":
            given = _edited(card, data)
        case _:
            given = _uploaded(card, data)
    return Fed(given, seen=way in ("text", "edit")) if given is not None else None


# --- rows of data and of runs ------------------------------------------------------------------------------------


def _row(card: ModelCard, data: str | None) -> Mapping[str, Any] | None:
    number = _asked_row()
    looked = answered(request("look", card, data, {"row": number}), _("reading the data …"), key="again-look")
    if looked is None:
        if number:
            links.link(_("Back to row 0"), "live", model=card.ref, data=links.asked("data"))
        return None
    _row_number(number, int(looked.facts["rows"]))
    return {"row": number}


def _asked_row() -> int:
    asked = links.asked("row") or "0"
    return int(asked) if asked.isdecimal() else 0


def _row_number(number: int, rows: int) -> None:
    st.session_state["live-row"] = number

    def changed() -> None:
        links.note(row=str(st.session_state["live-row"]))

    st.number_input(
        ngettext("Row, of {n} test row", "Row, of {n} test rows", rows).format(n=f"{rows:,}"),
        0, rows - 1, step=1, key="live-row", on_change=changed, width=260,
    )  # fmt: skip


def _stored(card: ModelCard) -> Fed | None:
    """The very sample that a run stored, as it was, or as an attack left it."""
    run, path, sample = (str(links.asked(name)) for name in STORED[:3])
    try:
        found = recall(stored.home(), run, path, sample)
    except UserError as error:
        st.error(plain(told(str(error))), icon=":material/broken_image:")
        return None
    said = {"original": _("as it was"), "adversarial": _("as it was changed")}
    side = "original"
    if len(found.sides) > 1:
        side = str(links.select("side", _("Side"), list(found.sides), lambda s: said[s], segmented=True))
    st.caption(
        _("Sample {sample} of run {run}, {evidence}.").format(
            sample=plain(sample), run=plain(run), evidence=plain(found.piece.ref.path)
        )
    )
    page = "attacks" if found.piece.ref.kind == "adversarial" else "saliency"
    if links.offered(page):
        links.link(
            _("Back to the sample in the run"), page, icon=":material/arrow_back:", run=run, model=found.piece.model,
            evidence=path, sample=sample,
        )  # fmt: skip
    return Fed(found.fed(side), (found, side))


# --- uploads and texts -------------------------------------------------------------------------------------------


def _uploaded(card: ModelCard, data: str | None) -> Mapping[str, Any] | None:
    kind = card.spec.kind
    file = st.file_uploader(
        _("A file with one input, or with several rows to choose from; {n} MB at most").format(n=MEGABYTES), SUFFIXES[kind],
        key=f"upload-{kind}", max_upload_size=MEGABYTES,
    )  # fmt: skip
    if file is None:
        st.info(_("Upload a file to begin. It stays on this machine and goes when you leave."))
        return None
    if not file.size:
        st.error(_("{file} is empty: it holds 0 bytes.").format(file=plain(file.name)), icon=":material/error:")
        return None
    return _of_file(card, data, {"file": str(desk().keep_file(file.name, file.getvalue()))})


def _of_file(card: ModelCard, data: str | None, given: dict[str, Any]) -> Mapping[str, Any] | None:
    """Which row of a file, and which part of a picture that is not as wide and high as the model's input."""
    number = _asked_row()
    looked = answered(request("look", card, data, {**given, "row": 0}), _("reading the file …"), key="again-look")
    if looked is None:
        return None
    if (rows := int(looked.facts["rows"])) > 1:
        number = min(number, rows - 1)
        st.session_state["file-row"] = number
        st.number_input(
            ngettext("Row, of {n} row", "Row, of {n} rows", rows).format(n=f"{rows:,}"), 0, rows - 1, step=1, key="file-row",
            on_change=lambda: links.note(row=str(st.session_state["file-row"])), width=260,
        )  # fmt: skip
        given = {**given, "row": number}
    if looked.facts.get("bent"):
        parts = {"whole": _("the whole picture, its sides stretched"), "middle": _("its middle, in proportion")}
        taken = links.select("taken", _("Part of the picture"), list(parts), lambda p: parts[p], segmented=True)
        given = {**given, "crop": taken == "middle"}
    return given


def _typed(card: ModelCard) -> Mapping[str, Any] | None:
    longest = int(card.spec.shape[0])
    asked = links.asked("text")
    if asked is not None or "live-text" not in st.session_state:
        st.session_state["live-text"] = (asked or "")[:longest]

    def changed() -> None:
        text = st.session_state["live-text"]
        links.note(text=text if text and len(text) <= ADDRESSED else None)

    text = st.text_area(
        _("Text"), key="live-text", placeholder=_("type or paste a text"), max_chars=longest, on_change=changed
    )
    if not text.strip():
        st.info(_("Type a text to begin; Ctrl+Enter asks the model."))
        return None
    return {"text": text}


# --- rows of a table that are edited -----------------------------------------------------------------------------


def _edited(card: ModelCard, data: str | None) -> Mapping[str, Any] | None:
    """A row of the data, or of the middle of what is allowed, as a form; what is changed is fed."""
    cells: dict[str, Any] = {field.name: _middle(field) for field in card.spec.fields}
    if data is not None:
        number = _asked_row()
        looked = answered(request("look", card, data, {"row": number}), _("reading the data …"), key="again-look")
        if looked is None:
            return None
        _row_number(number, int(looked.facts["rows"]))
        cells = dict(looked.facts["cells"])
    frame = _editor(card, cells, f"edit-{card.ref}-{data}-{links.asked('row')}")
    st.caption(_("Blank cells are fed as missing values."))
    return {"file": str(desk().keep_file("row.csv", written(card, frame)))}


def _middle(field: Field) -> Any:
    if field.kind == "category":
        return field.categories[0]
    middle = sum(field.bounds) / 2 if field.bounds else 0.0
    return float(math.floor(middle)) if field.kind == "id" else middle


def _editor(card: ModelCard, cells: Mapping[str, Any], key: str) -> pd.DataFrame:
    """The row in lines of a few columns, each with its unit and what is valid."""
    import pandas as pd

    options: dict[str, Any] = {}
    for field in card.spec.fields:
        name = f"{field.name} ({_(field.units)})" if field.units else field.name
        if field.kind == "category":
            options[field.name] = st.column_config.SelectboxColumn(name, options=list(field.categories))
        else:
            low, high = field.bounds or (None, None)
            options[field.name] = st.column_config.NumberColumn(name, min_value=low, max_value=high, format="%.6g")
    parts = []
    for start in range(0, len(card.spec.fields), COLUMNS):
        part = card.spec.fields[start : start + COLUMNS]
        frame = pd.DataFrame([{field.name: cells[field.name] for field in part}])
        numbers = [field.name for field in part if field.kind != "category"]
        frame[numbers] = frame[numbers].astype(float)
        parts.append(
            st.data_editor(frame, column_config=options, hide_index=True, key=f"{key}-{start}", num_rows="fixed")
        )
    return pd.concat(parts, axis=1)


def written(card: ModelCard, frame: pd.DataFrame) -> bytes:
    """The edited row as the worker reads it."""
    import pandas as pd

    out = io.StringIO()
    writer = csv.writer(out)
    names = [field.name for field in card.spec.fields]
    writer.writerow(names)
    row = frame.iloc[0]
    writer.writerow(["" if pd.isna(row[name]) else row[name] for name in names])
    return out.getvalue().encode()
