"""Randomised smoothing: the class that a model gives most often to noisy copies of an input, and how far that is certain to hold.

Source: Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from audit.stats import clopper_pearson

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


@dataclass(frozen=True)
class Smoothed:
    """What is certain of the smoothed classifier at each input.

    Args:
        label: ``(N,)`` int64 the class it gives; -1 where it abstains.
        radius: ``(N,)`` float64 l2 radius within which it gives that class; 0 where it abstains.
        top: ``(N,)`` int64 the class that selection named, abstained or not.
        count: ``(N,)`` int64 how many of the n noisy copies were given it.
    """

    label: Tensor
    radius: Tensor
    top: Tensor
    count: Tensor


def certified_radius(count: ArrayLike, n: int, alpha: float, sigma: float) -> NDArray[np.float64]:
    """``σ · Φ⁻¹(p)`` with p the one-sided Clopper-Pearson lower bound of `count` in `n` at confidence 1 - alpha; NaN where p <= 1/2.

    Source: Cohen et al. 2019, Algorithm 2 (CERTIFY), from Theorem 1 with the second class at most 1 - p.
    """
    from scipy.special import ndtri

    counts, back = np.unique(np.asarray(count), return_inverse=True)
    lower = np.array([clopper_pearson(int(k), n, 1 - 2 * alpha)[0] for k in counts])
    return np.where(lower > 0.5, sigma * ndtri(lower), np.nan)[back]  # type: ignore[no-any-return]


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """The radius of an input whose n noisy copies are all given one class; no larger one can be certified. 0 where all abstain."""
    return max(0.0, sigma * NormalDist().inv_cdf(alpha ** (1 / n)))


def class_counts(
    model: AuditedModel, x: Tensor, sigma: float, n: int, rng: ExampleRng
) -> Iterator[tuple[slice, Tensor]]:
    """How often each class is given to `n` noisy copies of each row, a few rows at a time: positions and ``(rows, C)`` int64 counts.

    At most a micro-batch of noisy copies exists at a time; noise comes from each row's own stream, in the same order however it is cut.
    """
    together = max(1, model.micro_batch // n)
    classes = len(model.classes)
    for start in range(0, len(x), together):
        at = slice(start, min(start + together, len(x)))
        rows = x[at]
        streams = rng.take(range(at.start, at.stop))
        counts = torch.zeros((len(rows), classes), dtype=torch.int64)
        copies = min(n, model.micro_batch)
        for done in range(0, n, copies):
            noise = streams.normal((min(copies, n - done), *x.shape[1:])).to(x)
            noisy = rows[:, None] + sigma * noise
            given = model.predict(noisy.flatten(0, 1)).reshape(len(rows), -1).cpu()
            counts.scatter_add_(1, given, torch.ones_like(given))
        yield at, counts


def certify(
    model: AuditedModel, x: Tensor, sigma: float, n0: int, n: int, alpha: float, rng: ExampleRng
) -> Iterator[tuple[slice, Smoothed]]:
    """Certify rows a few at a time: positions, and what holds for each with probability 1 - alpha.

    `n0` copies select the class, `n` fresh ones bound its probability.
    """
    selection = class_counts(model, x, sigma, n0, rng.fork("selection"))
    top = torch.cat([counts.argmax(dim=1) for _, counts in selection])
    for at, counts in class_counts(model, x, sigma, n, rng.fork("estimation")):
        count = counts.gather(1, top[at][:, None]).squeeze(1)
        radius = torch.from_numpy(certified_radius(count.numpy(), n, alpha, sigma))
        abstained = radius.isnan()
        yield at, Smoothed(top[at].masked_fill(abstained, -1), radius.nan_to_num(0.0), top[at], count)
