"""Text files as checks read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audit.parameters import UserError

JSON = (".json", ".jsonl", ".ndjson")


def texts_in(path: Path) -> list[tuple[str, str]]:
    """Where and what: ``line 3`` and its text of a file of lines, every string of JSON (``line 3`` of ``.jsonl``). Blank ones are left out.

    Raises:
        UserError: the file cannot be read, is no text in UTF-8, or no JSON where its name says so.
    """
    try:
        content = path.read_text(encoding="utf-8")
        found = list(_parts(content, path.suffix.lower()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its name says JSON, which it is not ({error})") from error
    return [(where, text) for where, text in found if text.strip()]


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
    """Every string of a parsed document, keys too, with the path to it; numbers as they are written."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield where or "keys", str(key)
            yield from strings(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, where)
    elif isinstance(value, str):
        yield where, value
    elif isinstance(value, int) and not isinstance(value, bool):
        yield where, str(value)
