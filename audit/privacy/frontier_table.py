"""The table of utility against privacy as ``frontier.json`` holds it; reading it takes no torch.

The table is a look at the private rows of its own. Accuracy is measured on test rows, but which model is chosen by it says something
of all the trainings together, and the attacks' numbers are computed from the private rows themselves: see `Frontier.together`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from audit.finding import part_name
from audit.parameters import Documented, UserError

JSON, CSV = "frontier.json", "frontier.csv"


class Number(Documented):
    """One number of a model, as its audit measured it."""

    metric: str
    """``accuracy`` (``rmse`` of a regression), ``auc``, ``tpr_at_fpr`` or ``advantage``."""
    attack: str | None = None
    """Membership attack; None of the accuracy."""
    fpr: str | None = None
    """False positive rate of a ``tpr_at_fpr``."""
    value: float
    low: float | None
    """Ends of the 95 % interval; None where a side is open."""
    high: float | None
    n: int | None
    """Rows that it was measured on."""
    status: Literal["info", "inconclusive", "void"] = "info"
    """``inconclusive``: so few rows decide nothing; ``void``: a control shows that the number means nothing."""
    note: str = ""
    """Why it is not to be relied on."""

    @property
    def key(self) -> str:
        """``tpr_at_fpr[attack=loss,fpr=0.01]``."""
        return part_name(self.metric, {k: v for k, v in (("attack", self.attack), ("fpr", self.fpr)) if v is not None})


class Point(Documented):
    """One training and what its model shows."""

    name: str
    """``NAME-plain`` or ``NAME-eps-3``."""
    model: str
    """Reference in the registry."""
    digest: str
    """Of the model."""
    epsilon: float | None
    """Target; None without privacy."""
    spent: float | None = None
    """Epsilon that the ledger claims, at the frontier's delta."""
    noise_multiplier: float | None = None
    steps: int | None = None
    """Releases that the ledger holds."""
    history: tuple[tuple[float, float, int], ...] = ()
    """Sampling rate, noise multiplier and steps of every stretch."""
    run: str = ""
    """Stored run of its audit, below ``HOME/runs``; empty before it."""
    numbers: tuple[Number, ...] = ()
    training: str
    """Digest of all that determines the training; the same again is not trained again."""
    audited: str = ""
    """Digest of the scenario that it was audited by."""

    def number(self, metric: str, attack: str | None = None, fpr: str | None = None) -> Number | None:
        """The number of a metric, where it was measured."""
        wanted = (metric, attack, fpr)
        return next((n for n in self.numbers if (n.metric, n.attack, n.fpr) == wanted), None)


class Frontier(Documented):
    """What ``frontier.json`` holds; written anew after every model."""

    format: Literal[1] = 1
    name: str
    """Of the training file."""
    data: str
    """Its source."""
    members: int
    """Rows trained on."""
    non_members: int
    """Rows tested on."""
    delta: float
    epsilons: tuple[float, ...]
    """What was asked for, rising."""
    attacks: tuple[str, ...]
    """Membership attacks; none of a regression."""
    utility: str
    """Metric that says what a model is good for: ``accuracy`` or ``rmse``."""
    points: tuple[Point, ...] = ()
    """Models so far, by rising epsilon, the one without privacy last."""
    together: float | None = None
    """Epsilon of all the private trainings together, at `delta`, by Rényi composition: what whoever chooses among the models by their
    accuracy spends at most. The model without privacy and the attacks' numbers come on top, without a bound."""

    @property
    def finished(self) -> bool:
        """Whether every model is there and audited."""
        return len(self.points) == len(self.epsilons) + 1 and all(point.audited for point in self.points)

    @property
    def rates(self) -> list[str]:
        """False positive rates at which the non-members are enough to see something, the largest first; else the largest alone."""
        numbers = [number for point in self.points for number in point.numbers]
        found = sorted({n.fpr for n in numbers if n.fpr is not None}, key=float, reverse=True)
        return [r for r in found if any(n.fpr == r and n.status == "info" for n in numbers)] or found[:1]

    @property
    def price(self) -> str:
        """What it costs to choose by this table, in words."""
        private = [point for point in self.points if point.spent is not None]
        if self.together is None or not private:
            return ""
        most = max(private, key=lambda point: point.spent or 0.0)
        return (
            "Choosing by this table costs privacy: all its models saw the same private rows. Together the private trainings spend up to "
            f"epsilon {self.together:.3g} at delta {self.delta:g}, {most.model} alone {most.spent:.3g}; the model without privacy and the "
            "attacks' numbers come from the rows themselves, without any bound. Fix epsilon beforehand, or choose on other rows than "
            "those to be protected (Papernot & Steinke 2022, arXiv:2110.03620)."
        )


def read_frontier(folder: Path) -> Frontier:
    """The frontier of a folder, whole or as far as it got.

    Raises:
        UserError: ``frontier.json`` is missing or damaged.
    """
    path = folder / JSON
    try:
        return Frontier.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged: delete it, and audit the models anew") from error


def as_csv(frontier: Frontier) -> str:
    """One line a model; a number takes three columns: itself and the ends of its interval."""
    keys = list(dict.fromkeys(number.key for point in frontier.points for number in point.numbers))
    head = ["model", "epsilon", "spent", "delta", "noise_multiplier", "steps"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *(f"{key}{end}" for key in keys for end in ("", " low", " high"))])
    for point in frontier.points:
        known = {number.key: number for number in point.numbers}
        cells: list[object] = []
        for key in keys:
            number = known.get(key)
            cells += ["", "", ""] if number is None else [number.value, number.low, number.high]
        delta = frontier.delta if point.spent is not None else None
        writer.writerow([point.model, point.epsilon, point.spent, delta, point.noise_multiplier, point.steps, *cells])
    return out.getvalue()
