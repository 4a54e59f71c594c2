"""Whether a model's answers have anything to do with the labels: what tells a wrong input scale when no shape or range does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.01
"""Chance of calling unrelated answers related."""
PERMUTATIONS = 999
"""The smallest p-value is 1 / (1 + PERMUTATIONS)."""
ENOUGH = 30
"""Rows of a regression at which a usable model (correlation of .5) shows at `LEVEL` nearly always."""


@dataclass(frozen=True)
class Relation:
    """What answers and labels have to do with each other.

    Args:
        related: None where the rows are too few to tell.
        said: the figures, in words.
    """

    related: bool | None
    said: str


def of_classes(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], n_classes: int, rng: np.random.Generator
) -> Relation:
    """Are more answers right than if the same answers had been dealt out at random?

    A permutation test keeps how often each class is answered and how often it is true: always answering the commonest class is
    no relation, and a model that is right 2 % more often than that shows. Where it finds none, an exact binomial test says
    whether that is for want of rows: the count must refute a model halfway between chance and perfection.
    """
    import numpy as np

    from audit.stats import binomial_p_value

    n, right = len(labels), int((predicted == labels).sum())
    known, counts = np.unique(labels, return_counts=True)
    chance = sum(float((predicted == label).mean()) * count / n for label, count in zip(known, counts, strict=True))
    dealt = np.array([(predicted == rng.permutation(labels)).sum() for _ in range(PERMUTATIONS)])
    p = (1 + int((dealt >= right).sum())) / (1 + PERMUTATIONS)
    blind = binomial_p_value(right, n, 1 / n_classes, "greater")
    said = (
        f"{right} of {n} answers are right; the same answers dealt out at random would be right in {chance * n:.3g} "
        f"(permutation p = {p:.2g}; exact binomial p = {blind:.2g} against guessing among {n_classes} classes)"
    )
    if p <= LEVEL:
        return Relation(True, said)
    useless = binomial_p_value(right, n, (1 + chance) / 2, "less") <= LEVEL
    return Relation(False if useless else None, said)


def of_values(predicted: NDArray[np.float64], labels: NDArray[np.float64], rng: np.random.Generator) -> Relation:
    """Do predicted values rise with the true ones? A permutation test of their correlation."""
    import numpy as np

    n = len(labels)
    a, b = predicted - predicted.mean(), labels - labels.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    if n < 3 or size == 0:
        constant = n >= 3 and float(a @ a) == 0 and float(b @ b) > 0
        said = f"all {n} answers are {predicted[0]:.4g}" if constant else f"{n} rows with labels that hardly differ"
        return Relation(False if constant and n >= ENOUGH else None, said)
    r = float(a @ b) / size
    dealt = np.array([a @ rng.permutation(b) for _ in range(PERMUTATIONS)]) / size
    p = (1 + int((dealt >= r).sum())) / (1 + PERMUTATIONS)
    said = f"answers and labels of {n} rows correlate with r = {r:.3f} (permutation p = {p:.2g})"
    if p <= LEVEL:
        return Relation(True, said)
    return Relation(False if n >= ENOUGH else None, said)
