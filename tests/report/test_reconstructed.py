"""Reconstructions as a page shows them: pictures, columns, lines, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.report._reconstructed import ReconstructedReader
from audit.report._sample import Sample
from audit.report._samples import Budget, reconstructions
from audit.run_folder import Evidence, RunWriter


def written(folder: Path, kind: str, x: Any, **fields: Any) -> Evidence:
    """Two classes' reconstructions."""
    with RunWriter(folder / "run", {"scenario": "toy"}, "name: toy\n") as writer:
        meta = {"input_kind": kind, "classes": ["cat", "dog"], "feature_names": ["age", "weight"]}
        series = writer.evidence("toy", "inversions", "reconstruction", meta)
        usual: Mapping[str, Any] = {
            "label": np.array([0, 1]), "x": x, "probability": np.array([0.98765, 0.5]),
            "similarity": np.array([0.25, np.nan]), "class_mean": x * 0.5, "nearest_held_out": x * 0.2,
            "members": np.array([3, 4]), "held_out": np.array([5000, 7]), "member_id": ["aa", "bb"], "member_distance": np.array([0.5, 0.1]), "held_out_distance": np.array([0.4, 0.4]),
        }  # fmt: skip
        series.append(["cat", "dog"], **{**usual, **fields})
        return Evidence(folder / "run" / series.ref.path)


def first(evidence: Evidence) -> Sample:
    return ReconstructedReader(evidence, (0.0, 1.0), 1).sample(0)


def image(low: float, high: float) -> Any:
    return np.linspace(low, high, 2 * 16).reshape(2, 1, 4, 4)


def test_pictures_stand_side_by_side(tmp_path: Path) -> None:
    x = image(0.0, 1.0)
    sample = first(written(tmp_path, "image", x, nearest_member=x))
    assert sample.title == "class cat: the model is 98.8% sure"
    assert [picture.label for picture in sample.pictures] == [
        "reconstruction", "mean of members", "nearest member", "nearest held-out row",
    ]  # fmt: skip
    assert sample.lines[-3:] == [
        "similarity to the mean 0.25", "nearest of 3 members: aa, at 0.500", "of 5,000 held-out rows at 0.400",
    ]  # fmt: skip


def test_what_was_not_kept_is_not_drawn(tmp_path: Path) -> None:
    x = image(0.0, 1.0)
    sample = first(written(tmp_path, "image", x, class_mean=np.full_like(x, np.nan)))
    assert [picture.label for picture in sample.pictures] == ["reconstruction", "nearest held-out row"]


@pytest.mark.parametrize(("span", "said"), [(0.9, None), (0.25, "its contrast is raised 4.0 times")])
def test_a_faint_picture_has_its_contrast_raised_and_says_so(tmp_path: Path, span: float, said: str | None) -> None:
    x = np.concatenate([np.linspace(0.0, span, 16), np.zeros(16)]).reshape(2, 1, 4, 4)
    lines = first(written(tmp_path, "image", x)).lines
    assert (said in lines) if said else not any("contrast" in line for line in lines)


def test_columns_of_a_table_and_lines_of_a_series(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "series").mkdir()
    table = first(written(tmp_path / "table", "table", np.array([[4.0, -2.0], [1.0, 1.0]])))
    (shown,) = table.lists
    assert [(bar.feature, bar.value, bar.amount) for bar in shown.bars] == [
        ("age", "2 → 4", "+2"), ("weight", "-1 → -2", "-1"),
    ]  # fmt: skip
    series = first(written(tmp_path / "series", "series", np.linspace(0, 1, 12).reshape(2, 1, 6)))
    assert series.drawings[0].count("<svg") == 1
    assert "mean of members" in series.drawings[0]


def test_those_nearest_to_a_member_come_first(tmp_path: Path) -> None:
    evidence = written(tmp_path, "image", image(0.0, 1.0))
    samples, shown = reconstructions(evidence, (0.0, 1.0), Budget(), 1)
    assert [sample.title.split(":")[0] for sample in samples] == ["class dog", "class cat"]
    assert shown == "2 of 2 shown"
    few = reconstructions(evidence, (0.0, 1.0), Budget(samples=1), 1)
    assert few[1] == "1 of 2 shown, those nearest to a member first"
