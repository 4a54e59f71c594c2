"""Scenarios being edited, one file each below ``HOME/drafts``: leaving the page, a reload, another browser lose nothing."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.parameters import UserError
from audit.whole_file import write_whole


@dataclass(frozen=True)
class Draft:
    """A scenario as it was left.

    Args:
        saved: when.
    """

    text: str
    saved: datetime.datetime


def kept(home: Path, name: str) -> Draft | None:
    """The draft of a scenario; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = _path(home, name)
    try:
        text = path.read_text(encoding="utf-8")
        return Draft(text, datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UserError(f"the draft {path} is not UTF-8 text: delete it") from None
    except OSError as error:
        raise UserError(f"the draft {path} cannot be read: {error.strerror}") from error


def keep(home: Path, name: str, text: str) -> None:
    """Keep a draft in the place of the one before.

    Raises:
        UserError: it cannot be written.
    """
    write(_path(home, name), text)


def discard(home: Path, name: str) -> None:
    """Forget a draft, if there is one.

    Raises:
        UserError: it cannot be deleted.
    """
    path = _path(home, name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"the draft {path} cannot be deleted: {error.strerror}") from error


def names(home: Path) -> set[str]:
    """Scenarios that have a draft."""
    folder = home / "drafts"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def newest(home: Path, names: Sequence[str]) -> str | None:
    """The scenario among these whose draft was kept last."""
    found = {name: path.stat().st_mtime for name in names if (path := _path(home, name)).is_file()}
    return max(found, key=lambda name: found[name], default=None)


def write(path: Path, text: str) -> None:
    """Write a scenario file, whole or not at all, and the folders that it lies in.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode("utf-8"), shared=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _path(home: Path, name: str) -> Path:
    return home / "drafts" / Path(name).name
