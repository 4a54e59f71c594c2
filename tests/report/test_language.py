"""The HTML report in another language: its frame is translated, its numbers are the same, and what machines read stays English."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import check
from typer.testing import CliRunner

from audit.cli import app
from audit.language import per_language, speaking
from audit.parameters import UserError
from audit.report import render
from audit.report._told import told
from audit.report._view import RunView
from audit.run_folder import Run

CHINESE = re.compile(r"[\u3400-\u9fff]")


def in_chinese(format_: str, run: Run) -> str:
    """A report as a Chinese reader gets it."""
    with speaking("zh_CN"):
        return render(format_, run)


@pytest.fixture(scope="module")
def run(_rich: Path) -> Run:
    """A run with every kind of evidence; for reading only."""
    return Run(_rich)


@pytest.fixture(scope="module")
def pages(run: Run) -> tuple[str, str]:
    """Its report in English and in Chinese."""
    return render("html", run), in_chinese("html", run)


@pytest.fixture
def folder(situation_run: Callable[[str], Run]) -> str:
    """A run whose report is short."""
    return str(situation_run("pass").path)


def texts(page: str) -> list[str]:
    """What stands between the tags, without what is not prose."""
    prose = re.sub(r"<(style|pre|code|svg)\b.*?</\1>", "", page, flags=re.DOTALL)
    return [html.unescape(text).strip() for text in re.findall(r">([^<]+)<", prose) if text.strip()]


def test_every_run_is_a_whole_page_in_chinese(situation: tuple[str, Run]) -> None:
    check(in_chinese("html", situation[1]))


def test_the_frame_is_translated(pages: tuple[str, str]) -> None:
    english, chinese = pages
    assert '<html lang="en">' in english
    assert not CHINESE.search(english)
    assert '<html lang="zh-CN">' in chinese
    for heading in re.findall(r"<h2>(.*?)</h2>", chinese) + re.findall(r"<summary>([^<]+)</summary>", chinese):
        assert CHINESE.search(heading), heading
    for head in re.findall(r'<span class="icon" aria-hidden="true">[^<]*</span>([^<]+)</span>', chinese):
        assert CHINESE.search(head), head


def test_table_heads_are_translated(pages: tuple[str, str]) -> None:
    gates = pages[1].split('<table class="gates">')[1].split("</thead>")[0]
    assert re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', gates) == [
        "状态", "门禁", "要求", "测量值", "置信区间与门禁", "n", "严重程度",
    ]  # fmt: skip


def test_the_numbers_are_the_same(pages: tuple[str, str]) -> None:
    """Every number of the English page, no more and no fewer: translations lose none of what they were handed."""
    english, chinese = [re.findall(r"\d[\d,.]*\d|\d", text) for text in map(" ".join, map(texts, pages))]
    assert sorted(english) == sorted(chinese)


def test_what_checks_said_is_said_in_chinese(pages: tuple[str, str], run: Run) -> None:
    page = html.unescape(pages[1])
    with speaking("zh_CN"):
        for finding in run.findings:
            if finding.gated:
                assert CHINESE.search(told(finding.message)), finding.message
                assert told(finding.message) in page


@pytest.mark.parametrize("format_", ["json", "markdown", "junit", "sarif"])
def test_what_machines_read_is_english(format_: str, run: Run) -> None:
    assert in_chinese(format_, run) == render(format_, run)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pass", "所有门禁均通过（1 / 1）"),
        ("fail", "2 项门禁中有 1 项未通过"),
        ("error", "2 项出错"),
        ("inconclusive", "1 项门禁中有 1 项以现有数据无法判定"),
        ("absent", None),
        ("interrupted", None),
        ("running", None),
        ("damaged", None),
    ],
)
def test_verdicts_are_sentences(name: str, sentence: str | None, situation_run: Callable[[str], Run]) -> None:
    view = RunView(situation_run(name))
    english = view.verdict
    with speaking("zh_CN"):
        said = view.verdict.said
    assert CHINESE.search(said)
    assert not re.search("[a-z]{3}", said)
    assert not said.startswith("无结论")
    assert sentence is None or said == sentence
    assert view.verdict is english, "the languages do not mix"


def test_a_text_is_kept_for_each_language() -> None:
    class Counted:
        built = 0

        @per_language
        def text(self) -> str:
            self.built += 1
            return str(self.built)

    counted = Counted()
    with speaking("zh_CN"):
        assert (counted.text, counted.text) == ("1", "1")
    assert (counted.text, counted.text) == ("2", "2")


def run_cli(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("written", ["zh", "zh_CN", "zh-cn"])
def test_the_command_line_takes_a_language(written: str, folder: str) -> None:
    done = run_cli("report", folder, "--lang", written, "--out", "-")
    assert done.exit_code == 0, done.output
    assert '<html lang="zh-CN">' in done.output


def test_a_language_that_is_not_there_is_refused_in_one_line(folder: str) -> None:
    done = run_cli("report", folder, "--lang", "tlh", "--out", "-")
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "there is no language 'tlh': choose one of en (English), zh_CN (简体中文)"


def test_a_language_is_of_the_html_report_alone(folder: str) -> None:
    done = run_cli("report", folder, "--lang", "zh", "--format", "json", "--out", "-")
    assert isinstance(done.exception, UserError)
    assert "json is English" in str(done.exception)
    done = run_cli("run", "scenario.yaml", "--lang", "zh")
    assert isinstance(done.exception, UserError)
    assert "add --html" in str(done.exception)
