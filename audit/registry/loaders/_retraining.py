"""Models of other libraries that can be trained again: fed as the loaded one is, labels as class indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.model import InputSpec

Rows = Callable[["NDArray[Any]"], Any]
"""From an array ``(N, F)`` to what the estimator is fed."""


def seeded_clone(estimator: Any, seed: int) -> Any:
    """An unfitted scikit-learn estimator with the same parameters, a seed wherever it draws, and one thread."""
    from sklearn.base import clone

    fresh = clone(estimator)
    own = {name: (name.rpartition("__")[2], value) for name, value in fresh.get_params().items()}
    seeds = {name: seed for name, (last, _) in own.items() if last == "random_state"}
    threads = {name: 1 for name, (last, value) in own.items() if last == "n_jobs" and value is not None}
    return fresh.set_params(**seeds, **threads)


def asks_for_types(estimator: Any) -> bool:
    """Whether it learns from a column's type that it holds categories."""
    return any(isinstance(value, str) and value == "from_dtype" for value in estimator.get_params().values())


def with_category_types(rows: Rows, spec: InputSpec) -> Rows:
    """The same DataFrame with columns of categories in the type that pandas has for them."""

    def typed(x: NDArray[Any]) -> Any:
        table = rows(x)
        return table.astype(
            {field.name: "category" for field in spec.fields if field.kind == "category" and field.name in table}
        )

    return typed


class Refittable:
    """A scikit-learn estimator that was made afresh, by scikit-learn's own conventions.

    Args:
        estimator: unfitted.
        rows: what it is fed, made of ``(N, F)``.
        classes: the labels that the loaded one was fitted on, in the order of the class indices; None of a regression.
    """

    def __init__(self, estimator: Any, rows: Rows, classes: NDArray[Any] | None) -> None:
        self.estimator, self._rows, self._classes = estimator, rows, classes
        self.classes_: list[int] = []
        """Class indices it has seen, in the order of its answers."""

    def fit(self, x: NDArray[Any], labels: NDArray[Any]) -> Refittable:
        """Train on rows ``(N, F)`` and class indices, or values of a regression."""
        if self._classes is None:
            self.estimator.fit(self._rows(x), labels)
            return self
        self.estimator.fit(self._rows(x), self._classes[labels])
        places = {value: index for index, value in enumerate(self._classes.tolist())}
        self.classes_ = [places[value] for value in self.estimator.classes_.tolist()]
        return self

    def predict_proba(self, x: NDArray[Any]) -> Any:
        """Probabilities of the classes in `classes_`."""
        return self.estimator.predict_proba(self._rows(x))

    def decision_function(self, x: NDArray[Any]) -> Any:
        """Scores of the classes in `classes_`, or a margin where there are two."""
        return self.estimator.decision_function(self._rows(x))

    def predict(self, x: NDArray[Any]) -> Any:
        """Labels as it was fitted on, or values."""
        return self.estimator.predict(self._rows(x))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What determines it besides the rows and the library."""
        return {"estimator": type(self.estimator), **self.estimator.get_params(deep=deep)}


class Boosted:
    """A boosting machine that was made afresh, by scikit-learn's own conventions.

    Args:
        parameters: of the library.
        rounds: of boosting.
        train: parameters, rounds ``(N, F)``, labels and number of rounds → a booster.
        answer: booster and rows → probabilities ``(N, C)``, or scores.
        note: what of the training the file does not tell.
    """

    def __init__(
        self,
        parameters: dict[str, Any],
        rounds: int,
        train: Callable[[dict[str, Any], NDArray[Any], NDArray[Any], int], Any],
        answer: Callable[[Any, NDArray[Any]], Any],
        note: str = "",
    ) -> None:
        self.parameters, self.rounds, self.note = parameters, rounds, note
        self._train, self._answer = train, answer
        self.booster: Any = None

    def fit(self, x: NDArray[Any], labels: NDArray[Any]) -> Boosted:
        """Train on rows ``(N, F)`` and class indices, or values of a regression."""
        self.booster = self._train(self.parameters, x, labels, self.rounds)
        return self

    def predict_proba(self, x: NDArray[Any]) -> Any:
        """Answers in the output space of the loaded model: probabilities."""
        return self._answer(self.booster, x)

    def decision_function(self, x: NDArray[Any]) -> Any:
        """Answers in the output space of the loaded model: a margin, or one score for each class."""
        return self._answer(self.booster, x)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What determines it besides the rows and the library."""
        return {"rounds": self.rounds, **self.parameters}
