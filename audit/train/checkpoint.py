"""The folder of a training that goes on: a journal of what was released, and the last checkpoint.

The journal gets its line *before* the noisy gradient of a step is made, so a training that is killed at any moment has counted
whatever it released. A line is one write, which outlives the process; only together with a checkpoint is it forced to the disk:
where the machine itself fails, nothing of a later release survives it either.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from audit.parameters import UserError
from audit.train.ledger import Release
from audit.whole_file import write_whole

_JOURNAL, _CHECKPOINT = "journal.txt", "checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A training at rest between two steps.

    Args:
        releases: steps done by then.
        state: of module and optimiser, as ``torch.load(weights_only=True)`` reads it.
    """

    releases: int
    state: dict[str, Any] = field(repr=False)


class TrainingFolder:
    """The one process that trains in a folder; a context manager.

    Raises:
        UserError: the folder cannot be made or another process trains there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._journal = os.open(path / _JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise UserError(f"cannot train in {path}: {error.strerror}; name another folder with --out") from error
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._journal)
            raise UserError(f"another process is training in {path}: wait for it, or name another --out") from error
        self.releases: list[Release] = []
        """Everything released so far, in order."""
        self._part = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._journal)

    def resume(self, identity: str, *, replays: bool) -> Checkpoint | None:
        """Take up what an earlier process left here; None where it left no checkpoint, or nothing at all.

        Args:
            identity: digest of everything that determines the training.
            replays: a seeded training makes the very releases again that came after the checkpoint: they count once. Where
                noise is drawn anew they were releases of their own, and stay counted.

        Raises:
            UserError: what is here is damaged, or of another training.
        """
        header = f"{identity}\n".encode("ascii")
        found, lines = self._read_journal()
        if found is not None and found != identity:
            raise UserError(
                f"{self.path} holds an unfinished training of another kind (its file or data changed since): start anew with "
                "--fresh, or name another --out"
            )
        checkpoint = self._read_checkpoint()
        done = checkpoint.releases if checkpoint else 0
        if len(lines) < done:
            raise UserError(
                f"{self.path / _JOURNAL} has {len(lines)} releases and the checkpoint {done}: what was spent is no longer known; "
                "start anew with --fresh"
            )
        self.releases = lines[:done] if replays else lines
        kept = len(header) + sum(len(_line(release)) for release in self.releases)
        os.ftruncate(self._journal, 0 if found is None else kept)
        if found is None:
            self._append(header)
        self._part = self.releases[-1].part + 1 if self.releases else 0
        return checkpoint

    def release(self, size: int) -> None:
        """Note that the next noisy gradient, of a batch of `size` rows, is about to be made."""
        noted = Release(self._part, len(self.releases), size)
        self._append(_line(noted))
        self.releases.append(noted)

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint in the place of the last one, which stays until the new one is whole."""
        import torch

        os.fsync(self._journal)
        content = io.BytesIO()
        torch.save({"releases": len(self.releases), "state": state}, content)
        write_whole(self.path / _CHECKPOINT, content.getvalue())

    def clear(self) -> None:
        """Forget the checkpoint and the journal: the training is done, or begins anew."""
        (self.path / _CHECKPOINT).unlink(missing_ok=True)  # first: a journal alone is safe, a checkpoint alone is not
        os.ftruncate(self._journal, 0)
        self.releases = []

    def _append(self, line: bytes) -> None:
        if os.write(self._journal, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / _JOURNAL))

    def _read_checkpoint(self) -> Checkpoint | None:
        import torch

        path = self.path / _CHECKPOINT
        if not path.exists():
            return None
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            return Checkpoint(found["releases"], found["state"])
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise UserError(f"{path} is damaged: start anew with --fresh") from error

    def _read_journal(self) -> tuple[str | None, list[Release]]:
        """Identity and every release; a last line without an end was never written out, so its release was never made."""
        lines = (self.path / _JOURNAL).read_bytes().split(b"\n")[:-1]
        if not lines:
            return None, []
        try:
            found = [Release(*(int(word) for word in line.split())) for line in lines[1:]]
            if [release.step for release in found] != list(range(len(found))):
                raise ValueError("a line is missing")
            return lines[0].decode("ascii"), found
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.path / _JOURNAL} is damaged: start anew with --fresh") from error


def _line(release: Release) -> bytes:
    return f"{release.part} {release.step} {release.size}\n".encode("ascii")
