"""Drafts of scenarios: kept, found again, discarded; what goes wrong with their files is one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audit.parameters import UserError
from dashboard.working import drafts


def test_a_draft_is_kept_found_and_discarded(tmp_path: Path) -> None:
    assert drafts.kept(tmp_path, "one.yaml") is None
    assert drafts.names(tmp_path) == set()
    drafts.keep(tmp_path, "one.yaml", "name: one\n")
    drafts.keep(tmp_path, "one.yaml", "name: eins\n")
    found = drafts.kept(tmp_path, "one.yaml")
    assert found is not None
    assert found.text == "name: eins\n"
    assert found.saved.timestamp() == pytest.approx((tmp_path / "drafts" / "one.yaml").stat().st_mtime)
    assert drafts.names(tmp_path) == {"one.yaml"}
    drafts.discard(tmp_path, "one.yaml")
    drafts.discard(tmp_path, "one.yaml")
    assert drafts.kept(tmp_path, "one.yaml") is None


def test_the_newest_is_the_one_kept_last(tmp_path: Path) -> None:
    for age, name in enumerate(("new.yaml", "old.yaml", "gone.yaml")):
        drafts.keep(tmp_path, name, "name: x")
        os.utime(tmp_path / "drafts" / name, (1e9 - age, 1e9 - age))
    assert drafts.newest(tmp_path, ["old.yaml", "new.yaml"]) == "new.yaml"
    assert drafts.newest(tmp_path, ["old.yaml", "absent.yaml"]) == "old.yaml"
    assert drafts.newest(tmp_path, []) is None


def test_a_name_stays_in_its_folder(tmp_path: Path) -> None:
    drafts.keep(tmp_path / "home", "../../out.yaml", "name: x")
    assert drafts.names(tmp_path / "home") == {"out.yaml"}


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "drafts").mkdir()
    (tmp_path / "drafts" / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"binary\.yaml is not UTF-8 text: delete it"):
        drafts.kept(tmp_path, "binary.yaml")
    (tmp_path / "drafts" / "folder.yaml").mkdir()
    with pytest.raises(UserError, match=r"folder\.yaml cannot be read: Is a directory"):
        drafts.kept(tmp_path, "folder.yaml")
    with pytest.raises(UserError, match=r"folder\.yaml cannot be deleted"):
        drafts.discard(tmp_path, "folder.yaml")
    with pytest.raises(UserError, match=r"folder\.yaml cannot be written"):
        drafts.keep(tmp_path, "folder.yaml", "name: x")
