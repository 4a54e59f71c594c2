"""Stored sentences in the reader's language: each is recognised by its template, and nothing that it says is lost."""

from __future__ import annotations

import ast
import string

import pytest

from audit.catalogues.stored import columns, sentences, template, written
from audit.language import gettext, speaking
from audit.numbers import show_interval
from audit.report._told import _SPACE, _sentences, told


def in_chinese(text: str) -> str:
    with speaking("zh_CN"):
        return told(text)


def test_pages_read_the_sentences_that_the_source_writes() -> None:
    assert [tuple(text) if isinstance(text, list) else text for text in _sentences()] == sentences(), "make messages"


def test_every_sentence_is_recognised_with_whatever_fills_it() -> None:
    with speaking("zh_CN"):
        for text in _sentences():
            if isinstance(text, str):
                filled = {name: "7" for _, name, _, _ in string.Formatter().parse(text) if name}
                assert told(text.format(**filled)) == _SPACE.sub("", gettext(text).format(**filled)), text


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (
            "0.05 (95 % interval 0.001265 to 0.2487, n = 20) misses >= 0.5",
            "0.05（95 % 置信区间 0.001265 至 0.2487，n = 20），不满足 >= 0.5",
        ),
        (
            "1 (n = 7); it decides nothing: an FPR of 0.001 takes 10000 non-members to see (10 / FPR), there are 539",
            "1（n = 7）；不足以判定：观察 FPR 0.001 需要 10000 个非成员（10 / FPR），现有 539 个",
        ),
        ("lower bound 0.9687 (0.95 confidence, n = 1,000)", "下界 0.9687（置信水平 0.95，n = 1,000）"),
        ("2 broke, 1 means nothing", "2 项出错，1 项无效"),
        ("no verdict: 3 mean nothing", "无结论：3 项无效"),
        ("every gate passed (2 of 2)", "所有门禁均通过（2 / 2）"),
        ("findings.jsonl holds 3 bytes instead of 90", "findings.jsonl 为 3 字节，应为 90 字节"),
        (
            "gain was not measured: model 'loans' has no column liq; it has: price, term",
            "gain 未能测量：模型 'loans' 没有列 liq；可用的有：price, term",
        ),
        ("rows of class deny; only up: liq", "类别 deny 的样本；只能增大：liq"),
        (
            "answers change from call to call, by hidden state or by randomness of the model's own: "
            "3 of 9 rows differ, by up to 0.2 of the largest score, 1 with another label",
            "每次调用的输出都在变化，原因是隐藏状态或模型自身的随机性：9 个样本中有 3 个不同，最大相差最大得分的 0.2，其中 1 个的标签不同",
        ),
    ],
)
def test_sentences_stand_in_sentences(stored: str, said: str) -> None:
    assert in_chinese(stored) == said


def test_what_nobody_knows_stays_as_it_was_stored() -> None:
    for text in (
        "a plug-in's own words: 3 of 4",
        "cats and dogs of all kinds",
        "the class bald eagle",
        "every gate passed (2 of 3)",
        "",
        "0.83",
    ):
        assert in_chinese(text) == text


def test_names_are_no_words() -> None:
    """A class called 'text' is not translated for being in a sentence; the sentence is."""
    assert (
        in_chinese("class text is never predicted: its precision counts as 0") == "类别 text 从未被预测：其精确率计为 0"
    )


def test_english_is_left_alone() -> None:
    text = "0.5 (95 % interval 0.4 to 0.6, n = 9) meets > 0"
    assert told(text) == text


def test_an_interval_is_told_as_a_page_tells_it() -> None:
    stored = show_interval(0.4, 0.6)
    with speaking("zh_CN"):
        assert told(stored) == show_interval(0.4, 0.6)


def test_a_template_names_what_fills_it() -> None:
    source = """f"{len(rows)} of {n} row{'s' if n != 1 else ''} {show(gate.value)}{low}{high}" + (f", {x:g} more" if x else "")"""
    assert template(ast.parse(source, mode="eval").body) == "{rows} of {n} row{s} {value_low_high}"


def test_sentences_are_found_where_they_are_stored() -> None:
    source = """
    def run():
        '''Not this one.'''
        if broken:
            raise NotApplicable(f"no such {kind} here")
        if wrong:
            raise UserError("of the command line")
        ctx.evidence("a", "table", title="single", x_label=f"{unit} of it")
        yield Measurement(cautions=(f"{k} of {n} rows" + f", {more} more",), note=_("translated by itself"))
    """
    found = list(written("if True:\n" + source))
    assert set(found) == {"no such {kind} here", "single", "{unit} of it", "{k} of {n} rows, {more} more"}


def test_columns_are_named() -> None:
    assert {"rank", "absolute error"} <= set(columns())
