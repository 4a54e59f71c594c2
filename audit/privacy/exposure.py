"""Exposure of a canary: by how many bits a model prefers the secret it was shown to others drawn as that one was.

Source: Carlini et al. 2019, "The Secret Sharer", arXiv:1802.08232.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.parameters import UserError
from audit.stats import clopper_pearson

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

REPLICATES = 200
"""Bootstrap fits of a sample."""
MISFIT = 0.01
"""Kolmogorov–Smirnov p-value below which a sample is not skew-normal."""
_PENALTY = 0.87591, 0.85625
"""c1 and c2 of Azzalini & Arellano-Valle 2013."""
_SHAPES = 50.0
"""Largest shape of a fit; beyond it the distribution is half a normal one to three digits."""


@dataclass(frozen=True)
class Space:
    """All secrets that a canary's might have been: every way to fill its places.

    Args:
        pattern: for each place, what may stand there; one where it is fixed.
    """

    pattern: tuple[tuple[str, ...], ...]

    @property
    def size(self) -> int:
        """How many there are."""
        return math.prod(map(len, self.pattern))

    def all(self) -> Iterator[str]:
        """Every one, in order."""
        return map("".join, itertools.product(*self.pattern))

    def sample(self, n: int, rng: np.random.Generator) -> list[str]:
        """`n` of them, each drawn alike, without repetition.

        Raises:
            UserError: there are not so many.
        """
        if n > self.size:
            raise UserError(f"a space of {self.size} secrets has no {n} different ones")
        found: dict[str, None] = {}
        while len(found) < n:
            draws = [rng.integers(len(letters), size=n - len(found)) for letters in self.pattern]
            columns = ([letters[i] for i in drawn] for letters, drawn in zip(self.pattern, draws, strict=True))
            found.update(dict.fromkeys(map("".join, zip(*columns, strict=True))))
        return list(found)


def rank(bits: float, others: ArrayLike) -> float:
    """Place of a canary among secrets that it might have been: 1 where it takes the fewest bits; ties count half.

    Args:
        bits: the canary's log-perplexity.
        others: ``(n,)``, those of all the others.
    """
    import numpy as np

    values = np.asarray(others, dtype=np.float64)
    return float(1 + (values < bits).sum() + (values == bits).sum() / 2)


def exposure(place: float, size: int) -> float:
    """log2 size − log2 rank, in bits: from 0 up to log2 size, and above x with a chance of 2^−x where nothing was memorised.

    Raises:
        UserError: the rank is not one of so many.
    """
    if not 1 <= place <= size:
        raise UserError(f"rank {place:g} is none of {size}")
    return math.log2(size) - math.log2(place)


def exposure_floor(below: int, n: int, level: float = 0.95) -> float:
    """Bits that a canary's exposure has at least, whatever the distribution: of n secrets drawn alike, `below` take no more bits.

    The share that takes no more is at most the upper Clopper–Pearson bound, one-sided at `level`. With none below, n = 2,000 secrets
    show 9.4 bits.
    """
    return -math.log2(clopper_pearson(below, n, 2 * level - 1)[1])


@dataclass(frozen=True)
class SkewNormal:
    """Density 2/ω φ(z) Φ(αz) at z = (x − ξ)/ω.

    Source: Azzalini 1985, Scandinavian Journal of Statistics 12:171-178.
    """

    location: float
    scale: float
    shape: float

    def log_cdf(self, x: ArrayLike) -> NDArray[np.float64]:
        """Natural logarithm of the distribution function, to the far end of the lower tail.

        Φ(z) − 2T(z, α) cancels there. The logarithm g of the density is concave, so in the lower tail F(z) = e^g(z) ∫ e^(g(z−u) − g(z)) du
        falls off at least as fast as an exponential of rate g'(z), which Gauss–Laguerre quadrature takes.
        """
        import numpy as np
        from scipy.special import log_ndtr
        from scipy.stats import skewnorm

        z = (np.asarray(x, dtype=np.float64) - self.location) / self.scale

        def log_density(t: NDArray[np.float64]) -> NDArray[np.float64]:
            found: NDArray[np.float64] = math.log(2) - t * t / 2 - math.log(2 * math.pi) / 2 + log_ndtr(self.shape * t)
            return found

        mills = np.exp(-((self.shape * z) ** 2) / 2 - math.log(2 * math.pi) / 2 - log_ndtr(self.shape * z))
        rate = self.shape * mills - z
        tail = rate > 1
        slope = np.where(tail, rate, 1.0)
        nodes, weights = np.polynomial.laguerre.laggauss(48)
        steps = nodes / slope[..., None]
        inner = np.exp(log_density(z[..., None] - steps) - log_density(z)[..., None] + nodes)
        far = log_density(z) + np.log((weights * inner).sum(axis=-1) / slope)
        near = skewnorm.logcdf(np.where(tail, 0.0, z), self.shape)
        return np.asarray(np.where(tail, far, near), dtype=np.float64)


def fit_skew_normal(sample: ArrayLike, start: SkewNormal | None = None) -> SkewNormal:
    """Most probable skew-normal of a sample, with the penalty that keeps its shape finite.

    Args:
        sample: ``(n,)``, at least three different values.
        start: where to begin; the fit by moments by itself.

    Raises:
        UserError: the sample holds fewer than three different values, or one that is not finite.

    Source: Azzalini & Arellano-Valle 2013, "Maximum penalized likelihood estimation for skew-normal and skew-t distributions",
    arXiv:1203.2376.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import log_ndtr

    values = np.asarray(sample, dtype=np.float64)
    if not np.isfinite(values).all() or len(np.unique(values)) < 3:
        raise UserError("a skew-normal needs three different finite values: the model tells the secrets not apart")
    middle, spread = float(values.mean()), float(values.std())
    unit = (values - middle) / spread
    c1, c2 = _PENALTY

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        location, log_scale, shape = theta
        scale = math.exp(log_scale)
        z = (unit - location) / scale
        lower = log_ndtr(shape * z)
        mills = np.exp(-((shape * z) ** 2) / 2 - math.log(2 * math.pi) / 2 - lower)
        value = len(z) * log_scale + (z * z / 2 - lower).sum() + c1 * math.log1p(c2 * shape**2)
        by_z = z - shape * mills
        gradient = (
            -by_z.sum() / scale,
            len(z) - (by_z * z).sum(),
            -(mills * z).sum() + 2 * c1 * c2 * shape / (1 + c2 * shape**2),
        )
        return float(value), np.array(gradient)

    if start is None:
        start = _by_moments(float((unit**3).mean()))
    else:
        start = SkewNormal((start.location - middle) / spread, start.scale / spread, start.shape)
    found = minimize(
        loss, (start.location, math.log(start.scale), start.shape), jac=True, method="L-BFGS-B",
        bounds=((None, None), (-6, 6), (-_SHAPES, _SHAPES)),
    )  # fmt: skip
    location, log_scale, shape = (float(part) for part in found.x)
    return SkewNormal(middle + spread * location, spread * math.exp(log_scale), shape)


def _by_moments(skewness: float) -> SkewNormal:
    """Of mean 0, variance 1 and this skewness, as far as a skew-normal goes (0.995)."""
    bent = math.copysign(min(abs(skewness), 0.95), skewness)
    power = abs(bent) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * power / (power + ((4 - math.pi) / 2) ** (2 / 3))), bent)
    scale = 1 / math.sqrt(1 - 2 * delta**2 / math.pi)
    return SkewNormal(-scale * delta * math.sqrt(2 / math.pi), scale, delta / math.sqrt(1 - delta**2))


@dataclass(frozen=True)
class Extrapolated:
    """Exposure from a sample of secrets.

    Attributes:
        values: ``(c,)`` bits, of every canary.
        replicates: ``(c, REPLICATES)``, the same of bootstrap samples.
        p_value: of the sample having come from the fit; below `MISFIT` the extrapolation says nothing.
    """

    values: NDArray[np.float64]
    replicates: NDArray[np.float64]
    fit: SkewNormal
    p_value: float


def extrapolate(canaries: ArrayLike, sample: ArrayLike, size: int, rng: np.random.Generator) -> Extrapolated:
    """Exposure of canaries in a space too large to enumerate: −log2 F of a skew-normal fitted to a sample of it.

    No canary has more than log2 size bits, which is where the tail is cut off.

    Args:
        canaries: ``(c,)``, their log-perplexities in bits.
        sample: ``(n,)``, those of secrets drawn alike from the space.

    Raises:
        UserError: as `fit_skew_normal`.

    Source: Carlini et al. 2019, arXiv:1802.08232, section 4.4.
    """
    import numpy as np
    from scipy.stats import kstest

    told, values = np.atleast_1d(np.asarray(canaries, dtype=np.float64)), np.asarray(sample, dtype=np.float64)
    most = math.log2(size)

    def bits(fit: SkewNormal) -> NDArray[np.float64]:
        return np.clip(-fit.log_cdf(told) / math.log(2), 0, most)

    fit = fit_skew_normal(values)
    resampled = (fit_skew_normal(rng.choice(values, len(values)), fit) for _ in range(REPLICATES))
    replicates = np.stack([bits(one) for one in resampled], axis=1)
    p_value = float(kstest(values, lambda x: np.exp(fit.log_cdf(x))).pvalue)
    return Extrapolated(bits(fit), replicates, fit, p_value)
