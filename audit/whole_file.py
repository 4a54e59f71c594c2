"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: bytes, *, shared: bool = False, durable: bool = True) -> None:
    """Write a file so that whoever reads it, whenever, finds the old content or the new.

    Args:
        shared: several processes may write it at once: each takes a temporary file of its own, which a kill leaves behind.
        durable: it is on the disk when this returns; without, a crash of the machine may bring the old content back.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f"{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
