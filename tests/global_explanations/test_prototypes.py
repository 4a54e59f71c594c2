"""MMD-critic: the greedy choice is the best one step, criticisms lie where no prototype is, MMD in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from audit.global_explanations.prototypes import (
    choose_criticisms,
    choose_prototypes,
    gaussian_kernel,
    median_distance,
    mmd_squared,
    nearest,
    witness,
)


def clusters(sizes: tuple[int, ...] = (40, 30, 20), seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0], [6, 0], [0, 6], [6, 6]])
    return torch.from_numpy(np.concatenate([rng.normal(centres[i], 0.5, (n, 2)) for i, n in enumerate(sizes)]))


def test_the_kernel_and_mmd_in_closed_form() -> None:
    rows = torch.tensor([[0.0], [1.0]])
    kernel = gaussian_kernel(rows, rows, 0.5)
    near = math.exp(-2)
    np.testing.assert_allclose(kernel, [[1, near], [near, 1]])
    assert mmd_squared(kernel, torch.tensor([0])) == pytest.approx((1 + near) / 2 - (1 + near) + 1)
    assert mmd_squared(kernel, torch.tensor([0, 1])) == pytest.approx(0)
    assert median_distance(torch.tensor([[0.0], [1.0], [3.0]])) == 2
    assert median_distance(torch.zeros(3, 2)) == 1


def test_every_step_takes_the_row_that_brings_the_mmd_down_most() -> None:
    kernel = gaussian_kernel(*(clusters((9, 6, 4)),) * 2, 1.0)
    chosen = choose_prototypes(kernel, 5)
    for step in range(5):
        before = chosen[:step]
        reached = mmd_squared(kernel, chosen[: step + 1])
        others = [i for i in range(len(kernel)) if i not in before.tolist()]
        best = min(mmd_squared(kernel, torch.cat([before, torch.tensor([i])])) for i in others)
        assert reached == pytest.approx(best, abs=1e-12)


def test_the_greedy_choice_is_near_the_best() -> None:
    """The objective is monotone submodular for such kernels: greedy reaches 1 − 1/e of the best gain, here nearly all of it."""
    rows = clusters((7, 5, 3))
    kernel = gaussian_kernel(rows, rows, 1.0)
    greedy = mmd_squared(kernel, choose_prototypes(kernel, 3))
    best = min(mmd_squared(kernel, torch.tensor(picked)) for picked in itertools.combinations(range(15), 3))
    assert best <= greedy <= 1.2 * best


def test_each_cluster_gets_a_prototype_and_the_stranger_is_criticised() -> None:
    rows = torch.cat([clusters(), torch.tensor([[20.0, 20.0]]).double()])
    kernel = gaussian_kernel(rows, rows, 1.0)
    prototypes = choose_prototypes(kernel, 3)
    owners = [0 if i < 40 else 1 if i < 70 else 2 for i in prototypes.tolist()]
    assert sorted(owners) == [0, 1, 2]
    assert 90 not in prototypes.tolist()
    criticisms = choose_criticisms(kernel, prototypes, 5).tolist()
    assert not set(criticisms) & set(prototypes.tolist())
    away = witness(kernel, prototypes).abs()
    away[prototypes] = 0
    assert criticisms[0] == int(away.argmax())
    assert 90 in criticisms


def test_criticisms_differ_by_the_determinant() -> None:
    """The step takes the largest |witness| + log of what is left of a row's kernel, which is what log det grows by."""
    rows = clusters((8, 5, 4))
    kernel = gaussian_kernel(rows, rows, 1.5)
    prototypes = choose_prototypes(kernel, 2)
    chosen = choose_criticisms(kernel, prototypes, 4).tolist()
    away = witness(kernel, prototypes).abs()
    for step in range(4):
        before = chosen[:step]

        def gain(i: int, before: list[int] = before) -> float:
            inside = [*before, i]
            grown = torch.logdet(kernel[inside][:, inside])
            base = torch.logdet(kernel[before][:, before]) if before else 0.0
            return float(away[i] + grown - base)

        others = [i for i in range(17) if i not in before and i not in prototypes.tolist()]
        assert gain(chosen[step]) == pytest.approx(max(map(gain, others)), abs=1e-6)


def test_more_than_there_are() -> None:
    kernel = gaussian_kernel(*(clusters((3,)),) * 2, 1.0)
    prototypes = choose_prototypes(kernel, 9)
    assert sorted(prototypes.tolist()) == [0, 1, 2]
    assert choose_criticisms(kernel, prototypes, 4).tolist() == []


def test_the_nearest_prototype() -> None:
    assert nearest(torch.tensor([[0.0], [9.0]]), torch.tensor([[8.0], [1.0]])).tolist() == [1, 0]
