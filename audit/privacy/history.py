"""How a training went: a line of ``history.jsonl`` beside the model for each time that it was measured.

A line holds ``step`` (steps done), ``loss`` (mean of the training rows since the line before; null where no row was drawn),
``accuracy`` or ``squared_error`` on the test rows, and ``epsilon`` (an upper bound of what was spent by then; null without
privacy). The loss sees the training rows without noise: the file is for the trainer's eyes, no part of what is released.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audit.parameters import UserError

NAME = "history.jsonl"
MOST = 24
"""Times that a training is measured, at most."""


@dataclass(frozen=True)
class Point:
    """A training measured once."""

    step: int
    loss: float
    score: float
    epsilon: float | None


def when(steps: int, epoch: int) -> list[int]:
    """Numbers of steps after which to measure: at the end of each epoch, or of every so many of them, and at the end of all.

    Args:
        epoch: steps of one.
    """
    every = epoch * -(-steps // (epoch * MOST))
    return [*range(every, steps, every), steps]


class History:
    """The lines of a training that goes on.

    Args:
        measure: what the score is called: ``accuracy`` or ``squared_error``.
        done: steps that are done; lines beyond are of steps that will be made again.
    """

    def __init__(self, folder: Path, measure: str, done: int) -> None:
        self._path, self._measure = folder / NAME, measure
        kept = [point for point in read_history(folder) if point.step <= done]
        self._last = max((point.step for point in kept), default=0)
        self._path.write_text("".join(map(self._line, kept)), encoding="ascii")

    def add(self, point: Point) -> None:
        """Write down one more, unless it is there."""
        if point.step <= self._last:
            return
        self._last = point.step
        with self._path.open("a", encoding="ascii") as file:
            file.write(self._line(point))

    def _line(self, point: Point) -> str:
        loss = None if math.isnan(point.loss) else point.loss
        return (
            json.dumps({"step": point.step, "loss": loss, self._measure: point.score, "epsilon": point.epsilon}) + "\n"
        )


def read_history(folder: Path) -> list[Point]:
    """The lines beside a trained model; none where there is no such file. A last line that was cut off is left out.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    return list(_points(folder / NAME))


def _points(path: Path) -> Iterator[Point]:
    try:
        lines = path.read_text(encoding="ascii").split("\n")[:-1]
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            loss = math.nan if found["loss"] is None else float(found["loss"])
            score = found["accuracy"] if "accuracy" in found else found["squared_error"]
            epsilon = None if found["epsilon"] is None else float(found["epsilon"])
            yield Point(int(found["step"]), loss, float(score), epsilon)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: is no line of a training's history ({error})") from error
