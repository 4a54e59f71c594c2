"""Projections, steps and starts against quadratic and linear programmes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from audit.attacks import perturbation_size
from audit.attacks._ball import Ball
from audit.rng import ExampleRng

NORMS = ["linf", "l2", "l1"]


def points(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Centers in the box 0..1, many of them at its faces, and points anywhere."""
    generator = torch.Generator().manual_seed(seed)
    center = (torch.rand((n, d), generator=generator) * 2 - 0.5).clamp(0, 1)
    return center, center + torch.randn((n, d), generator=generator)


def nearest(norm: str, center: np.ndarray, point: np.ndarray, eps: float, box: tuple[float, float] | None) -> float:
    """Squared distance of the nearest allowed point, by SLSQP on the parts above and below zero of the perturbation."""
    d = len(center)
    low, high = box if box is not None else (-100.0, 100.0)
    bounds = [(0, high - c) for c in center] + [(0, c - low) for c in center]
    if norm == "linf":
        bounds = [(0, min(b, eps)) for _, b in bounds]
    limit = {
        "linf": lambda z: 1.0,
        "l2": lambda z: eps**2 - ((z[:d] - z[d:]) ** 2).sum(),
        "l1": lambda z: eps - z.sum(),
    }[norm]
    found = minimize(
        lambda z: ((center + z[:d] - z[d:] - point) ** 2).sum(),
        np.zeros(2 * d),
        jac=lambda z: np.concatenate([s * 2 * (center + z[:d] - z[d:] - point) for s in (1, -1)]),
        bounds=bounds,
        constraints={"type": "ineq", "fun": limit},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return float(found.fun)


@pytest.mark.parametrize("box", [(0.0, 1.0), None])
@pytest.mark.parametrize("eps", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_is_the_nearest_allowed_point(norm: str, eps: float, box: tuple[float, float] | None) -> None:
    center, point = points(6, 7)
    ball = Ball.around(center, norm, eps, box)
    there = ball.project(point)
    assert float((perturbation_size(there - center, norm) - eps).max()) < 1e-6
    if box is not None:
        assert bool(((there >= box[0]) & (there <= box[1])).all())
    for i in range(len(center)):
        best = nearest(norm, center[i].double().numpy(), point[i].double().numpy(), eps, box)
        assert float((there[i] - point[i]).double().square().sum()) == pytest.approx(best, abs=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_allowed_stays_where_it_is(norm: str) -> None:
    center, point = points(50, 9)
    ball = Ball.around(center, norm, 0.7, (0.0, 1.0))
    inside = ball.project(point)
    assert torch.allclose(ball.project(inside), inside, atol=1e-6)
    assert torch.equal(ball.project(center), center)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("norm", NORMS)
def test_tiny_and_huge_units_are_projected_alike(norm: str, factor: float) -> None:
    center, point = points(20, 9)
    usual = Ball.around(center, norm, 0.7, (0.0, 1.0)).project(point)
    scaled = Ball.around(center * factor, norm, 0.7 * factor, (0.0, factor)).project(point * factor)
    assert torch.allclose(scaled / factor, usual, atol=1e-5)


@pytest.mark.parametrize("box", [(0.0, 1.0), None])
@pytest.mark.parametrize("norm", NORMS)
def test_the_furthest_point_is_the_best_of_a_linear_function(norm: str, box: tuple[float, float] | None) -> None:
    center, eps = points(8, 6)[0], 0.9
    gradient = torch.randn((8, 6), generator=torch.Generator().manual_seed(3))
    gradient[:, 0] = 0.0
    ball = Ball.around(center, norm, eps, box)
    there = ball.furthest(gradient)
    gained = ((there - center) * gradient).sum(dim=1)
    assert torch.equal(there[:, 0], center[:, 0]), "what does not matter stays"
    assert float((perturbation_size(there - center, norm) - eps).max()) < 1e-6
    low, high = box if box is not None else (-100.0, 100.0)
    for i in range(8):
        c, g = center[i].double().numpy(), gradient[i].double().numpy()
        room = [(0, high - v) for v in c] + [(0, v - low) for v in c]
        if norm == "l2":
            # The best of a linear function over ball and box satisfies, for some t, delta = clip(t * g).
            reach = max(
                float(g @ np.clip(t * g, low - c, high - c))
                for t in np.geomspace(1e-2, 1e2, 4_000)
                if np.linalg.norm(np.clip(t * g, low - c, high - c)) <= eps
            )
        else:
            room = [(0, min(b, eps)) for _, b in room] if norm == "linf" else room
            total = {"A_ub": np.ones((1, 12)), "b_ub": [eps]} if norm == "l1" else {}
            reach = -linprog(-np.concatenate([g, -g]), bounds=room, **total).fun
        assert float(gained[i]) == pytest.approx(reach, rel=2e-3 if norm == "l2" else 1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_has_the_length_asked_for_and_climbs_as_no_random_step_of_that_length_does(norm: str) -> None:
    center = torch.full((30, 12), 0.5)
    gradient = torch.randn((30, 12), generator=torch.Generator().manual_seed(1))
    moved = Ball.around(center, norm, 1.0, (-5.0, 5.0)).ascend(center, gradient, 0.25) - center
    assert torch.allclose(perturbation_size(moved, norm).float(), torch.full((30,), 0.25), atol=1e-6)
    other = torch.randn((200, 30, 12), generator=torch.Generator().manual_seed(2))
    other *= 0.25 / perturbation_size(other.flatten(0, 1), norm).float().reshape(200, 30, 1)
    assert bool(((moved * gradient).sum(1) >= (other * gradient).sum(2).amax(0)).all())


def test_a_sparse_step_moves_as_many_elements_as_it_is_told() -> None:
    center = torch.zeros((3, 10))
    gradient = torch.randn((3, 10), generator=torch.Generator().manual_seed(1))
    ball = Ball.around(center, "l1", 1.0, None)
    moved = ball.ascend_sparsely(center, gradient, torch.full((3, 1), 2.0), torch.tensor([1, 4, 10]))
    assert (moved != 0).sum(1).tolist() == [1, 4, 10]
    assert torch.allclose(moved.abs().sum(1), torch.full((3,), 2.0))
    for row, count in enumerate((1, 4, 10)):
        largest = gradient[row].abs().topk(count).indices
        assert torch.equal(moved[row, largest].sign(), gradient[row, largest].sign())


@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_random_inside_and_belong_to_their_example(norm: str) -> None:
    center = points(6, 20)[0]

    def start(rows: Tensor, copies: int) -> Tensor:
        rng = ExampleRng(0, "test", [f"row-{i}" for i in rows.tolist()], "start")
        return Ball.around(center, norm, 0.8, (0.0, 1.0)).take(rows.repeat_interleave(copies)).start(rng, copies)

    together = start(torch.arange(6), 3)
    sizes = perturbation_size(together - center.repeat_interleave(3, dim=0), norm)
    assert float(sizes.max()) <= 0.8 + 1e-6
    assert float(sizes.min()) > 0.1
    assert len(together.unique(dim=0)) == 18
    assert torch.equal(start(torch.tensor([4, 1]), 3), together.reshape(6, 3, 20)[[4, 1]].flatten(0, 1))


def test_uniform_in_the_l2_ball() -> None:
    center = torch.zeros((1, 3)).repeat(4000, 1)
    rng = ExampleRng(0, "test", [str(i) for i in range(4000)], "start")
    radius = Ball.around(center, "l2", 2.0, None).start(rng).norm(dim=1)
    assert float((radius <= 1.0).float().mean()) == pytest.approx(1 / 8, abs=0.02)  # the volume within half the radius
