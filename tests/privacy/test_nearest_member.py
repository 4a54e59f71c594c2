"""Distances of samples to members and to rows held out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.model import Field, InputSpec
from audit.parameters import UserError
from audit.privacy.nearest_member import comparable, nearest, nearness

Rows = NDArray[np.float64]


def three(seed: int, n: int, m: int, h: int, d: int = 5) -> tuple[Rows, Rows, Rows]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng.normal(size=(h, d))


def test_the_nearest_is_the_nearest() -> None:
    made, inside, _ = three(0, 50, 400, 1)
    found, distance = nearest(made, inside)
    brute = np.linalg.norm(made[:, None] - inside, axis=2)
    assert (found == brute.argmin(axis=1)).all()
    assert distance == pytest.approx(brute.min(axis=1), abs=1e-12)
    assert (nearest(inside + 1e4, inside + 1e4)[1] == 0).all()  # copies, far from the origin


def test_copies_of_members_and_of_rows_held_out() -> None:
    _, inside, outside = three(0, 1, 300, 100)
    rng = np.random.default_rng(0)
    copied = nearness(inside, inside, outside, 0.05, rng)
    assert (copied.member_excess, copied.copies.value) == (0.25, 1)
    assert 0.5 < copied.distance_ratio < 1  # as many members as rows held out: a third
    assert nearness(inside, inside, three(1, 1, 1, 300)[2], 0.05, rng).distance_ratio < 1e-9
    assert copied.groups == 300
    assert (copied.nearest == np.arange(300)).all()
    other = nearness(outside, inside, outside, 0.05, rng)
    assert other.member_excess == -0.75
    assert other.distance_ratio > 1e6
    both = nearness(inside, inside, inside, 0.05, rng)
    assert (both.member_excess, both.distance_ratio) == (0, 1)


def test_intervals_hold_what_is_fair_nineteen_times_of_twenty() -> None:
    hits = np.zeros(2)
    for seed in range(60):
        made, inside, outside = three(seed, 150, 300, 100)
        found = nearness(made, inside, outside, 0.05, np.random.default_rng(seed))
        for i, (replicates, fair) in enumerate(((found.excess_replicates, 0), (found.ratio_replicates, 1))):
            low, high = np.quantile(replicates, [0.025, 0.975])
            hits[i] += low <= fair <= high
    assert (hits >= 53).all()  # a binomial(60, 0.95) is below with a chance of 1 %


def test_one_member_copied_many_times_is_one_piece_of_evidence() -> None:
    _, inside, outside = three(0, 1, 200, 200)
    found = nearness(
        np.r_[np.repeat(inside[:1], 90, axis=0), outside[:10]], inside, outside, 0.05, np.random.default_rng(0)
    )
    assert found.groups == 11
    assert np.quantile(found.excess_replicates, 0.025) < 0


def test_what_cannot_be_compared() -> None:
    made, inside, outside = three(0, 5, 5, 5)
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="rows of one shape"):
        nearness(made[:, :2], inside, outside, 0.05, rng)
    with pytest.raises(UserError, match="missing or infinite"):
        nearness(made, inside, outside * np.nan, 0.05, rng)
    with pytest.raises(UserError, match="no direction"):
        comparable(made * 0, inside, outside, None, "cosine")


def test_columns_count_alike() -> None:
    fields = (Field(name="a", kind="number"), Field(name="b", kind="category", categories=("x", "y", "z")))
    rows = np.array([[0.0, 0], [1000, 1], [500, 2]])
    made, inside, outside = comparable(rows[:1], rows, rows, InputSpec(fields=fields), "l2")
    assert np.linalg.norm(made[0, 1:] - inside[1, 1:]) == pytest.approx(1)  # another category
    assert np.concatenate([inside, outside])[:, 0].std() == pytest.approx(1)
