"""Charts: what is drawn adds up, series can be told apart without colour, and every chart has its titles."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dashboard.drawing import charts
from dashboard.drawing.charts import Dot


def spec(chart) -> dict:
    return chart.to_dict()


def rows_of(chart, number: int = 0) -> list[dict]:
    """The rows behind the layers of a chart."""
    known = spec(chart)
    names = list(known["datasets"])
    return known["datasets"][names[number]]


def texts(node, key: str = "title") -> list:
    """Every title anywhere in a chart."""
    if isinstance(node, dict):
        return [value for k, v in node.items() for value in ([v] if k == key else texts(v, key))]
    return [value for item in node for value in texts(item, key)] if isinstance(node, list) else []


def test_a_waterfall_goes_from_the_base_value_to_the_score_contribution_by_contribution():
    chart = charts.waterfall(["a = 1", "b = 2", "c = 3"], [0.5, -2.0, 0.0], 1.0, -0.5, title="t", label="score")
    steps, marks = rows_of(chart, 0), rows_of(chart, 1)
    if "start" not in steps[0]:
        steps, marks = marks, steps
    assert [(s["name"], s["start"], s["end"], s["amount"]) for s in steps] == [
        ("b = 2", 1.0, -1.0, "-2"),
        ("a = 1", -1.0, -0.5, "+0.5"),
    ]
    assert [(m["name"], m["end"]) for m in marks] == [("base value", 1.0), ("score", -0.5)]


def test_small_contributions_are_added_up():
    amounts = [1.0 / (i + 1) for i in range(charts.MOST_FEATURES + 5)]
    chart = charts.waterfall([f"f{i}" for i in range(len(amounts))], amounts, 0.0, None, title="t", label="score")
    steps = next(rows for rows in spec(chart)["datasets"].values() if "start" in rows[0])
    assert len(steps) == charts.MOST_FEATURES + 1
    assert steps[-1]["name"] == "5 other features"
    assert steps[-1]["end"] == pytest.approx(sum(amounts))


def test_features_are_ordered_by_their_mean_size():
    values = np.array([[1.0, -5.0, 0.1], [-1.0, 5.0, 0.2]])
    assert [row["name"] for row in rows_of(charts.mean_sizes(["a", "b", "c"], values, title="t", label="l"))] == [
        "b",
        "a",
        "c",
    ]


def test_a_beeswarm_has_a_point_per_row_and_feature_and_none_upon_another():
    values = np.zeros((9, 1))
    x = np.arange(9.0)[:, None]
    rows = rows_of(charts.beeswarm(["a"], values, x, [[str(i)] for i in range(9)], title="t", label="l"))
    assert len(rows) == 9
    assert len({(row["amount"], row["offset"]) for row in rows}) == 9
    assert all(abs(row["offset"]) <= 1 for row in rows)
    assert [row["level"] for row in rows] == pytest.approx(np.linspace(0, 1, 9).tolist())


def test_missing_values_and_constant_columns_lie_in_the_middle():
    assert charts._levels(np.array([1.0, np.nan, 3.0])) == [0.0, 0.5, 1.0]
    assert charts._levels(np.array([2.0, 2.0])) == [0.5, 0.5]


def test_no_more_points_than_a_browser_draws():
    values = np.random.default_rng(0).normal(size=(5000, 2))
    rows = rows_of(charts.beeswarm(["a", "b"], values, values, [["", ""]] * 5000, title="t", label="l"))
    assert len(rows) == 2 * charts.MOST_POINTS


def test_long_series_are_drawn_in_stretches_whose_contributions_add_up():
    length = 10 * charts.MAX_STEPS
    amounts = np.random.default_rng(0).normal(size=length)
    chart = charts.relevance_line(np.ones(length), amounts, 1.0, title="t", x_label="step", y_label="v", label="c")
    rows = rows_of(chart)
    assert len(rows) == charts.MAX_STEPS
    assert sum(row["amount"] for row in rows) == pytest.approx(amounts.sum())
    assert rows[0]["value"] == 1


def test_the_curves_of_a_sample_tell_explainers_by_shape_and_orders_by_dash():
    points = np.linspace(0, 1, 4)
    chart = charts.removal(
        {"one": (points, points, points), "two": (points, points**2, points)},
        title="Deletion",
        x_label="share",
        y_label="p",
    )
    rows = rows_of(chart)
    assert len(rows) == 16
    assert {(row["explainer"], row["order"]) for row in rows} == {
        (name, order) for name in ("one", "two") for order in ("in the map's order", "in random order")
    }
    assert {"shape", "strokeDash"} <= {channel for layer in spec(chart)["layer"] for channel in layer["encoding"]}


def test_dots_carry_their_intervals_and_an_open_side_ends_at_the_value():
    rows = rows_of(charts.dots([Dot("pgd", "eps 1", 0.5, None, 0.7, "at most 0.7")], title="t", label="share"))
    assert (rows[0]["low"], rows[0]["value"], rows[0]["high"], rows[0]["told"]) == (0.5, 0.5, 0.7, "at most 0.7")


def test_a_histogram_counts_every_row_once():
    values = {"a": np.random.default_rng(0).normal(size=50), "b": np.ones(7)}
    rows = [row for rows in spec(charts.histogram(values, title="t", label="d", unit="px", marked=1.0))["datasets"].values()
            for row in rows if "count" in row]  # fmt: skip
    assert {name: sum(row["count"] for row in rows if row["series"] == name) for name in values} == {"a": 50, "b": 7}


def test_shares_in_cells_are_written_out():
    cells = [("pgd", "0", 0.123, "5 of 41"), ("pgd", "1", 0.004, "1 of 250"), ("pgd", "2", 1.0, "3 of 3")]
    rows = rows_of(charts.heat(cells, title="t", row_title="attack", column_title="class", label="share"))
    assert [row["shown"] for row in rows] == ["12 %", "0.4 %", "100 %"]


@pytest.mark.parametrize("value", [0.0, 0.995, 0.9996, 0.99999999, 1e-9, 1.0, 0.5])
def test_no_share_short_of_all_is_called_all(value):
    assert (charts.percent(value) == "100 %") == (value == 1.0)
    assert (charts.percent(value) == "0 %") == (value == 0.0)


def test_every_chart_has_a_title_and_titles_of_its_axes():
    x = np.linspace(0, 1, 5)
    drawn = [
        charts.waterfall(["a"], [1.0], 0.0, 1.0, title="the title", label="score of cat"),
        charts.mean_sizes(["a"], x[:, None], title="the title", label="mean size"),
        charts.beeswarm(["a"], x[:, None], x[:, None], [[""]] * 5, title="the title", label="contribution"),
        charts.dependence(
            x, x, [""] * 5, categories=False, title="the title", x_label="age (years)", label="contribution"
        ),
        charts.dots([Dot("a", "b", 0.1, 0.0, 0.2, "")], title="the title", label="share"),
        charts.heat([("a", "b", 0.5, "")], title="the title", row_title="attack", column_title="class", label="share"),
        charts.histogram({"a": x}, title="the title", label="distance", unit="grey level"),
        charts.removal({"a": (x, x, x)}, title="the title", x_label="share removed", y_label="probability"),
    ]
    for chart in drawn:
        known = spec(chart)
        assert known["title"] == "the title"
        axes = [layer["encoding"] for layer in known.get("layer", [known])]
        named = [encoding[axis].get("title") for encoding in axes for axis in ("x", "y") if axis in encoding]
        assert any(named), known


def test_categories_stand_on_the_axis_themselves():
    chart = charts.dependence(
        np.array([0.0, 1.0]), np.zeros(2), ["no", "yes"], categories=True, title="t", x_label="gift", label="c"
    )
    assert any(layer["encoding"].get("x", {}).get("field") == "cell" for layer in spec(chart)["layer"])


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_two_sides_of_a_map_can_be_told_by_a_colour_blind_reader(mode):
    """Blue and vermilion differ in lightness or in the blue channel, which no common colour blindness takes away."""
    from dashboard.drawing import theme

    found = theme.colours(mode)
    one, two = (np.array([int(part, 16) for part in re.findall("..", found[name][1:])]) for name in ("s1", "s2"))
    assert abs(int(one[2]) - int(two[2])) > 80
