"""Texts through the engine: trained models, one that misspelling breaks and one that it must not; what is stored and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from texts import mark_model, reviews, word_model

from audit.attacks.character_edits import CharacterEdits
from audit.data import AuditData, Batch, row_ids
from audit.engine import run
from audit.finding import Finding
from audit.model import AuditedModel
from audit.report.html import Html
from audit.scenario import parse
from audit.stored import Report
from audit.text import decode_all, encode

N = 40


def rows(model: AuditedModel) -> AuditData:
    texts, labels = reviews()
    x = encode(texts[:N], 120)  # shorter rows than the model's: they are filled up
    return AuditData("reviews", Batch(x, labels[:N], row_ids(x, labels[:N])), model.spec, model.classes)


def go(tmp_path: Path, model: AuditedModel, params: str, require: str = '{robust_accuracy: ">= 0.9"}') -> Report:
    text = f"name: r\nmodel: toy\ndata: {{source: given}}\nthreads: 1\nchecks:\n  - robustness.evasion: {params}\n    require: {require}\n"
    data = rows(model).fit_to(model.spec, model.classes, "toy")
    return run(parse(text), home=tmp_path, models={"toy": model}, data=data)


def gate(report: Report) -> Finding:
    return next(f for f in report.findings if f.gated)


@pytest.mark.parametrize("attack", ["character_edits", "word_edits", "character_edits: {feedback: labels}"])
def test_a_word_model_fails_and_one_that_looks_at_marks_passes(attack: str, tmp_path: Path) -> None:
    broken, held = (gate(go(tmp_path, model, f"{{attacks: [{attack}]}}")) for model in (word_model(), mark_model()))
    assert (broken.status, held.status) == ("fail", "pass")
    assert broken.estimate is not None
    assert broken.estimate.value < 0.6
    assert held.estimate is not None
    assert held.estimate.value == 1


def test_the_threat_model_says_what_was_allowed_and_done(tmp_path: Path) -> None:
    found = gate(
        go(
            tmp_path,
            word_model(),
            "{attacks: [character_edits: {max_edits: 3}], queries: 400}",
            '{"robust_accuracy[attack=character_edits]": ">= 0.9"}',
        )
    )
    threat = found.threat_model
    assert threat is not None
    assert (threat.access, threat.norm, threat.eps, threat.queries) == ("black_box_scores", None, None, 400)
    assert "at most 3 edits" in threat.constraints
    assert threat.realised is not None
    assert 1 <= threat.realised <= 6  # characters: a swap is two


def test_the_stored_texts_are_shown_in_the_report(tmp_path: Path) -> None:
    report = go(tmp_path, word_model(), "{attacks: [character_edits], keep: 5}")
    ref = next(ref for f in report.findings for ref in f.evidence if ref.kind == "adversarial")
    evidence = report.stored.evidence(ref)
    assert len(evidence) == 5
    texts = set(reviews()[0])
    for old, new in zip(decode_all(evidence.column("x")), decode_all(evidence.column("adversarial")), strict=True):
        assert old in texts
        assert CharacterEdits().follows(old, new, 3)
    assert (evidence.column("label") == 1).all()
    page = Html().render(report.stored)
    assert page.count('<dl class="passages">') == 5
    assert "<mark" in page


def test_a_cap_on_queries_leaves_more_standing(tmp_path: Path) -> None:
    few, many = (gate(go(tmp_path, word_model(), f"{{attacks: [character_edits], queries: {n}}}")) for n in (5, 400))
    assert few.estimate is not None
    assert many.estimate is not None
    assert few.estimate.value > many.estimate.value


def test_eps_has_no_meaning_for_texts(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="leave eps"):
        go(tmp_path, word_model(), "{attacks: [character_edits], eps: 1}")
    refused = go(tmp_path, word_model(), "{attacks: [art.square_attack], eps: 1}")
    assert any(f.status == "error" and "needs numbers" in f.message for f in refused.findings)


def test_two_runs_are_equal(tmp_path: Path) -> None:
    first, second = (go(tmp_path, word_model(), "{attacks: [word_edits], samples: 12}") for _ in range(2))
    assert (first.path / "measurements.jsonl").read_bytes() == (second.path / "measurements.jsonl").read_bytes()
    assert np.isfinite(gate(first).estimate.value)  # type: ignore[union-attr]
