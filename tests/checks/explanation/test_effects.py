"""Effects through the check's own run and the engine: planted directions and interactions, what is stored, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_tables import breast_cancer, diabetes, forest, measure, of_estimator, stored, table_model, verdicts
from pydantic import ValidationError
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from toys import audited, batch, data

from audit.checks.explanation.effects import Effects
from audit.data import AuditData
from audit.datasets._arrays import from_arrays
from audit.model import Field, InputSpec
from audit.parameters import NotApplicable, UserError

QUICK = {"replicates": 100, "interaction_rows": 30}


def planted(n: int = 400, seed: int = 0) -> AuditData:
    """Columns income, age, debt, noise, and a score that falls with debt, rises with income but for the old."""
    x = np.random.default_rng(seed).uniform(-1, 1, size=(n, 4))
    return from_arrays(
        x[: n // 2], np.zeros(n // 2), x_train=x[n // 2 :], y_train=np.zeros(n // 2),
        feature_names=["income", "age", "debt", "noise"], task="regression",
    )  # fmt: skip


def score(x: Tensor) -> Tensor:
    return torch.where(x[:, 1] < 0.8, x[:, 0], -x[:, 0]) - 2 * x[:, 2]


def test_planted_directions_and_interactions(tmp_path: Path) -> None:
    rows = planted()
    check = Effects(monotone={"income": "increasing", "debt": "decreasing", "noise": "increasing"}, **QUICK)
    found = measure(check, table_model(score, rows.spec), rows, tmp_path)
    assert found["effect_range", "feature=debt"].estimate.value == pytest.approx(4, abs=0.1)
    assert found["effect_range", "feature=noise"].estimate.interval() == (0, 0)
    assert found["monotone", "feature=debt"].estimate.interval() == (1, 1)
    assert found["monotone_rows", "feature=debt"].estimate.value == 1
    # Income helps in the mean, and harms one in ten.
    assert found["monotone", "feature=income"].estimate.value > 0.99
    old = float((torch.from_numpy(rows.test.x)[:, 1] >= 0.8).double().mean())
    assert found["monotone_rows", "feature=income"].estimate.value == pytest.approx(1 - old)
    low, _ = found["interaction", "features=income*age"].estimate.interval()
    assert low > 0.02
    assert found["interaction", "features=debt*income"].estimate.value < 1e-20
    assert found["interaction", "feature=debt"].estimate.value < 1e-20


def test_a_trained_booster_shows_the_interaction_that_it_was_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(1200, 3))
    rows = from_arrays(
        x[:200],
        np.zeros(200),
        x_train=x[200:],
        y_train=np.zeros(1000),
        feature_names=["a", "b", "c"],
        task="regression",
    )
    for target, column in ((x[:, 0] * x[:, 1] + x[:, 2], "a*b"), (x[:, 0] + x[:, 1] + x[:, 2], "")):
        booster = HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=8).fit(x[200:], target[200:])
        found = measure(Effects(**QUICK), of_estimator(booster, rows), rows, tmp_path)
        strengths = {part: m.estimate for (metric, part), m in found.items() if metric == "interaction" and "*" in part}
        for part, estimate in strengths.items():
            if part == f"features={column}" or (part == "features=b*a" and column):
                assert estimate.interval()[0] > 0.3
            else:
                assert estimate.interval()[1] < 0.1


def test_gates_from_a_scenario(tmp_path: Path) -> None:
    entry = (
        "{explanation.effects: {monotone: {worst area: decreasing, mean texture: increasing}, replicates: 100, interaction_rows: 20}, "
        'require: {"effect_range[feature=worst area]": ">= 0.03", "effect_range[feature=texture error]": "<= 0.1", '
        '"monotone[feature=worst area]": ">= 0.7", "monotone_rows[feature=mean texture]": ">= 0.9", '
        '"interaction[feature=worst area]": "<= 0.3"}}'
    )
    report, status = verdicts(entry, forest(), breast_cancer(), tmp_path)
    assert status == {
        "effect_range[feature=worst area]": "pass",
        "effect_range[feature=texture error]": "pass",
        "monotone[feature=worst area]": "pass",
        "monotone_rows[feature=mean texture]": "fail",
        "interaction[feature=worst area]": "pass",
    }
    assert report.exit_code == 1


def test_an_additive_model_is_a_sum_on_its_own_scale(tmp_path: Path) -> None:
    rows = breast_cancer()
    assert rows.train is not None
    logistic = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows.train.x, rows.train.labels)
    weights = logistic[-1].coef_[0] / logistic[0].scale_
    column = [field.name for field in rows.spec.fields].index("worst texture")
    options: dict[str, Any] = {"features": ("worst texture", "mean area"), "strongest": 2, **QUICK}
    for scale, most in (("log_odds", 1e-10), ("probability", 1.0)):
        found = measure(Effects(scale=scale, **options), of_estimator(logistic, rows), rows, tmp_path)
        interaction = found["interaction", "features=worst texture*mean area"].estimate.value
        assert interaction <= most
        if scale == "log_odds":
            x = rows.test.x[:, column]
            expected = abs(weights[column]) * (x.max() - x.min())
            assert found["effect_range", "feature=worst texture"].estimate.value == pytest.approx(expected, rel=1e-6)
            named = measure(
                Effects(scale=scale, of_class="malignant", **options), of_estimator(logistic, rows), rows, tmp_path
            )
            curves = [stored(f["effect_range", "feature=worst texture"], "effect-worst_texture", tmp_path, run) for run, f in ((0, found), (1, named))]  # fmt: skip
            np.testing.assert_allclose(curves[0].column("y"), -curves[1].column("y"), atol=1e-9)
        else:
            assert interaction > 1e-4


def test_what_is_stored(tmp_path: Path) -> None:
    rows = planted()
    check = Effects(curves=3, intervals=5, strongest=2, samples=100, **QUICK)
    found = measure(check, table_model(score, rows.spec), rows, tmp_path)
    strongest = found["effect_range", "feature=debt"]
    assert strongest.estimate.n == 100
    table = stored(strongest, "effects", tmp_path)
    assert table.ids[0] == "debt"
    assert set(table.ids) == {"income", "age", "debt", "noise"}
    assert table.column("share_upward")[0] == 0
    curve = stored(strongest, "effect-debt", tmp_path)
    assert set(curve.column("series")) == {"accumulated local effect", "partial dependence"}
    local = curve.column("series") == "accumulated local effect"
    assert local.sum() == 6
    assert (curve.column("low") <= curve.column("y") + 1e-9).all()
    assert (curve.column("y") <= curve.column("high") + 1e-9).all()
    np.testing.assert_allclose(np.diff(curve.column("y")[local]) / np.diff(curve.column("x")[local]), -2)
    single = stored(strongest, "rows-debt", tmp_path)
    assert len(set(single.column("series"))) == 3
    assert all(name.removeprefix("row ") in rows.test.ids for name in set(single.column("series")))
    assert found["effect_range", "feature=noise"].evidence[1:] == ()
    interactions = stored(found["interaction", "feature=debt"], "interactions", tmp_path)
    assert interactions.ids[0] == "debt * income"
    assert len(interactions) == 3
    assert "rows-debt" not in str(measure(Effects(curves=0, **QUICK), table_model(score, rows.spec), rows, tmp_path))


def test_options_change_the_result(tmp_path: Path) -> None:
    rows, asked = planted(), []
    for options in (
        {},
        {"strongest": 2},
        {"strongest": 2, "pairs": (("noise", "age"),)},
        {"intervals": 2},
        {"features": ("age",)},
    ):
        model = table_model(score, rows.spec)
        found = measure(Effects(**{**QUICK, **options}), model, rows, tmp_path)
        asked.append((model.rows_forward, set(found)))
    everything, two, paired, coarse, one = asked
    assert two[0] < everything[0]
    assert paired[1] - two[1] == {("interaction", "features=noise*age"), ("interaction", "feature=noise"), ("interaction", "feature=age")}  # fmt: skip
    assert coarse[0] < everything[0]
    assert {part for metric, part in one[1] if metric == "effect_range"} == {"feature=age"}
    more = measure(Effects(replicates=150, interaction_rows=30), table_model(score, rows.spec), rows, tmp_path)
    assert len(more["effect_range", "feature=age"].estimate.replicates) == 150
    wider = table_model(score, rows.spec)
    measure(Effects(replicates=100, interaction_rows=60), wider, rows, tmp_path)
    assert wider.rows_forward > everything[0]


def categories() -> tuple[AuditData, Any]:
    spec = InputSpec(
        fields=(
            Field(name="age", kind="number"),
            Field(name="job", kind="category", categories=("clerk", "smith", "cook")),
        )
    )
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(20, 60, 300), rng.integers(0, 3, 300).astype(float)], axis=1)
    x[:30, 0] = np.nan
    pays = torch.tensor([0.0, 5.0, 1.0]).double()
    model = table_model(lambda z: z[:, 0].nan_to_num(40.0) / 10 + pays[z[:, 1].long()], spec)
    return AuditData("toy", batch(x, np.zeros(300)), spec), model


def test_categories_and_missing_values(tmp_path: Path) -> None:
    rows, model = categories()
    found = measure(Effects(**QUICK), model, rows, tmp_path)
    job = found["effect_range", "feature=job"]
    assert job.estimate.value == pytest.approx(5)
    curve = stored(job, "effect-job", tmp_path)
    named = curve.meta["x_label"].removeprefix("job: ").split(", ")
    effects = dict(zip((name.split()[1] for name in named), curve.column("y")[:3].tolist(), strict=True))
    assert effects["smith"] - effects["clerk"] == pytest.approx(5)
    assert effects["cook"] - effects["clerk"] == pytest.approx(1)
    assert "30 of 300 rows lack age" in found["effect_range", "feature=age"].cautions[0]


def test_a_share_of_nearly_nothing_decides_nothing(tmp_path: Path) -> None:
    rows = planted()
    model = table_model(lambda x: x[:, 0] + 1e-3 * x[:, 1] * x[:, 2], rows.spec)
    found = measure(Effects(**QUICK), model, rows, tmp_path)
    tiny = found["interaction", "features=age*debt"] if ("interaction", "features=age*debt") in found else found["interaction", "features=debt*age"]  # fmt: skip
    assert tiny.estimate.value > 0.5
    assert "less than 1 %" in str(tiny.unresolved)
    assert found["interaction", "feature=income"].unresolved is None


def test_runs_repeat(tmp_path: Path) -> None:
    first, again = (measure(Effects(samples=60, **QUICK), forest("diabetes"), diabetes(), tmp_path) for _ in range(2))
    assert {key: m.estimate for key, m in first.items()} == {key: m.estimate for key, m in again.items()}
    other = measure(Effects(samples=60, **QUICK), forest("diabetes"), diabetes(), tmp_path, seed=1)
    assert other["effect_range", "feature=bmi"].estimate != first["effect_range", "feature=bmi"].estimate


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    rows = planted()
    for options, message in (
        ({"features": ("incom",)}, "did you mean 'income'"),
        ({"monotone": {"ag": "increasing"}}, "did you mean 'age'"),
        ({"of_class": "yes"}, "gives values"),
    ):
        with pytest.raises(UserError, match=message):
            measure(Effects(**options), table_model(score, rows.spec), rows, tmp_path)
    three = table_model(lambda x: x[:, :3].softmax(dim=1), rows.spec, classes=("a", "b", "c"))
    with pytest.raises(UserError, match="of_class"):
        measure(Effects(), three, rows, tmp_path)
    labels = table_model(lambda x: (x[:, 0] > 0).long(), rows.spec, classes=("a", "b"), output="label")
    with pytest.raises(UserError, match="labels only"):
        measure(Effects(scale="log_odds"), labels, rows, tmp_path)
    jump = measure(Effects(**QUICK), labels, rows, tmp_path)["effect_range", "feature=income"]
    assert jump.estimate.value == pytest.approx(1)
    with pytest.raises(ValidationError, match="two different columns"):
        Effects(pairs=(("age", "age"),))
    image = audited(lambda x: x.flatten(1)[:, :2], (1, 4, 4), gradients=False)
    with pytest.raises(NotApplicable, match="columns of a table"):
        measure(
            Effects(), image, data(batch(np.zeros((3, 1, 4, 4), dtype=np.float32), np.zeros(3, dtype=int))), tmp_path
        )
