"""Text in files, as checks read it."""

from __future__ import annotations

import json
import mmap
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audit.parameters import UserError

JSON = (".json", ".jsonl", ".ndjson")
LARGEST = 1 << 30
"""Bytes of a file that is read whole, and that an archive may unpack to."""
_RUN = re.compile(rb"[\t\x20-\x7e]{10,}")
"""Printable characters in a row; of fewer, random weights hold an address by chance in every 20 MB."""
_ADDRESS = re.compile(r'"__id__": [0-9]+|"[0-9]+\.np[yz]"')
"""Addresses in memory, by which skops numbers what it stores."""
_MARKS = str.maketrans("ĠĊ▁", "   ")
"""What byte-level and sentence-piece vocabularies write for spaces and line ends."""


def texts_in(path: Path, name: str | None = None) -> list[tuple[str, str]]:
    """Where and what: ``line 3`` and its text of a file of lines, every string of JSON (``line 3`` of ``.jsonl``). Blank ones are left out.

    Raises:
        UserError: the file cannot be read, is too large, is no text in UTF-8, or no JSON where its name says so.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} holds more than the {LARGEST:,} bytes that are read: split it")
        content = path.read_text(encoding="utf-8")
        found = list(_parts(content, Path(name or path).suffix.lower()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its name says JSON, which it is not ({error})") from error
    return [(where, text) for where, text in found if text.strip()]


def strings_in(path: Path, name: str | None = None) -> Iterator[tuple[str, str]]:
    """The same of any file: of an archive's members, of a safetensors file what is no tensor, and of what else is no text every run of
    ten printable characters (``byte 128``).

    Args:
        name: what the file is called, where it is stored under another name.

    Raises:
        UserError: the file cannot be read, or unpacks to too much.
    """
    try:
        if zipfile.is_zipfile(path):
            yield from _members(path)
            return
        with path.open("rb") as file:
            begins = file.read(1 << 16)
            if not begins:
                return
            if _is_text(begins):
                yield from texts_in(path, name)
                return
            if Path(name or path).suffix == ".safetensors":
                file.seek(8)
                yield from strings(json.loads(file.read(int.from_bytes(begins[:8], "little"))))
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for run in _RUN.finditer(content):
                    yield f"byte {run.start()}", run[0].decode("ascii")
    except UserError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _members(path: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST:
            raise UserError(f"{path} unpacks to more than the {LARGEST:,} bytes that are read")
        for member in archive.infolist():
            content = archive.read(member)
            if _is_text(content):
                yield from (
                    (f"{member.filename}, {where}", text)
                    for where, text in _parts(_ADDRESS.sub("", content.decode()), "")
                )
            else:
                for run in _RUN.finditer(content):
                    yield f"{member.filename}, byte {run.start()}", run[0].decode("ascii")


def _is_text(content: bytes) -> bool:
    """UTF-8 without zero bytes; the last character may be cut."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end >= len(content) - 3 and error.reason == "unexpected end of data" and b"\0" not in content
    return bool(content) and b"\0" not in content


def _parts(content: str, suffix: str) -> Iterator[tuple[str, str]]:
    if suffix == ".json":
        yield from strings(json.loads(content))
        return
    for number, line in enumerate(content.splitlines(), 1):
        if suffix not in JSON:
            yield f"line {number}", line
        elif line.strip():
            yield from ((f"line {number}", text) for _, text in strings(json.loads(line)))


def strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a parsed document, keys too, with the path to it, and whole numbers as they are written."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield where or "keys", plain(str(key))
            yield from strings(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item, where)
    elif isinstance(value, str):
        yield where, plain(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield where, str(value)


def plain(piece: str) -> str:
    """A piece of a vocabulary as text: its marks for spaces are spaces."""
    return piece.translate(_MARKS).removeprefix("##")
