"""Prototypes through the check's own run and the engine: clusters that few rows stand for, and noise that none do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_tables import breast_cancer, diabetes, forest, measure, stored, table_model, verdicts
from torch import Tensor
from toys import audited, batch, data, digits, trained_cnn

from audit.checks.explanation.prototypes import Prototypes
from audit.data import AuditData
from audit.datasets._arrays import from_arrays
from audit.gate import Gate
from audit.model import AuditedModel
from audit.parameters import NotApplicable, UserError


def clustered(spread: float, n: int = 400, seed: int = 0) -> AuditData:
    """Two classes, each of three clusters in 4 columns; with a wide spread, of none."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-10, 10, size=(6, 4))
    which = rng.integers(0, 6, n)
    x = centres[which] + spread * rng.normal(size=(n, 4))
    half = n // 2
    return from_arrays(
        x[:half], which[:half] % 2, x_train=x[half:], y_train=which[half:] % 2, feature_names=list("abcd"), classes=["no", "yes"]
    )  # fmt: skip


def of_labels(rows: AuditData) -> AuditedModel:
    """A model that is right about every row, by the nearest member."""
    known = torch.from_numpy(np.concatenate([rows.test.x, rows.train.x]))  # type: ignore[union-attr]
    labels = torch.from_numpy(np.concatenate([rows.test.labels, rows.train.labels]))  # type: ignore[union-attr]

    def forward(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(labels[torch.cdist(x, known).argmin(dim=1)], 2).double()

    return table_model(forward, rows.spec, classes=rows.classes)


def cnn() -> AuditedModel:
    return audited(trained_cnn(3), (1, 8, 8), 10, bounds=(0.0, 16.0))


def test_clusters_have_prototypes(tmp_path: Path) -> None:
    rows = clustered(0.3)
    found = measure(Prototypes(count=3), of_labels(rows), rows, tmp_path)
    assert found["accuracy", ""].estimate.value == 1
    assert found["mmd_ratio", ""].estimate.interval()[1] < 0.3
    assert found["accuracy_gain", ""].estimate.interval()[0] > 0
    assert {part for metric, part in found if metric == "mmd_squared"} == {"", "class=no", "class=yes"}


def test_noise_has_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 4)), rng.integers(0, 2, 400)
    rows = from_arrays(
        x[:200], y[:200], x_train=x[200:], y_train=y[200:], feature_names=list("abcd"), classes=["no", "yes"]
    )
    found = measure(Prototypes(count=3), of_labels(rows), rows, tmp_path)
    low, high = found["accuracy", ""].estimate.interval()
    assert low < 0.5 < high
    assert not Gate.parse("> 0").holds_for(*found["accuracy_gain", ""].estimate.interval())


def test_gates_from_a_scenario(tmp_path: Path) -> None:
    entry = "{explanation.prototypes: {count: 5}, require: {accuracy: '>= 0.85', mmd_ratio: '<= 0.8', 'accuracy[class=benign]': '>= 0.8'}}"
    report, status = verdicts(entry, forest(), breast_cancer(), tmp_path)
    assert set(status.values()) == {"pass"}
    assert report.exit_code == 0
    impossible = "{explanation.prototypes: {count: 1}, require: {mmd_squared: '<= 0.001'}}"
    assert set(verdicts(impossible, forest(), breast_cancer(), tmp_path / "b")[1].values()) == {"fail"}


def test_a_nets_own_view_tells_digits_apart_better_than_pixels(tmp_path: Path) -> None:
    seen = measure(Prototypes(), cnn(), digits(), tmp_path)["accuracy", ""].estimate
    named = measure(Prototypes(layer="net.7"), cnn(), digits(), tmp_path)["accuracy", ""].estimate
    pixels = measure(Prototypes(features="inputs"), cnn(), digits(), tmp_path)["accuracy", ""].estimate
    assert seen.value > 0.92
    assert pixels.value < seen.value
    assert named != pixels
    with pytest.raises(UserError, match=r"no layer 'net\.99'"):
        measure(Prototypes(layer="net.99"), cnn(), digits(), tmp_path)


def test_what_is_stored(tmp_path: Path) -> None:
    rows = breast_cancer()
    found = measure(Prototypes(count=4, criticisms=2), forest(), rows, tmp_path)
    table = stored(found["mmd_squared", ""], "prototypes", tmp_path)
    assert len(table) == 2 * (4 + 2)
    place = {row: i for i, row in enumerate(rows.train.ids)}  # type: ignore[union-attr]
    np.testing.assert_array_equal(table.column("x"), rows.train.x[[place[row] for row in table.ids]])  # type: ignore[union-attr]
    prototype = table.column("role") == "prototype"
    assert table.column("nearest_to_rows")[prototype].sum() == len(rows.train)  # type: ignore[arg-type]
    assert (table.column("nearest_to_rows")[~prototype] == 0).all()
    assert all("sd)" in text for text in table.column("what_stands_out"))
    predicted = forest().predict(torch.from_numpy(table.column("x")))
    assert [forest().classes[i] for i in predicted] == table.column("class").tolist()
    outcomes = stored(found["accuracy", ""], "outcomes", tmp_path)
    assert outcomes.column("value").mean() == found["accuracy", ""].estimate.value
    images = measure(Prototypes(count=1, criticisms=0), cnn(), digits(), tmp_path)
    assert stored(images["mmd_ratio", ""], "prototypes", tmp_path, 1).column("x").shape == (10, 1, 8, 8)


def test_a_regression_has_one_group(tmp_path: Path) -> None:
    found = measure(Prototypes(), forest("diabetes"), diabetes(), tmp_path)
    assert set(found) == {("mmd_squared", ""), ("mmd_ratio", "")}


@pytest.mark.parametrize(
    "options", [{"count": 9}, {"width": 3.0}, {"by": "label"}, {"rows": 60}, {"samples": 40}, {"draws": 5}]
)
def test_options_change_the_result(options: dict[str, Any], tmp_path: Path) -> None:
    rows = clustered(6.0)
    model = table_model(
        lambda x: torch.nn.functional.one_hot((x[:, 0] > 0).long(), 2).double(), rows.spec, classes=rows.classes
    )
    base, other = (measure(Prototypes(**o), model, rows, tmp_path) for o in ({}, options))
    assert base["mmd_ratio", ""].estimate != other["mmd_ratio", ""].estimate
    assert base["mmd_ratio", ""].estimate == measure(Prototypes(), model, rows, tmp_path)["mmd_ratio", ""].estimate


def test_without_members_the_test_rows_are_halved(tmp_path: Path) -> None:
    rows = clustered(0.3)
    alone = AuditData("toy", rows.test, rows.spec, rows.classes)
    found = measure(Prototypes(), of_labels(rows), alone, tmp_path)["accuracy", ""]
    assert found.estimate.n == 100
    assert "half of the test rows" in found.cautions[0]


def test_texts_need_a_layer(tmp_path: Path) -> None:
    model = audited(lambda x: x[:, :2].double(), (4,), 2, output="probability", kind="text", gradients=False)
    rows = data(batch(np.full((4, 4), 97, dtype=np.int32), np.zeros(4, dtype=int)), kind="text")
    with pytest.raises(NotApplicable, match="in a layer"):
        measure(Prototypes(), model, rows, tmp_path)
