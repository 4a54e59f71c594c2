"""The page of a frontier: it stands alone, says what is there and what it costs to choose."""

from __future__ import annotations

import re
import subprocess
import sys

from audit.language import speaking
from audit.privacy.frontier_table import Frontier, Number, Point
from audit.report._frontier_page import frontier_page


def number(
    metric: str, value: float, *, attack: str | None = None, fpr: str | None = None, doubt: bool = False
) -> Number:
    return Number(
        metric=metric, attack=attack, fpr=fpr, value=value, low=value - 0.05, high=value + 0.05, n=100,
        status="inconclusive" if doubt else "info", note="too few" if doubt else "",
    )  # fmt: skip


def point(name: str, epsilon: float | None, accuracy: float, *, doubt: bool = False) -> Point:
    numbers = (
        number("accuracy", accuracy), number("auc", 0.6, attack="rmia"),
        number("tpr_at_fpr", 0.0817, attack="rmia", fpr="0.01", doubt=doubt),
        number("tpr_at_fpr", 0.0543, attack="rmia", fpr="0.001", doubt=True),
    )  # fmt: skip
    return Point(
        name=name, model=f"{name}@1", digest="0", epsilon=epsilon, spent=epsilon, training="0", audited="0", numbers=numbers,
        noise_multiplier=None if epsilon is None else 2.5,
    )  # fmt: skip


def frontier(*points: Point, together: float | None = 9.5) -> Frontier:
    return Frontier(
        name="<b>net</b>", data="idx", members=2000, non_members=10000, delta=1e-4, epsilons=(1.0, 8.0), attacks=("rmia",),
        utility="accuracy", points=points, together=together,
    )  # fmt: skip


WHOLE = frontier(point("eps-1", 1.0, 0.61), point("eps-8", 8.0, 0.72), point("plain", None, 0.83))


def test_the_page_stands_alone_and_holds_every_number() -> None:
    page = frontier_page(WHOLE)
    assert "<b>net" not in page
    assert "&lt;b&gt;net" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    for text in (
        "eps-1@1",
        "1.000",
        "none",
        "0.610",
        "0.560 to 0.660",
        "2,000",
        "10,000",
        "0.0001",
        "found at 1 % FPR, rmia",
    ):
        assert text in page
    assert "0.1 % FPR" not in page, "a rate that nothing resolves is left out"
    assert "Unfinished" not in page
    assert "Together the private trainings spend up to epsilon 9.5 at delta 0.0001, eps-8@1 alone 8;" in page


def test_three_charts_with_the_epsilons_as_ticks() -> None:
    page = frontier_page(WHOLE)
    charts = re.findall(r"<svg role.*?</svg>", page, re.DOTALL)
    assert [re.findall(r"<title>(.*?)</title>", chart)[0] for chart in charts] == [
        "accuracy on test rows", "membership AUC", "members found at 1 % FPR",
    ]  # fmt: skip
    for chart in charts:
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", chart)
        assert {"1", "8", "none"} <= set(texts)
    assert ["chance" in chart for chart in charts] == [False, True, True]


def test_what_is_not_there_yet_is_said() -> None:
    page = frontier_page(frontier(point("eps-1", 1.0, 0.61, doubt=True)))
    assert "1 of 3 models are there" in page
    assert page.count(">inconclusive<") == 1
    assert 'title="too few"' in page
    bare = frontier(
        Point(name="eps-1", model="eps-1@1", digest="0", epsilon=1.0, spent=1.0, training="0"), together=None
    )
    assert "What it costs to choose" not in frontier_page(bare)
    assert "0 of 3" in frontier_page(frontier())


def test_reading_and_drawing_take_no_torch() -> None:
    code = "import sys, audit.report._frontier_page, audit.privacy.frontier_table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_speaks_chinese() -> None:
    with speaking("zh_CN"):
        page = frontier_page(WHOLE)
    texts = [text for text in re.findall(r">([^<{]+)<", page) if re.search("[a-z]{3,} [a-z]{2,}", text)]
    assert texts == []
    tables = [re.findall(r"\d+\.\d+", text.split('id="charts"')[0]) for text in (frontier_page(WHOLE), page)]
    assert tables[0] == tables[1], "the numbers are the same"
