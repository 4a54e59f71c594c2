"""Attribute inference on a net that has learnt a sensitive column by heart, and on one that never saw it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_people import JOBS, overfitted, people
from planted_tables import diabetes, forest, measure, stored, table_model, verdicts
from toys import audited, digits

from audit.checks.privacy.attribute_inference import AttributeInference
from audit.datasets._arrays import from_arrays
from audit.finding import Estimate, Measurement
from audit.parameters import NotApplicable, UserError
from audit.privacy import attribute_inference
from audit.privacy.blind_control import BlindAuc

GATES = 'require: {leak: "<= 0.05", memorised: "<= 0.05"}'
Numbers = dict[tuple[str, str], Measurement]


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Numbers, Path]:
    """What is measured of the net that has learnt the jobs, and where its evidence lies; nothing is left out."""
    folder = tmp_path_factory.mktemp("by_heart")
    return measure(AttributeInference(column="job"), overfitted(True), people(), folder), folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes nine tenths of the time and has its own tests: the blind control, and boosted trees that impute."""
    monkeypatch.setattr(
        "audit.privacy.blind_control.blind_auc", lambda *_, **__: BlindAuc(0.5, 50, 50, ("boosted trees",) * 2)
    )
    learners = attribute_inference._learners
    monkeypatch.setattr(attribute_inference, "_learners", lambda *args: dict(list(learners(*args).items())[:1]))


@pytest.mark.parametrize(("sees_job", "status"), [(True, "fail"), (False, "pass")])
def test_a_column_learnt_by_heart_is_told_from_one_never_seen(sees_job: bool, status: str, tmp_path: Path) -> None:
    entry = f"privacy.attribute_inference: {{column: job}}\n    {GATES}"
    report, found = verdicts(entry, overfitted(sees_job), people(), tmp_path)
    assert set(found.values()) == {status}
    threat = report.findings[0].threat_model
    assert threat is not None
    assert (threat.goal, threat.access, threat.queries) == ("reconstruction", "black_box_scores", len(JOBS))


@pytest.mark.usefixtures("quick")
def test_a_model_that_never_saw_the_column_leaks_exactly_nothing(tmp_path: Path) -> None:
    found = measure(AttributeInference(column="job"), overfitted(False), people(), tmp_path)
    for part in (("leak", ""), ("leak", "rows=non_members"), ("memorised", ""), ("memorised", "value=nurse")):
        low, high = found[part].estimate.interval()
        assert found[part].estimate.value == 0, part
        assert -0.1 < low < 0 < high < 0.1, part


def test_leak_is_accuracy_gained_and_memorised_is_what_members_have_over_others(
    by_heart: tuple[Numbers, Path],
) -> None:
    found = {part: m.estimate.value for part, m in by_heart[0].items()}
    for rows, dims in (("", ""), ("rows=non_members", "rows=non_members")):
        gained = found["attack_accuracy", rows] - found["imputation_accuracy", rows]
        assert found["leak", dims] == pytest.approx(gained)
    assert found["memorised", ""] == pytest.approx(found["leak", ""] - found["leak", "rows=non_members"])
    assert found["leak", "prior=imputation"] == found["leak", ""]
    assert len({found["leak", f"prior={prior}"] for prior in ("imputation", "marginal", "none")}) == 3
    assert min(found["leak", f"prior={prior}"] for prior in ("imputation", "marginal", "none")) > 0.05


def test_evidence_names_members_and_shows_the_surest(by_heart: tuple[Numbers, Path]) -> None:
    (found, folder), rows = by_heart, people()
    assert rows.train is not None
    outcomes, surest = (stored(found["leak", ""], name, folder) for name in ("outcomes", "surest"))
    assert set(outcomes.ids) == set(rows.train.ids)
    assert outcomes.column("value").mean() == pytest.approx(found["leak", ""].estimate.value)
    y = dict(zip(surest.ids, surest.column("y"), strict=True))
    assert y["with the model, 1"] == found["attack_accuracy", ""].estimate.value
    assert y["with the model, 0.1"] > y["with the model, 1"]


@pytest.mark.usefixtures("quick")
def test_a_number_is_guessed_by_bins_and_has_an_r2(tmp_path: Path) -> None:
    found = measure(AttributeInference(column="bmi", bins=3), forest("diabetes"), diabetes(), tmp_path)
    assert sum(part.startswith("value=") for _, part in found) == 3
    assert found["leak_r2", ""].estimate.kind == "resampled"
    assert found["leak_r2", ""].estimate.value != found["leak_r2", "rows=non_members"].estimate.value


@pytest.mark.usefixtures("quick")
def test_every_option_changes_the_result(tmp_path: Path) -> None:
    model, rows = forest("diabetes"), diabetes()

    def seen(**options: object) -> list[Estimate]:
        check = AttributeInference(column="bmi", **{"reference_rows": 60, **options})  # type: ignore[arg-type]
        return [m.estimate for m in measure(check, model, rows, tmp_path).values()]

    usual = seen()
    for option in ({"bins": 2}, {"points": 1}, {"reference_rows": 90}):
        assert seen(**option) != usual, option
    assert seen(samples=50)[1].n == 50
    assert seen(samples=None) == usual


@pytest.mark.usefixtures("quick")
def test_imputation_learns_from_the_population_too(tmp_path: Path) -> None:
    rows = diabetes()
    more = dataclasses.replace(rows, test=rows.test.take(range(60)), population=rows.test.take(range(60, 150)))
    few = dataclasses.replace(more, population=None)
    found, without = (
        measure(AttributeInference(column="bmi"), forest("diabetes"), data, tmp_path) for data in (more, few)
    )
    for numbers, n in ((found, 150), (without, 60)):
        threat = numbers["leak", ""].threat_model
        assert threat is not None
        assert f"from {n} rows" in threat.constraints
    assert found["imputation_accuracy", ""].estimate != without["imputation_accuracy", ""].estimate


@pytest.mark.usefixtures("quick")
def test_two_runs_give_the_same_numbers(tmp_path: Path) -> None:
    first, again = (measure(AttributeInference(column="job"), overfitted(True), people(), tmp_path) for _ in range(2))
    assert {k: m.estimate for k, m in first.items()} == {k: m.estimate for k, m in again.items()}


@pytest.mark.usefixtures("quick")
def test_labels_alone_are_enough(tmp_path: Path) -> None:
    net, rows = overfitted(True), people()
    model = table_model(lambda x: net.predict(x).double(), rows.spec, classes=rows.classes, output="label")
    found = measure(AttributeInference(column="job"), model, rows, tmp_path)
    assert found["leak", ""].estimate.value > 0.05
    assert found["leak", ""].threat_model.access == "black_box_labels"


@pytest.mark.usefixtures("quick")
def test_rows_without_the_column_are_left_out(tmp_path: Path) -> None:
    x, y = people().test.x.copy(), people().test.labels
    x[:10, 3] = np.nan
    rows = from_arrays(
        x[100:], y[100:], x_train=x[:100], y_train=y[:100], feature_names=["a", "b", "c", "job"],
        categories={"job": JOBS}, classes=["no", "yes"], missing="keep",
    )  # fmt: skip
    model = table_model(lambda x: torch.full((len(x), 2), 0.5), rows.spec, classes=rows.classes)
    found = measure(AttributeInference(column="job"), model, rows, tmp_path)["leak", ""]
    assert found.estimate.n == 90
    assert any("10 rows that lack the column" in caution for caution in found.cautions)


def test_what_it_cannot_speak_of_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="a column of a table"):
        measure(AttributeInference(column="job"), audited(lambda x: x[:, 0, 0], (1, 8, 8), 8), digits(), tmp_path)
    with pytest.raises(UserError, match=r"jbo.*job"):
        measure(AttributeInference(column="jbo"), overfitted(True), people(), tmp_path)


def test_members_from_elsewhere_make_it_void(tmp_path: Path) -> None:
    rows = people()
    x, y = rows.test.x.copy(), rows.test.labels
    x[:, 0] += 2
    assert rows.train is not None
    moved = from_arrays(
        x, y, x_train=rows.train.x, y_train=rows.train.labels, feature_names=["a", "b", "c", "job"],
        categories={"job": JOBS}, classes=["no", "yes"],
    )  # fmt: skip
    _, found = verdicts(f"privacy.attribute_inference: {{column: job}}\n    {GATES}", overfitted(True), moved, tmp_path)
    assert set(found.values()) == {"void"}
