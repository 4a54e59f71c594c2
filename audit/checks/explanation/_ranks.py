"""Places of features, and which are at the top."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor


def places(values: ArrayLike) -> NDArray[np.float64]:
    """Place of each value along the last axis, 1 for the largest; equal ones share the mean of theirs."""
    import numpy as np
    from scipy.stats import rankdata

    return np.asarray(rankdata(-np.asarray(values, dtype=np.float64), axis=-1), dtype=np.float64)


def top(values: Tensor, k: int) -> Tensor:
    """Which are the `k` largest of each row of ``(N, F)``, bool; of equal ones the first."""
    import torch

    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, order, value=True)


def top_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    """Share of the `k` largest of ``(N, F)`` that are among the `k` largest of the other, ``(N,)`` float64."""
    return (top(a, k) & top(b.to(a.device), k)).sum(dim=1).double() / k


def column_correlation(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's correlation between columns of ``(N, F)``, ``(F, F)``; missing values stand in the middle, a constant column has 0."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(columns, axis=0, nan_policy="omit"), dtype=np.float64)
    ranks = ranks - np.nanmean(ranks, axis=0)
    ranks = np.nan_to_num(ranks)
    length = np.sqrt((ranks**2).sum(axis=0))
    return np.asarray(ranks.T @ ranks / np.maximum(np.outer(length, length), np.finfo(np.float64).tiny))
