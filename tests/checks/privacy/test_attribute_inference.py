"""Attribute inference on a net that has learnt a sensitive column by heart, and on one that never saw it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted_people import JOBS, overfitted, people
from planted_tables import diabetes, forest, measure, stored, table_model, verdicts
from toys import audited, data, digits, trained_cnn

from audit.checks.privacy.attribute_inference import AttributeInference
from audit.datasets._arrays import from_arrays
from audit.parameters import NotApplicable, UserError

GATES = 'require: {leak: "<= 0.1", memorised: "<= 0.1"}'


@pytest.mark.parametrize(("sees_job", "status"), [(True, "fail"), (False, "pass")])
def test_a_column_learnt_by_heart_is_told_from_one_never_seen(sees_job: bool, status: str, tmp_path: Path) -> None:
    entry = f"privacy.attribute_inference: {{column: job}}\n    {GATES}"
    report, found = verdicts(entry, overfitted(sees_job), people(), tmp_path)
    assert set(found.values()) == {status}
    threat = report.findings[0].threat_model
    assert threat is not None
    assert (threat.goal, threat.access, threat.queries) == ("reconstruction", "black_box_scores", len(JOBS))


def test_a_model_that_never_saw_the_column_leaks_as_imputation_does(tmp_path: Path) -> None:
    found = measure(AttributeInference(column="job"), overfitted(False), people(), tmp_path)
    for part in (("leak", ""), ("leak", "rows=non_members"), ("memorised", ""), ("memorised", "value=nurse")):
        low, high = found[part].estimate.interval()
        assert low <= 0 <= high, part
    ((_, blind),) = [(k, m) for k, m in found.items() if k[0] == "blind_auc"]
    assert not blind.voids


def test_leak_is_accuracy_gained_and_memorised_is_what_members_have_over_others(tmp_path: Path) -> None:
    found = {k: m.estimate.value for k, m in measure(AttributeInference(column="job"), overfitted(True), people(), tmp_path).items()}  # fmt: skip
    for rows, dims in (("", ""), ("rows=non_members", "rows=non_members")):
        gained = found["attack_accuracy", rows] - found["imputation_accuracy", rows]
        assert found["leak", dims] == pytest.approx(gained)
    assert found["memorised", ""] == pytest.approx(found["leak", ""] - found["leak", "rows=non_members"])
    assert found["leak", "prior=imputation"] == found["leak", ""]
    assert len({found["leak", f"prior={prior}"] for prior in ("imputation", "marginal", "none")}) == 3
    assert min(found["leak", f"prior={prior}"] for prior in ("imputation", "marginal", "none")) > 0.05


def test_evidence_names_members_and_shows_the_surest(tmp_path: Path) -> None:
    rows = people()
    found = measure(AttributeInference(column="job"), overfitted(True), rows, tmp_path)
    assert rows.train is not None
    outcomes, surest = (stored(found["leak", ""], name, tmp_path) for name in ("outcomes", "surest"))
    assert set(outcomes.ids) == set(rows.train.ids)
    assert outcomes.column("value").mean() == pytest.approx(found["leak", ""].estimate.value)
    y = dict(zip(surest.ids, surest.column("y"), strict=True))
    assert y["with the model, 1"] == found["attack_accuracy", ""].estimate.value
    assert y["with the model, 0.1"] > y["with the model, 1"]


def test_a_number_is_guessed_by_bins_and_has_an_r2(tmp_path: Path) -> None:
    found = measure(AttributeInference(column="bmi", bins=3), forest("diabetes"), diabetes(), tmp_path)
    assert {part for metric, part in found if metric == "memorised" and part.startswith("value")} <= {
        f"value={name}" for name in ("18 to 24.1", "24.2 to 28.1", "28.2 to 42.2")
    } or len([part for metric, part in found if part.startswith("value")]) == 3
    assert found["leak_r2", ""].estimate.kind == "resampled"
    assert found["leak_r2", ""].estimate.value != found["leak_r2", "rows=non_members"].estimate.value


def test_every_option_changes_the_result(tmp_path: Path) -> None:
    model, rows = forest("diabetes"), diabetes()

    def seen(**options: object) -> tuple[float, int | None]:
        estimate = measure(AttributeInference(column="bmi", **options), model, rows, tmp_path)["leak", ""].estimate  # type: ignore[arg-type]
        return estimate.value, estimate.n

    usual = seen()
    assert seen(bins=2) != usual
    assert seen(points=1) != usual
    assert seen(samples=60)[1] == 60
    assert seen(samples=None) == usual
    assert seen(reference_rows=60) != usual


def test_labels_alone_are_enough(tmp_path: Path) -> None:
    net, rows = overfitted(True), people()
    model = table_model(lambda x: net.predict(x).double(), rows.spec, classes=rows.classes, output="label")
    found = measure(AttributeInference(column="job"), model, rows, tmp_path)
    assert found["memorised", ""].estimate.interval()[0] > 0


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
        measure(AttributeInference(column="job"), audited(trained_cnn(), (1, 8, 8), 10), digits(), tmp_path)
    with pytest.raises(UserError, match="jbo.*job"):
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
    _, found = verdicts(
        f"privacy.attribute_inference: {{column: job}}\n    {GATES}", overfitted(True), moved, tmp_path
    )
    assert set(found.values()) == {"void"}
