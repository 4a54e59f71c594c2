"""Rows that stand for the others, and rows that those do not stand for.

Prototypes are chosen greedily so that their distribution is near that of all rows (the least maximum mean discrepancy, MMD, that one
further row can bring); criticisms are the rows where the two differ most, chosen to differ from each other.

Source: MMD-critic: Kim et al. 2016, "Examples are not enough, learn to criticize!", NeurIPS 29; MMD: Gretton et al. 2012, JMLR 13:723.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_JITTER = 1e-9


def median_distance(rows: Tensor) -> float:
    """Median distance between two different rows ``(N, D)``; 1 where all are the same."""
    apart = torch.nn.functional.pdist(rows.double())
    return float(apart.median()) or 1.0 if len(apart) else 1.0


def gaussian_kernel(rows: Tensor, others: Tensor, width: float) -> Tensor:
    """exp(−‖a − b‖² / (2·width²)), ``(N, M)`` float64."""
    return torch.exp(-(torch.cdist(rows.double(), others.double()) ** 2) / (2 * width**2))


def mmd_squared(kernel: Tensor, chosen: Tensor) -> float:
    """Squared maximum mean discrepancy between all rows and the chosen ones (biased: ≥ 0).

    Args:
        kernel: ``(N, N)``.
        chosen: ``(m,)`` int64.
    """
    between, inside = kernel[:, chosen], kernel[chosen][:, chosen]
    return float((kernel.mean() - 2 * between.mean() + inside.mean()).clamp_min(0))


def choose_prototypes(kernel: Tensor, count: int) -> Tensor:
    """The `count` rows that bring the chosen ones' distribution nearest to that of all, one after the other, ``(m,)`` int64.

    Each step takes the row after which the MMD² is least: the largest 2/m · Σ mean kernel − 1/m² · Σ kernel within.

    Args:
        kernel: ``(N, N)``.
    """
    mean, diagonal = kernel.mean(dim=0), kernel.diagonal()
    chosen: list[int] = []
    near, with_chosen, within = 0.0, torch.zeros_like(mean), 0.0
    for size in range(1, min(count, len(kernel)) + 1):
        gain = 2 / size * (near + mean) - (within + 2 * with_chosen + diagonal) / size**2
        gain[chosen] = -torch.inf
        best = int(gain.argmax())
        near += float(mean[best])
        within += float(2 * with_chosen[best] + diagonal[best])
        with_chosen = with_chosen + kernel[best]
        chosen.append(best)
    return torch.tensor(chosen, dtype=torch.int64)


def witness(kernel: Tensor, prototypes: Tensor) -> Tensor:
    """How much denser the rows are than the prototypes at each row, ``(N,)``: where it is large, no prototype is near."""
    return kernel.mean(dim=0) - kernel[prototypes].mean(dim=0)


def choose_criticisms(kernel: Tensor, prototypes: Tensor, count: int) -> Tensor:
    """The `count` rows where prototypes and rows differ most, and that differ from each other, ``(c,)`` int64.

    Each step takes the row with the largest |witness| plus the growth of log det of the chosen rows' kernel.

    Args:
        kernel: ``(N, N)``.
        prototypes: ``(m,)`` int64; none of them is a criticism.
    """
    away = witness(kernel, prototypes).abs()
    chosen: list[int] = []
    # What is left of each row's kernel once the chosen rows explain what they can: an incomplete Cholesky factor.
    left, factor = kernel.diagonal().clone(), kernel.new_zeros((len(kernel), 0))
    for _ in range(min(count, len(kernel) - len(prototypes))):
        gain = away + left.clamp_min(_JITTER).log()
        gain[prototypes] = -torch.inf
        gain[chosen] = -torch.inf
        best = int(gain.argmax())
        column = (kernel[:, best] - factor @ factor[best]) / left[best].clamp_min(_JITTER).sqrt()
        factor = torch.cat([factor, column[:, None]], dim=1)
        left = left - column**2
        chosen.append(best)
    return torch.tensor(chosen, dtype=torch.int64)


def nearest(rows: Tensor, prototypes: Tensor) -> Tensor:
    """Which prototype ``(m, D)`` is nearest to each row ``(N, D)``, ``(N,)`` int64."""
    return torch.cdist(rows.double(), prototypes.double()).argmin(dim=1)
