"""Importance through the check's own run and through the engine: rankings, ties, groups, correlated columns, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation._ranks import column_correlation, places, top_intersection
from audit.checks.explanation.importance import Importance
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError
from audit.run_folder import Evidence
from audit.scenario import parse

NAMES = ("income", "age", "debt", "shoe", "noise")


def loans(n: int = 600, seed: int = 0) -> AuditData:
    """Income and debt decide; debt has a twin, shoe goes with age, noise with nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    x[:, 3] = x[:, 1] + 0.1 * rng.normal(size=n)
    labels = (2 * x[:, 0] - x[:, 2] + 0.5 * rng.normal(size=n) > 0).astype(np.int64)
    spec = InputSpec(fields=tuple(Field(name=name, kind="number") for name in NAMES))
    half = n // 2
    return AuditData("loans", batch(x[:half], labels[:half]), spec, ("no", "yes"), batch(x[half:], labels[half:]))


def boosted(audit_data: AuditData) -> AuditedModel:
    assert audit_data.train is not None
    fitted = GradientBoostingClassifier(n_estimators=40, random_state=0).fit(
        audit_data.train.x, audit_data.train.labels
    )
    return AuditedModel(
        name="loans", digest="", task="classification", classes=("no", "yes"), output="probability",
        spec=audit_data.spec, capabilities=implied("probability", gradients=False, layers=False),
        forward=lambda z: torch.from_numpy(fitted.predict_proba(z.numpy())),
    )  # fmt: skip


def measure(check: Importance, model: AuditedModel, audit_data: AuditData, tmp_path: Path) -> dict[Any, Measurement]:
    found = list(check.run(model, audit_data, context(tmp_path)))
    return {(m.metric, m.dims["feature"]): m for m in found}


def regression(weights: list[float], n: int = 400, noise: float = 0.1) -> tuple[AuditedModel, AuditData]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, len(weights))).astype(np.float32)
    w = torch.tensor(weights)
    model = audited(lambda z: z @ w, (len(weights),), output="value", kind="number")
    y = x @ np.array(weights, dtype=np.float32) + noise * rng.normal(size=n)
    return model, data(batch(x, y.astype(np.float64)), kind="number")


# --- planted -----------------------------------------------------------------------------------------------------


def test_a_trained_booster_is_ranked_as_it_was_made(tmp_path: Path) -> None:
    rows = loans()
    model = boosted(rows)
    found = measure(Importance(explainer={"shap_values": {"background": 4}}, explained=24), model, rows, tmp_path)
    assert [found["rank", name].estimate.value for name in ("income", "debt")] == [1, 2]
    assert found["rank", "income"].estimate.interval() == (1, 1)
    assert found["importance", "income"].estimate.interval()[0] > 0.1
    low, high = found["importance", "noise"].estimate.interval()
    assert low < 0.02
    assert high < 0.05
    assert found["attribution_rank", "income"].estimate.value == 1
    assert found["mean_attribution", "income"].estimate.value > found["mean_attribution", "debt"].estimate.value


def test_a_gate_on_a_rank_through_the_engine(tmp_path: Path) -> None:
    text = (
        "name: loans\nmodel: loans\ndata: {source: given}\nseed: 3\nchecks:\n"
        '  - {explanation.importance: {}, require: {"rank[feature=age]": "> 2", "importance[feature=income]": "> 0.1"}}\n'
        '  - {explanation.importance: {}, id: forbidden, require: {"rank[feature=income]": "> 2"}}\n'
    )
    rows = loans()
    report = run(parse(text), home=tmp_path, models={"loans": boosted(rows)}, data=rows)
    assert [f.status for f in report.findings if f.gated] == ["pass", "pass", "fail"], [
        f.message for f in report.findings
    ]


# --- by hand -----------------------------------------------------------------------------------------------------


def test_r2_by_hand(tmp_path: Path) -> None:
    """Of y = Σ w x with independent columns, R² loses 2 w² var(x) / var(y)."""
    model, rows = regression([3.0, 1.0, 0.0], n=2000)
    found = measure(Importance(), model, rows, tmp_path)
    for place, wanted in enumerate((18 / 10, 2 / 10, 0)):
        estimate = found["importance", str(place)].estimate
        assert estimate.interval()[0] <= wanted <= estimate.interval()[1]
    assert found["importance", "2"].estimate.value == 0


def test_equal_columns_share_the_mean_of_their_places(tmp_path: Path) -> None:
    model, rows = regression([1.0, 0.0, 0.0, 0.0])
    found = measure(Importance(), model, rows, tmp_path)
    assert [found["rank", str(i)].estimate.value for i in range(4)] == [1, 3, 3, 3]
    assert found["rank", "3"].estimate.interval() == (3, 3)


def test_close_columns_have_uncertain_ranks(tmp_path: Path) -> None:
    model, rows = regression([1.0, 1.0, 0.0])
    found = measure(Importance(), model, rows, tmp_path)
    assert found["rank", "0"].estimate.interval() == (1, 2)


def test_mean_size_of_attributions_by_hand(tmp_path: Path) -> None:
    model, rows = regression([3.0, -1.0, 0.0])
    check = Importance(explainer="input_x_gradient", groups={"both": ("0", "1")}, explained=50)
    found = measure(check, model, rows, tmp_path)
    assert found["mean_attribution", "both"].estimate.n == 50
    assert found["mean_attribution", "2"].estimate.value == 0
    everything = measure(check.model_copy(update={"explained": 400}), model, rows, tmp_path)
    wanted = np.abs(rows.test.x[:, 0] * 3 - rows.test.x[:, 1]).mean()
    assert everything["mean_attribution", "both"].estimate.value == pytest.approx(wanted, rel=1e-5)


# --- columns that go together ------------------------------------------------------------------------------------


def test_columns_that_go_together_are_named(tmp_path: Path) -> None:
    rows = loans()
    found = measure(Importance(repeats=1), boosted(rows), rows, tmp_path)
    for name in NAMES:
        told = " ".join(found["importance", name].cautions)
        assert ("age and shoe go together" in told) == (name in ("age", "shoe"))
    grouped = measure(Importance(repeats=1, groups={"body": ("age", "shoe")}), boosted(rows), rows, tmp_path)
    assert grouped["importance", "body"].cautions == ()
    assert ("importance", "age") not in grouped


def test_a_group_is_more_than_its_columns(tmp_path: Path) -> None:
    """f = a + b with a = b nearly: one alone moves f by √2 σ, both together by twice as much."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(800, 1))
    x = np.concatenate([a, a + 0.01 * rng.normal(size=(800, 1))], axis=1).astype(np.float32)
    model = audited(lambda z: z.sum(dim=1), (2,), output="value", kind="number")
    rows = data(batch(x, x.sum(axis=1).astype(np.float64)), kind="number")
    alone = measure(Importance(), model, rows, tmp_path)["importance", "0"].estimate.value
    both = measure(Importance(groups={"both": ("0", "1")}), model, rows, tmp_path)["importance", "both"].estimate.value
    assert alone == pytest.approx(0.5, rel=0.1)
    assert both == pytest.approx(2, rel=0.1)
    given_the_other = measure(Importance(conditional=True), model, rows, tmp_path)["importance", "0"].estimate.value
    assert given_the_other < 0.1 * alone


def test_conditional_importance_of_independent_columns_stays(tmp_path: Path) -> None:
    model, rows = regression([3.0, 1.0, 0.0], n=1000)
    plain = measure(Importance(), model, rows, tmp_path)["importance", "0"].estimate
    conditional = measure(Importance(conditional=True), model, rows, tmp_path)["importance", "0"].estimate
    assert conditional.value == pytest.approx(plain.value, rel=0.15)


# --- parameters --------------------------------------------------------------------------------------------------


def test_parameters_change_the_result(tmp_path: Path) -> None:
    rows = loans()
    model = boosted(rows)
    accuracy = measure(Importance(), model, rows, tmp_path)["importance", "income"].estimate
    for other in ({"score": "log_loss"}, {"repeats": 3}, {"samples": 100}, {"conditional": True}):
        assert measure(Importance(**other), model, rows, tmp_path)["importance", "income"].estimate != accuracy
    few = measure(Importance(samples=15), model, rows, tmp_path)
    assert "too few for a bootstrap" in str(few["rank", "age"].unresolved)
    with pytest.raises(UserError, match="score 'r2' does not suit a classification: choose accuracy or log_loss"):
        measure(Importance(score="r2"), model, rows, tmp_path)
    backgrounds = [
        measure(Importance(explainer="shap_values", explained=4, repeats=1, background=n), model, rows, tmp_path)[
            "mean_attribution", "income"
        ].estimate
        for n in (1, 20)
    ]
    assert backgrounds[0] != backgrounds[1]


def test_runs_repeat_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    model, rows = regression([3.0, 1.0, 0.0], n=60)
    turned = AuditData("toy", rows.test.take(np.arange(60)[::-1]), rows.spec)
    first, second = (measure(Importance(), model, part, tmp_path) for part in (rows, turned))
    for key, measurement in first.items():
        if key[0] == "importance":
            assert second[key].estimate.value == pytest.approx(measurement.estimate.value, abs=1e-6)


def test_what_is_stored(tmp_path: Path) -> None:
    rows = loans()
    found = measure(Importance(repeats=2), boosted(rows), rows, tmp_path)
    table = Evidence(tmp_path / "run-0" / found["importance", "age"].evidence[0].path)
    assert table.ids[:2] == ("income", "debt")
    assert set(table.fields) == {"importance", "low", "high", "rank", "first_rank", "last_rank"}
    assert (table.column("low") <= table.column("importance")).all()


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_images_have_no_columns(tmp_path: Path) -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    with pytest.raises(NotApplicable, match="columns of a table"):
        measure(Importance(), model, digits(), tmp_path)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"g": ("agee",)}, "no column 'agee'"),
        ({"g": ("age",), "h": ("age",)}, "stands twice"),
        ({"g": ()}, "has no columns"),
        ({"noise": ("age",)}, "name of a column"),
    ],
)
def test_groups_that_cannot_be(groups: Any, message: str, tmp_path: Path) -> None:
    rows = loans(40)
    with pytest.raises(UserError, match=message):
        measure(Importance(groups=groups), boosted(rows), rows, tmp_path)


# --- ranks -------------------------------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    assert places([3.0, 1.0, 3.0, 9.0]).tolist() == [2.5, 4, 2.5, 1]
    assert top_intersection(torch.tensor([[3.0, 2, 1, 0]]), torch.tensor([[3.0, 0, 2, 1]]), 2).tolist() == [0.5]


def test_column_correlation_as_pandas() -> None:
    import pandas as pd

    x = np.random.default_rng(0).normal(size=(50, 3)) @ np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(column_correlation(x), pd.DataFrame(x).corr("spearman"), atol=1e-12)
    x[::5, 0] = np.nan
    assert abs(column_correlation(x)[0, 1]) > 0.2
    x[:, 2] = 1
    assert column_correlation(x)[0, 2] == 0
