"""How a training went: each time measured is a line, and no line is of a step that was taken back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from audit.parameters import UserError
from audit.privacy.history import MOST, NAME, History, Point, read_history, when


@pytest.mark.parametrize(
    ("steps", "epoch", "wanted"),
    [(118, 10, [*range(10, 118, 10), 118]), (20, 10, [10, 20]), (7, 10, [7]), (100, 1, [*range(5, 100, 5), 100])],
)
def test_when_it_is_measured(steps: int, epoch: int, wanted: list[int]) -> None:
    assert when(steps, epoch) == wanted
    assert len(wanted) <= MOST


def test_lines_are_kept_as_far_as_steps_are(tmp_path: Path) -> None:
    history = History(tmp_path, "accuracy", 0)
    for step in (10, 20, 30):
        history.add(Point(step, 2.5 if step > 10 else math.nan, 0.5, step / 10))
    first = json.loads((tmp_path / NAME).read_text().splitlines()[0])
    assert first == {"step": 10, "loss": None, "accuracy": 0.5, "epsilon": 1.0}
    resumed = History(tmp_path, "accuracy", 25)
    resumed.add(Point(20, 9.0, 0.9, 2.0))
    resumed.add(Point(30, 1.5, 0.7, 3.0))
    assert [(point.step, point.loss) for point in read_history(tmp_path)[1:]] == [(20, 2.5), (30, 1.5)]
    with (tmp_path / NAME).open("a") as file:
        file.write('{"step": 4')
    assert len(read_history(tmp_path)) == 3, "a line cut off by a kill"
    History(tmp_path, "accuracy", 0)
    assert read_history(tmp_path) == []


def test_what_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / NAME).write_text('{"step": 4}\n')
    with pytest.raises(UserError, match=r"history\.jsonl:1: is no line"):
        read_history(tmp_path)
