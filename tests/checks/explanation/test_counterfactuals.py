"""Counterfactuals through the check's own run and the engine: a way back in closed form, one that is closed, and one that is odd."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_tables import breast_cancer, diabetes, forest, measure, of_estimator, stored, table_model, verdicts
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from toys import audited, batch, data, digits, trained_cnn

from audit.checks.explanation.counterfactuals import Counterfactuals
from audit.data import AuditData, Batch
from audit.demo.loans import train
from audit.global_explanations.counterfactuals import Distance
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError
from audit.plan import bind
from audit.report import render
from audit.scenario import read

CLASSES = ("deny", "approve")
SPEC = InputSpec(
    fields=(
        Field(name="income", kind="number"), Field(name="debt", kind="number"), Field(name="age", kind="number"),
        Field(name="job", kind="category", categories=("none", "clerk", "smith")),
    )
)  # fmt: skip


def applicants(n: int = 300, seed: int = 0) -> AuditData:
    rng = np.random.default_rng(seed)
    x = np.stack([rng.uniform(0, 10, n), rng.uniform(0, 10, n), rng.uniform(20, 60, n), rng.integers(0, 3, n)], axis=1)
    groups = {"sex": rng.choice(["f", "m"], n)}
    parts = [batch(x[half], np.zeros(n // 2, dtype=int), {k: v[half] for k, v in groups.items()}) for half in (slice(0, n // 2), slice(n // 2, n))]  # fmt: skip
    return AuditData("toy", parts[0], SPEC, CLASSES, parts[1])


def lender(margin: Any) -> AuditedModel:
    return table_model(lambda x: margin(x).double(), SPEC, classes=CLASSES, output="margin")


def thrifty(x: Tensor) -> Tensor:
    """Approved where income exceeds debt."""
    return x[:, 0] - x[:, 1]


def test_the_nearest_way_back_in_closed_form(tmp_path: Path) -> None:
    """Income alone or debt alone must move by debt − income: each member's MAD is the price, the cheaper column is taken."""
    rows = applicants()
    found = measure(
        Counterfactuals(changes={"immutable": ["age", "job"]}, count=2, samples=20), lender(thrifty), rows, tmp_path
    )
    assert found["validity", ""].estimate.value == 1
    assert found["sparsity", ""].estimate.value == 1
    assert found["immutable_kept", ""].estimate.value == 1
    examples = stored(found["proximity", ""], "counterfactuals", tmp_path)
    x, changed = examples.column("x"), examples.column("adversarial")
    scale = Distance.fit(torch.from_numpy(rows.train.x), SPEC).scale  # type: ignore[union-attr]
    first = np.array([name.endswith("#1") for name in examples.ids])
    gap = x[first, 1] - x[first, 0]
    cheapest = gap / float(scale[:2].max())
    assert (examples.column("size")[first] >= cheapest - 1e-9).all()
    # Where no known income or debt goes that far, it is the other column.
    assert (examples.column("size")[first] <= 1.002 * cheapest + 1e-3).mean() >= 0.9
    assert (changed[:, 0] >= changed[:, 1]).all()
    # The second of a row, where there is one, goes without the column that the first changed.
    columns = {name: set(np.flatnonzero(x[i] != changed[i]).tolist()) for i, name in enumerate(examples.ids)}
    pairs = [
        (moved, columns[f"{name[:-2]}#2"])
        for name, moved in columns.items()
        if f"{name[:-2]}#2" in columns and name.endswith("#1")
    ]
    assert len(pairs) >= 16
    assert all(not one & other for one, other in pairs)
    assert found["diversity", ""].estimate.value > found["proximity", ""].estimate.value
    assert found["proximity_gain", ""].estimate.interval()[0] > 0


def test_a_way_back_that_is_closed(tmp_path: Path) -> None:
    rows = applicants()
    closed = measure(
        Counterfactuals(changes={"immutable": ["income", "debt"]}, samples=20), lender(thrifty), rows, tmp_path
    )
    assert closed["validity", ""].estimate.value == 0
    assert not any(metric == "proximity" for metric, _ in closed)
    only = measure(Counterfactuals(changes={"mutable": ["income"], "increase_only": ["income"]}, samples=20), lender(thrifty), rows, tmp_path)  # fmt: skip
    assert only["validity", ""].estimate.value > 0.9
    assert ("diversity", "") not in only


def test_gates_from_a_scenario(tmp_path: Path) -> None:
    entry = (
        "{explanation.counterfactuals: {changes: {immutable: [age], values: 8}, samples: 60, count: 2}, "
        'require: {validity: ">= 0.9", proximity: "<= 3", plausibility: ">= 0.6", immutable_kept: ">= 0.9", "validity[group=sex:f]": ">= 0.5"}}'
    )
    report, status = verdicts(entry, lender(thrifty), applicants(), tmp_path / "open")
    assert set(status.values()) == {"pass"}
    assert report.exit_code == 0
    page = render("html", report.stored)
    assert "deny → approve" in page
    assert "fool the model" not in page
    # Only those who are approved for their age: there is no way back.
    status = verdicts(entry, lender(lambda x: x[:, 2] - 45), applicants(), tmp_path / "closed")[1]
    assert status["validity"] == "fail"


def test_a_way_back_that_is_odd(tmp_path: Path) -> None:
    """Known approved people have income and debt alike; a model that looks at their difference is turned by people who do not exist."""
    rng, n = np.random.default_rng(0), 800
    x = np.stack([rng.uniform(0, 10, n), np.zeros(n), rng.uniform(20, 60, n), rng.integers(0, 3, n)], axis=1)
    x[:, 1] = x[:, 0] + 0.05 * rng.normal(size=n)
    none = np.zeros(n, dtype=int)
    rows = AuditData("toy", batch(x[:100], none[:100]), SPEC, CLASSES, batch(x[100:], none[100:]))

    def found(column: str, margin: Any) -> dict[Any, Any]:
        check = Counterfactuals(changes={"mutable": [column]}, count=1, samples=20)
        return measure(check, lender(margin), rows, tmp_path)

    usual = found("age", lambda z: (z[:, 2] > 35) * 2.0 - 1)
    odd = found("debt", lambda z: (((z[:, 0] - z[:, 1]).abs() > 4) | (z[:, 2] > 35)) * 2.0 - 1)
    assert usual["plausibility", ""].estimate.interval()[0] > 0.6
    assert odd["plausibility", ""].estimate.interval()[1] < 0.4
    assert odd["neighbour_distance", ""].estimate.interval()[0] > usual["neighbour_distance", ""].estimate.interval()[1]


def test_a_regression_aims_at_a_value(tmp_path: Path) -> None:
    check = Counterfactuals(
        desired="<= 120", changes={"immutable": ["age", "sex"], "values": 6, "beam": 1, "draws": 0}, samples=8, count=1
    )
    found = measure(check, forest("diabetes"), diabetes(), tmp_path)
    assert found["validity", ""].estimate.value > 0.5
    examples = stored(found["validity", ""], "counterfactuals", tmp_path)
    assert (examples.column("prediction") > 120).all()
    assert (examples.column("adversarial_prediction") <= 120).all()
    np.testing.assert_array_equal(examples.column("x")[:, :2], examples.column("adversarial")[:, :2])
    for desired, message in ((None, "say with desired"), ("== 3", "cannot be aimed at"), ("high", "is no gate")):
        with pytest.raises(UserError, match=message):
            measure(Counterfactuals(desired=desired), forest("diabetes"), diabetes(), tmp_path)


def test_a_logistic_models_way_back_is_the_gradients(tmp_path: Path) -> None:
    """Among 30 columns the search finds fewer changes than columns, and nearer than any known benign row."""
    rows = breast_cancer()
    assert rows.train is not None
    logistic = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows.train.x, rows.train.labels)
    check = Counterfactuals(samples=10, count=2, changes={"immutable": ["worst area"], "values": 6, "beam": 2})
    found = measure(check, of_estimator(logistic, rows), rows, tmp_path)
    assert found["validity", ""].estimate.value == 1
    assert found["sparsity", ""].estimate.value < 8
    assert found["proximity_gain", ""].estimate.interval()[0] > 0
    assert found["immutable_kept", ""].estimate.k == found["immutable_kept", ""].estimate.n


@cache
def loans() -> tuple[AuditedModel, AuditData]:
    plan = bind(read("scenarios/loans.yaml"))
    rows = plan.source.load(plan.file.base, "loans")
    assert rows.train is not None
    trees = train(rows.train)
    model = AuditedModel(
        name="loans", digest="", task="classification", classes=rows.classes, spec=rows.spec, output="probability",
        capabilities=implied("probability", gradients=False, layers=False),
        forward=lambda x: torch.as_tensor(trees.predict_proba(x.numpy())),
    )  # fmt: skip
    return model, rows


def test_what_denied_applicants_can_do(tmp_path: Path) -> None:
    model, rows = loans()
    changes = {
        "mutable": ["loanamt", "liq", "gift", "cosign", "term"], "decrease_only": ["loanamt"], "increase_only": ["liq"],
        "relations": ["loanprc == loanamt / price"], "tail": 0.01,
    }  # fmt: skip
    found = measure(Counterfactuals(desired="approve", changes=changes, samples=40), model, rows, tmp_path)
    assert 0 < found["validity", ""].estimate.value < 1
    examples = stored(found["validity", ""], "counterfactuals", tmp_path)
    names = examples.meta["feature_names"]
    x, changed = (dict(zip(names, examples.column(part).T, strict=True)) for part in ("x", "adversarial"))
    moved = {name for name in names if ((x[name] != changed[name]) & ~np.isnan(x[name])).any()}
    assert moved <= {*changes["mutable"], "loanprc"}
    assert (changed["loanamt"] <= x["loanamt"]).all()
    touched = x["loanamt"] != changed["loanamt"]
    np.testing.assert_allclose(changed["loanprc"][touched], changed["loanamt"][touched] / changed["price"][touched])
    assert {examples.meta["classes"][i] for i in examples.column("adversarial_prediction")} == {"approve"}
    assert {part for metric, part in found if metric == "validity"} >= {
        "",
        "group=black:0",
        "group=black:1",
        "group=male:1",
    }
    assert found["immutable_kept", ""].estimate.value == 1
    parts = [found["validity", f"group=black:{v}"].estimate for v in (0, 1)]
    assert sum(part.n for part in parts) == found["validity", ""].estimate.n == 40


def test_groups_whose_way_back_is_longer_are_seen(tmp_path: Path) -> None:
    """Women are approved from an income of 9, men from 3: the sex is an input here, and may not change."""
    rows = applicants()
    fields = (*SPEC.fields[:2], Field(name="sex", kind="category", categories=("f", "m")), SPEC.fields[3])
    spec = InputSpec(fields=fields)

    def with_sex(part: Batch) -> Batch:
        x = part.x.copy()
        x[:, 2] = part.groups["sex"] == "m"
        return Batch(x, part.labels, part.ids, part.groups)

    unfair = AuditData("toy", with_sex(rows.test), spec, CLASSES, with_sex(rows.train))  # type: ignore[arg-type]
    model = table_model(lambda x: x[:, 0] - torch.where(x[:, 2] == 1, 3.0, 9.0), spec, classes=CLASSES, output="margin")
    found = measure(Counterfactuals(changes={"immutable": ["sex"]}, count=1, samples=60), model, unfair, tmp_path)
    assert (
        found["proximity", "group=sex:m"].estimate.interval()[1]
        < found["proximity", "group=sex:f"].estimate.interval()[0]
    )


def test_what_is_asked_again_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that reports rows of the wrong answer, or breaks a rule, gains nothing."""
    from audit.global_explanations import counterfactuals as mathematics

    def lying(model: Any, x: Tensor, *rest: Any) -> Any:
        broken = x.clone()
        broken[:, 2] = 99.0
        return mathematics.Counterfactuals(
            torch.arange(len(x)).repeat_interleave(2), torch.stack([x, broken], dim=1).flatten(0, 1)
        )

    monkeypatch.setattr(mathematics, "find_counterfactuals", lying)
    model = lender(lambda x: x[:, 2] - 70)
    rows = applicants()
    known = rows.train.x.copy()  # type: ignore[union-attr]
    known[0, 2] = 80.0
    wider = AuditData("toy", rows.test, SPEC, CLASSES, batch(known, np.zeros(len(known), dtype=int)))
    found = measure(Counterfactuals(samples=10, changes={"immutable": ["age"]}), model, wider, tmp_path)
    assert found["validity", ""].estimate.value == 0
    assert "20 proposed changes" in found["validity", ""].cautions[0]
    # Should one slip through, what may not change is counted by itself.
    monkeypatch.setattr(Counterfactuals, "_confirmed", lambda self, model, rules, aim, x, found: (found, 0))
    slipped = measure(Counterfactuals(samples=10, changes={"immutable": ["age"]}), model, wider, tmp_path)
    assert slipped["immutable_kept", ""].estimate.value == 0.5


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ({"count": 3}, "diversity"),
        ({"samples": 30}, "validity"),
        ({"neighbours": 3}, "neighbour_distance"),
        ({"changes": {"max_changed": 1, "immutable": ["age"]}}, "sparsity"),
    ],
)
def test_options_change_the_result(options: dict[str, Any], metric: str, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"count": 2, "samples": 12, "changes": {"immutable": ["age"]}}
    model = lender(lambda x: x[:, 0] - x[:, 1] + 4 * (x[:, 3] == 2) - 8)
    base, other = (measure(Counterfactuals(**{**shared, **o}), model, applicants(), tmp_path) for o in ({}, options))
    assert base[metric, ""].estimate != other[metric, ""].estimate
    again = measure(Counterfactuals(**shared), model, applicants(), tmp_path)
    assert {k: m.estimate for k, m in again.items()} == {k: m.estimate for k, m in base.items()}
    none = measure(Counterfactuals(keep=0, **shared), model, applicants(), tmp_path)
    assert {ref.kind for ref in none["validity", ""].evidence} == {"outcomes"}


def test_without_members_the_test_rows_stand_for_them(tmp_path: Path) -> None:
    rows = applicants()
    alone = AuditData("toy", rows.test, SPEC, CLASSES)
    found = measure(Counterfactuals(samples=10, count=1), lender(thrifty), alone, tmp_path)
    assert found["validity", ""].estimate.value == 1
    assert "those of the test rows" in found["validity", ""].cautions[0]


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    for changes, message in (
        ({"immutabel": ["age"]}, "changes, immutabel: Extra inputs"),
        ({"classes": ["deny"]}, "decided here"),
        ({"mutable": ["age"], "immutable": ["age"]}, "both mutable and immutable"),
    ):
        with pytest.raises(ValidationError, match=message):
            Counterfactuals(changes=changes)
    rows = applicants()
    with pytest.raises(UserError, match="did you mean 'age'"):
        measure(Counterfactuals(changes={"immutable": ["agee"]}), lender(thrifty), rows, tmp_path)
    with pytest.raises(UserError, match="did you mean 'approve'"):
        measure(Counterfactuals(desired="aprove"), lender(thrifty), rows, tmp_path)
    with pytest.raises(NotApplicable, match="desired answer already"):
        measure(Counterfactuals(), lender(lambda x: x[:, 0] + 1), rows, tmp_path)
    with pytest.raises(UserError, match="no known row has the desired answer"):
        measure(Counterfactuals(), lender(lambda x: -x[:, 0] - 1), rows, tmp_path)
    large = audited(lambda x: x.flatten(1)[:, :2], (1, 40, 40), gradients=False)
    rows = data(batch(np.zeros((3, 1, 40, 40), dtype=np.float32), np.zeros(3, dtype=int)))
    with pytest.raises(NotApplicable, match="up to 1,024 numbers"):
        measure(Counterfactuals(desired="1"), large, rows, tmp_path)


def test_a_small_image_is_changed_pixel_by_pixel(tmp_path: Path) -> None:
    """Few pixels turn a net: valid, and less usual than the digits that it stands beside."""
    rows, model = digits(), audited(trained_cnn(3), (1, 8, 8), 10, bounds=(0.0, 16.0))
    changes = {"values": 2, "beam": 1, "steps": 10, "draws": 0}
    found = measure(Counterfactuals(desired="8", changes=changes, samples=3, count=1), model, rows, tmp_path)
    assert found["validity", ""].estimate.value > 0.5
    assert found["sparsity", ""].estimate.value < 32
    examples = stored(found["validity", ""], "counterfactuals", tmp_path)
    assert examples.column("adversarial").shape[1:] == (1, 8, 8)
    assert set(examples.column("adversarial_prediction")) == {8}
    assert examples.column("adversarial").max() <= 16
    fixed = Counterfactuals(desired="8", changes={**changes, "immutable": ["0, 3, 4"]}, samples=3, count=1)
    again = stored(measure(fixed, model, rows, tmp_path)["validity", ""], "counterfactuals", tmp_path, 1)
    np.testing.assert_array_equal(again.column("x")[:, 0, 3, 4], again.column("adversarial")[:, 0, 3, 4])


def test_a_row_whose_every_column_was_used_has_no_further_way(tmp_path: Path) -> None:
    rows = applicants()
    model = lender(thrifty)
    found = measure(Counterfactuals(changes={"immutable": ["age", "job"]}, count=5, samples=5), model, rows, tmp_path)
    assert found["validity", ""].estimate.value == 1
    assert found["immutable_kept", ""].estimate.n >= 8
