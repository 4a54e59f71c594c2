"""Charts of stored evidence: titles, units, and every number that can be told apart."""

from __future__ import annotations

import numpy as np
import pytest

from dashboard.drawing import evidence_charts, theme


@pytest.fixture(autouse=True)
def _light(monkeypatch):
    monkeypatch.setattr(theme, "mode", lambda: "light")


def rows(spec):
    """All data of a chart."""
    return [row for rows in spec["datasets"].values() for row in rows]


def test_a_curve_keeps_every_number_and_names_its_axes():
    x, y = [0.0, 1.0, 2.0], [0.9, 0.5, 0.2]
    columns = {"x": x, "y": y, "low": [0.8, 0.4, np.nan], "high": [1.0, 0.6, np.nan], "series": ["pgd"] * 3}
    spec = evidence_charts.curve(columns, title="t", x_label="eps (grey levels)", y_label="robust accuracy").to_dict()
    assert spec["title"] == "t"
    drawn = rows(spec)
    assert [(row["x"], row["y"]) for row in drawn] == list(zip(x, y, strict=True))
    axes = {(layer["encoding"]["x"]["title"], layer["encoding"]["y"]["title"]) for layer in spec["layer"]}
    assert axes == {("eps (grey levels)", "robust accuracy")}
    assert any("isValid" in str(layer.get("transform")) for layer in spec["layer"]), (
        "no band where no interval is known"
    )


def test_series_are_told_apart_without_colour():
    columns = {"x": [0, 1] * 2, "y": [1, 2, 3, 4], "series": ["a", "a", "b", "b"]}
    text = str(evidence_charts.curve(columns, title="t", x_label="x", y_label="y").to_dict())
    assert "strokeDash" in text
    assert "shape" in text


@pytest.mark.parametrize(("values", "kind"), [([1.0, 10.0], "log"), ([0.0, 10.0], "symlog")])
def test_a_logarithmic_axis_keeps_its_zero(values, kind):
    columns = {"x": values, "y": [1.0, 2.0]}
    spec = evidence_charts.curve(columns, title="t", x_label="x", y_label="y", x_scale="log").to_dict()
    assert {layer["encoding"]["x"]["scale"]["type"] for layer in spec["layer"]} == {kind}


def test_a_roc_of_many_points_is_thinned_where_no_eye_could_tell():
    fpr = np.linspace(0, 1, 100_001)
    tpr = np.sqrt(fpr)
    drawn = [row for row in rows(evidence_charts.roc(fpr, tpr, title="loss").to_dict()) if row["line"] == "loss"]
    assert len(drawn) < 3000
    assert (drawn[0]["fpr"], drawn[-1]["fpr"], drawn[-1]["tpr"]) == (pytest.approx(1e-5), 1.0, 1.0)
    shown = np.array([(row["fpr"], row["tpr"]) for row in drawn])
    assert np.diff(np.log10(shown[1:]), axis=0).max() <= 0.31, "no step is wider than the data"
    assert set(map(tuple, shown[1:].tolist())) <= set(zip(fpr.tolist(), tpr.tolist(), strict=True))


def test_a_roc_of_few_points_keeps_them_all():
    fpr, tpr = np.array([0.0, 0.5, 1.0]), np.array([0.2, 0.9, 1.0])
    drawn = [row for row in rows(evidence_charts.roc(fpr, tpr, title="t").to_dict()) if row["line"] == "t"]
    assert [row["tpr"] for row in drawn] == [0.2, 0.9, 1.0]


def test_a_confusion_matrix_tints_by_the_share_of_the_true_class():
    cells = [("a", "a", 9, 0.9), ("a", "b", 1, 0.1), ("b", "a", 0, 0.0), ("b", "b", 5, 1.0)]
    spec = evidence_charts.confusion(cells, ["a", "b"]).to_dict()
    assert [row["rows"] for row in rows(spec)] == [9, 1, 0, 5]
    assert [row["right"] for row in rows(spec)] == [True, False, False, True]
    encoding = spec["layer"][0]["encoding"]
    assert (encoding["x"]["title"], encoding["y"]["title"]) == ("predicted class", "true class")
