"""Walks an ONNX file to its end, looking for tensors that it keeps in other files.

ONNX holds no code, but a tensor may be *external*: a path and an offset, which onnxruntime follows. The digest of the
model does not cover such a file, so every one is refused, inside the folder or out of it.

Source: onnx.proto (ModelProto, ir_version 10) and https://onnx.ai/onnx/repo-docs/ExternalData.html.
"""

from __future__ import annotations

from audit.registry.byte_window import Malformed, Window, printable

MAX_DEPTH = 64
MAX_FIELDS = 5_000_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_SUBMESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
"""The fields that lead to a tensor's external data, by message."""

_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_DATA_LOCATION = 14
_EXTERNAL = 1


def looks_like_onnx(head: bytes) -> bool:
    """Whether a ModelProto begins here: ``ir_version``, which every writer puts first, and a further known field."""
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 0x80 and head[2] >> 3 in _MODEL_FIELDS


def check_onnx(window: Window) -> None:
    """Walk the file.

    Raises:
        Malformed: Where it is cut short or no ONNX model, or where a tensor lies in another file.
    """
    walk = _Walk(window)
    seen = walk.message("model", 0, window.size, 0)
    if not {1, 7, 8} <= seen:
        raise Malformed("", "is no ONNX model: it lacks an ir_version, graph or opset_import")
    if seen - _MODEL_FIELDS:
        raise Malformed("", f"is no ONNX model that is known here: it has a field {min(seen - _MODEL_FIELDS)}")


class _Walk:
    def __init__(self, window: Window) -> None:
        self.window = window
        self.fields = 0

    def varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift, byte in enumerate(self.window.read_at(position, min(10, end - position))):
            value |= (byte & 0x7F) << (7 * shift)
            if byte < 0x80:
                return value, position + shift + 1
        raise Malformed(f"byte {position}", "is cut short or no ONNX model")

    def message(self, kind: str, position: int, end: int, depth: int) -> set[int]:
        """Walk one message, and return the numbers of its fields."""
        if depth > MAX_DEPTH:
            raise Malformed(f"byte {position}", f"is nested more than {MAX_DEPTH} deep")
        seen: set[int] = set()
        while position < end:
            start = position
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise Malformed(f"byte {position}", f"has more than {MAX_FIELDS:,} fields")
            tag, position = self.varint(position, end)
            number, wire = tag >> 3, tag & 7
            seen.add(number)
            if wire == _VARINT:
                value, position = self.varint(position, end)
                if kind == "tensor" and number == _DATA_LOCATION and value == _EXTERNAL:
                    self.refuse_external(start, None)
            elif wire == _BYTES:
                size, position = self.varint(position, end)
                if position + size > end:
                    raise Malformed(f"byte {start}", "is cut short")
                inner = _SUBMESSAGES[kind].get(number)
                if inner == "external":
                    self.refuse_external(start, self.external_location(position, position + size))
                elif inner is not None:
                    self.message(inner, position, position + size, depth + 1)
                position += size
            elif wire in (_FIXED32, _FIXED64):
                position += 4 if wire == _FIXED32 else 8
            else:
                raise Malformed(f"byte {start}", "is no ONNX model, or damaged")
        if position != end:
            raise Malformed(f"byte {position}", "is cut short")
        return seen

    def external_location(self, position: int, end: int) -> str | None:
        """The path of a StringStringEntryProto whose key is ``location``."""
        parts: dict[int, str] = {}
        while position < end:
            tag, position = self.varint(position, end)
            size, position = self.varint(position, end)
            if tag & 7 != _BYTES or position + size > end:
                raise Malformed(f"byte {position}", "is cut short")
            parts[tag >> 3] = self.window.read_at(position, min(size, 512)).decode("utf-8", "replace")
            position += size
        return parts.get(2) if parts.get(1) == "location" else None

    def refuse_external(self, position: int, location: str | None) -> None:
        where = f"byte {position}"
        if location is None:
            raise Malformed(
                where, "keeps tensors in another file, which its digest does not cover: save it as one file"
            )
        shown = printable(location)
        parts = location.replace("\\", "/").split("/")
        if location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise Malformed(where, f"keeps tensors in {shown!r}, a path that leaves its folder")
        raise Malformed(where, f"keeps tensors in {shown!r}, which its digest does not cover: save it as one file")
