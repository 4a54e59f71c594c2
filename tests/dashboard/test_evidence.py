"""Evidence behind the pages: one cell at a time, explainers told apart, a hundred thousand maps indexed in a moment."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from audit.finding import Exact, Measurement, Outcome
from audit.report._view import RunView
from audit.run_folder import Recorded, Run, RunWriter
from dashboard.reading import evidence

ROWS, CHUNK = 100_000, 1000


def written(path: Path, *series: tuple[str, str, dict, list[tuple[list[str], dict]]]) -> RunView:
    """A run whose steps stored series: (step, file, meta, chunks)."""
    with RunWriter(path, {"scenario": "toy", "steps": [step for step, *_ in series]}, "name: toy\n") as run:
        for step, file, meta, chunks in series:
            writer = run.evidence(step, file, "attributions", meta)
            for ids, columns in chunks:
                writer.append(ids, **columns)
            common = {"step": step, "id": step, "check": "explanation.faithfulness", "model": "toy"}
            measured = Measurement(metric="deletion_gain", estimate=Exact(value=1.0, n=1), evidence=(writer.ref,))
            run.record(Recorded(**common, measurement=measured))
            run.record(Recorded(**common, outcome=Outcome(status="completed")))
    return RunView(Run(path))


def columns(n: int, **more) -> dict:
    numbers = np.arange(n)
    return {"x": np.ones((n, 2)), "values": np.ones((n, 2)), "target": numbers % 3, "prediction": numbers % 3} | more


def about(**parameters) -> dict:
    return {"explainer": "occlusion", "parameters": parameters, "input_kind": "series", "classes": ["a", "b", "c"]}


def test_a_cell_is_the_row_s(tmp_path):
    chunks = [([f"{c}{i}" for i in range(3)], columns(3, score=np.arange(3) + 10 * c)) for c in range(3)]
    view = written(tmp_path / "run", ("s", "attributions", about(), chunks))
    (piece,) = evidence.pieces(view, "attributions")
    stored = view.run.evidence(piece.ref)
    assert [float(stored.cell(at, "score")) for at in range(9)] == [float(stored.row(at)["score"]) for at in range(9)]
    assert float(stored.cell(7, "score")) == 21
    with pytest.raises(IndexError, match="row 9 of 9"):
        stored.cell(9, "score")


def test_explainers_of_one_name_are_told_apart_by_what_differs(tmp_path):
    chunk = [(["r"], columns(1))]
    view = written(
        tmp_path / "run",
        ("one", "attributions", about(window=3, stride=1), chunk),
        ("two", "attributions", about(window=5, stride=1), chunk),
    )
    assert [one.label for one in evidence.maps(view, "toy").series] == ["occlusion (window 3)", "occlusion (window 5)"]


def test_one_map_gathers_what_several_checks_say_of_it(tmp_path):
    chunk = [(["r"], columns(1, quality_deletion_gain=[0.5], curve_removed=[[0.0, 1.0]]))]
    other = [(["r"], columns(1, quality_relative_gap=[0.1]))]
    view = written(tmp_path / "run", ("one", "attributions", about(), other), ("two", "attributions", about(), chunk))
    (found,) = evidence.maps(view, "toy").of("r")
    assert {q.name: q.value for q in found.quality} == {"relative gap": 0.1, "deletion gain": 0.5}
    assert found.curves["removed"].tolist() == [0, 1]


def test_a_number_that_could_not_be_had_is_not_shown(tmp_path):
    chunk = [(["r", "s"], columns(2, quality_under_noise=[np.nan, 0.5]))]
    view = written(tmp_path / "run", ("one", "attributions", about(), chunk))
    maps = evidence.maps(view, "toy")
    assert [[q.value for q in maps.of(row)[0].quality] for row in "rs"] == [[], [0.5]]


def test_maps_of_other_models_under_attack_and_of_random_weights_are_no_explainers(tmp_path):
    chunk = [(["r"], columns(1))]
    view = written(
        tmp_path / "run",
        ("one", "before", about(), chunk),
        ("one", "after", about(), chunk),
        ("two", "attributions-randomised", about(), chunk),
    )
    maps = evidence.maps(view, "toy")
    assert [one.role for one in maps.series] == ["own", "moved", "random"]
    assert len(maps.of("r")) == 1
    assert len(maps.moved("r")) == 1
    assert evidence.maps(view, "another").series == []


def test_a_hundred_thousand_maps_are_indexed_without_reading_one(tmp_path, monkeypatch):
    ids = [f"row-{i:06d}" for i in range(ROWS)]
    chunks = [
        (ids[start : start + CHUNK], columns(CHUNK, label=np.arange(CHUNK) % 3, confidence=np.full(CHUNK, 0.5)))
        for start in range(0, ROWS, CHUNK)
    ]
    view = written(tmp_path / "run", ("one", "attributions", about(), chunks))
    loaded: list[str] = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda path, **options: loaded.append(str(path)) or load(path, **options))
    start = time.process_time()
    maps = evidence.maps(view, "toy")
    assert len(maps.rows.ids) == ROWS
    assert maps.rows.right is not None
    assert maps.rows.right.all()
    assert time.process_time() - start < 2
    assert not any(path.endswith((".x.npy", ".values.npy")) for path in loaded)
    (one,) = maps.of(ids[-1])
    assert one.row["values"].shape == (2,)
    assert sum(path.endswith(".values.npy") for path in loaded) == 1
