"""Figures against scikit-learn, intervals against exact ones, and the honest answer where there is nothing to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics
from torch import Tensor
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.performance._confusion import Shares, precision_recall_f1
from audit.checks.performance.classification import Classification
from audit.data import AuditData
from audit.finding import Measurement, Proportion
from audit.model import AuditedModel, NonFiniteOutput
from audit.parameters import UserError
from audit.run_folder import Evidence
from audit.stats import resampled_interval


def lookup(predicted: Any, n_classes: int) -> AuditedModel:
    """Answers row i with `predicted[i]`; the input is the row's number."""
    scores = torch.eye(n_classes)[torch.as_tensor(predicted)]

    def model(x: Tensor) -> Tensor:
        return scores[x.reshape(-1).long()]

    return audited(model, (1,), n_classes, kind="series", gradients=False)


def numbered(labels: Any, n_classes: int, groups: dict[str, Any] | None = None) -> AuditData:
    labels = np.asarray(labels)
    x = np.arange(len(labels), dtype=np.float32)[:, None]
    return data(batch(x, labels, groups), n_classes=n_classes, kind="series")


def measure(model: AuditedModel, audit_data: AuditData, tmp_path: Path) -> dict[str, Measurement]:
    found = list(Classification().run(model, audit_data, context(tmp_path)))
    declared = {metric.name: metric for metric in Classification.metrics}
    assert all(m.estimate.kind in declared[m.metric].kinds for m in found)
    return {m.metric + "".join(f"[{k}={v}]" for k, v in m.dims.items()): m for m in found}


def three_classes(n: int = 300) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=n, p=[0.6, 0.3, 0.1])
    return labels, np.where(rng.random(n) < 0.7, labels, rng.integers(0, 3, n))


def test_every_figure_is_that_of_scikit_learn(tmp_path: Path) -> None:
    labels, predicted = three_classes()
    found = measure(lookup(predicted, 3), numbered(labels, 3), tmp_path)
    assert found["accuracy"].estimate.value == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"].estimate.value == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    macro = metrics.precision_recall_fscore_support(labels, predicted, average="macro")
    per_class = metrics.precision_recall_fscore_support(labels, predicted)
    for j, metric in enumerate(("precision", "recall", "f1")):
        assert found[metric].estimate.value == pytest.approx(macro[j])
        for c in range(3):
            assert found[f"{metric}[class={c}]"].estimate.value == pytest.approx(per_class[j][c])
    counts = metrics.confusion_matrix(labels, predicted)
    bound = precision_recall_f1(counts, np.arange(3))[2].macro(2000, overlap=2)[1]
    assert found["f1"].estimate.interval() == pytest.approx(resampled_interval(macro[2], bound), abs=1e-5)
    hits = int(((labels == 2) & (predicted == 2)).sum())
    assert found["recall[class=2]"].estimate == Proportion(k=hits, n=int((labels == 2).sum()))
    assert found["precision[class=2]"].estimate == Proportion(k=hits, n=int((predicted == 2).sum()))


def test_a_good_model_and_a_bad_one_are_told_apart(tmp_path: Path) -> None:
    good = measure(audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0)), digits(), tmp_path)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 10))).float()
    bad = measure(audited(lambda x: x.flatten(1) @ weights, (1, 8, 8), 10), digits(), tmp_path)
    for metric in ("accuracy", "balanced_accuracy", "precision", "recall", "f1"):
        assert good[metric].estimate.interval()[0] > 0.9, metric
        assert bad[metric].estimate.interval()[1] < 0.5, metric


def test_outcomes_and_confusion_matrix_are_stored(tmp_path: Path) -> None:
    labels, predicted = three_classes(50)
    audit_data = numbered(labels, 3)
    found = measure(lookup(predicted, 3), audit_data, tmp_path)
    (run,) = tmp_path.iterdir()
    outcomes, matrix = (Evidence(run / ref.path) for ref in found["accuracy"].evidence)
    assert (outcomes.kind, matrix.kind) == ("outcomes", "confusion_matrix")
    assert outcomes.ids == audit_data.test.ids
    assert outcomes.column("value").dtype == np.float64
    assert outcomes.column("value").tolist() == (labels == predicted).tolist()
    assert matrix.meta["classes"] == ["0", "1", "2"]
    assert matrix.ids == ("all",)
    assert (matrix.column("counts")[0] == metrics.confusion_matrix(labels, predicted)).all()


def test_accuracy_per_group(tmp_path: Path) -> None:
    labels, predicted = three_classes(60)
    sex = np.array(["f", "m", "missing"] * 20)
    age = np.repeat(["old", "young"], 30)
    found = measure(lookup(predicted, 3), numbered(labels, 3, {"sex": sex, "age": age}), tmp_path)
    right = labels == predicted
    groups = {name: m.estimate for name, m in found.items() if "group" in name}
    assert groups == {
        f"accuracy[group={attribute}:{value}]": Proportion(
            k=int(right[values == value].sum()), n=int((values == value).sum())
        )
        for attribute, values in (("sex", sex), ("age", age))
        for value in np.unique(values)
    }


def test_a_class_without_rows_is_left_out_and_said(tmp_path: Path) -> None:
    labels, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 2, 1, 1, 0])
    found = measure(lookup(predicted, 4), numbered(labels, 4), tmp_path)
    assert found["recall"].estimate.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["precision"].estimate.value == pytest.approx((1 / 2 + 1) / 2)
    assert "no test row is of class 2, 3" in found["f1"].cautions[0]
    assert found["precision[class=2]"].estimate == Proportion(k=0, n=1)
    assert "recall[class=2]" not in found
    assert not any(name.endswith("[class=3]") for name in found)
    assert all(np.isfinite(m.estimate.value) for m in found.values())


def test_a_class_that_is_never_predicted_has_precision_0_in_the_mean(tmp_path: Path) -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.zeros(4, dtype=int)
    found = measure(lookup(predicted, 2), numbered(labels, 2), tmp_path)
    expected = metrics.precision_score(labels, predicted, average="macro", zero_division=0)
    assert found["precision"].estimate.value == pytest.approx(expected) == 0.25
    assert "never predicted" in found["precision"].cautions[0]
    assert not found["recall"].cautions
    assert "precision[class=1]" not in found
    assert found["f1[class=1]"].estimate.value == 0


def test_one_class_alone_says_so(tmp_path: Path) -> None:
    found = measure(lookup([0] * 9, 2), numbered([0] * 9, 2), tmp_path)
    assert found["accuracy"].estimate == Proportion(k=9, n=9)
    assert "nothing is said about telling classes apart" in found["balanced_accuracy"].cautions[1]


def test_one_row_proves_nothing(tmp_path: Path) -> None:
    found = measure(lookup([1], 2), numbered([1], 2), tmp_path)
    for metric in ("accuracy", "balanced_accuracy", "f1"):
        low, high = found[metric].estimate.interval()
        assert (low < 0.4, high) == (True, 1.0), metric


def test_a_handful_of_rows_all_right_is_no_certainty(tmp_path: Path) -> None:
    """Redrawing rows would give the interval [1, 1]: so would a rare class among many rows of another."""
    labels = np.repeat([0, 1, 2], 3)
    found = measure(lookup(labels, 3), numbered(labels, 3), tmp_path)
    for metric in ("balanced_accuracy", "precision", "recall", "f1", "f1[class=0]"):
        assert found[metric].estimate.value == 1
        assert found[metric].estimate.interval()[0] < 0.9, metric
    labels = np.repeat([0, 1], [1000, 3])
    low, _ = measure(lookup(labels, 2), numbered(labels, 2), tmp_path)["balanced_accuracy"].estimate.interval()
    assert low == pytest.approx((1 + binomtest(3, 3).proportion_ci(method="wilson").low) / 2, abs=0.01)


@pytest.mark.parametrize(("k", "n"), [(0, 3), (3, 3), (17, 20), (5, 10)])
def test_a_class_has_the_score_interval(k: int, n: int) -> None:
    reference = binomtest(k, n).proportion_ci(method="wilson")
    shares = Shares(np.array([k]), np.array([n]))
    points = shares.distribution(20_000)[:, 0]
    assert np.quantile(points, [0.025, 0.975]) == pytest.approx((reference.low, reference.high), abs=3e-4)
    as_f1 = Shares(shares.k, shares.n, as_f1=True).distribution(20_000)[:, 0]
    np.testing.assert_allclose(as_f1, 2 * points / (1 + points))


def test_a_mean_of_two_rates_follows_newcombe() -> None:
    """Far from 0 and 1 the mean's interval is that of two standard errors added as squares."""
    k, n = np.array([600, 500]), np.array([1000, 1000])
    value, points = Shares(k, n).macro(20_000)
    se = np.sqrt((k / n * (1 - k / n) / n).sum()) / 2
    assert value == pytest.approx(0.55)
    assert np.quantile(points, [0.025, 0.975]) == pytest.approx([0.55 - 1.96 * se, 0.55 + 1.96 * se], abs=2e-4)
    wider = Shares(k, n).macro(20_000, overlap=2)[1]
    np.testing.assert_allclose(wider - 0.55, np.sqrt(2) * (points - 0.55))


@pytest.mark.parametrize(
    ("recalls", "sizes"),
    [((0.9, 0.8, 0.95), (4, 12, 40)), ((0.9, 0.8), (3, 1000)), ((0.85,) * 19, (1,) * 19), ((0.95,) * 10, (50,) * 10)],
)
def test_intervals_cover(recalls: tuple[float, ...], sizes: tuple[int, ...]) -> None:
    """True balanced accuracy and macro F1 lie in their 95 % intervals at least about that often, however small the classes."""
    rng = np.random.default_rng(0)
    n_classes = len(sizes)
    matrix = np.full((n_classes, n_classes), 0.0) + ((1 - np.array(recalls)) / (n_classes - 1))[:, None]
    np.fill_diagonal(matrix, recalls)
    expected = matrix * np.array(sizes)[:, None]
    truth = {
        "recall": np.mean(recalls),
        "f1": np.mean(2 * np.diagonal(expected) / (expected.sum(axis=0) + expected.sum(axis=1))),
    }
    covered = dict.fromkeys(truth, 0)
    for _ in range(500):
        counts = np.array([rng.multinomial(size, row) for size, row in zip(sizes, matrix, strict=True)])
        _, recall, f1 = precision_recall_f1(counts, np.arange(n_classes))
        for name, (_, points) in (("recall", recall.macro(400)), ("f1", f1.macro(400, overlap=2))):
            low, high = resampled_interval(float(np.median(points)), points)
            covered[name] += low - 1e-9 <= truth[name] <= high + 1e-9
    assert min(covered.values()) / 500 > 0.92, covered


def test_a_thousand_classes_fit_in_memory(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 1000, 60)
    found = measure(lookup((labels + (labels % 3 == 0)) % 1000, 1000), numbered(labels, 1000), tmp_path)
    assert found["accuracy"].estimate.value == pytest.approx(float((labels % 3 != 0).mean()))
    assert len(found) < 5 + 3 * 120


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    labels, predicted = three_classes(80)
    order = np.random.default_rng(1).permutation(80)
    model = lookup(predicted, 3)
    audit_data = numbered(labels, 3)
    shuffled = data(audit_data.test.take(order), n_classes=3, kind="series")
    one, other = measure(model, audit_data, tmp_path), measure(model, shuffled, tmp_path)
    assert [m.estimate for m in one.values()] == [m.estimate for m in other.values()]


def test_nan_answers_are_an_error(tmp_path: Path) -> None:
    def model(x: Tensor) -> Tensor:
        return torch.where(x > 3, torch.nan, torch.eye(2)[torch.zeros(len(x), dtype=torch.long)])

    with pytest.raises(NonFiniteOutput, match="NaN or infinite for 6 of 10 rows, first row 4"):
        measure(audited(model, (1,), 2, kind="series"), numbered([0, 1] * 5, 2), tmp_path)


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds label 2, but there are 2 classes"):
        measure(lookup([0, 1, 1], 2), numbered([0, 1, 2], 2), tmp_path)
    with pytest.raises(UserError, match="has values for labels"):
        measure(lookup([0, 1], 2), numbered([0.5, 1.5], 2), tmp_path)
    answers = audited(lambda x: x.reshape(-1), (1,), 2, kind="series", output="label")
    with pytest.raises(UserError, match="answers 2, but there are 2 classes"):
        measure(answers, numbered([0, 1, 1], 2), tmp_path)
