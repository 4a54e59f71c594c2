"""Every gradient attack through the engine: a network that it must break, and a wide line that it must not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from toys import Linear, audited, batch, data, digits, trained_cnn

from audit.data import AuditData
from audit.engine import run
from audit.finding import Finding
from audit.model import AuditedModel
from audit.scenario import parse

ATTACKS = [
    "fgsm",
    "pgd: {momentum: 1}",
    "apgd_ce: {steps: 20}",
    "apgd_dlr: {steps: 20}",
    "apgd_t: {steps: 20}",
    "autoattack",
]
EPS = {"linf": 4.0, "l2": 12.0, "l1": 60.0}


def gate(tmp_path: Path, model: AuditedModel, rows: AuditData, params: str, require: str) -> Finding:
    check = f"robustness.evasion: {{{params}}}"
    text = f"name: r\nmodel: toy\ndata: {{source: given}}\nthreads: 1\nchecks:\n  - {check}\n    require: {{robust_accuracy: '{require}'}}\n"
    report = run(parse(text), home=tmp_path, models={"toy": model}, data=rows)
    return next(f for f in report.findings if f.gated)


@cache
def images() -> AuditData:
    return data(digits().test.take(np.arange(40)), n_classes=10, bounds=(0.0, 16.0))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_plain_network_breaks(tmp_path: Path, attack: str, norm: str) -> None:
    if attack == "autoattack" and norm != "linf":
        pytest.skip("its parts are tried")
    network = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    found = gate(tmp_path, network, images(), f"attacks: [{attack}], norm: {norm}, eps: {EPS[norm]}", ">= 0.9")
    assert found.status == "fail", found.message
    assert found.threat_model is not None
    assert found.threat_model.norm == norm


@pytest.mark.parametrize("attack", ATTACKS[:-1])
def test_a_wide_line_holds(tmp_path: Path, attack: str) -> None:
    x = np.concatenate([np.full((60, 2), 9.0), np.full((60, 2), 1.0)]).astype(np.float32)
    x += np.random.default_rng(0).uniform(-0.5, 0.5, x.shape).astype(np.float32)
    line = audited(Linear([1.0, 1.0], -10.0), (2,), bounds=(0.0, 10.0), kind="series")
    wide = data(batch(x, np.repeat([1, 0], 60)), bounds=(0.0, 10.0), kind="series")
    found = gate(tmp_path, line, wide, f"attacks: [{attack}], eps: 3", ">= 0.95")
    assert found.status == "pass", found.message
