"""The projection onto a hyperplane in a box against solvers that know nothing of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from audit.attacks import perturbation_size
from audit.attacks._hyperplane import to_hyperplane

NORMS = ("linf", "l2", "l1")


def problems(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points in the unit box, weights (some 0), signed gaps: most within reach, some not."""
    generator = torch.Generator().manual_seed(seed)
    point = torch.rand((n, d), generator=generator, dtype=torch.float64)
    point[::3, 0] = 0.0
    point[::4, -1] = 1.0
    weight = torch.randn((n, d), generator=generator, dtype=torch.float64)
    weight[::5, 1] = 0.0
    toward = torch.where(weight > 0, point, point - 1) * weight
    reach, away = toward.sum(1), (torch.where(weight > 0, point - 1, point) * weight).sum(1)
    share = 1.2 * torch.rand(n, generator=generator, dtype=torch.float64)
    gap = torch.where(torch.arange(n) % 2 == 0, share * reach, share * away)
    return point, weight, gap


def solved(point: Tensor, weight: Tensor, gap: Tensor, norm: str) -> float | None:
    """Least norm by a general solver; None where the box holds no point of the hyperplane."""
    t, w, g = point.numpy(), weight.numpy(), float(gap)
    d = len(t)
    box = list(zip(-t, 1 - t, strict=True))
    if norm == "l2":
        start = linprog(np.zeros(d), A_eq=w[None], b_eq=[-g], bounds=box)
        if start.status == 2:
            return None
        found = minimize(
            lambda m: m @ m, start.x, jac=lambda m: 2 * m, bounds=box, method="SLSQP",
            constraints={"type": "eq", "fun": lambda m: w @ m + g, "jac": lambda m: w}, options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert found.success
        return float(np.sqrt(found.fun))
    # linf: variables (m, s) with |m_i| <= s, least s. l1: (m, s_i) with |m_i| <= s_i, least sum of s.
    extra = np.ones((d, 1)) if norm == "linf" else np.eye(d)
    k = extra.shape[1]
    rows = np.block([[np.eye(d), -extra], [-np.eye(d), -extra]])
    found = linprog(
        np.r_[np.zeros(d), np.ones(k)], A_ub=rows, b_ub=np.zeros(2 * d), A_eq=np.r_[w, np.zeros(k)][None], b_eq=[-g],
        bounds=box + [(0, None)] * k,
    )  # fmt: skip
    return None if found.status == 2 else float(found.fun)


@pytest.mark.parametrize("norm", NORMS)
def test_no_shorter_way_exists(norm: str) -> None:
    point, weight, gap = problems(40, 7)
    move = to_hyperplane(point, weight, gap, norm, 0.0, 1.0)
    sizes = perturbation_size(move, norm)
    reached = ((weight * move).sum(1) + gap).abs() < 1e-9
    assert ((point + move >= -1e-12) & (point + move <= 1 + 1e-12)).all()
    unreachable = 0
    for i in range(len(point)):
        least = solved(point[i], weight[i], gap[i], norm)
        assert bool(reached[i]) == (least is not None)
        if least is None:
            unreachable += 1
            corner = torch.where(weight[i] * gap[i] > 0, 0.0, 1.0).to(point)
            moves = weight[i] != 0
            assert torch.allclose((point + move)[i][moves], corner[moves], atol=1e-12), "the corner that comes nearest"
        else:
            assert float(sizes[i]) == pytest.approx(least, abs=2e-7)
    assert 0 < unreachable < len(point)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_box_it_is_the_dual_norm(norm: str) -> None:
    point, weight, gap = problems(50, 9, seed=1)
    move = to_hyperplane(point, weight, gap, norm, -torch.inf, torch.inf)
    dual = {"linf": weight.abs().sum(1), "l2": weight.norm(dim=1), "l1": weight.abs().amax(1)}[norm]
    assert torch.allclose(perturbation_size(move, norm), gap.abs() / dual, rtol=1e-12)
    assert torch.allclose((weight * move).sum(1), -gap, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_see_each_other(norm: str) -> None:
    point, weight, gap = problems(33, 50, seed=2)
    point, weight, gap = point.float(), weight.float(), gap.float()
    together = to_hyperplane(point, weight, gap, norm, 0.0, 1.0)
    apart = [
        to_hyperplane(point[i : i + 1], weight[i : i + 1], gap[i : i + 1], norm, 0.0, 1.0) for i in range(len(point))
    ]
    assert torch.equal(torch.cat(apart), together)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_tiny_and_huge_gradients_lose_nothing(norm: str, scale: float) -> None:
    point, weight, gap = (t.float() for t in problems(20, 7, seed=3))
    usual = to_hyperplane(point, weight, gap, norm, 0.0, 1.0)
    scaled = to_hyperplane(point, weight * scale, gap * scale, norm, 0.0, 1.0)
    assert torch.allclose(scaled, usual, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("high", [1.0, torch.inf])
def test_no_gradient_is_no_move(norm: str, high: float) -> None:
    move = to_hyperplane(torch.full((2, 3), 0.5), torch.zeros(2, 3), torch.tensor([1.0, 0.0]), norm, -high, high)
    assert torch.equal(move, torch.zeros(2, 3))
