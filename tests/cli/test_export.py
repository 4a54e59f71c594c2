"""``audit export``: adversarial examples with their labels, as files that NumPy reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from toys import audited, data, digits, trained_cnn

from audit.engine import run
from audit.scenario import parse

SCENARIO = """
name: r
model: toy
data: {source: given}
threads: 1
checks:
  - robustness.evasion: {attacks: [pgd: {steps: 5}], eps: 2, keep: 7}
    require: {robust_accuracy: ">= 0.1"}
"""


def test_adversarial_examples_are_exported_with_their_labels(audit: Callable[..., Any], tmp_path: Path) -> None:
    rows = data(digits().test.take(np.arange(40)), n_classes=10, bounds=(0.0, 16.0))
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    run(parse(SCENARIO), home=tmp_path, models={"toy": model}, data=rows)
    told = audit("export", "latest", "--home", tmp_path, "--out", tmp_path / "out")
    assert told.code == 0, told.err
    (path,) = (tmp_path / "out").rglob("*.npz")
    assert str(path) in told.out
    with np.load(path, allow_pickle=False) as stored:
        assert stored["adversarial"].shape == stored["x"].shape == (7, 1, 8, 8)
        assert (stored["label"] != stored["adversarial_prediction"]).all()
        assert set(stored["ids"]) <= set(rows.test.ids)
        assert json.loads(str(stored["meta"]))["attack"] == "pgd"
    everything = audit("export", "latest", "--home", tmp_path, "--out", tmp_path / "all", "--kind", "all")
    assert len(everything.out.splitlines()) > 1
    none = audit("export", "latest", "--home", tmp_path, "--kind", "rocs")
    assert none.code == 2
    assert "holds no evidence of kind 'rocs'; it holds: adversarial" in none.err


def test_attributions_are_exported_with_every_column(audit: Callable[..., Any], tmp_path: Path) -> None:
    rows = data(digits().test.take(np.arange(40)), n_classes=10, bounds=(0.0, 16.0))
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    explained = """
name: r
model: toy
data: {source: given}
threads: 1
checks:
  - explanation.completeness: {explainer: {exact_shap: {unit: patch, size: 4, background: 3}}, keep: 40}
    require: {complete: ">= 0.1"}
"""
    run(parse(explained), home=tmp_path, models={"toy": model}, data=rows)
    told = audit("export", "latest", "--home", tmp_path, "--out", tmp_path / "out", "--kind", "attributions")
    assert told.code == 0, told.err
    (path,) = (tmp_path / "out").rglob("*.npz")
    with np.load(path, allow_pickle=False) as stored:
        assert stored["values"].shape == stored["feature"].shape == (40, 1, 8, 8), "chunks are joined"
        assert set(np.unique(stored["feature"])) == {0, 1, 2, 3}
        assert (stored["quality_relative_gap"] < 1e-6).all()
        assert (stored["method"] != "").all()
        assert json.loads(str(stored["meta"]))["unit"] == "patch"
