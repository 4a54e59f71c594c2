"""Every format on every kind of run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.names import available
from audit.parameters import UserError
from audit.report import render, renderer, write
from audit.run_folder import Run

FORMATS = ("html", "json", "junit", "markdown", "sarif")


def test_the_formats_are_the_files() -> None:
    assert tuple(available("reports")) == FORMATS
    assert [renderer(name).name for name in FORMATS] == list(FORMATS)
    assert len({renderer(name).suffix for name in FORMATS}) == len(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_run_renders_twice_to_the_same_bytes(name: str, situation: tuple[str, Run]) -> None:
    run = situation[1]
    first = render(name, run)
    assert first == render(name, Run(run.path))
    assert first.endswith("\n")
    first.encode("utf-8")


def test_pictures_and_charts_come_out_the_same(rich: Run) -> None:
    assert render("html", rich) == render("html", Run(rich.path))


@pytest.mark.parametrize("name", FORMATS)
def test_no_report_names_this_machine(name: str, pictured: Run) -> None:
    (pictured.path / "evidence" / "robustness.evasion" / "pgd" / "meta.json").unlink()
    assert str(pictured.path.parent) not in render(name, Run(pictured.path))


def test_writing_is_all_or_nothing(rich: Run, tmp_path: Path) -> None:
    path = write("markdown", rich, tmp_path / "out.md")
    assert path.read_text(encoding="utf-8") == render("markdown", rich)
    with pytest.raises(UserError, match="cannot be written"):
        write("markdown", rich, tmp_path / "no" / "folder.md")


def test_an_unknown_format_names_the_nearest(rich: Run) -> None:
    with pytest.raises(UserError, match="did you mean 'sarif'"):
        render("sarf", rich)


def test_no_format_imports_torch(rich: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from audit.run_folder import Run; from audit.report import render\n"
        f"for name in {FORMATS}: render(name, Run(Path(sys.argv[1])))\n"
        "from audit.report._console import render as console; console(Run(Path(sys.argv[1])), everything=True)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(rich.path)], check=False).returncode == 0


@pytest.mark.parametrize("name", FORMATS)
def test_words_of_others_stay_words(name: str, situation_run: Callable[[str], Run]) -> None:
    """Whatever stands in names and messages, no format carries a control character on."""
    control = (
        {chr(0), chr(27), "\u202e"} if name != "json" else {chr(0), chr(27)}
    )  # JSON keeps what was stored, escaped
    assert not set(render(name, situation_run("nasty"))) & control


def test_every_verdict_has_its_word(situation: tuple[str, Run], make: Any) -> None:
    from audit.report._view import RunView

    name, run = situation
    assert RunView(run).verdict.word == make.words.get(name, name)
