"""Universal binary JSON, as XGBoost writes it, into Python values; numbers of one type become arrays.

Source: https://ubjson.org; big-endian, with the optimised containers ``[$type#count``.
"""

from __future__ import annotations

import struct
from typing import Any

_INTEGERS = {b"i": "b", b"U": "B", b"I": "h", b"l": "i", b"L": "q"}
_NUMBERS = {**_INTEGERS, b"d": "f", b"D": "d"}
_MAX_DEPTH = 100


def parse_ubjson(content: bytes) -> Any:
    """The value that `content` holds; it must end where the value ends.

    Raises:
        ValueError: it is cut short, has bytes behind its end, or breaks the format.
    """
    reader = _Reader(content)
    value = reader.value(reader.take(1), 0)
    if reader.position != len(content):
        raise ValueError(f"holds bytes behind its end, at byte {reader.position}")
    return value


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def take(self, count: int) -> bytes:
        data = self.content[self.position : self.position + count]
        if count < 0 or len(data) != count:
            raise ValueError(f"is cut short at byte {self.position}")
        self.position += count
        return data

    def number(self, marker: bytes) -> int | float:
        code = ">" + _NUMBERS[marker]
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]  # type: ignore[no-any-return]

    def length(self, marker: bytes | None = None) -> int:
        kind = marker or self.take(1)
        if kind not in _INTEGERS:
            raise ValueError(f"gives no length at byte {self.position}")
        return int(self.number(kind))

    def text(self, marker: bytes | None = None) -> str:
        return self.take(self.length(marker)).decode("utf-8")

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError(f"is nested more than {_MAX_DEPTH} deep")
        if marker in _NUMBERS:
            return self.number(marker)
        if marker in (b"T", b"F", b"Z"):
            return {b"T": True, b"F": False, b"Z": None}[marker]
        if marker == b"C":
            return self.take(1).decode("ascii")
        if marker in (b"S", b"H"):
            return self.text()
        if marker == b"[":
            return self.array(depth)
        if marker == b"{":
            return self.object(depth)
        raise ValueError(f"holds the unknown type {marker!r} at byte {self.position - 1}")

    def array(self, depth: int) -> Any:
        marker = self.take(1)
        if marker == b"$":
            return self.typed_array()
        if marker == b"#":
            return [self.value(self.take(1), depth + 1) for _ in range(self.length())]
        found = []
        while marker != b"]":
            found.append(self.value(marker, depth + 1))
            marker = self.take(1)
        return found

    def typed_array(self) -> Any:
        import numpy as np

        kind = self.take(1)
        if kind not in _NUMBERS or self.take(1) != b"#":
            raise ValueError(f"holds an array of the unknown type {kind!r} at byte {self.position}")
        dtype = np.dtype(">" + _NUMBERS[kind])
        return np.frombuffer(self.take(self.length() * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        marker = self.take(1)
        while marker != b"}":
            name = self.text(marker)
            if name in found:
                raise ValueError(f"gives the key {name!r} twice")
            found[name] = self.value(self.take(1), depth + 1)
            marker = self.take(1)
        return found
