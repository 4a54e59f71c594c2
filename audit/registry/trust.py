"""Which files may be opened although they can run code, and from which packages code may be imported.

Both are granted on the command line only and live in ``AUDIT_HOME/trust.json``: never in a scenario, never beside a
model. Whatever cannot be read as a grant is none. Nothing here, or anywhere, falls back to an unsafe loader.
"""

from __future__ import annotations

import fcntl
import json
import keyword
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audit.parameters import UserError
from audit.registry.byte_window import printable
from audit.registry.scan_report import ScanReport

_FILE = "trust.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Grant(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    by: str
    reason: str
    at: str


class _Grants(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: int = Field(default=1, ge=1, le=1)
    digests: dict[str, _Grant] = {}
    packages: list[str] = []


class Trust:
    """The grants of one ``AUDIT_HOME``. Each question reads the file anew, so a grant that is revoked counts no longer."""

    def __init__(self, home: Path | str) -> None:
        self.home = Path(home)
        self.path = self.home / _FILE

    def allow_digest(self, sha256: str, by: str, reason: str) -> None:
        """Trust the file of this digest: whoever made it may run code here.

        Args:
            sha256: 64 hexadecimal digits.
            by: Who grants it; not empty.
            reason: Why; not empty.

        Raises:
            UserError: Where the digest is none, ``by`` or ``reason`` is empty, or the trust file cannot be read.
        """
        digest = _digest(sha256)
        if not by.strip() or not reason.strip():
            raise UserError(f"trusting {digest[:12]}… needs who trusts it and why; give both")
        grant = _Grant(by=by.strip(), reason=reason.strip(), at=datetime.now(UTC).isoformat(timespec="seconds"))
        with self._changing() as grants:
            grants.digests[digest] = grant

    def revoke(self, sha256: str) -> None:
        """Take trust in a digest back.

        Raises:
            UserError: Where the digest is none, or was not trusted.
        """
        digest = _digest(sha256)
        with self._changing() as grants:
            if grants.digests.pop(digest, None) is None:
                raise UserError(f"digest {digest} was not trusted, so there is nothing to revoke")

    def is_trusted(self, digest: str) -> bool:
        """Whether the file of this digest may run code. Anything that is no digest is not trusted.

        Raises:
            UserError: Where the trust file is damaged or open to others.
        """
        return digest in self._read().digests

    def allow_package(self, name: str) -> None:
        """Let factories and callables be imported from this package and the ones below it.

        Raises:
            UserError: Where this is no dotted name, or a part of Python's standard library.
        """
        package = _package(name)
        with self._changing() as grants:
            if package not in grants.packages:
                grants.packages.append(package)

    def revoke_package(self, name: str) -> None:
        """Take a package back.

        Raises:
            UserError: Where it was not allowed.
        """
        with self._changing() as grants:
            if name not in grants.packages:
                raise UserError(f"package {printable(name)!r} was not allowed, so there is nothing to revoke")
            grants.packages.remove(name)

    def packages(self) -> tuple[str, ...]:
        """The allowed packages, sorted."""
        return tuple(sorted(self._read().packages))

    def is_allowed_package(self, module: str) -> bool:
        """Whether a dotted module is an allowed package or lies below one: ``a.b`` allows ``a.b.c``, not ``a`` nor ``a.bc``."""
        if not _is_dotted_name(module):
            return False
        parts = module.split(".")
        allowed = set(self._read().packages)
        return any(".".join(parts[:count]) in allowed for count in range(1, len(parts) + 1))

    def admit(self, report: ScanReport) -> None:
        """Let a scanned file pass, or say in one line why not: the last question before any loader opens it.

        Raises:
            UserError: Where the file is refused, or can run code and its digest is not trusted.
        """
        if report.verdict == "clean" or (report.verdict == "needs_trust" and self.is_trusted(report.sha256)):
            return
        raise UserError(report.summary)

    def _read(self) -> _Grants:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return _Grants(digests={}, packages=[])
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._unreadable("is no regular file")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in (os.geteuid(), 0):
                raise self._unreadable("can be written by other users")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read()
        finally:
            os.close(descriptor)
        try:
            grants = _Grants.model_validate(json.loads(content, object_pairs_hook=_distinct))
        except (ValueError, RecursionError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise self._unreadable(f"is damaged ({printable(reason)})") from None
        if not all(_DIGEST.fullmatch(digest) for digest in grants.digests) or not all(
            map(_is_dotted_name, grants.packages)
        ):
            raise self._unreadable("is damaged (it holds something other than digests and package names)")
        return grants

    def _unreadable(self, reason: str) -> UserError:
        return UserError(f"trust file {self.path} {reason}; nothing is trusted until it is mended or removed")

    @contextmanager
    def _changing(self) -> Iterator[_Grants]:
        """Read, let the caller change, and replace the file in one step, alone among all threads and programs."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.home / f"{_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UserError(f"trust file {self.path} cannot be changed: {error.strerror}; check AUDIT_HOME") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            grants = self._read()
            yield grants
            self._write(grants)
        finally:
            os.close(lock)

    def _write(self, grants: _Grants) -> None:
        try:
            descriptor, name = tempfile.mkstemp(dir=self.home, prefix=f".{_FILE}.")  # made with mode 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(json.dumps(grants.model_dump(), indent=2, sort_keys=True) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self.path)
            except BaseException:
                os.unlink(name)
                raise
        except OSError as error:
            raise UserError(f"trust file {self.path} cannot be written: {error.strerror}; check AUDIT_HOME") from None


def _digest(text: str) -> str:
    digest = text.strip().lower() if isinstance(text, str) else ""
    if not _DIGEST.fullmatch(digest):
        raise UserError(
            f"{printable(str(text), 80)!r} is no SHA-256 digest; give the 64 hexadecimal digits of the whole digest"
        )
    return digest


def _package(name: str) -> str:
    if not _is_dotted_name(name):
        raise UserError(
            f"{printable(str(name), 80)!r} is no package name; give a dotted name such as 'mycompany.models'"
        )
    if name.split(".")[0] in sys.stdlib_module_names:
        raise UserError(
            f"package {name!r} belongs to Python itself and holds no models; allow the package with your models"
        )
    return name


def _is_dotted_name(name: Any) -> bool:
    return isinstance(name, str) and all(
        part.isidentifier() and part.isascii() and not keyword.iskeyword(part) for part in name.split(".")
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made
