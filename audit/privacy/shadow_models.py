"""Models like the one under audit, trained on known halves of the same rows: what attacks with shadow or reference models ask.

Torch modules are trained many at a time as one stacked module, estimators and boosters in processes of their own. What was trained
is kept by all that determines it: asking again trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audit.parameters import NotApplicable, UserError
from audit.privacy.membership import confidence_scores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from audit.model import AuditedModel
    from audit.recipe import Recipe

Progress = Callable[[int, int, str], None]
"""How much is done, of how much, and of what."""
Part = tuple["slice | NDArray[np.intp]", slice, "NDArray[np.float64]"]
"""Which models, which rows, and their log-probabilities ``(s, m, C)``, all finite."""
Parts = Callable[["NDArray[Any]"], Iterator[Part]]
"""From inputs ``(M, …)`` to answers, until every model has spoken of every row once."""


def halves(n: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of `count` models is trained on which of `n` rows, ``(count, n)``: every row is inside exactly half of the models.

    Models come in pairs: one gets a random half, its twin the other.

    Raises:
        UserError: an odd or no number of models, or fewer than two rows.

    Source: Carlini et al. 2022, arXiv:2112.03570, section IV-A (each example in half of the shadow models).
    """
    if count < 2 or count % 2:
        raise UserError(f"shadow models come in pairs, each row inside one of the two: got {count} of them")
    if n < 2:
        raise UserError(f"a half for each of two shadow models takes two rows, got {n}")
    inside = np.zeros((count, n), dtype=bool)
    for pair in range(0, count, 2):
        inside[pair, rng.permutation(n)[: n // 2]] = True
        inside[pair + 1] = ~inside[pair]
    return inside


@dataclass(frozen=True)
class Answers:
    """What every shadow says of rows whose class is known.

    Args:
        confidence: ``(S, M)`` logit of the probability given to the true class (`audit.privacy.membership.confidence_scores`); the
            probability itself is its sigmoid.
        correct: ``(S, M)`` bool: the largest probability is that of the true class.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class Trained:
    """What a way of training gives.

    Args:
        parts: the models' answers.
        classes: C.
        fresh: how many were trained now; the others were read from the cache.
        note: how they were trained, in words that can stand in a caution.
    """

    parts: Parts
    classes: int
    fresh: int
    note: str


class ShadowModels:
    """S trained models, and what they say.

    Args:
        trained: the models.
        x: ``(N, …)`` the rows that they were trained on halves of, with `labels`, ``(N,)``.
        inside: ``(S, N)`` bool: who was trained on what.
    """

    def __init__(self, trained: Trained, x: NDArray[Any], labels: NDArray[Any], inside: NDArray[np.bool_]) -> None:
        self.inside, self.fresh, self.note = inside, trained.fresh, trained.note
        self._trained = trained
        self.pool = self.answers(x, labels)
        """Answers to the rows that the models were trained on halves of."""

    def __len__(self) -> int:
        return len(self.inside)

    @property
    def accuracy_inside(self) -> NDArray[np.float64]:
        """Of each model on its own rows, ``(S,)``."""
        return _share(self.pool.correct, self.inside)

    @property
    def accuracy_outside(self) -> NDArray[np.float64]:
        """Of each model on the rows it has not seen, ``(S,)``; NaN where it has seen all."""
        return _share(self.pool.correct, ~self.inside)

    def answers(self, x: NDArray[Any], labels: ArrayLike) -> Answers:
        """Confidence in the true class and correctness, ``(S, M)``; never all classes of all rows at once.

        Raises:
            UserError: an answer is not finite, or a label is no class.
        """
        truth = np.asarray(labels)
        confidence, correct = np.empty((len(self), len(x))), np.empty((len(self), len(x)), dtype=bool)
        for models, rows, found in self._trained.parts(x):
            repeated = np.broadcast_to(truth[rows], found.shape[:2])
            flat = found.reshape(-1, found.shape[-1])
            confidence[models, rows] = confidence_scores(repeated.reshape(-1), logits=flat).reshape(found.shape[:2])
            correct[models, rows] = found.argmax(axis=2) == repeated
        return Answers(confidence, correct)

    def log_probabilities(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """``(S, M, C)`` of inputs ``(M, …)``; `answers` where the true class is all that is asked for."""
        whole = np.empty((len(self), len(x), self._trained.classes))
        for models, rows, found in self._trained.parts(x):
            whole[models, rows] = found
        return whole


def train_shadows(
    model: AuditedModel,
    x: NDArray[Any],
    labels: NDArray[Any],
    inside: NDArray[np.bool_],
    *,
    recipe: Recipe | None = None,
    reach: float | None = None,
    seed: int,
    cache: Path,
    progress: Progress = lambda done, total, what: None,
) -> ShadowModels:
    """Train one model like `model` for each row of `inside`, or read from the cache what was trained before.

    Args:
        x, labels: ``(N, …)`` and ``(N,)`` class indices, as `audit.data.Batch` holds them.
        inside: ``(S, N)`` bool, such as `halves` gives.
        recipe: how a torch module is trained; the model's own where none is given, else Adam until the shadows get as many of
            their own rows right as `reach`. Estimators are trained by their own parameters.
        reach: accuracy of the model under audit on rows that it was trained on.
        seed: of initial weights and of the order of rows.
        cache: folder that keeps trained models (weights, no rows) by what determines them.

    Raises:
        NotApplicable: the model cannot be trained again, or is no classifier that gives scores.
        UserError: shapes do not fit, a model without rows, an optimiser that is not known, or a training that diverges.
    """
    if model.fresh is None:
        raise NotApplicable(
            f"model '{model.name}' cannot be trained again: attacks with shadow models need a factory, or an estimator of its own "
            "library"
        )
    if model.task != "classification" or model.output not in ("logit", "margin", "probability"):
        raise NotApplicable(f"shadow models are asked for classes' scores: model '{model.name}' gives a {model.output}")
    who = np.asarray(inside, dtype=bool)
    if who.ndim != 2 or who.shape[1] != len(x) or np.shape(labels) != (len(x),):
        raise UserError(
            f"expected (N, …) rows, (N,) labels and (S, N) of who sees what, got {x.shape}, {np.shape(labels)} and {who.shape}"
        )
    if not who.any(axis=1).all():
        raise UserError(f"shadow model {int(np.flatnonzero(~who.any(axis=1))[0])} has no row to be trained on")
    trained = _train(model, x, np.asarray(labels), who, recipe, reach, seed, cache, progress)
    return ShadowModels(trained, x, np.asarray(labels), who)


def _train(
    model: AuditedModel, x: NDArray[Any], labels: NDArray[Any], inside: NDArray[np.bool_], recipe: Recipe | None,
    reach: float | None, seed: int, cache: Path, progress: Progress,
) -> Trained:  # fmt: skip
    if model.module is not None:
        from audit.privacy._stacked_training import train_stacked

        return train_stacked(model, x, labels, inside, recipe, reach, seed, cache, progress)
    if recipe is not None:
        raise UserError(f"a recipe is for torch modules: model '{model.name}' is trained by its own parameters")
    from audit.privacy._estimators import train_estimators

    return train_estimators(model, x, labels, inside, seed, cache, progress)


def _share(chosen: NDArray[np.bool_], among: NDArray[np.bool_]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray((chosen & among).sum(axis=1) / among.sum(axis=1))
