"""Real rows against what an explainer asks: can they be told apart, and does the model answer both by the same rule?

Everything is learned on some folds and measured on the others; what was asked about a row is in the row's fold, and so are the
background rows that it was mixed from: otherwise a learner would know them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.model import AuditedModel

FOLDS = 4
_TREES = 60
_WIDE = 256
"""Inputs with more elements are brought to their principal components."""
_COMPONENTS = 32
_ROWS_PER_AXIS = 4
_CELLS = 8
"""Side of the grid on which edges of an image are looked for."""
_BINS = 3
"""Even parts that a regression's answers are cut into, to be compared as classes."""


@dataclass(frozen=True)
class Samples:
    """Real and asked inputs as a learner sees them.

    Args:
        real: ``(M, D)``.
        asked: ``(Q, D)``.
        real_fold: ``(M,)`` int64.
        asked_fold: ``(Q,)`` int64: that of the row that was explained.
    """

    real: NDArray[np.float64]
    asked: NDArray[np.float64]
    real_fold: NDArray[np.int64]
    asked_fold: NDArray[np.int64]


def learnable(real: NDArray[Any], asked: NDArray[Any], model: AuditedModel, seed: int) -> tuple[Any, Any]:
    """Inputs as rows of numbers: columns as they are, character n-grams of texts, principal components of what is large."""
    import numpy as np

    if model.spec.kind == "text":
        from sklearn.feature_extraction.text import HashingVectorizer

        from audit.text import decode_all

        counts = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=_WIDE)
        first, second = (counts.transform(decode_all(part)).toarray() for part in (real, asked))
        return first, second
    first, second = (np.asarray(part, dtype=np.float64).reshape(len(part), -1) for part in (real, asked))
    if first.shape[1] <= _WIDE:
        return first, second
    from sklearn.decomposition import PCA

    components = PCA(min(_COMPONENTS, len(first)), svd_solver="randomized", random_state=seed).fit(
        np.concatenate([first, second])
    )
    # What is left over after the components tells a patched image from a real one as well as they do.
    return tuple(
        np.column_stack(
            [(found := components.transform(part)), np.abs(part - components.inverse_transform(found)).mean(axis=1)]
        )
        for part in (first, second)
    )  # type: ignore[return-value]


def with_edges(flat: NDArray[np.float64], inputs: NDArray[Any], model: AuditedModel) -> NDArray[np.float64]:
    """Beside an image's numbers how sharply neighbours differ, the most in each cell of a grid: where something was pasted in."""
    import numpy as np
    import torch

    if model.spec.kind != "image" or len(model.spec.shape) < 2 or min(model.spec.shape[-2:]) < 2:
        return flat
    image = torch.as_tensor(np.asarray(inputs)).float().reshape(len(inputs), -1, *model.spec.shape[-2:])
    down, across = (image.diff(dim=axis).abs().mean(dim=1, keepdim=True) for axis in (2, 3))
    steps = torch.maximum(down[..., 1:], across[:, :, 1:])
    cells = [min(_CELLS, side) for side in steps.shape[-2:]]
    sharpest = torch.nn.functional.adaptive_max_pool2d(steps, cells)
    return np.column_stack([flat, sharpest.flatten(1).double().numpy()])


class _Together:
    """How columns go together in real rows: each row along the axes of their correlation, in standard deviations.

    Features taken from another row leave the axes that real rows hardly leave, which a tree over single columns sees late. Only
    where rows are many enough to know the axes.
    """

    def __init__(self, real: NDArray[np.float64]) -> None:
        import numpy as np

        self._axes: NDArray[np.float64] | None = None
        self._center, scale = np.nanmean(real, axis=0), np.nanstd(real, axis=0)
        self._scale = np.where(scale > 0, scale, 1.0)
        columns = real.shape[1]
        if len(real) >= _ROWS_PER_AXIS * columns:
            covariance = np.cov(self._standard(real), rowvar=False).reshape(columns, columns)
            variance, axes = np.linalg.eigh(covariance)
            self._axes = axes / np.sqrt(np.maximum(variance, 1e-6))

    def _standard(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.asarray(np.nan_to_num((rows - self._center) / self._scale))

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The columns, and beside them the place along each axis and the distance from the centre."""
        import numpy as np

        if self._axes is None:
            return rows
        along = self._standard(rows) @ self._axes
        return np.column_stack([rows, along, np.linalg.norm(along, axis=1)])


def told_apart(samples: Samples, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score of being asked rather than real, of each real ``(M,)`` and each asked input ``(Q,)``: a forest on held-out folds."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    real, asked = np.zeros(len(samples.real)), np.zeros(len(samples.asked))
    for fold in range(FOLDS):
        forest = RandomForestClassifier(_TREES, min_samples_leaf=2, class_weight="balanced", random_state=seed)
        known_real, known_asked = samples.real[samples.real_fold != fold], samples.asked[samples.asked_fold != fold]
        aim = np.repeat([0, 1], [len(known_real), len(known_asked)])
        together = _Together(known_real)
        forest.fit(together(np.concatenate([known_real, known_asked])), aim)
        here, there = samples.real_fold == fold, samples.asked_fold == fold
        for scores, rows, chosen in ((real, samples.real, here), (asked, samples.asked, there)):
            if chosen.any():
                scores[chosen] = forest.predict_proba(together(rows[chosen]))[:, 1]
    return real, asked


def rule_learned(
    samples: Samples, answers: NDArray[Any], real_answers: NDArray[Any], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Whether a forest that learned the model's answers from what was asked alone, on the other folds, gives the model's answer to
    each real ``(M,)`` and each asked input ``(Q,)``; and those answers, as classes.

    Features are exchanged one by one in what is asked, so which of several that go together the model uses can be learned there; real
    rows do not show it. That is why the rule is learned from what is asked and tried on real rows, not the other way round.

    Args:
        answers: ``(Q,)`` the model's, classes or values.
        real_answers: ``(M,)``.
    """
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    if answers.dtype.kind == "f":
        edges = np.quantile(real_answers, np.arange(1, _BINS) / _BINS)
        answers, real_answers = np.searchsorted(edges, answers), np.searchsorted(edges, real_answers)
    right, right_asked = np.zeros(len(real_answers), dtype=bool), np.zeros(len(answers), dtype=bool)
    for fold in range(FOLDS):
        forest = RandomForestClassifier(_TREES, min_samples_leaf=2, random_state=seed)
        known = samples.asked_fold != fold
        forest.fit(samples.asked[known], answers[known])
        parts = (
            (right, samples.real, real_answers, samples.real_fold == fold),
            (right_asked, samples.asked, answers, ~known),
        )
        for hits, rows, wanted, chosen in parts:
            if chosen.any():
                hits[chosen] = forest.predict(rows[chosen]) == wanted[chosen]
    return right, right_asked, real_answers, answers


def change_of_rule(
    right: NDArray[np.bool_],
    answer: NDArray[np.int64],
    right_asked: NDArray[np.bool_],
    answer_asked: NDArray[np.int64],
    row: NDArray[np.int64],
) -> NDArray[np.float64]:
    """How much less often the rule holds on real rows than where it was learned, each row's part in it ``(N,)``.

    What is asked is weighted to the classes of the real rows, so that a class that is easy and asked about often makes no
    difference; a class that is never asked about counts as what is asked does on the whole. The spread of the parts covers
    rows and what was asked about them.

    Args:
        right, answer: ``(N,)`` of the explained rows.
        right_asked, answer_asked, row: ``(Q,)``, and the explained row that each was asked for.
    """
    import numpy as np

    n, classes = len(answer), np.union1d(answer, answer_asked)
    part = -right.astype(float)
    for value in classes:
        share = float((answer == value).mean())
        asked = answer_asked == value
        asked = asked if asked.any() else np.ones(len(answer_asked), dtype=bool)
        held = float(right_asked[asked].mean())
        part[answer == value] += held
        # Each row's queries move the rate they are part of.
        part += share * n / asked.sum() * np.bincount(row[asked], weights=right_asked[asked] - held, minlength=n)
    return part
