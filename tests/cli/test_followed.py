"""How far a run is, in a file for a program that follows it."""

from __future__ import annotations

import json
from pathlib import Path

from audit.cli import followed
from audit.cli.followed import Followed


def test_the_file_says_what_is_done_now_and_what_was(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "now.json"
    monkeypatch.setattr(followed, "APART", 0.0)
    one = Followed(str(path))
    one.began("evasion")
    began = json.loads(path.read_text())
    one.moved(3, 8, "pgd")
    moved = json.loads(path.read_text())
    one.ended("evasion", 1.23456)
    assert {name: moved[name] for name in ("step", "done", "total", "what", "took", "since")} == {
        "step": "evasion", "done": 3, "total": 8, "what": "pgd", "took": {}, "since": began["since"],
    }  # fmt: skip
    assert json.loads(path.read_text())["took"] == {"evasion": 1.235}
    assert [one.name for one in tmp_path.iterdir()] == ["now.json"]


def test_it_is_not_written_more_often_than_it_is_looked_at(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "now.json"
    monkeypatch.setattr(followed, "APART", 1e9)
    one = Followed(str(path))
    one.began("evasion")
    one.moved(3, 8, "pgd")
    assert json.loads(path.read_text())["done"] == 0


def test_a_run_goes_on_where_nobody_can_follow(tmp_path: Path) -> None:
    Followed(None).began("evasion")
    Followed(str(tmp_path / "absent" / "now.json")).began("evasion")
    assert not (tmp_path / "absent").exists()
