"""The scenario that a training writes is one that runs: on its rows, wherever it lies, with what was promised as gates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from audit.plan import bind
from audit.scenario import parse
from audit.train.audit_scenario import scenario_of
from audit.train.training_file import bind_training

FILE = """\
name: m
factory: trainable:Softmax
data: {source: csv, path: rows of mine.csv, label: y, split: {test: 0.3}}
steps: 9
loss: LOSS
optimiser: sgd
dp: DP
"""
CARD: Any = SimpleNamespace(name="m", ref="m@3")


@pytest.mark.parametrize(
    ("dp", "loss", "wanted"),
    [
        ("off", "cross_entropy", ["privacy.membership_inference", "performance.classification"]),
        ("off", "mse", ["performance.regression"]),
        ("{noise_multiplier: 1, delta: 1e-5}", "mse", ["privacy.dp_accounting", "performance.regression"]),
        ("{noise_multiplier: 1, delta: 1e-5, canaries: 9}", "mse", ["privacy.dp_accounting", "privacy.dp_audit", "performance.regression"]),
    ],
)  # fmt: skip
def test_what_it_asks(tmp_path: Path, dp: str, loss: str, wanted: list[str]) -> None:
    (tmp_path / "rows of mine.csv").write_text("x,y\n1,2\n")
    file = bind_training(parse(FILE.replace("DP", dp).replace("LOSS", loss), "t.yaml", tmp_path))
    plan = bind(parse(scenario_of(file, CARD), "audit.yaml", tmp_path / "elsewhere"))
    assert [step.entry.check for step in plan.steps] == ["preflight.model_contract", *wanted]
    assert plan.scenario.model == ("m@3",)
    assert plan.scenario.data["path"] == str(tmp_path / "rows of mine.csv")
    assert plan.scenario.data["split"] == {"test": 0.3}
    assert plan.gated
    (tmp_path / "canaries.npz").touch()
    inputs = bind_training(parse(FILE.replace("DP", "{noise_multiplier: 1, delta: 1e-5, canaries: {inputs: 9}}").replace("LOSS", "mse"), "t.yaml", tmp_path))  # fmt: skip
    assert "examples: canaries.npz" in scenario_of(inputs, CARD)
