"""Claims and records that agree, and those that do not, through the check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import Linear, audited, batch, context, data

from audit.checks.privacy.dp_accounting import DpAccounting
from audit.engine import run
from audit.finding import Measurement
from audit.parameters import UserError
from audit.scenario import parse

MODEL = audited(Linear([1.0, 1.0], 0.0), (2,), kind="series")
DATA = data(batch(np.zeros((2, 2), np.float32), np.array([0, 1])), kind="series")


def record(
    sigma: float = 1.3, q: float | str = "1/240", steps: int = 3600, delta: float = 1e-5, **rest: Any
) -> dict[str, Any]:
    return {
        "stretches": [{"sampling_rate": q, "sigma": sigma, "steps": steps}], "dataset_size": 60_000, "sampler": "poisson",
        "noise": "entropy", "clipping": "flat", "delta": delta, **rest,
    }  # fmt: skip


def measure(tmp_path: Path, told: Any, **parameters: Any) -> dict[str, Measurement]:
    found = DpAccounting(record=told, **parameters).run(MODEL, DATA, context(tmp_path))
    return {m.metric + "".join(f"/{v}" for v in m.dims.values()): m for m in found}


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "rdp", "prv"),
    [
        (1.5, 0.04, 2250, 7.32911117, 6.779132),
        (1.3, "1/240", 3600, 0.942200, 0.863046),
        (4, 0.01, 10000, 1.035490, 0.956936),
        (0.8, 0.01, 1000, 3.695429, 3.151263),
    ],
)
def test_known_values(tmp_path: Path, sigma: float, q: float | str, steps: int, rdp: float, prv: float) -> None:
    found = measure(tmp_path, record(sigma, q, steps))
    assert found["epsilon/rdp"].estimate.value == pytest.approx(rdp, abs=1e-4)
    assert found["epsilon/prv"].estimate.value == pytest.approx(prv, abs=1e-3)
    assert found["epsilon"].estimate.value == pytest.approx(prv, abs=1e-3)
    assert found["violations"].estimate.value == 0
    assert "excess" not in found


def verdicts(tmp_path: Path, told: dict[str, Any]) -> dict[str, str]:
    (tmp_path / "r.json").write_text(json.dumps(told))
    text = (
        "name: dp\nmodel: toy\ndata: {source: given}\nchecks:\n"
        '  - privacy.dp_accounting: {record: r.json}\n    require: {excess: "<= 0", violations: "== 0"}\n'
    )
    report = run(parse(text, base=tmp_path), home=tmp_path, models={"toy": MODEL}, data=DATA)
    return {f.metric or "": str(f.status) for f in report.findings if f.gated}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}}, {"excess": "pass", "violations": "pass"}),
        ({"claim": {"epsilon": 0.5, "delta": 1e-5}}, {"excess": "fail", "violations": "pass"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-3}, "delta": 1e-3}, {"excess": "pass", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "sampler": "shuffle"}, {"excess": "inconclusive", "violations": "fail"}),
        ({"claim": {"epsilon": 0.5, "delta": 1e-5}, "sampler": "shuffle"}, {"excess": "inconclusive", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "noise": "reproducible"}, {"excess": "void", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "expected_batch_size": 500}, {"excess": "inconclusive", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "batch_sizes": [400] * 3600}, {"excess": "void", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "clipping": "none"}, {"excess": "void", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "batch_norm": ["bn1"]}, {"excess": "void", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "clipping": "unknown"}, {"excess": "inconclusive", "violations": "fail"}),
        ({"claim": {"epsilon": 0.9, "delta": 1e-5}, "trials": 10}, {"excess": "inconclusive", "violations": "fail"}),
        ({"claim": {"epsilon": 8.0, "delta": 1e-5}, "trials": 10}, {"excess": "pass", "violations": "pass"}),
        ({"claim": {"epsilon": 40, "delta": 1e-5}, "sampler": "shuffle"}, {"excess": "pass", "violations": "pass"}),
        ({"claim": {"epsilon": 40, "delta": 1e-5}, "sampler": "shuffle", "clipping": "unknown"}, {"excess": "inconclusive", "violations": "fail"}),
    ],
)  # fmt: skip
def test_a_claim_is_judged_with_what_speaks_against_its_record(
    tmp_path: Path, change: dict[str, Any], wanted: dict[str, str]
) -> None:
    assert verdicts(tmp_path, record(**change)) == wanted


def test_choosing_among_trainings_has_its_own_epsilon(tmp_path: Path) -> None:
    ten = measure(tmp_path, record(trials=10))["epsilon/tuned"].estimate.value
    assert ten == pytest.approx(measure(tmp_path, record(steps=36_000))["epsilon/rdp"].estimate.value)
    assert "epsilon/tuned" not in measure(tmp_path, record(trials=1))


def test_the_registrys_ledger_is_taken(tmp_path: Path) -> None:
    known = audited(Linear([1.0, 1.0], 0.0), (2,), kind="series")
    known.ledger = json.dumps(record())
    found = {m.metric: m for m in DpAccounting().run(known, DATA, context(tmp_path))}
    assert found["epsilon"].estimate.value == pytest.approx(0.863046, abs=1e-3)
    with pytest.raises(UserError, match="no privacy ledger"):
        list(DpAccounting().run(MODEL, DATA, context(tmp_path)))
    known.ledger = "{"
    with pytest.raises(UserError, match="privacy ledger of model 'toy'"):
        list(DpAccounting().run(known, DATA, context(tmp_path)))


def test_no_noise_is_no_privacy(tmp_path: Path) -> None:
    found = verdicts(tmp_path, record(sigma=0, claim={"epsilon": 3, "delta": 1e-5}))
    assert found == {"violations": "fail", "excess": "error"}


def test_poisson_batches_as_they_come_are_no_violation(tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).binomial(60_000, 1 / 240, 3600).tolist()
    assert measure(tmp_path, record(batch_sizes=sizes))["violations"].estimate.value == 0


def test_the_scenario_may_bring_the_claim(tmp_path: Path) -> None:
    found = measure(tmp_path, record(), claim={"epsilon": 0.5, "delta": 1e-5})
    assert found["excess"].estimate.value == pytest.approx(0.363046, abs=2e-3)


@pytest.mark.parametrize(
    ("told", "wanted"), [("absent.json", "absent.json"), ({"steps": 3}, "stretches"), (record(q=2), "sampling_rate")]
)
def test_bad_records_are_one_line(tmp_path: Path, told: Any, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted) as caught:
        measure(tmp_path, told)
    assert "\n" not in str(caught.value)
