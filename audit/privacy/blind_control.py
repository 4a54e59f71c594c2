"""The blind control: can members be told from non-members by their inputs alone, without asking the model?

Where they can, the two were not drawn alike (another time, another source, another filter), and a membership attack's
success says nothing of what the model remembers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from audit import stats
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FEWEST = 20
"""Members and non-members without which the control cannot be run."""
WIDEST = 64
"""Inputs with more numbers than this are reduced first."""
_COMPONENTS = 32

Learner = Literal["logistic regression", "boosted trees"]


@dataclass(frozen=True)
class BlindAuc:
    """How well inputs alone tell members from non-members."""

    value: float
    """Mean of the two halves' AUCs, each half ranked by a classifier that was trained on the other."""
    n_members: int
    """Members that the interval may count: one half's. The halves' errors go together, so their mean is held to be no
    surer than either (measured: counting both makes a 95 % interval miss .5 in 10 to 19 of 100 cases without any shift)."""
    n_non_members: int
    learners: tuple[Learner, Learner]
    """Which kind of classifier each half chose, by cross-validation inside it."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval of the AUC."""
        return stats.auc_interval(self.value, self.n_members, self.n_non_members, level)

    @property
    def detectable(self) -> float:
        """The smallest AUC that so few examples could have told from 0.5 at 95 %: a weaker shift goes unseen."""
        low, high = 0.5, 1.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            if stats.auc_interval(middle, self.n_members, self.n_non_members)[0] > 0.5:
                high = middle
            else:
                low = middle
        return high


def blind_auc(
    members: ArrayLike, non_members: ArrayLike, rng: np.random.Generator, *, max_rows: int = 4000
) -> BlindAuc:
    """Train classifiers to tell members from non-members by input alone; a valid membership test leaves them at 0.5.

    Members and non-members are split in halves. On each half the better of two learners (three-fold cross-validated AUC)
    is trained to rank the other half: logistic regression on standardised features, and gradient-boosted trees. Images and
    other inputs of more than `WIDEST` numbers become 32 principal components of the training half and each example's
    mean, spread, minimum and maximum. Missing numbers become the median and a flag. Blind spot: a shift that only the
    discarded components of a wide input show.

    Args:
        members: ``(N, …)`` numbers, NaN where missing; category codes count as numbers.
        non_members: ``(M, …)`` the same.
        max_rows: of each kind; more are drawn from at random.

    Raises:
        UserError: shapes differ, an input is infinite, or there are fewer than `FEWEST` of a kind.

    Source: Meeus et al. 2024, arXiv:2406.17975; Das, Zhang & Tramèr 2024, arXiv:2406.16201 (blind baselines).
    """
    inside, outside = _rows(members), _rows(non_members)
    if inside.shape[1] != outside.shape[1]:
        raise UserError(f"members have {inside.shape[1]} numbers each, non-members {outside.shape[1]}")
    if min(len(inside), len(outside)) < FEWEST:
        raise UserError(
            f"the blind control needs {FEWEST} members and non-members, got {len(inside)} and {len(outside)}"
        )
    inside, outside = (rows[rng.permutation(len(rows))[:max_rows]] for rows in (inside, outside))
    half_in, half_out = len(inside) // 2, len(outside) // 2
    import sklearn.ensemble
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_limits

    halves = [(inside[:half_in], outside[:half_out]), (inside[half_in:], outside[half_out:])]
    aucs: list[float] = []
    learners: list[Learner] = []
    with threadpool_limits(1):  # trees this small lose more to waiting threads than they gain
        for (fit_in, fit_out), (rank_in, rank_out) in (halves, halves[::-1]):
            learner, model = _train(fit_in, fit_out, int(rng.integers(2**31)))
            aucs.append(stats.auc(_score(model, rank_in), _score(model, rank_out)))
            learners.append(learner)
    return BlindAuc(sum(aucs) / 2, half_in, half_out, (learners[0], learners[1]))


def _rows(inputs: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(inputs, dtype=np.float64)
    values = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    if np.isinf(values).any():
        raise UserError("the blind control needs finite inputs (NaN stands for missing), got infinity")
    return values


def _train(inside: NDArray[np.float64], outside: NDArray[np.float64], seed: int) -> tuple[Learner, Any]:
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    x = np.concatenate([inside, outside])
    y = np.repeat([1, 0], [len(inside), len(outside)])
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    candidates = _candidates(x.shape[1], len(x) * 2 // 3, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")  # a ranking needs no last digit
        scores = {
            name: cross_val_score(model, x, y, cv=folds, scoring="roc_auc").mean() for name, model in candidates.items()
        }
        chosen = max(candidates, key=lambda name: scores[name])
        return chosen, candidates[chosen].fit(x, y)


def _candidates(width: int, rows: int, seed: int) -> dict[Learner, Any]:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    def features() -> list[Any]:
        filled = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        if width <= WIDEST:
            return [filled]
        components = PCA(min(_COMPONENTS, rows - 1), svd_solver="randomized", random_state=seed)
        return [filled, make_union(components, FunctionTransformer(_summaries))]

    return {
        "logistic regression": make_pipeline(
            *features(), StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=200)
        ),
        "boosted trees": make_pipeline(
            *features(),
            # No class weights: a ranking needs none, and binning with them costs twenty times the fit.
            HistGradientBoostingClassifier(
                max_iter=60, learning_rate=0.1, max_leaf_nodes=15, early_stopping=False, random_state=seed
            ),
        ),
    }  # fmt: skip


def _summaries(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([x.mean(axis=1), x.std(axis=1), x.min(axis=1), x.max(axis=1)], axis=1)


def _score(model: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(model.decision_function(x), dtype=np.float64)
