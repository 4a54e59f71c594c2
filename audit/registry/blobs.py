"""Files by their content: ``blobs/ab/<sha256>``. A blob appears whole or not at all, and is never changed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from audit.parameters import UserError

_CHUNK = 1 << 20
_ABANDONED = 24 * 3600.0
"""Seconds after which a staged copy is taken for one that a killed process left."""


@dataclass(frozen=True)
class Staged:
    """A private copy of a file on its way into the folder, under its own name: what is scanned and opened is what is kept."""

    path: Path
    sha256: str
    size: int


class BlobFolder:
    """A content-addressed folder.

    Staging copies and digests; placing is one rename. Whoever places or sweeps holds the registry's write transaction,
    so a sweep never takes a blob that another process is about to refer to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where a blob lies, or would."""
        return self.root / sha256[:2] / sha256

    def stage(self, source: Path) -> Staged:
        """Copy a file in, digesting it on the way.

        Raises:
            UserError: the source cannot be read, or the folder not be written (no space, no permission).
        """
        try:
            handle = source.open("rb")
        except OSError as error:
            raise UserError(f"cannot read {source}: {error.strerror}") from error
        with handle:
            return self._stage(handle, source.name, str(source))

    def stage_bytes(self, content: bytes, name: str) -> Staged:
        """As `stage`, from memory."""
        return self._stage(io.BytesIO(content), name, name)

    def _stage(self, source: BinaryIO, name: str, shown: str) -> Staged:
        folder = self.root / ".incoming" / uuid.uuid4().hex
        digest, size = hashlib.sha256(), 0
        try:
            folder.mkdir(parents=True)
            with (folder / name).open("xb") as copy:
                while chunk := source.read(_CHUNK):
                    copy.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                copy.flush()
                os.fsync(copy.fileno())
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"cannot store {shown} in {self.root}: {error.strerror or error}") from error
        return Staged(folder / name, digest.hexdigest(), size)

    def place(self, staged: Staged) -> None:
        """Put a staged copy where it belongs; over a blob of that name too, which it repairs if that was damaged.

        Raises:
            UserError: the folder cannot be written.
        """
        target = self.path(staged.sha256)
        try:
            target.parent.mkdir(exist_ok=True)
            staged.path.chmod(0o444)
            os.replace(staged.path, target)
            _sync_folder(target.parent)
        except OSError as error:
            raise UserError(f"cannot store {staged.path.name} in {self.root}: {error.strerror or error}") from error
        self.discard(staged)

    def discard(self, staged: Staged) -> None:
        """Drop what is left of a staged copy."""
        shutil.rmtree(staged.path.parent, ignore_errors=True)

    def verified(self, sha256: str, what: str) -> Path:
        """A blob's path, after digesting it again.

        Raises:
            UserError: it is missing, unreadable, or its content is not what was registered.
        """
        path = self.path(sha256)
        try:
            with path.open("rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise UserError(
                f"{what} is missing from {self.root}: restore the folder, or add the model again"
            ) from error
        except OSError as error:
            raise UserError(f"{what} cannot be read: {path}: {error.strerror}") from error
        if found != sha256:
            raise UserError(
                f"{what} was changed after it was registered: {path} has SHA-256 {found[:16]}…, {sha256[:16]}… was registered"
            )
        return path

    def sweep(self, referenced: Iterable[str]) -> tuple[int, int]:
        """Delete every blob that nothing refers to, and staged copies that a killed process left.

        Returns:
            How many blobs went, and how many bytes they held.

        Raises:
            UserError: a blob cannot be deleted.
        """
        kept, count, held = set(referenced), 0, 0
        try:
            for blob in self.root.glob("[0-9a-f][0-9a-f]/*"):
                if blob.name not in kept:
                    held += blob.stat().st_size
                    blob.unlink()
                    count += 1
            for folder in self.root.glob(".incoming/*"):
                if time.time() - folder.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise UserError(f"cannot delete from {self.root}: {error.strerror or error}") from error
        return count, held


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
