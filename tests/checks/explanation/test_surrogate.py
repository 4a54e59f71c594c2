"""Fidelity through the check's own run and the engine: a model that a tree can tell, and one that it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted_tables import breast_cancer, diabetes, forest, measure, of_estimator, stored, table_model, verdicts
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor
from toys import audited, batch, data

from audit.checks.explanation.surrogate import Surrogate
from audit.data import AuditData, Batch
from audit.datasets._arrays import from_arrays
from audit.gate import Gate
from audit.model import Field, InputSpec
from audit.parameters import NotApplicable

NUMBERS = {"feature_names": ["a", "b", "c", "d"], "classes": ["no", "yes"]}


def table(n: int = 1500, seed: int = 0) -> AuditData:
    x = np.random.default_rng(seed).uniform(-1, 1, size=(n, 4))
    y = (x[:, 0] > 0.2).astype(int)
    return from_arrays(x[:500], y[:500], x_train=x[500:], y_train=y[500:], **NUMBERS)


def checkered(x: Tensor) -> Tensor:
    """Answers that no few questions tell: a chessboard over four columns."""
    return torch.nn.functional.one_hot((x.double() * 3).floor().sum(dim=1).long() % 2, 2).double()


def test_a_tree_is_told_by_a_tree(tmp_path: Path) -> None:
    rows = breast_cancer()
    assert rows.train is not None
    estimator = DecisionTreeClassifier(max_depth=3, random_state=0).fit(rows.train.x, rows.train.labels)
    found = measure(Surrogate(least=1), of_estimator(estimator, rows), rows, tmp_path)
    assert found["fidelity", ""].estimate.value >= 0.99
    assert found["fidelity", ""].cautions == ()
    assert Gate.parse(">= 0.2").holds_for(*found["fidelity_gain", ""].estimate.interval())


def test_a_chessboard_is_not(tmp_path: Path) -> None:
    rows = table()
    found = measure(Surrogate(), table_model(checkered, rows.spec, classes=rows.classes), rows, tmp_path)
    low, high = found["fidelity", ""].estimate.interval()
    assert 0.4 < low < high < 0.7
    assert "no account of the model" in found["fidelity", ""].cautions[0]
    assert found["fidelity_gain", ""].estimate.interval()[0] < 0.1


def test_gates_from_a_scenario(tmp_path: Path) -> None:
    rows = table()
    nearest = KNeighborsClassifier(5).fit(rows.train.x, rows.train.labels)  # type: ignore[union-attr]
    entry = "{explanation.surrogate: {depth: 3}, require: {fidelity: '>= 0.9', fidelity_gain: '> 0.2', 'fidelity[class=yes]': '>= 0.8'}}"
    report, status = verdicts(entry, of_estimator(nearest, rows), rows, tmp_path / "told")
    assert set(status.values()) == {"pass"}
    assert report.exit_code == 0
    _, status = verdicts(entry, table_model(checkered, rows.spec, classes=rows.classes), rows, tmp_path / "not")
    assert status["fidelity"] == status["fidelity_gain"] == "fail"


def test_fidelity_is_counted_by_class_and_group(tmp_path: Path) -> None:
    rows = table()
    group = (rows.test.x[:, 1] > 0).astype(int).astype(str)
    split = AuditData("toy", Batch(rows.test.x, rows.test.labels, rows.test.ids, {"sex": group}), rows.spec, rows.classes, rows.train)  # fmt: skip

    def fair_to_one(x: Tensor) -> Tensor:
        plain = torch.nn.functional.one_hot((x[:, 0] > 0.2).long(), 2).double()
        return torch.where((x[:, 1] > 0)[:, None], checkered(x), plain)

    found = measure(Surrogate(), table_model(fair_to_one, rows.spec, classes=rows.classes), split, tmp_path)
    assert found["fidelity", "group=sex:0"].estimate.value > 0.9
    assert found["fidelity", "group=sex:1"].estimate.value < 0.75
    parts = [found["fidelity", f"class={name}"].estimate for name in rows.classes]
    assert sum(part.k for part in parts) == found["fidelity", ""].estimate.k
    assert sum(part.n for part in parts) == 500


def test_a_regression_is_told_by_r_squared(tmp_path: Path) -> None:
    found = measure(Surrogate(depth=4), forest("diabetes"), diabetes(), tmp_path)
    estimate = found["fidelity", ""].estimate
    assert 0.6 < estimate.interval()[0] < estimate.value < 1
    assert found["fidelity_gain", ""].estimate.value >= estimate.value
    rules = stored(found["fidelity", ""], "rules", tmp_path)
    assert sum(rules.column("test_rows")) == 150
    assert found["fidelity", ""].unresolved is None
    few = measure(Surrogate(samples=19), forest("diabetes"), diabetes(), tmp_path)
    assert "19 rows are too few" in str(few["fidelity", ""].unresolved)
    shallow = measure(Surrogate(depth=1), forest("diabetes"), diabetes(), tmp_path)
    assert shallow["fidelity", ""].estimate.value < estimate.value
    assert "below 0.9" in shallow["fidelity", ""].cautions[0]
    rows = table_model(lambda x: x[:, 0] * 0 + 5.0, diabetes().spec)
    assert measure(Surrogate(), rows, diabetes(), tmp_path)["fidelity", ""].estimate.value == 0


def test_the_rules_are_stored_with_the_rows_they_cover(tmp_path: Path) -> None:
    found = measure(Surrogate(), forest(), breast_cancer(), tmp_path)
    rules = stored(found["fidelity", ""], "rules", tmp_path)
    assert set(rules.column("answer")) == {"malignant", "benign"}
    counts, fidelity = rules.column("test_rows"), rules.column("fidelity")
    assert sum(counts) == 200
    assert (np.diff(counts) <= 0).all()
    inside = counts > 0
    assert (counts[inside] * fidelity[inside]).sum() == pytest.approx(found["fidelity", ""].estimate.k)
    outcomes = stored(found["fidelity", ""], "outcomes", tmp_path)
    assert outcomes.column("value").mean() == pytest.approx(found["fidelity", ""].estimate.value)


def test_a_boosting_machine_tells_what_a_small_tree_does_not(tmp_path: Path) -> None:
    rows = table()

    def additive(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(((3 * x).sin().sum(dim=1) > 0).long(), 2).double()

    model = table_model(additive, rows.spec, classes=rows.classes)
    options = {"fit_rows": 500, "interactions": 0}
    small = measure(Surrogate(**options), model, rows, tmp_path)["fidelity", ""].estimate
    machine = measure(Surrogate(kind="ebm", **options), model, rows, tmp_path)["fidelity", ""]
    assert machine.estimate.interval()[0] > small.interval()[1]
    assert set(stored(machine, "terms", tmp_path, 1).ids) == {"a", "b", "c", "d"}


def test_options_change_the_result(tmp_path: Path) -> None:
    model, rows = forest(), breast_cancer()
    base = measure(Surrogate(), model, rows, tmp_path)
    for number, options in enumerate(({"depth": 1}, {"least": 60}, {"fit_rows": 20}), 1):
        found = measure(Surrogate(**options), model, rows, tmp_path)
        assert (
            stored(found["fidelity", ""], "rules", tmp_path, number).ids
            != stored(base["fidelity", ""], "rules", tmp_path).ids
        )
    assert measure(Surrogate(samples=50), model, rows, tmp_path)["fidelity", ""].estimate.n == 50


def test_without_members_the_test_rows_are_halved(tmp_path: Path) -> None:
    rows = table()
    alone = AuditData("toy", rows.test, rows.spec, rows.classes)
    model = table_model(
        lambda x: torch.nn.functional.one_hot((x[:, 0] > 0).long(), 2).double(), rows.spec, classes=rows.classes
    )
    found = measure(Surrogate(), model, alone, tmp_path)["fidelity", ""]
    assert found.estimate.n == 250
    assert "half of the test rows" in found.cautions[0]
    population = AuditData("toy", rows.test, rows.spec, rows.classes, population=rows.train)
    assert measure(Surrogate(), model, population, tmp_path)["fidelity", ""].estimate.n == 500


def test_rules_name_categories(tmp_path: Path) -> None:
    spec = InputSpec(fields=(Field(name="job", kind="category", categories=("clerk", "smith", "cook")), Field(name="age", kind="number")))  # fmt: skip
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 3, 400).astype(float), rng.uniform(size=400)], axis=1)
    rows = AuditData(
        "toy", batch(x[:200], np.zeros(200, dtype=int)), spec, ("no", "yes"), batch(x[200:], np.zeros(200, dtype=int))
    )
    model = table_model(
        lambda z: torch.nn.functional.one_hot((z[:, 0] == 1).long(), 2).double(), spec, classes=("no", "yes")
    )
    found = measure(Surrogate(), model, rows, tmp_path)
    rules = stored(found["fidelity", ""], "rules", tmp_path)
    assert dict(zip(rules.column("rule"), rules.column("answer"), strict=True)) == {
        "job is not smith": "no",
        "job is smith": "yes",
    }


def test_an_image_has_no_columns(tmp_path: Path) -> None:
    image = audited(lambda x: x.flatten(1)[:, :2], (1, 4, 4), gradients=False)
    rows = data(batch(np.zeros((3, 1, 4, 4), dtype=np.float32), np.zeros(3, dtype=int)))
    with pytest.raises(NotApplicable, match="columns of a table"):
        measure(Surrogate(), image, rows, tmp_path)
