"""Zip archives that two readers could read differently are refused, and payloads inside are found at any depth."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.parameters import UserError
from audit.registry.byte_window import Malformed, Scratch, Window
from audit.registry.scan import ScanReport, scan_file
from audit.registry.trust import Trust
from audit.registry.zip_scan import open_member, read_members


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch marker",)


PAYLOAD = pickle.dumps(Payload())


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judged(content: bytes, **options: Any) -> ScanReport:
    path = Path("model.dat")
    path.write_bytes(content)
    report = scan_file(path, **options)
    if report.verdict != "clean":
        with pytest.raises(UserError):
            Trust(Path("home")).admit(report)
    assert not Path("marker").exists()
    return report


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def arrays(**values: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


GOOD = arrays(a=np.arange(30.0), b=np.ones((2, 3), dtype=np.int8))


def members_of(content: bytes) -> dict[str, bytes]:
    window = Window.of_bytes(content)
    with Scratch(1 << 30) as scratch:
        found = {member.name: open_member(window, member, scratch, "") for member in read_members(window, "")}
        return {name: inner.read_at(0, inner.size) for name, inner in found.items()}


# good archives are read as the standard library reads them


class _Unseekable(io.RawIOBase):
    """Makes zipfile write data descriptors."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += data
        return len(data)


def test_members_are_those_of_zipfile() -> None:
    streamed = _Unseekable()
    with zipfile.ZipFile(streamed, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("a", b"x" * 5000)
        archive.writestr("b", b"")
        with archive.open("c", "w", force_zip64=True) as member:
            member.write(b"y" * 70_000)
    folders = io.BytesIO()
    with zipfile.ZipFile(folders, "w") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/ä", b"1")
    for content in (GOOD, zipped({"a/b": b"1" * 100, "c": b""}), bytes(streamed.content), folders.getvalue()):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            expected = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        assert members_of(content) == expected


def test_npz_is_clean_unless_it_holds_objects() -> None:
    assert (judged(GOOD).format, judged(GOOD).verdict) == ("npz", "clean")
    report = judged(arrays(a=np.array([Payload(), 1], dtype=object)))
    assert (report.format, report.verdict) == ("npz", "needs_trust")
    assert "system('touch marker'), which runs code" in report.summary
    assert judged(zipped({"a.npy": b"no array"})).verdict == "refused"


# payloads at any depth, under any name


def tarred(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def saved_array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        zipped({"weights.txt": PAYLOAD}),
        zipped({"weights.txt": PAYLOAD}, zipfile.ZIP_STORED),
        zipped({"model.safetensors": b"not one", "README.md": PAYLOAD[:-1]}),  # no STOP, and live all the same
        zipped({"a.png": zipped({"b.jpg": PAYLOAD})}),
        zipped({"a": zipped({"b": zipped({"c": PAYLOAD}, zipfile.ZIP_STORED)})}, zipfile.ZIP_STORED),
        zipped({"a.bin": gzip.compress(PAYLOAD)}),
        zipped({"a.bin": zlib.compress(pickle.dumps(1)) + zlib.compress(PAYLOAD)}),  # two streams, one behind the other
        zipped({"a.bin": bz2.compress(PAYLOAD)}),
        zipped({"a.bin": lzma.compress(PAYLOAD)}),
        zipped({"a.bin": lzma.compress(PAYLOAD, lzma.FORMAT_ALONE)}),
        zipped({"a.bin": gzip.compress(PAYLOAD)[:-8]}),  # cut short, and live all the same
        zipped({"a.bin": zlib.compress(PAYLOAD)[:-4]}),
        zipped({"a.tar": tarred("inner", PAYLOAD)}),
        zipped({"a.npy": saved_array(np.array([Payload()], dtype=object)), "b.txt": b"hello"}),
        zipped({"a.bin": pickle.dumps([1]) + PAYLOAD}),  # behind a harmless pickle
        zipped({"a.bin": b"(S'touch marker'\nios\nsystem\n."}),
    ],
)
def test_a_payload_in_a_zip_is_found(content: bytes) -> None:
    report = judged(content)
    assert (report.format, report.verdict) == ("zip", "needs_trust")
    assert "system('touch marker'), which runs code" in str(report.findings[0])
    assert " of " in report.findings[0].where


def test_a_zip_of_nothing_known_is_refused() -> None:
    assert "no known model format" in judged(zipped({"readme": b"hello", "data": bytes(100)})).summary
    assert "empty zip" in judged(zipped({})).summary


def test_nesting_has_an_end() -> None:
    content = PAYLOAD
    for _ in range(8):
        content = zipped({"a": content})
    report = judged(content)
    assert report.verdict == "refused"
    assert "deep" in report.summary


# ambiguity


def patched(old: bytes, new: bytes, *, last: bool = False, content: bytes = GOOD) -> bytes:
    at = content.rindex(old) if last else content.index(old)
    return content[:at] + new + content[at + len(old) :]


def with_flags(flags: int) -> bytes:
    """Every header of the archive with these flags."""
    content = bytearray(GOOD)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset : at + offset + 2] = struct.pack("<H", flags)
            at = content.find(signature, at + 4)
    return bytes(content)


def doubled() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", b"2")
    return buffer.getvalue()


def hidden() -> bytes:
    """An archive whose directory leaves its first member out."""
    content = GOOD
    start = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", start + 4)
    end = content.index(b"PK\x05\x06")
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, end - second, start, 0)
    return content[:start] + content[second:end] + tail


def padded() -> bytes:
    """An archive with bytes between its last member and the directory."""
    start = GOOD.index(b"PK\x01\x02")
    return GOOD[:start] + b"hidden" + GOOD[start:-6] + struct.pack("<LH", start + 6, 0)


def link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("a.npy")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, b"/etc/passwd")
    return buffer.getvalue()


REFUSED = {
    "truncated": (GOOD[:-5], "cut short"),
    "cut in half": (GOOD[: len(GOOD) // 2], "cut short"),
    "bytes behind the end": (GOOD + b"\0", "behind its end"),
    "a comment": (GOOD[:-2] + b"\x03\x00abc", "behind its end"),
    "bytes before the start": (b"\0" * 10 + GOOD, "zip directory"),
    "a gap": (hidden(), "does not begin where"),
    "bytes before the directory": (padded(), "belong to no member"),
    "another name in the local header": (patched(b"a.npy", b"x.npy"), "another name"),
    "another name in the directory": (patched(b"a.npy", b"x.npy", last=True), "another name"),
    "doubled names": (doubled(), "two members named"),
    "encrypted": (with_flags(1), "encrypted"),
    "strong encryption": (with_flags(0x41), "encrypted"),
    "patched data": (with_flags(0x20), "feature"),
    "a link": (link(), "symbolic link"),
    "another checksum": (patched(np.arange(30.0).tobytes(), np.ones(30).tobytes()), "checksum"),
    "another method": (zipped({"a": b"1" * 99}, zipfile.ZIP_BZIP2), "method 12"),
    "parent folder": (zipped({"../a.npy": b"1"}), "unsafe name"),
    "parent folder inside": (zipped({"a/../../b": b"1"}), "unsafe name"),
    "absolute": (zipped({"/etc/a": b"1"}), "unsafe name"),
    "drive": (zipped({"C:/a": b"1"}), "unsafe name"),
    "backslash": (zipped({"a\\b": b"1"}), "unsafe name"),
    "control characters": (zipped({"a\x1b[2J": b"1"}), "unsafe name"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_ambiguous_archives_are_refused_in_one_line(content: bytes, said: str) -> None:
    report = judged(content)
    assert report.verdict == "refused"
    assert said in report.summary, report.summary
    assert report.summary.isprintable()


def test_a_second_name_in_an_extra_field_is_refused() -> None:
    entry = zipfile.ZipInfo("a.npy")
    body = b"\x01" + struct.pack("<L", zlib.crc32(b"a.npy")) + b"b.npy"
    entry.extra = struct.pack("<HH", 0x7075, len(body)) + body
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, b"1")
    assert "ambiguous" in judged(buffer.getvalue()).summary


# bombs


def test_bombs_are_refused_before_they_unpack() -> None:
    zeros = bytes(70 << 20)
    assert "zip bomb" in judged(zipped({"a.npy": zeros})).summary
    assert "is a bomb" in judged(zlib.compress(zeros, 9)).summary


def test_a_member_that_lies_about_its_size_is_refused() -> None:
    content = bytearray(zipped({"a.npy": bytes(5000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = struct.pack("<L", 100)
    report = judged(bytes(content))
    assert report.verdict == "refused"
    assert "declares" in report.summary


def test_unpacking_ends_at_max_bytes() -> None:
    content = zipped({f"{n}.npy": saved_array(np.arange(1000.0)) for n in range(20)})
    assert judged(content).verdict == "clean"
    report = judged(content, max_bytes=len(content) + 10)
    assert report.verdict == "refused"
    assert "unpacks to more than" in report.summary


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.registry.zip_scan.MAX_MEMBERS", 10)
    assert "11 members" in judged(zipped({f"{n}.npy": b"" for n in range(11)})).summary


def test_overlapping_members_are_refused() -> None:
    """Two entries of the directory that share one member: the trick of the quoted-overlap zip bomb."""
    content = zipped({"a": b"1" * 50, "b": b"2" * 50}, zipfile.ZIP_STORED)
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    shared = content[: second + 42] + struct.pack("<L", 0) + content[second + 46 :]
    with pytest.raises(Malformed):
        members_of(shared)
