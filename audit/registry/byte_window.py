"""A bounded view of the bytes of an untrusted file: what every scanner reads through."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

MAX_OPCODES = 10_000_000
_CHUNK = 1 << 20
_SPOOL_IN_MEMORY = 64 << 20


class Malformed(ValueError):
    """The bytes break the rules of their format, so they cannot be judged. ``where`` names the place."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{what} ({where})" if where else what)
        self.where = where
        self.what = what


class Scratch(ExitStack):
    """The room that one scan has for unpacked bytes: a bomb runs out of it. Closing it drops them."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._left = limit
        self._opcodes = 0
        # one file takes all that is unpacked, piece behind piece: no archive can use up memory or descriptors
        self.spool = self.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY))  # noqa: SIM115
        self.spooled = 0

    def spend(self, count: int, where: str) -> None:
        """Count ``count`` unpacked bytes, and raise ``Malformed`` when the limit is passed."""
        self._left -= count
        if self._left < 0:
            raise Malformed(where, f"unpacks to more than the {self.limit:,} bytes that may be scanned")

    def count_opcode(self, position: int) -> None:
        """Count one opcode followed, and raise ``Malformed`` when a scan has followed too many."""
        self._opcodes += 1
        if self._opcodes > MAX_OPCODES:
            raise Malformed(f"byte {position}", f"holds more than {MAX_OPCODES:,} pickle opcodes, too many to judge")


class Window:
    """``size`` bytes of a seekable file from ``start``; reading never leaves them."""

    def __init__(self, handle: IO[bytes], start: int, size: int) -> None:
        self._handle = handle
        self.start = start
        self.size = size

    @classmethod
    def of_bytes(cls, content: bytes) -> Window:
        return cls(io.BytesIO(content), 0, len(content))

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset``; fewer where the window ends, none before it begins."""
        count = min(count, self.size - offset)
        if offset < 0 or count <= 0:
            return b""
        self._handle.seek(self.start + offset)
        return self._handle.read(count)

    def read_all(self, limit: int, where: str, kind: str) -> bytes:
        """The whole window, which must not be longer than ``limit``."""
        if self.size > limit:
            raise Malformed(where, f"is {kind} of {self.size:,} bytes, more than the {limit:,} that are read of one")
        return self.read_at(0, self.size)

    def part(self, offset: int, size: int) -> Window:
        """A window inside this one; the caller has checked that it fits."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError("the part lies outside the window")
        return Window(self._handle, self.start + offset, size)

    def reader(self, offset: int = 0) -> WindowReader:
        """A file object over the window, at ``offset``."""
        return WindowReader(self, offset)


class _RawWindow(io.RawIOBase):
    def __init__(self, window: Window, offset: int) -> None:
        self._window = window
        self._position = offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._window.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._window.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class WindowReader(io.BufferedReader):
    """A buffered reader that never allocates more than is there, whatever length a hostile file declares."""

    def __init__(self, window: Window, offset: int) -> None:
        super().__init__(_RawWindow(window, offset))
        self.size = window.size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > 4096:
            left = max(0, self.size - self.tell())
            size = left if size is None or size < 0 else min(size, left)
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """A line as unpicklers take it: at the end of the file they cut its last byte off, newline or not."""
        line = super().readline(size)
        return line if not line or line.endswith(b"\n") else line[:-1] + b"\n"


class Unpacked:
    """Collects one piece of unpacked bytes and gives it back as a window; pieces are written one after the other."""

    def __init__(self, scratch: Scratch, where: str) -> None:
        self._scratch = scratch
        self._where = where
        self._start = scratch.spooled
        self.size = 0

    def write(self, data: bytes) -> None:
        self._scratch.spend(len(data), self._where)
        self._scratch.spool.seek(self._start + self.size)
        self._scratch.spool.write(data)
        self.size += len(data)
        self._scratch.spooled = self._start + self.size

    def window(self) -> Window:
        return Window(self._scratch.spool, self._start, self.size)


def chunks(window: Window) -> Iterator[bytes]:
    """The window's bytes in order, one mebibyte at a time."""
    for offset in range(0, window.size, _CHUNK):
        yield window.read_at(offset, _CHUNK)


def printable(text: str, limit: int = 120) -> str:
    """``text`` from an untrusted file on one line: no control characters, no terminal escapes, not too long."""
    clean = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[:limit]
    )
    return clean + ("…" if len(text) > limit else "")
