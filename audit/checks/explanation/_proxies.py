"""Which columns give a protected attribute away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

from audit.finding import RankAuc

PROXY = 0.7
"""A column whose whole interval of the AUC lies above tells the attribute (policy)."""
_FOLDS = 5
_FEWEST = 2 * _FOLDS
"""Rows that a value of the attribute needs."""


@dataclass(frozen=True)
class Told:
    """How well one column alone tells one value of the attribute from the others, on rows that were held out."""

    column: int
    value: str
    auc: RankAuc

    @property
    def proxy(self) -> bool:
        """Whether it counts as a proxy."""
        return self.auc.interval()[0] > PROXY


def proxies(x: NDArray[np.float64], group: NDArray[np.str_], columns: Sequence[int], seed: int) -> list[Told]:
    """Every column against every value of the attribute; of two values only one, of values in few rows none.

    A small tree per column and fold, scored on rows it did not see.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    from audit.stats import auc

    values, counts = np.unique(group, return_counts=True)
    known = values[(counts >= _FEWEST) & (len(group) - counts >= _FEWEST)]
    known = known[-1:] if len(values) == 2 else known
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    tree = DecisionTreeClassifier(max_leaf_nodes=8, min_samples_leaf=5, random_state=0)
    found = []
    for value in known:
        is_value = group == value
        for column in columns:
            told = cross_val_predict(tree, x[:, [column]], is_value, cv=folds, method="predict_proba")[:, 1]
            estimate = RankAuc(
                value=auc(told[is_value], told[~is_value]),
                n_pos=int(is_value.sum()),
                n_neg=int((~is_value).sum()),
            )
            found.append(Told(column, str(value), estimate))
    return found
