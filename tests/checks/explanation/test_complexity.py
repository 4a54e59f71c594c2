"""Complexity through the check's own run: entropy, effective number and Gini index by hand, and of a trained net's maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_maps import install
from texts import word_model
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation.complexity import Complexity
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.text import encode


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def measure(
    model: AuditedModel, rows: AuditData, tmp_path: Path, explainer: Any = "given_map", **options: Any
) -> dict[str, Measurement]:
    check = Complexity(explainer=explainer, **options)
    return {m.metric: m for m in check.run(model, rows, context(tmp_path))}


def table(*rows: tuple[float, ...]) -> tuple[AuditedModel, AuditData]:
    model = audited(lambda x: x.sum(dim=1), (len(rows[0]),), output="value", kind="number")
    return model, data(batch(np.asarray(rows, dtype=np.float32), np.zeros(len(rows))), kind="number")


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


@pytest.mark.parametrize(
    ("row", "entropy", "gini"),
    [
        ((1.0, 1.0, 1.0, 1.0), math.log(4), 0.0),
        ((0.0, 0.0, -5.0, 0.0), 0.0, 3 / 4),
        ((2.0, -2.0, 0.0, 0.0), math.log(2), 1 / 2),
        ((4.0, -2.0, 1.0, 1.0), 1.75 * math.log(2), 1 - 2 * (3.5 + 2.5 + 2 * 1.5 + 4 * 0.5) / (8 * 4)),
    ],
)
def test_by_hand(row: tuple[float, ...], entropy: float, gini: float, tmp_path: Path) -> None:
    found = {metric: m.estimate.value for metric, m in measure(*table(row), tmp_path).items()}
    assert found == pytest.approx(
        {
            "entropy": entropy,
            "effective_features": math.exp(entropy),
            "effective_share": math.exp(entropy) / 4,
            "gini": gini,
        },
        abs=1e-9,
    )


def test_a_pixel_counts_once_whatever_its_channels(tmp_path: Path) -> None:
    model = audited(lambda x: x.flatten(1).sum(dim=1), (3, 2, 2), output="value")
    x = np.zeros((1, 3, 2, 2), dtype=np.float32)
    x[0, :, 0, 0], x[0, :, 1, 1] = 1, (3, -1, 1)
    found = measure(model, data(batch(x, np.zeros(1))), tmp_path)
    assert found["effective_features"].estimate.value == pytest.approx(2)
    assert found["effective_share"].estimate.value == pytest.approx(2 / 4)


def test_words_are_counted_row_by_row(tmp_path: Path) -> None:
    model = word_model()
    texts = encode(["good", "good bad", "one two three four"], *model.spec.shape)
    rows = AuditData("toy", batch(texts, np.zeros(3, dtype=np.int64)), model.spec, model.classes)
    found = measure(model, rows, tmp_path, "constant_map")
    per_row = Evidence(tmp_path / "run-0" / found["effective_share"].evidence[0].path).column("value")
    # A constant map gives a word as many times more as it has more letters.
    share = lambda *sizes: math.exp(-sum(s / sum(sizes) * math.log(s / sum(sizes)) for s in sizes)) / len(sizes)  # noqa: E731
    assert sorted(per_row.tolist()) == pytest.approx(sorted([1.0, share(4, 3), share(3, 3, 5, 4)]))
    gini = Evidence(tmp_path / "run-0" / found["gini"].evidence[0].path).column("value")
    longer = 1 - 2 * (3 * 3.5 + 3 * 2.5 + 4 * 1.5 + 5 * 0.5) / (15 * 4)
    assert sorted(gini.tolist()) == pytest.approx([0.0, 1 - 2 * (3 * 1.5 + 4 * 0.5) / (7 * 2), longer])


def test_a_map_of_zeros_has_no_shares(tmp_path: Path) -> None:
    found = measure(*table((1, 0), (0, 0), (3, 0)), tmp_path)
    assert found["entropy"].estimate.n == 2
    assert found["entropy"].cautions[-1] == "1 of 3 rows have a map of zeros and are left out"
    with pytest.raises(ArithmeticError, match="all 2 rows have a map of zeros"):
        measure(*table((0, 0), (0, 0)), tmp_path)


def test_a_trained_net_s_maps_are_simpler_than_a_constant_one(tmp_path: Path) -> None:
    simple = measure(cnn(), digits(), tmp_path, "integrated_gradients", samples=64)
    busy = measure(cnn(), digits(), tmp_path, "constant_map", samples=64)
    gate = Gate.parse("<= 0.6")
    assert gate.holds_for(*simple["effective_share"].estimate.interval())
    assert gate.misses(*busy["effective_share"].estimate.interval())
    assert busy["effective_features"].estimate.value == pytest.approx(64)
    maps = next(ref for ref in simple["entropy"].evidence if ref.kind == "attributions")
    kept = Evidence(tmp_path / "run-0" / maps.path).column("quality_effective_features")
    assert ((kept >= 1) & (kept <= 64)).all()


def test_from_a_scenario_to_a_verdict(tmp_path: Path) -> None:
    text = (
        "name: simple\nmodel: toy\ndata: {source: given}\nchecks:\n"
        "  - explanation.complexity: {explainer: saliency, samples: 16, keep: 2}\n"
        "    require: {effective_features: '<= 64', gini: '>= 0.1'}\n"
    )
    report = run(parse(text), home=tmp_path, models={"toy": cnn()}, data=digits())
    assert (report.exit_code, report.verdict.word) == (0, "pass")
