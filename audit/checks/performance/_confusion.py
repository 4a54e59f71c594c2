"""Precision, recall and F1 from a confusion matrix, each with a confidence distribution in place of a resampling.

Redrawing rows shows no spread where every row of a class is right: three rows would count as certain. Score intervals do not have that
fault, and combine: here they are taken at many levels at once, which gives a sample whose percentiles are the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Shares:
    """One rate per class, each a share of some rows ``(C,)``; 0 of 0 where a class has none.

    Args:
        k, n: successes and trials.
        as_f1: the rate is not the share J itself but 2 J / (1 + J): F1, of which J is the share of right rows among those that are of the
            class or taken for it.
    """

    k: NDArray[np.int64]
    n: NDArray[np.int64]
    as_f1: bool = False

    @property
    def values(self) -> NDArray[np.float64]:
        """The rates ``(C,)``; 0 for 0 of 0."""
        import numpy as np

        return self._rate(self.k / np.maximum(self.n, 1))

    def _rate(self, share: NDArray[Any]) -> NDArray[np.float64]:
        import numpy as np

        return np.asarray(2 * share / (1 + share) if self.as_f1 else share, dtype=np.float64)

    def at(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ends of score intervals ``(Z, C)`` at normal quantiles `z` ``(Z,)``: the lower end below 0, the upper above; 0 for 0 of 0.

        Source: Wilson 1927, Journal of the American Statistical Association 22:209-212.
        """
        import numpy as np

        n, z = np.maximum(self.n, 1), z[:, None]
        share = self.k / n
        half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        return np.where(self.n > 0, self._rate(np.clip((share + z**2 / (2 * n) + half) / (1 + z**2 / n), 0, 1)), 0.0)

    def distribution(self, points: int) -> NDArray[np.float64]:
        """Confidence distributions of the classes, ``(points, C)``, ascending."""
        return self.at(_quantiles(points))

    def macro(self, points: int, *, overlap: int = 1) -> tuple[float, NDArray[np.float64]]:
        """Unweighted mean over the classes and its confidence distribution ``(points,)``, ascending.

        The distances of the score limits from the rates add up like standard errors (the method of variance estimates recovery). Of each
        class no less than the mean of both distances counts: one rate is skewed, the mean of many is not, and would be cut short.

        Args:
            overlap: over how many classes a row may count. The classes' rates then depend on each other, and the variance of their mean
                is at most `overlap` times what independence gives.

        Source: Newcombe 1998, Statistics in Medicine 17:873-890; Zou & Donner 2008, Statistics in Medicine 27:1693-1702.
        """
        import numpy as np

        z = _quantiles(points)
        here, there = (self.at(z) - self.values) ** 2, (self.at(-z) - self.values) ** 2
        distance = np.sqrt(overlap * np.maximum(here, (here + there) / 2).sum(axis=1)) / len(self.n)
        value = float(self.values.mean())
        return value, np.clip(value + np.sign(z) * distance, 0, 1)


def _quantiles(points: int) -> NDArray[np.float64]:
    import numpy as np
    from scipy.special import ndtri

    return np.asarray(ndtri((np.arange(points) + 0.5) / points))


def precision_recall_f1(counts: NDArray[np.int64], classes: NDArray[np.intp]) -> tuple[Shares, Shares, Shares]:
    """The rates of some classes from counts ``(C, C)``, rows true, columns predicted."""
    import numpy as np

    hits, true, predicted = np.diagonal(counts)[classes], counts.sum(axis=1)[classes], counts.sum(axis=0)[classes]
    return Shares(hits, predicted), Shares(hits, true), Shares(hits, true + predicted - hits, as_f1=True)
