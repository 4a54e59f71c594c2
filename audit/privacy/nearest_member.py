"""Whether what a model makes lies nearer to its members than to rows that it never saw.

A generator that learned the distribution is as near to rows held out as to members; one that copies is nearer to members.

Source: Platzer & Reutterer 2021, "Holdout-based empirical assessment of mixed-type synthetic data", arXiv:2104.00635 (share nearest to
members); Meehan, Chaudhuri & Dasgupta 2020, "A non-parametric test to detect data-copying in generative models", arXiv:2004.05675
(distances to members, of samples and of rows held out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from audit.parameters import UserError
from audit.privacy.membership import TprAtFpr, tpr_at_fpr

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from audit.model import Field, InputSpec

REPLICATES = 1000
CALIBRATION = 4000
"""Rows held out, at most, that say how near to a member chance brings a row."""
_PRODUCTS = 1 << 24
"""Numbers in the largest matrix of products: 64 MiB."""
_TINY = 1e-12
"""Added to both distances of a ratio: 0 to 0 is 1."""


@dataclass(frozen=True)
class Nearness:
    """What distances say; replicates are ``(REPLICATES,)``, over groups of samples that have the same nearest row."""

    member_excess: float
    """Share of samples whose nearest row is a member, minus the share of members among the rows: 0 is fair."""
    excess_replicates: NDArray[np.float64]
    distance_ratio: float
    """Median of the distance to the nearest member over that to the nearest of as many rows held out: 1 is fair."""
    ratio_replicates: NDArray[np.float64]
    copies: TprAtFpr
    """Share of samples nearer to a member than all but an FPR of the rows held out: that FPR is fair."""
    groups: int
    """Different rows that are some sample's nearest."""
    nearest: NDArray[np.int64]
    """``(n,)``, each sample's nearest member."""
    distance: NDArray[np.float64]
    """``(n,)``, how far that is."""


def nearness(
    samples: ArrayLike, members: ArrayLike, held_out: ArrayLike, fpr: float, rng: np.random.Generator
) -> Nearness:
    """Distances (L2) of samples to members and to rows held out.

    Args:
        samples: ``(n, …)`` what the model made.
        members: ``(m, …)`` rows that it was trained on.
        held_out: ``(h, …)`` rows drawn as those, that it never saw.
        fpr: share of the rows held out that would be called copies.

    Raises:
        UserError: shapes differ, a side is empty, or a number is not finite.
    """
    made, inside, outside = _checked(samples, members, held_out)
    fewer = min(len(inside), len(outside))
    to_member = _near(made, inside, rng.permutation(len(inside)), fewer)
    to_other = _near(made, outside, rng.permutation(len(outside)), fewer)
    # half a sample where a member and a row held out are equally near
    member = (1 + np.sign(to_other.distance - to_member.distance)) / 2
    row = np.where(member > 0, to_member.row, len(inside) + to_other.row)
    ratio = (to_member.of_fewer + _TINY) / (to_other.of_fewer + _TINY)
    fair = len(inside) / (len(inside) + len(outside))
    weights, groups = _resampled(row, rng)
    others = outside[rng.permutation(len(outside))[:CALIBRATION]]
    return Nearness(
        member_excess=float(member.mean()) - fair,
        excess_replicates=weights @ member - fair,
        distance_ratio=float(np.median(ratio)),
        ratio_replicates=_medians(ratio, weights),
        copies=tpr_at_fpr(-to_member.distance, -nearest(others, inside)[1], fpr, rng),
        groups=groups,
        nearest=to_member.row,
        distance=to_member.distance,
    )


def nearest(rows: NDArray[np.float64], among: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each row's nearest among others, and its distance: ``(n,)`` both.

    Found by products of float32 about the others' mean, measured in float64: a copy is at distance 0.
    """
    middle = among.mean(axis=0)
    a, b = (rows - middle).astype(np.float32), (among - middle).astype(np.float32)
    half = (b * b).sum(axis=1) / 2
    step = max(1, _PRODUCTS // len(b))
    found = np.concatenate([(half - a[at : at + step] @ b.T).argmin(axis=1) for at in range(0, len(a), step)])
    return found, np.linalg.norm(rows - among[found], axis=1)


@dataclass(frozen=True)
class _Near:
    row: NDArray[np.int64]
    distance: NDArray[np.float64]
    of_fewer: NDArray[np.float64]


def _near(made: NDArray[np.float64], rows: NDArray[np.float64], order: NDArray[np.int64], fewer: int) -> _Near:
    """Nearest of all rows, and how far the nearest of the first `fewer` in a random order is."""
    first, rest = order[:fewer], order[fewer:]
    row, of_fewer = nearest(made, rows[first])
    if not len(rest):
        return _Near(first[row], of_fewer, of_fewer)
    other, distance = nearest(made, rows[rest])
    return _Near(np.where(of_fewer <= distance, first[row], rest[other]), np.minimum(of_fewer, distance), of_fewer)


def _resampled(row: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.float64], int]:
    """Weights ``(REPLICATES, n)`` of samples, which add up to 1, and how many groups there are: samples with the same nearest row come
    and go together.

    Source: Field & Welsh 2007, "Bootstrapping clustered data", JRSS B 69:369-390.
    """
    _, group = np.unique(row, return_inverse=True)
    groups = int(group.max()) + 1
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), REPLICATES)[:, group].astype(np.float64)
    return weights / weights.sum(axis=1, keepdims=True), groups


def _medians(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted medians ``(R,)`` of values ``(n,)`` under weights ``(R, n)`` that add up to 1."""
    order = np.argsort(values)
    place = (np.cumsum(weights[:, order], axis=1) < 0.5).sum(axis=1)
    medians: NDArray[np.float64] = values[order[np.minimum(place, len(values) - 1)]]
    return medians


def _checked(*sides: ArrayLike) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(side, dtype=np.float64) for side in sides]
    names = ("samples", "members", "rows held out")
    for array, name in zip(arrays, names, strict=True):
        if array.ndim < 2 or not len(array) or array.shape[1:] != arrays[0].shape[1:]:
            shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=True))
            raise UserError(f"{name} must be rows of one shape, and not none of them: {shapes}")
        if not np.isfinite(array).all():
            raise UserError(f"{name} hold a number that is missing or infinite, which has no distance")
    return [array.reshape(len(array), -1) for array in arrays]


def comparable(
    samples: ArrayLike,
    members: ArrayLike,
    held_out: ArrayLike,
    spec: InputSpec | None,
    distance: Literal["l2", "cosine"],
) -> list[NDArray[np.float64]]:
    """The three as rows whose L2 distance means something.

    The numbers of a table count in standard deviations; two categories are at distance 1 or 0. For ``cosine`` rows come to length 1,
    where L2 is the root of twice the cosine distance.

    Args:
        spec: the input that rows are of; None where they are embeddings.

    Raises:
        UserError: shapes differ, a number is missing or infinite, or a row has no direction.
    """
    sides = _checked(samples, members, held_out)
    if spec is not None and spec.tabular:
        if sides[0].shape[1] != len(spec.fields):
            raise UserError(f"samples have {sides[0].shape[1]} columns, the data has {len(spec.fields)}")
        rows = np.concatenate(sides[1:])
        columns = [_column(i, field, rows) for i, field in enumerate(spec.fields)]
        sides = [np.concatenate([column(side) for column in columns], axis=1) for side in sides]
    if distance == "cosine":
        lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
        if any((length == 0).any() for length in lengths):
            raise UserError("a row of zeros has no direction: take distance l2")
        sides = [side / length for side, length in zip(sides, lengths, strict=True)]
    return sides


def _column(i: int, field: Field, rows: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """How one column of a table counts in a distance."""
    if field.kind == "category":
        codes = np.arange(len(field.categories))
        return lambda side: (side[:, i, None] == codes) / np.sqrt(2)
    middle, spread = rows[:, i].mean(), rows[:, i].std() or 1.0
    return lambda side: (side[:, i, None] - middle) / spread
