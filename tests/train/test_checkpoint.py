"""What was released is counted before it is released, and survives whatever happens."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from audit.parameters import UserError
from audit.train.checkpoint import TrainingFolder


def begun(path: Path, steps: int, saved: int | None) -> None:
    with TrainingFolder(path) as folder:
        folder.resume("id", replays=False)
        for step in range(steps):
            folder.release(10 + step)
            if step + 1 == saved:
                folder.save({"w": torch.ones(2)})


def test_steps_after_the_checkpoint_stay_counted(tmp_path: Path) -> None:
    begun(tmp_path, 5, saved=3)
    with TrainingFolder(tmp_path) as folder:
        checkpoint = folder.resume("id", replays=False)
        assert checkpoint is not None
        assert (checkpoint.releases, checkpoint.state["w"].tolist()) == (3, [1, 1])
        folder.release(99)
        assert [r.size for r in folder.releases] == [10, 11, 12, 13, 14, 99]
        assert [r.part for r in folder.releases] == [0, 0, 0, 0, 0, 1]


def test_a_seeded_training_makes_the_same_releases_again(tmp_path: Path) -> None:
    begun(tmp_path, 5, saved=3)
    with TrainingFolder(tmp_path) as folder:
        folder.resume("id", replays=True)
        assert [r.size for r in folder.releases] == [10, 11, 12]
        folder.release(13)
    with TrainingFolder(tmp_path) as folder:
        folder.resume("id", replays=False)
        assert [(r.part, r.step) for r in folder.releases] == [(0, 0), (0, 1), (0, 2), (1, 3)]


def test_a_line_cut_off_was_never_released(tmp_path: Path) -> None:
    begun(tmp_path, 2, saved=None)
    with (tmp_path / "journal.txt").open("ab") as journal:
        journal.write(b"0 2 1")
    with TrainingFolder(tmp_path) as folder:
        assert folder.resume("id", replays=False) is None
        folder.release(7)
        assert [r.size for r in folder.releases] == [10, 11, 7]
    with TrainingFolder(tmp_path) as folder:
        folder.resume("id", replays=False)
        assert [r.size for r in folder.releases] == [10, 11, 7]


def test_a_clear_folder_begins_anew(tmp_path: Path) -> None:
    begun(tmp_path, 5, saved=3)
    with TrainingFolder(tmp_path) as folder:
        folder.clear()
        assert folder.resume("other", replays=False) is None
        assert folder.releases == []


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda p: (p / "checkpoint.pt").write_bytes(b"PK nonsense"), "checkpoint.pt is damaged"),
        (lambda p: torch.save({"releases": 3}, p / "checkpoint.pt"), "checkpoint.pt is damaged"),
        (lambda p: (p / "journal.txt").write_bytes(b"id\n0 0 1\n0 2 1\n0 3 1\n"), "journal.txt is damaged"),
        (lambda p: (p / "journal.txt").write_bytes(b"id\n0 0 x\n"), "journal.txt is damaged"),
        (lambda p: (p / "journal.txt").write_bytes(b"id\n0 0 1\n"), "has 1 releases and the checkpoint 3"),
        (lambda p: (p / "journal.txt").unlink(), "has 0 releases and the checkpoint 3"),
        (lambda p: (p / "journal.txt").write_bytes(b"other\n0 0 1\n"), "unfinished training of another kind"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_from(tmp_path: Path, damage: object, line: str) -> None:
    begun(tmp_path, 4, saved=3)
    damage(tmp_path)  # type: ignore[operator]
    with TrainingFolder(tmp_path) as folder, pytest.raises(UserError, match=line):
        folder.resume("id", replays=False)


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    with TrainingFolder(tmp_path), pytest.raises(UserError, match="another process is training"):
        TrainingFolder(tmp_path)
    TrainingFolder(tmp_path).__exit__(None, None, None)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot train in .*: Not a directory; name another folder"):
        TrainingFolder(tmp_path / "file" / "below")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path, 3, saved=3)
    with TrainingFolder(tmp_path) as folder:
        folder.resume("id", replays=False)
        folder.release(1)

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr("audit.train.checkpoint.os.fsync", full)
            with pytest.raises(OSError, match="No space left"):
                folder.save({"w": torch.zeros(2)})
    assert not list(tmp_path.glob("*.new"))
    with TrainingFolder(tmp_path) as folder:
        found = folder.resume("id", replays=False)
        assert found is not None
        assert found.state["w"].tolist() == [1, 1]
        assert len(folder.releases) == 4
