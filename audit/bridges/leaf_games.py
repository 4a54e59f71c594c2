"""Interventional Shapley values of trees, a leaf at a time: exact, and the background is grouped by what it does at the leaf.

A tree is the sum of its leaves, and a leaf is a game of the features on its path: of a row and a background row, features that
only the row satisfies (A of them) must be there, and those that only the background row satisfies (B) must not; the leaf is dead
where some feature is satisfied by neither. It is worth its value v to exactly the coalitions that hold all of A and none of B, so
that each of A gets v (A − 1)! B! / (A + B)!, each of B gets −v A! (B − 1)! / (A + B)!, and nobody else gets anything. Only the
pattern matters of which features a row satisfies, and rows by the hundred share a few patterns at each leaf.

Source: leaf games: Laberge & Pequignot 2022, arXiv:2209.15123; patterns: Nadel & Wettenstein 2025, arXiv:2511.09376.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_FEATURES = 62
"""On the path of one leaf: a pattern is an int64."""
_ENTRIES = 1 << 21
"""About as many (row, leaf) entries are held at once."""


@dataclass(frozen=True)
class Leaves:
    """Leaves of an ensemble, each with the distinct features on its path; places beyond their number are always satisfied.

    Args:
        feature: ``(L, D)``.
        low, high: ``(L, D)`` float64: satisfied where low < value ≤ high.
        missing: ``(L, D)`` bool: a missing value satisfies too.
        value: ``(L, C)`` what the leaf adds to the outputs.
    """

    feature: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    missing: NDArray[np.bool_]
    value: NDArray[np.float64]

    def parts(self, size: int) -> Iterator[Leaves]:
        """`size` leaves at a time."""
        for first in range(0, len(self.value), size):
            part = slice(first, first + size)
            yield Leaves(self.feature[part], self.low[part], self.high[part], self.missing[part], self.value[part])

    def patterns(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which features rows ``(N, F)`` satisfy, as bits, ``(L, N)``."""
        import numpy as np

        found = np.zeros((len(self.value), len(x)), dtype=np.int64)
        columns = np.ascontiguousarray(x.T)
        for d in range(self.feature.shape[1]):
            values = columns[self.feature[:, d]]
            inside = (values > self.low[:, d, None]) & (values <= self.high[:, d, None])
            inside |= self.missing[:, d, None] & np.isnan(values)
            found |= inside.astype(np.int64) << d
        return found


def leaves(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    default: NDArray[np.int64],
    feature: NDArray[np.int64],
    threshold: NDArray[np.float64],
    value: NDArray[np.float64],
) -> Leaves:
    """All leaves of all trees, found level by level.

    Args:
        left, right, default: ``(T, nodes)`` children of each node, below 0 of a leaf; a value ≤ threshold goes left, a missing one
            where `default` says. The root is node 0.
        value: ``(T, nodes, C)``.

    Raises:
        OverflowError: a path has more than 62 features.
    """
    import numpy as np

    tree = np.arange(len(left))
    node = np.zeros_like(tree)
    none = np.zeros((len(tree), 0))
    paths = Leaves(none.astype(np.int64), none, none, none.astype(bool), np.zeros((len(tree), 0)))
    done: list[tuple[Leaves, NDArray[np.float64]]] = []
    while len(tree):
        inner = left[tree, node] >= 0
        done.append((_taken(paths, ~inner), value[tree[~inner], node[~inner]]))
        tree, node, paths = tree[inner], node[inner], _taken(paths, inner)
        split, missing = (feature[tree, node], threshold[tree, node]), default[tree, node]
        both = []
        for children, upper in ((left, True), (right, False)):
            child = children[tree, node]
            both.append((child, _narrowed(paths, *split, missing == child, upper=upper)))
        tree = np.concatenate([tree, tree])
        node = np.concatenate([both[0][0], both[1][0]])
        paths = _joined([both[0][1], both[1][1]])
    most = max(part.feature.shape[1] for part, _ in done)
    if most > MOST_FEATURES:
        raise OverflowError(f"a path of {most} features")
    whole = _joined([_widened(part, most) for part, _ in done])
    return Leaves(whole.feature, whole.low, whole.high, whole.missing, np.concatenate([v for _, v in done]))


def _taken(paths: Leaves, which: NDArray[np.bool_]) -> Leaves:
    return Leaves(
        paths.feature[which], paths.low[which], paths.high[which], paths.missing[which], paths.value[which]
    )  # fmt: skip


def _joined(parts: list[Leaves]) -> Leaves:
    import numpy as np

    return Leaves(
        np.concatenate([p.feature for p in parts]), np.concatenate([p.low for p in parts]),
        np.concatenate([p.high for p in parts]), np.concatenate([p.missing for p in parts]),
        np.concatenate([p.value for p in parts]),
    )  # fmt: skip


def _widened(paths: Leaves, places: int) -> Leaves:
    """With so many places, the new ones of no feature (−1) and always satisfied."""
    import numpy as np

    more = ((0, 0), (0, places - paths.feature.shape[1]))
    return Leaves(
        np.pad(paths.feature, more, constant_values=-1), np.pad(paths.low, more, constant_values=-np.inf),
        np.pad(paths.high, more, constant_values=np.inf), np.pad(paths.missing, more, constant_values=True), paths.value,
    )  # fmt: skip


def _narrowed(
    paths: Leaves,
    feature: NDArray[np.int64],
    threshold: NDArray[np.float64],
    missing: NDArray[np.bool_],
    *,
    upper: bool,
) -> Leaves:
    """Paths with one more condition each: on a feature that they hold already, or in a place of its own."""
    import numpy as np

    wide = _widened(paths, paths.feature.shape[1] + 1)
    every = np.arange(len(feature))
    held = wide.feature == feature[:, None]
    free = (wide.feature < 0).argmax(axis=1)  # the last place is
    place = np.where(held.any(axis=1), held.argmax(axis=1), free)
    wide.feature[every, place] = feature
    if upper:
        wide.high[every, place] = np.minimum(wide.high[every, place], threshold)
    else:
        wide.low[every, place] = np.maximum(wide.low[every, place], threshold)
    wide.missing[every, place] &= missing
    used = max(1, int((wide.feature >= 0).sum(axis=1).max())) if len(feature) else 1
    return Leaves(wide.feature[:, :used], wide.low[:, :used], wide.high[:, :used], wide.missing[:, :used], wide.value)


def leaf_shapley(
    every: Leaves, x: NDArray[np.float64], background: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shapley values ``(N, F, C)`` of rows ``(N, F)`` with absent values from background rows ``(M, F)``, and base values ``(C,)``."""
    import numpy as np
    from scipy.sparse import csr_array

    places, outputs = every.feature.shape[1], every.value.shape[1]
    values = np.zeros((outputs, x.shape[1], len(x)))
    base = np.zeros(outputs)
    full = (1 << places) - 1
    for part in every.parts(max(1, _ENTRIES // (len(x) + len(background)))):
        others = part.patterns(background)
        base += (others == full).mean(axis=1) @ part.value
        table, kind = _tables(part.patterns(x), others, places)
        for d in range(places):
            share = table[:, d][kind]  # (L, N)
            for output in range(outputs):
                to_feature = (part.value[:, output], (part.feature[:, d].clip(0), np.arange(len(share))))
                values[output] += csr_array(to_feature, shape=(x.shape[1], len(share))) @ share
    return values.transpose(2, 1, 0), base


def _tables(
    own: NDArray[np.int64], others: NDArray[np.int64], places: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What a leaf of value 1 gives each place, for each pattern a row has there, ``(U, D)``; and each row's pattern ``(L, N)``."""
    import numpy as np

    pattern, count, kind = _distinct(own)
    other_pattern, other_count, other_kind = _distinct(others)
    weight = np.bincount(other_kind.ravel()) / others.shape[1]
    # Every pattern of a row with every pattern of the background at the same leaf.
    pairs = count * other_count
    leaf = np.repeat(np.arange(len(own)), pairs)
    number = np.arange(len(leaf)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    mine = (np.cumsum(count) - count)[leaf] + number // other_count[leaf]
    theirs = (np.cumsum(other_count) - other_count)[leaf] + number % other_count[leaf]
    alive = (pattern[mine] | other_pattern[theirs]) == (1 << places) - 1
    mine, theirs = mine[alive], theirs[alive]
    present, absent = pattern[mine] & ~other_pattern[theirs], other_pattern[theirs] & ~pattern[mine]
    gain, loss = _weights(places)
    sizes = np.bitwise_count(present), np.bitwise_count(absent)
    plus, minus = gain[sizes] * weight[theirs], loss[sizes] * weight[theirs]
    table = np.empty((len(pattern), places))
    for d in range(places):
        given = np.where(present >> d & 1, plus, 0.0) - np.where(absent >> d & 1, minus, 0.0)
        table[:, d] = np.bincount(mine, given, minlength=len(pattern))
    return table, kind


def _distinct(patterns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Different patterns of each leaf one after the other ``(U,)``, how many each leaf has ``(L,)``, and which of all is whose ``(L, N)``."""
    import numpy as np

    order = patterns.argsort(axis=1)
    ascending = np.take_along_axis(patterns, order, axis=1)
    first = np.ones(patterns.shape, dtype=bool)
    first[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    kind = np.empty_like(order)
    np.put_along_axis(kind, order, first.ravel().cumsum().reshape(patterns.shape) - 1, axis=1)
    return ascending[first], first.sum(axis=1), kind


@cache
def _weights(most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(A − 1)! B! / (A + B)!`` and ``A! (B − 1)! / (A + B)!`` at [A, B]; 0 where nobody is to get it."""
    import numpy as np

    gain, loss = np.zeros((most + 1, most + 1)), np.zeros((most + 1, most + 1))
    for a in range(most + 1):
        for b in range(most + 1):
            if a:
                gain[a, b] = 1 / ((a + b) * math.comb(a + b - 1, b))
            if b:
                loss[a, b] = 1 / ((a + b) * math.comb(a + b - 1, a))
    return gain, loss
