"""Walks a universal binary JSON file, as XGBoost writes it, without building it.

Source: https://ubjson.org, and the big-endian subset that XGBoost's ``UBJReader`` reads.
"""

from __future__ import annotations

from audit.registry.byte_window import Malformed, Window, WindowReader, printable
from audit.registry.scan_report import Inspection

MAX_DEPTH = 100
MAX_VALUES = 5_000_000
_INTEGERS = {b"i": 1, b"U": 1, b"I": 2, b"l": 4, b"L": 8}
_FIXED = {**_INTEGERS, b"d": 4, b"D": 8, b"C": 1, b"Z": 0, b"N": 0, b"T": 0, b"F": 0}


def looks_like_ubj(head: bytes) -> bool:
    """Whether an object whose first key has a length begins here; in JSON text, a quote or a space would follow."""
    return head[:1] == b"{" and head[1:2] in _INTEGERS


def check_xgboost_ubj(window: Window, inspection: Inspection) -> None:
    """Walk the file to its end, and accept it as a model that XGBoost saved.

    Raises:
        Malformed: Where it is cut short, has bytes behind its end, or is no XGBoost model.
    """
    walk = _Walk(window)
    walk.value(walk.take(1), ())
    if walk.reader.tell() != window.size:
        raise Malformed(f"byte {walk.reader.tell()}", "holds bytes behind the end of the model")
    if not {("learner",), ("version",)} <= walk.paths:
        raise Malformed("", "is binary JSON, but no XGBoost model: it holds no learner and version")
    inspection.format = "xgboost_ubj"
    if (
        not {("learner", "gradient_booster"), ("learner", "learner_model_param"), ("learner", "objective")}
        <= walk.paths
    ):
        raise Malformed("learner", "lacks a gradient_booster, learner_model_param or objective")


class _Walk:
    def __init__(self, window: Window) -> None:
        self.reader: WindowReader = window.reader()
        self.size = window.size
        self.paths: set[tuple[str, ...]] = set()  # the keys of the two outer levels
        self.depth = 0
        self.values = 0

    def take(self, count: int) -> bytes:
        data = self.reader.read(count)
        if len(data) != count:
            raise Malformed(f"byte {self.reader.tell()}", "is cut short")
        return data

    def skip(self, count: int) -> None:
        position = self.reader.tell() + count
        if position > self.size:
            raise Malformed(f"byte {self.reader.tell()}", "is cut short")
        self.reader.seek(position)

    def length(self, marker: bytes | None = None) -> int:
        kind = marker or self.take(1)
        if kind not in _INTEGERS:
            raise Malformed(f"byte {self.reader.tell()}", f"gives a length as {kind!r}")
        value = int.from_bytes(self.take(_INTEGERS[kind]), "big", signed=kind != b"U")
        if value < 0:
            raise Malformed(f"byte {self.reader.tell()}", "gives a negative length")
        return value

    def value(self, marker: bytes, path: tuple[str, ...] | None) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise Malformed(f"byte {self.reader.tell()}", f"holds more than {MAX_VALUES:,} single values")
        if marker in _FIXED:
            self.skip(_FIXED[marker])
        elif marker in (b"S", b"H"):
            self.skip(self.length())
        elif marker in (b"[", b"{"):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise Malformed(f"byte {self.reader.tell()}", f"is nested more than {MAX_DEPTH} deep")
            self.entries(path, is_object=marker == b"{")
            self.depth -= 1
        else:
            raise Malformed(f"byte {self.reader.tell() - 1}", f"holds the unknown type {marker!r}")

    def entries(self, path: tuple[str, ...] | None, *, is_object: bool) -> None:
        """The entries of an array or object, up to its closing mark or for the count that it gives."""
        close = b"}" if is_object else b"]"
        marker = self.take(1)
        kind = None
        if marker == b"$":
            kind = self.take(1)
            marker = self.take(1)
            if marker != b"#" or kind not in _FIXED:
                raise Malformed(f"byte {self.reader.tell()}", "types its entries without counting them")
        if marker == b"#":
            count = self.length()
            if kind is not None and not is_object:
                self.skip(count * _FIXED[kind])
                return
            if count > self.size:
                raise Malformed(f"byte {self.reader.tell()}", "is cut short")
            for _ in range(count):
                self.entry(None, kind, path, is_object=is_object)
            return
        while marker != close:
            self.entry(marker, kind, path, is_object=is_object)
            marker = self.take(1)

    def entry(self, marker: bytes | None, kind: bytes | None, path: tuple[str, ...] | None, *, is_object: bool) -> None:
        if not is_object:
            self.value(kind or marker or self.take(1), None)
            return
        key = printable(self.take(min(self.length(marker), self.size)).decode("utf-8", "replace"))
        inner = (*path, key) if path is not None and len(path) < 2 else None
        if inner is not None:
            if inner in self.paths:
                raise Malformed(f"byte {self.reader.tell()}", f"gives the key {key!r} twice")
            self.paths.add(inner)
        self.value(kind or self.take(1), inner)
