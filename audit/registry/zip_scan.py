"""Reads a zip archive strictly: every byte is accounted for, so no reader can see other members than this one does.

Zip readers disagree on malformed archives (which directory counts, whose name a member bears, what lies in a gap), and a
payload hides in the disagreement. Anything that two readers could read differently is refused.

Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3 (zip64).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from audit.registry.byte_window import Malformed, Scratch, Unpacked, Window, chunks, printable

END = b"PK\x05\x06"
LOCAL = b"PK\x03\x04"
MAX_MEMBERS = 65_535
MAX_RATIO = 200
RATIO_COUNTS_FROM = 64 << 20
"""A deflated member may grow more than ``MAX_RATIO``-fold only while it stays below this many bytes."""

_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQHHLLQQQQ")
_LOCATOR_64 = struct.Struct("<4sLQL")
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x0001, 0x0008, 0x0800
_KNOWN_FLAGS = 0x0006 | _DESCRIPTOR | _UTF8
_SYMLINK = 0xA


@dataclass(frozen=True)
class Member:
    """One file of an archive; ``data`` is where its packed bytes begin."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int
    data: int = 0


def is_zip(window: Window) -> bool:
    """Whether some zip reader would open this: by its first bytes, or by a directory at its end."""
    return window.read_at(0, 4) in (LOCAL, END) or window.read_at(window.size - _END.size, 4) == END


def read_members(window: Window, where: str) -> list[Member]:
    """The members of an archive that fills the window, folders left out.

    Raises:
        Malformed: Where it is truncated or ambiguous, holds encrypted members, unsafe or doubled names, a zip bomb, or
            bytes that belong to no member.
    """
    start, size, count, directory_end = _directory(window, where)
    directory = window.read_at(start, size)
    members: list[Member] = []
    position = 0
    for _ in range(count):
        member, position = _central_entry(directory, position, where)
        members.append(member)
    if position != len(directory) or start + size != directory_end:
        raise Malformed(where, "has a zip directory of another length than it declares")
    names = [member.name for member in members]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(where, f"holds two members named {printable(twice)!r}")
    placed = [_with_data(window, member, start, where) for member in sorted(members, key=lambda m: m.header)]
    _check_no_gaps(window, placed, start, where)
    by_name = {member.name: member for member in placed}
    return [by_name[name] for name in names if not name.endswith("/")]


def open_member(window: Window, member: Member, scratch: Scratch, where: str) -> Window:
    """A member's bytes, unpacked and held to its declared size and checksum."""
    inside = inner_place(member.name, where)
    packed = window.part(member.data, member.packed)
    if member.method == _STORED:
        crc = 0
        for chunk in chunks(packed):
            crc = zlib.crc32(chunk, crc)
        content = packed
    else:
        unpacked = Unpacked(scratch, inside)
        crc = _inflate(packed, unpacked, member, inside)
        content = unpacked.window()
    if content.size != member.size:
        raise Malformed(inside, f"unpacks to {content.size:,} bytes where {member.size:,} are declared")
    if crc != member.crc:
        raise Malformed(inside, "has another checksum than it declares")
    return content


def inner_place(name: str, where: str) -> str:
    """How a finding names a member, whatever it is nested in."""
    return f"{where} → {printable(name)}" if where else printable(name)


def _inflate(packed: Window, unpacked: Unpacked, member: Member, inside: str) -> int:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = 0
    try:
        for chunk in chunks(packed):
            data = chunk
            while data and not inflate.eof:
                out = inflate.decompress(data, 1 << 20)
                data = inflate.unconsumed_tail
                crc = zlib.crc32(out, crc)
                unpacked.write(out)
                if unpacked.size > member.size:
                    raise Malformed(inside, f"unpacks to more than the {member.size:,} bytes it declares")
            if data or inflate.unused_data:
                raise Malformed(inside, "holds bytes behind its packed content")
        rest = inflate.flush()
        crc = zlib.crc32(rest, crc)
        unpacked.write(rest)
    except zlib.error as error:
        raise Malformed(inside, f"cannot be unpacked ({error})") from None
    if not inflate.eof:
        raise Malformed(inside, "is packed content cut short")
    return crc


def _directory(window: Window, where: str) -> tuple[int, int, int, int]:
    """(start, size, number of entries, end) of the central directory."""
    end = window.size - _END.size
    record = window.read_at(end, _END.size)
    if end < 0 or record[:4] != END:
        raise Malformed(where, "is a zip archive cut short, or with bytes behind its end")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack(record)
    if disk or first_disk or here != count or comment:
        raise Malformed(where, "is a zip archive in several parts or with a comment")
    locator = window.read_at(end - _LOCATOR_64.size, _LOCATOR_64.size)
    if locator[:4] == b"PK\x06\x07":
        _, disk, offset, disks = _LOCATOR_64.unpack(locator)
        end64 = end - _LOCATOR_64.size - _END_64.size
        if disk or disks != 1 or offset != end64 or end64 < 0:
            raise Malformed(where, "has a zip64 directory that is not where it should be")
        magic, length, _, _, disk, first_disk, here64, count64, size64, start64 = _END_64.unpack(
            window.read_at(end64, _END_64.size)
        )
        if magic != b"PK\x06\x06" or length != _END_64.size - 12 or disk or first_disk or here64 != count64:
            raise Malformed(where, "has a damaged zip64 directory")
        for small, large, limit in ((count, count64, _MAX_16), (size, size64, _MAX_32), (start, start64, _MAX_32)):
            if small not in (limit, large):
                raise Malformed(where, "has two zip directories that contradict each other")
        count, size, start, end = count64, size64, start64, end64
    if count > MAX_MEMBERS:
        raise Malformed(where, f"holds {count:,} members, more than the {MAX_MEMBERS:,} that may be scanned")
    if start + size != end:
        raise Malformed(where, "has a zip directory that does not end where the archive does")
    return start, size, count, end


def _central_entry(directory: bytes, position: int, where: str) -> tuple[Member, int]:
    head = directory[position : position + _CENTRAL.size]
    if len(head) < _CENTRAL.size or head[:4] != b"PK\x01\x02":
        raise Malformed(where, "has a damaged zip directory")
    (
        _,
        _,
        _,
        _,
        _,
        flags,
        method,
        _,
        _,
        crc,
        packed,
        size,
        name_length,
        extra_length,
        comment_length,
        disk,
        _,
        attributes,
        header,
    ) = _CENTRAL.unpack(head)
    position += _CENTRAL.size
    raw_name = directory[position : position + name_length]
    extra = directory[position + name_length : position + name_length + extra_length]
    position += name_length + extra_length + comment_length
    if position > len(directory):
        raise Malformed(where, "has a damaged zip directory")
    name = _safe_name(raw_name, flags, where)
    inside = inner_place(name, where)
    if flags & _ENCRYPTED:
        raise Malformed(inside, "is encrypted, so it cannot be scanned")
    if flags & ~_KNOWN_FLAGS or disk or comment_length:
        raise Malformed(inside, "uses a zip feature that no model format needs")
    if method not in (_STORED, _DEFLATED):
        raise Malformed(inside, f"is packed by zip method {method}; only stored and deflated members are read")
    if attributes >> 28 == _SYMLINK:
        raise Malformed(inside, "is a symbolic link")
    size, packed, header = _zip64(extra, (size, packed, header), inside)
    if (name.endswith("/") and size) or (method == _STORED and size != packed):
        raise Malformed(inside, "declares sizes that contradict each other")
    if size > max(RATIO_COUNTS_FROM, MAX_RATIO * packed):
        raise Malformed(inside, f"is a zip bomb: {packed:,} bytes that unpack to {size:,}")
    return Member(name, flags, method, crc, packed, size, header), position


def _zip64(extra: bytes, values: tuple[int, int, int], inside: str) -> tuple[int, int, int]:
    """Replace saturated 32-bit values by those of the zip64 extra field."""
    found = list(values)
    position = 0
    seen = False
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if len(body) < length or kind == 0x7075 or (kind == 0x0001 and seen):  # 0x7075 gives a member a second name
            raise Malformed(inside, "has a zip extra field that makes it ambiguous")
        if kind == 0x0001:
            seen = True
            wide = [i for i, value in enumerate(found) if value == _MAX_32]
            if len(body) < 8 * len(wide):
                raise Malformed(inside, "has a damaged zip64 field")
            for i, value in zip(wide, struct.unpack_from(f"<{len(wide)}Q", body), strict=True):
                found[i] = value
        position += 4 + length
    return found[0], found[1], found[2]


def _safe_name(raw: bytes, flags: int, where: str) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise Malformed(where, "holds a member whose name cannot be read") from None
    parts = name.rstrip("/").split("/")
    if (
        not name
        or not name.isprintable()
        or "\\" in name
        or ":" in parts[0]
        or any(p in ("", ".", "..") for p in parts)
    ):
        raise Malformed(where, f"holds a member with the unsafe name {printable(name)!r}")
    return name


def _with_data(window: Window, member: Member, directory: int, where: str) -> Member:
    """Read a member's local header, and hold it to what the directory says."""
    inside = inner_place(member.name, where)
    head = window.read_at(member.header, _LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != LOCAL:
        raise Malformed(inside, "has no header where the zip directory points")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(head)
    names = window.read_at(member.header + _LOCAL.size, name_length + extra_length)
    if names[:name_length] != member.name.encode():
        shown = printable(names[:name_length].decode("utf-8", "replace"))
        raise Malformed(inside, f"bears another name in its own header: {shown!r}")
    size, packed, _ = _zip64(names[name_length:], (size, packed, 0), inside)
    declared, expected = (crc, packed, size), (member.crc, member.packed, member.size)
    deferred = bool(flags & _DESCRIPTOR) and all(
        value in (0, right) for value, right in zip(declared, expected, strict=True)
    )
    if flags != member.flags or method != member.method or not (declared == expected or deferred):
        raise Malformed(inside, "is described in two ways, by its header and by the zip directory")
    data = member.header + _LOCAL.size + name_length + extra_length
    if data + member.packed > directory:
        raise Malformed(inside, "reaches into the zip directory")
    return Member(member.name, flags, method, member.crc, member.packed, member.size, member.header, data)


def _check_no_gaps(window: Window, members: list[Member], directory: int, where: str) -> None:
    """Members follow each other from the first byte to the directory, with nothing between but data descriptors."""
    position = 0
    for member in members:
        if member.header != position:
            raise Malformed(inner_place(member.name, where), "does not begin where the member before it ends")
        position = member.data + member.packed
        if member.flags & _DESCRIPTOR:
            position += _descriptor_length(window.read_at(position, 24), member)
    if position != directory:
        raise Malformed(where, "holds bytes that belong to no member")


def _descriptor_length(found: bytes, member: Member) -> int:
    """Length of the record that may follow a member's data: checksum and sizes, with or without a signature."""
    for layout in ("<4sLQQ", "<4sLLL", "<LQQ", "<LLL"):
        length = struct.calcsize(layout)
        if len(found) < length:
            continue
        values = struct.unpack_from(layout, found)
        if values[0] == b"PK\x07\x08":
            values = values[1:]
        if values == (member.crc, member.packed, member.size):
            return length
    return 0
