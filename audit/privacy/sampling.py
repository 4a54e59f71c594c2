"""Whether the batches of a training look as if they had been sampled as its accounting assumes: exact binomial tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from audit.stats import binomial_p_value


@dataclass(frozen=True)
class BatchTest:
    """Realised batch sizes of one stretch against independent sampling at rate q."""

    realised_rate: float
    """Examples drawn over examples that could have been."""
    rate_p: float
    """Two-sided p-value of the total number of examples drawn."""
    usual: tuple[int, int]
    """Batch sizes that at least half of all Poisson batches have, fixed by n and q alone."""
    usual_share: float
    """Share of the batches within `usual`."""
    usual_chance: float
    """Its expectation under Poisson sampling."""
    spread_p: float
    """Two-sided p-value of that share: near 0 where batches are too regular (shuffled, fixed size) or too irregular."""


def exact_two_sided(k: int, n: int, p: float) -> float:
    """Two-sided exact binomial p-value: twice the smaller tail, at most 1."""
    return min(1.0, 2 * min(binomial_p_value(k, n, p, "greater"), binomial_p_value(k, n, p, "less")))


def compare_batches(batch_sizes: Sequence[int], dataset_size: int, q: float) -> BatchTest:
    """Test whether each of `dataset_size` examples entered each batch independently with chance q.

    The total is Binomial(steps * dataset_size, q). A total alone cannot tell shuffling from sampling, for shuffled batches
    hit it exactly; so the batches whose size lies in the central half of Binomial(dataset_size, q) are counted too, and
    that count is Binomial(steps, chance of the central half).

    Raises:
        ValueError: no batch, or one larger than the data set.
    """
    from scipy.stats import binom

    sizes = np.asarray(batch_sizes, dtype=np.int64)
    if sizes.size == 0 or sizes.min() < 0 or sizes.max() > dataset_size:
        raise ValueError(f"batch sizes must lie between 0 and the data set's size {dataset_size}")
    draws, trials = int(sizes.sum()), int(sizes.size) * dataset_size
    mean = dataset_size * q
    quarter, three_quarters = binom.ppf([0.25, 0.75], dataset_size, q)
    radius = max(mean - quarter, three_quarters - mean)
    low, high = math.ceil(mean - radius - 1e-9), math.floor(mean + radius + 1e-9)
    chance = min(1.0, float(binom.cdf(high, dataset_size, q) - binom.cdf(low - 1, dataset_size, q)))
    usual = int(((sizes >= low) & (sizes <= high)).sum())
    return BatchTest(
        realised_rate=draws / trials,
        rate_p=exact_two_sided(draws, trials, q),
        usual=(low, high),
        usual_share=usual / int(sizes.size),
        usual_chance=chance,
        spread_p=exact_two_sided(usual, int(sizes.size), chance),
    )
