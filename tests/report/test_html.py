"""The HTML report: nothing outside the file, nothing unescaped, the verdict first and readable without colour."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page, check

from audit.report import render
from audit.run_folder import Run


def test_every_run_is_a_whole_page(situation: tuple[str, Run]) -> None:
    check(render("html", situation[1]))


@pytest.fixture(scope="module")
def rich_text(_rich: Path) -> str:
    """The rich run's page, rendered once."""
    return render("html", Run(_rich))


@pytest.fixture(scope="module")
def rich_page(rich_text: str) -> Page:
    """The same, parsed."""
    return check(rich_text)


def test_the_rich_run_is_a_whole_page(rich_text: str, rich_page: Page) -> None:
    page = rich_page
    assert "://" not in rich_text
    assert len(page.every("img")) == 12 * 3 + 1 + 12 * 2 + 1
    assert sum(attrs.get("class") == "chart" for attrs in page.every("svg")) == 2


def test_the_verdict_stands_first_in_words(rich_text: str, rich_page: Page) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", rich_text)
    assert headings == [
        "Gates",
        "What was not tested",
        "What was tested",
        "Findings",
        "Measured",
        "Evidence",
        "Waivers",
        "Manifest",
    ]
    said = rich_page.said
    assert said.index("No verdict 1 broke, 1 means nothing.") < said.index("Status Gate Required")


@pytest.mark.parametrize(
    "words",
    [
        "✗ fail robust accuracy robustness.evasion/robust_accuracy",
        "0.4593 (95 % interval 0.4166 to 0.5023, n = 540) misses >= 0.6",
        "Caution: A single restart was used",
        "What to do: Train on adversarial examples",
        "access white box (weights and gradients)",
        "eps 2 grey levels",
        "Ada Lovelace retrained next sprint 2099-12-31 in force",
        "12 of 40 shown, those that fool the model first",
        "12 of 64 shown, wrong predictions first",
        "torch 2.13.0",
        "threads 2",
        "No protected attribute is declared",
        "changes bounded in l2 or l1",
        "digest 0f0f0f",
        "difference -0.004 to 0.012",
        "performance.classification by class",
    ],
)
def test_what_a_reader_must_find(rich_page: Page, words: str) -> None:
    assert words in rich_page.said


def test_a_gate_is_drawn_and_told(rich_page: Page) -> None:
    labels = [str(d.get("aria-label")) for d in rich_page.every("svg") if "gate" in str(d.get("class"))]
    assert len(labels) == 9  # ten gates, one of them without a number
    assert "fail: measured 0.4593, 95 % interval 0.4166 to 0.5023, n = 540, required >= 0.6" in labels


def test_words_of_others_are_text(stored: Callable[..., Any], make: Any, situation_run: Callable[[str], Run]) -> None:
    text = render("html", situation_run("nasty"))
    page = check(text)
    assert "<script>alert('x')</script> & \"quoted\"" in page.said
    assert "<script" not in text


def test_many_parts_go_into_one_table(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    good = make.Proportion(k=40, n=54)
    s.add(
        *(
            make.finding("performance.classification", metric, good, dims={"class": f"class {i}"})
            for i in range(300)
            for metric in ("recall", "precision")
        )
    )
    page = check(render("html", s.finish()))
    assert sum(words.strip() == "class 7" for words in page.words) == 1
    assert "200 of 300 rows are shown" in page.said


def test_many_passed_gates_fold(stored: Callable[..., Any], make: Any) -> None:
    s = stored()
    good, bad = make.Proportion(k=540, n=540), make.Proportion(k=1, n=540)
    s.add(*(make.finding("a.b", "m", good, ">= 0.6", dims={"class": str(i)}) for i in range(60)))
    s.add(make.finding("a.b", "other", bad, ">= 0.6"))
    text = render("html", s.finish())
    page = check(text)
    assert "21 more gates that passed" in page.said
    assert text.index("a.b/other") < text.index("a.b/m[class=0]")


def test_fifty_findings_and_sixty_four_photographs_stay_below_five_megabytes(
    stored: Callable[..., Any], make: Any
) -> None:
    s = stored()
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (64, 3, 224, 224)).astype(np.float32)  # noise: the worst that a PNG can be asked for
    ids = [f"r{i}" for i in range(64)]
    label = np.arange(64) % 10
    meta = {"explainer": "saliency", "parameters": {}, "input_kind": "image", "classes": make.classes}
    maps = s.evidence("explanation.faithfulness", "maps", "attributions", ids, meta,
                      x=x, values=rng.normal(size=x.shape).astype(np.float32), target=label, prediction=label, label=label)  # fmt: skip
    meta = {
        "attack": "pgd",
        "norm": "linf",
        "eps": 1,
        "input_kind": "image",
        "classes": make.classes,
        "bounds": [0, 255],
    }
    examples = s.evidence("robustness.evasion", "pgd", "adversarial", ids, meta, x=x, adversarial=np.clip(x + 1, 0, 255),
                          label=label, prediction=label, adversarial_prediction=(label + 1) % 10)  # fmt: skip
    good = make.Proportion(k=540, n=540)
    for i in range(50):
        refs = (maps, examples) if i == 0 else ()
        s.add(make.finding("robustness.evasion", "m", good, ">= 0.6", dims={"part": str(i)}, evidence=refs))
    text = render("html", s.finish())
    page = check(text)
    assert len(text.encode()) < 5_000_000
    assert len(page.every("img")) >= 12
    assert re.search(r"\d+ of 64 shown", page.said)
