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
_ROUNDS = 20
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
        if len(real) >= _ROWS_PER_AXIS * real.shape[1]:
            variance, axes = np.linalg.eigh(
                np.cov(self._standard(real).T.reshape(real.shape[1], -1)).reshape(2 * [real.shape[1]])
            )
            self._axes = axes / np.sqrt(np.maximum(variance, 1e-6))

    def _standard(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        return np.nan_to_num((rows - self._center) / self._scale)

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


@dataclass(frozen=True)
class Answers:
    """What the model and two surrogates of it, learned on real rows alone, answer.

    Args:
        real: ``(3, M)`` classes: model, first surrogate, second surrogate.
        asked: ``(3, Q)``.
    """

    real: NDArray[np.int64]
    asked: NDArray[np.int64]

    def agreement(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How much more often the surrogates agree with one another than the first with the model, on each real and each asked
        input: 0 on average of a model that goes by one rule."""
        first, second = (
            (part[1] == part[2]).astype(float) - (part[1] == part[0]).astype(float) for part in (self.real, self.asked)
        )
        return first, second


def learned(samples: Samples, real: NDArray[Any], asked: NDArray[Any], seed: int) -> Answers:
    """Surrogates of the model on held-out folds.

    The first surrogate stands in for the model; how well the second agrees with it on asked inputs is what an honest model, that
    answers there by the rule it follows on real rows, would show.

    Args:
        real, asked: the model's answers, classes or values.
    """
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    if real.dtype.kind == "f":
        edges = np.quantile(real, np.arange(1, _BINS) / _BINS)
        real, asked = np.searchsorted(edges, real), np.searchsorted(edges, asked)
    answers = Answers(np.tile(real, (3, 1)), np.tile(asked, (3, 1)))
    for fold in range(FOLDS):
        known = samples.real_fold != fold
        here, there = samples.real_fold == fold, samples.asked_fold == fold
        kinds = (
            RandomForestClassifier(_TREES, min_samples_leaf=2, random_state=seed),
            HistGradientBoostingClassifier(max_iter=_ROUNDS, max_leaf_nodes=15, min_samples_leaf=5, random_state=seed),
        )
        for number, kind in enumerate(kinds, 1):
            one_answer = len(np.unique(real[known])) == 1
            surrogate = None if one_answer else kind.fit(samples.real[known], real[known])
            for rows, chosen, into in ((samples.real, here, answers.real), (samples.asked, there, answers.asked)):
                if chosen.any():
                    told = real[known][0] if surrogate is None else surrogate.predict(rows[chosen])
                    into[number, chosen] = told
    return answers
