"""Extraction through the engine: a model that gives itself away, one that answers nothing a row's label would not, and the baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.robustness.extraction import Extraction
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.scenario import parse
from audit.stored import Report

CHEAP = "architecture: mlp, epochs: 12"


def go(tmp_path: Path, model: AuditedModel, rows: AuditData, params: str, require: str) -> Report:
    text = f"name: r\nmodel: toy\ndata: {{source: given}}\nthreads: 1\nchecks:\n  - robustness.extraction: {{{params}}}\n    require: {require}\n"
    return run(parse(text), home=tmp_path, models={"toy": model}, data=rows)


def values(report: Report) -> dict[str, float]:
    return {
        f"{f.metric}{f.dims.get('queries', '')}": f.estimate.value for f in report.findings if f.estimate is not None
    }


def plane(n: int = 1500) -> AuditData:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    labels = rng.integers(0, 2, n)  # nothing to do with the inputs
    return data(batch(x[:500], labels[:500]), batch(x[500:], labels[500:]), bounds=(-1.0, 1.0), kind="series")


def half(x: Tensor) -> Tensor:
    """A line through the plane; says labels only."""
    return (x @ torch.tensor([1.0, 2.0]) > 0.2).float()


def scattered(x: Tensor) -> Tensor:
    """Labels that nothing nearby foretells."""
    return ((x * 1e4).floor().sum(dim=1).long() % 2).float()


def test_a_line_is_stolen_and_scattered_labels_are_not(tmp_path: Path) -> None:
    found = {}
    for name, rule in (("line", half), ("scattered", scattered)):
        model = audited(rule, (2,), output="label", gradients=False, kind="series")
        report = go(tmp_path / name, model, plane(), f"budgets: [50, 1000], {CHEAP}", '{fidelity: "<= 0.8"}')
        found[name] = next(f for f in report.findings if f.gated)
        assert found[name].threat_model is not None
        assert found[name].threat_model.model_dump(include={"access", "queries"}) == {  # type: ignore[union-attr]
            "access": "black_box_labels", "queries": 1000,
        }  # fmt: skip
        if name == "line":
            numbers = values(report)
            assert numbers["fidelity"] == numbers["fidelity1000"] > 0.97
            assert numbers["fidelity50"] < numbers["fidelity1000"]
            assert numbers["fidelity_without_queries"] < 0.8, "the labels of the rows say nothing of this model"
            assert abs(numbers["copy_accuracy"] - 0.5) < 0.1
    assert found["line"].status == "fail"
    assert found["scattered"].status == "pass"


def test_labels_alone_give_a_good_model_away_and_the_baseline_says_so(tmp_path: Path) -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    before = model.rows_forward
    report = go(tmp_path, model, digits(), f"budgets: [60, 400, 5000], {CHEAP}", '{"fidelity[queries=400]": "<= 0.5"}')
    numbers, train = values(report), digits().train
    assert train is not None
    assert model.rows_forward - before == len(train) + len(digits().test), "every row is asked about once"
    assert numbers["fidelity60"] < numbers["fidelity400"] < numbers[f"fidelity{len(train)}"]
    assert numbers["fidelity"] - numbers["fidelity_without_queries"] < 0.1
    assert any("fewer than the 5000" in c for f in report.findings for c in f.cautions)
    curve = report.stored.evidence(next(r for f in report.findings for r in f.evidence if r.kind == "curve"))
    assert len(curve) == 6
    assert set(curve.fields) == {"x", "y", "low", "high", "series"}


def test_each_parameter_changes_the_copy(tmp_path: Path) -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))

    def measured(**parameters: Any) -> list[Measurement]:
        check = Extraction(**{"budgets": (60, 150), "architecture": "mlp", "epochs": 5, **parameters})
        return list(check.run(model, digits(), context(tmp_path)))

    def fidelity(**parameters: Any) -> int:
        return measured(**parameters)[-3].estimate.k  # type: ignore[union-attr]

    reference = fidelity()
    assert fidelity() == reference
    for changed in ({"answers": "scores"}, {"sampling": "entropy"}, {"architecture": "cnn"}, {"epochs": 8}):
        assert fidelity(**changed) != reference, changed
    scores = measured(answers="scores")[0].threat_model
    assert scores is not None
    assert scores.access == "black_box_scores"


def test_bad_input_is_refused(tmp_path: Path) -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    with pytest.raises(UserError, match="rows that are not tested on"):
        list(Extraction().run(model, replace(digits(), train=None), context(tmp_path)))
    with pytest.raises(ValidationError, match="must rise"):
        Extraction(budgets=(100, 50))
    names = audited(lambda x: x[:, 0, 0, 0], (1, 8, 8), 10, output="label", gradients=False)
    report = go(tmp_path, names, digits(), "answers: scores", '{fidelity: "<= 1"}')
    assert next(f for f in report.findings if f.gated).status == "not_applicable"
