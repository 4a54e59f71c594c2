"""Looks into content of any kind for pickles: through zip archives, tar archives, compression and numpy arrays.

The name of a member plays no part, and nesting ends at ``MAX_DEPTH``: whoever packs deeper has something to hide.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator

from audit.registry.byte_window import Malformed, Unpacked, Window, WindowReader, chunks, printable
from audit.registry.pickle_scan import judge_pickles, sniff_pickles
from audit.registry.plain_formats import NPY_MAGIC, check_npy
from audit.registry.scan_report import Inspection
from audit.registry.zip_scan import (
    MAX_MEMBERS,
    MAX_RATIO,
    RATIO_COUNTS_FROM,
    inner_place,
    is_zip,
    open_member,
    read_members,
)

MAX_DEPTH = 5
_STEP = 1 << 20
_TAR_MAGIC_AT = 257


def inspect_content(window: Window, where: str, inspection: Inspection, depth: int = 0) -> None:
    """Note every pickle that content of an unknown kind would hand to an unpickler.

    Raises:
        Malformed: Where an archive inside is damaged or a bomb, or is nested too deep.
    """
    if depth > MAX_DEPTH:
        raise Malformed(where, f"is nested more than {MAX_DEPTH} deep")
    head = window.read_at(0, 512)
    if is_zip(window):
        for member in read_members(window, where):
            content = open_member(window, member, inspection.scratch, where)
            inspect_content(content, inner_place(member.name, where), inspection, depth + 1)
    elif head.startswith(NPY_MAGIC):
        inspect_npy(window, where, inspection)
    elif (kind := compression(head)) is not None:
        unpacked, _ = unpack_stream(window, kind, where, inspection)  # damage behind the start does not save the start
        inspect_content(unpacked, inner_place(f"({kind})", where), inspection, depth + 1)
    elif is_tar(head):
        for name, content in tar_members(window, where):
            inspect_content(content, inner_place(name, where), inspection, depth + 1)
    else:
        sniff_pickles(window, where, inspection)


def inspect_npy(window: Window, where: str, inspection: Inspection) -> bool:
    """Check an array file; note the pickle of one that holds Python objects, and return whether it does."""
    holds_objects, data = check_npy(window, where)
    if holds_objects:
        inspection.code(where, "array of Python objects, which numpy keeps as a pickle")
        judge_pickles(window.part(data, window.size - data), where, inspection)
    return holds_objects


def compression(head: bytes) -> str | None:
    """The compression whose stream begins here, of those that joblib opens by itself."""
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if len(head) > 1 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0:
        return "zlib"
    if head[:3] == b"BZh":
        return "bz2"
    if head[:6] == b"\xfd7zXZ\x00":
        return "xz"
    if head[:3] == b"]\x00\x00":
        return "lzma"
    return None


def unpack_stream(window: Window, kind: str, where: str, inspection: Inspection) -> tuple[Window, str | None]:
    """Unpack a compressed stream as far as it goes.

    Returns:
        The unpacked bytes, and what is wrong with the stream, if anything is: a reader may act on its start before it
        meets the damage.

    Raises:
        Malformed: Where it unpacks to more than a scan may, or is a bomb.
    """
    unpacked = Unpacked(inspection.scratch, where)
    limit = max(RATIO_COUNTS_FROM, MAX_RATIO * window.size)
    try:
        for piece in _inflated(window) if kind == "zlib" else _decompressed(window, kind):
            unpacked.write(piece)
            if unpacked.size > limit:
                raise Malformed(where, f"is a bomb: {window.size:,} bytes that unpack to more than {limit:,}")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
        return unpacked.window(), f"holds a {kind} stream that is cut short or damaged ({printable(str(error), 80)})"
    return unpacked.window(), None


def _decompressed(window: Window, kind: str) -> Iterator[bytes]:
    openers: dict[str, Callable[[WindowReader], gzip.GzipFile | bz2.BZ2File]] = {
        "gzip": lambda file: gzip.GzipFile(fileobj=file),
        "bz2": bz2.BZ2File,
    }
    reader = window.reader()
    with openers[kind](reader) if kind in openers else lzma.LZMAFile(reader) as stream:
        while piece := stream.read1(_STEP):  # read() would drop what it has when it meets damage
            yield piece


def _inflated(window: Window) -> Iterator[bytes]:
    """zlib streams, one behind the other, as joblib reads them."""
    inflate = zlib.decompressobj()
    for chunk in chunks(window):
        data = chunk
        while data:
            if inflate.eof:
                inflate = zlib.decompressobj()
            yield inflate.decompress(data, _STEP)
            data = inflate.unconsumed_tail or inflate.unused_data
    yield inflate.flush()
    if not inflate.eof:
        raise EOFError("the stream ends before its end mark")


def is_tar(head: bytes) -> bool:
    """Whether a tar archive begins here."""
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # archives from before POSIX have only a checksum
    except tarfile.HeaderError:
        return False
    return True


def tar_members(window: Window, where: str) -> Iterator[tuple[str, Window]]:
    """Name and content of each file of a tar archive.

    Raises:
        Malformed: Where the archive is damaged, holds something other than files and folders, or too many members.
    """
    try:
        with tarfile.open(fileobj=window.reader(), mode="r:") as archive:
            for count, entry in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise Malformed(where, f"holds more than {MAX_MEMBERS:,} members")
                if entry.isdir():
                    continue
                if not entry.isreg() or entry.issparse() or entry.offset_data + entry.size > window.size:
                    raise Malformed(inner_place(entry.name, where), "is a tar member other than a whole file")
                yield entry.name, window.part(entry.offset_data, entry.size)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(where, f"is a damaged tar archive ({printable(str(error), 80)})") from None
