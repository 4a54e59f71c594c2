"""Shadow models of scikit-learn estimators and boosters: trained in processes of their own, remembered by their answers.

Answers are what attacks ask for, and plain numbers: no fitted object is ever written to disk, where reading it back could run code.
A model is fitted again only where it is asked about rows that it has not answered.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from audit.parameters import NotApplicable, UserError
from audit.privacy.shadow_models import Progress, Trained
from audit.whole_file import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.model import AuditedModel, OutputSpace

WORTH_PROCESSES = 4.0
"""Seconds of fitting still to do from which on processes, which import their libraries first, are worth starting."""
_LIBRARIES = ("scikit-learn", "xgboost-cpu", "xgboost", "lightgbm", "numpy")
_FLOOR = float(np.log(np.finfo(np.float64).tiny))
"""Log-probability of a class that a model rules out, or has never seen."""


def train_estimators(
    model: AuditedModel, x: NDArray[Any], labels: NDArray[Any], inside: NDArray[np.bool_], seed: int, cache: Path,
    progress: Progress,
) -> Trained:  # fmt: skip
    """One estimator like the model's for each row of `inside`; arguments as `audit.privacy.shadow_models.train_shadows`.

    Raises:
        NotApplicable: what the model makes afresh is no estimator with `fit` and `get_params`.
        UserError: a fit fails.
    """
    estimators = _Estimators(model, _flat(x), labels, inside, seed, cache, progress)
    fresh = estimators.missing(estimators.rows)
    estimators.answers(estimators.rows)
    return Trained(estimators.parts, len(model.classes), len(fresh), estimators.note)


class _Estimators:
    """Fitted on demand; each row of `inside` is one."""

    def __init__(
        self, model: AuditedModel, x: NDArray[Any], labels: NDArray[Any], inside: NDArray[np.bool_], seed: int,
        cache: Path, progress: Progress,
    ) -> None:  # fmt: skip
        assert model.fresh is not None
        self._untrained = [model.fresh((seed + number) % 2**31) for number in range(len(inside))]
        first = self._untrained[0]
        if not hasattr(first, "fit") or not hasattr(first, "get_params"):
            raise NotApplicable(
                f"model '{model.name}' makes a {type(first).__name__} afresh, which has no fit() and get_params() to train shadows by"
            )
        told = f"; {first.note}" if getattr(first, "note", "") else ""
        self.note = f"shadow models were trained by the model's own parameters{told}"
        self.rows, self._labels, self._inside = x, labels, inside
        self._progress, self._output, self._classes = progress, model.output, len(model.classes)
        self._fitted: dict[int, Any] = {}
        same = _digest(_described(first), model.output, x, labels, str(len(model.classes)))
        self._names = [_digest(same, *_drawn_from(estimator), inside[i]) for i, estimator in enumerate(self._untrained)]
        self._cache = cache

    def missing(self, x: NDArray[Any]) -> list[int]:
        """Models whose answers to `x` are not in the cache."""
        asked = _digest(x)
        return [number for number in range(len(self._inside)) if self._remembered(number, asked, len(x)) is None]

    def parts(self, x: NDArray[Any]) -> Iterator[tuple[slice, slice, NDArray[np.float64]]]:
        """Log-probabilities of one model after another."""
        for number, found in enumerate(self.answers(_flat(x))):
            yield slice(number, number + 1), slice(0, len(x)), found[None]

    def answers(self, x: NDArray[Any]) -> Iterable[NDArray[np.float64]]:
        """Log-probabilities ``(M, C)`` of each model, read where they are known."""
        asked = _digest(x)
        missing = self.missing(x)
        tasks = [self._task(number, x) for number in missing]
        for done, (place, (fitted, found)) in enumerate(_each(tasks, self._progress), start=1):
            number = missing[place]
            self._fitted[number] = fitted
            _store(self._path(number, asked), found)
            self._progress(done, len(missing), "shadow models")
        return (self._known(number, asked, len(x)) for number in range(len(self._inside)))

    def _task(self, number: int, x: NDArray[Any]) -> _Task:
        fitted = self._fitted.get(number)
        chosen = self._inside[number]
        rows, labels = (None, None) if fitted is not None else (self.rows[chosen], self._labels[chosen])
        estimator = self._untrained[number] if fitted is None else fitted
        return _Task(number, estimator, rows, labels, x, self._output, self._classes)

    def _known(self, number: int, asked: str, n: int) -> NDArray[np.float64]:
        found = self._remembered(number, asked, n)
        if found is None:
            raise UserError(f"answers of shadow model {number} vanished from {self._cache} while they were in use")
        return found

    def _path(self, number: int, asked: str) -> Path:
        return self._cache / self._names[number] / f"{asked}.npy"

    def _remembered(self, number: int, asked: str, n: int) -> NDArray[np.float64] | None:
        """What is stored; None where nothing is, or what is there is damaged."""
        try:
            found = np.load(self._path(number, asked), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = isinstance(found, np.ndarray) and found.shape == (n, self._classes) and found.dtype == np.float64
        return found if fits and bool(np.isfinite(found).all()) else None


class _Task(NamedTuple):
    """One model to fit and to ask; without rows to fit on, to ask only."""

    number: int
    estimator: Any
    rows: NDArray[Any] | None
    labels: NDArray[Any] | None
    asked: NDArray[Any]
    output: OutputSpace
    classes: int


def _each(tasks: list[_Task], progress: Progress) -> Iterator[tuple[int, tuple[Any, NDArray[np.float64]]]]:
    """Place and result of every task, as they are done: here while that is quick, in processes where much is left."""
    from threadpoolctl import threadpool_limits

    begun = time.perf_counter()
    for place, task in enumerate(tasks):
        left = (time.perf_counter() - begun) / place * (len(tasks) - place) if place else 0.0
        if left > WORTH_PROCESSES and (processes := _processes()) > 1:
            yield from ((place + late, found) for late, found in _elsewhere(tasks[place:], processes))
            return
        with threadpool_limits(1):
            yield place, _fit_and_ask(task)


def _elsewhere(tasks: list[_Task], processes: int) -> Iterator[tuple[int, tuple[Any, NDArray[np.float64]]]]:
    """As `_each`, in processes that are started anew (never forked: this one's threads may hold locks)."""
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", n_jobs=processes, inner_max_num_threads=1):
        run = Parallel(return_as="generator_unordered", batch_size=1)
        yield from run(delayed(_numbered)(place, task) for place, task in enumerate(tasks))


def _processes() -> int:
    """As many as this one may use threads."""
    import torch

    return min(torch.get_num_threads(), len(os.sched_getaffinity(0)))


def _numbered(place: int, task: _Task) -> tuple[int, tuple[Any, NDArray[np.float64]]]:
    return place, _fit_and_ask(task)


def _fit_and_ask(task: _Task) -> tuple[Any, NDArray[np.float64]]:
    """The fitted estimator and its log-probabilities ``(M, C)``."""
    fitted = task.estimator
    try:
        if task.rows is not None:
            fitted.fit(task.rows, task.labels)
        probability = task.output == "probability"
        answer = fitted.predict_proba(task.asked) if probability else fitted.decision_function(task.asked)
    except Exception as error:  # whatever a library of another hand raises at rows that it cannot learn
        said = " ".join(str(error).split())[:200]
        raise UserError(f"shadow model {task.number} cannot be trained: {type(error).__name__}: {said}") from error
    seen = getattr(fitted, "classes_", None)
    return fitted, _log_probabilities(np.asarray(answer, dtype=np.float64), task.output, task.classes, seen)


def _log_probabilities(
    answer: NDArray[np.float64], output: OutputSpace, classes: int, seen: Any
) -> NDArray[np.float64]:
    """Answers in an output space as finite log-probabilities of all classes; those never seen get the floor."""
    if output == "probability":
        found = np.log(np.maximum(answer, np.finfo(np.float64).tiny))
    else:
        scores = (
            answer
            if answer.ndim == 2 and answer.shape[1] > 1
            else np.stack([np.zeros(len(answer)), answer.reshape(-1)], 1)
        )
        found = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    places = list(range(classes)) if seen is None or len(seen) == found.shape[1] == classes else [int(c) for c in seen]
    whole = np.full((len(found), classes), _FLOOR)
    whole[:, places] = np.maximum(found, _FLOOR)
    return whole


def _flat(x: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(x.reshape(len(x), -1))


# --- what determines a fitted estimator --------------------------------------------------------------------------


def _described(estimator: Any) -> str:
    """Kind, parameters (its seed is one) and libraries; what has no stable description differs in every process."""
    from importlib.metadata import PackageNotFoundError, version

    installed = []
    for name in _LIBRARIES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{type(estimator).__module__}.{type(estimator).__qualname__} {installed}"


def _drawn_from(estimator: Any) -> list[str]:
    parameters = estimator.get_params()
    return [f"{name}={_told(parameters[name])}" for name in sorted(parameters)]


def _told(value: Any) -> str:
    return _digest(value) if isinstance(value, np.ndarray) else repr(value)


def _digest(*parts: Any) -> str:
    """SHA-256 over arrays (shape, type and content) and texts."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        else:
            total.update(str(part).encode())
        total.update(b"\x1f")
    return total.hexdigest()[:32]


def _store(path: Path, found: NDArray[np.float64]) -> None:
    """Written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, found, allow_pickle=False)
    write_whole(path, content.getvalue(), shared=True)
