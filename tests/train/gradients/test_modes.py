"""Every way to per-example gradients gives what a loop over examples gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audit.train.clipping import Clipping
from audit.train.gradients import GradientMode
from audit.train.gradients.functorch import Functorch
from audit.train.gradients.loop import Loop


def loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, y, reduction="none")


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize("kind", ["flat", "per_layer", "automatic"])
@pytest.mark.parametrize("mode", [Functorch])
def test_equals_the_loop(mode: type[GradientMode], kind: str) -> None:
    net, x, y = mlp(), torch.randn(7, 6), torch.arange(7) % 3
    clipping = Clipping(kind, norm=0.3)  # type: ignore[arg-type]
    wanted, got = Loop(net, loss, clipping).clipped_sum(x, y), mode(net, loss, clipping).clipped_sum(x, y)
    for a, b in zip(wanted.gradients, got.gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert torch.allclose(wanted.norms, got.norms, atol=1e-6)
    assert torch.allclose(wanted.losses, got.losses, atol=1e-6)


def test_a_clipped_sum_by_hand() -> None:
    """One weight, squared error: the gradient of row i is 2 (w x − y) x."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    x, y = torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([0.0, 0.0, 5.0])
    squared = lambda outputs, y: (outputs[:, 0] - y) ** 2  # noqa: E731
    got = Loop(net, squared, Clipping("flat", norm=3.0)).clipped_sum(x, y)
    assert got.norms.tolist() == [2.0, 8.0, 0.0]
    assert got.gradients[0].item() == pytest.approx(2.0 + 3.0 + 0.0)
    automatic = Loop(net, squared, Clipping("automatic", norm=3.0, gamma=1.0)).clipped_sum(x, y)
    assert automatic.gradients[0].item() == pytest.approx(3 * 2 / 3 + 3 * 8 / 9)


@pytest.mark.parametrize("kind", ["flat", "per_layer", "automatic"])
def test_no_example_weighs_more_than_the_norm(kind: str) -> None:
    net, x, y = mlp(), 50 * torch.randn(1, 6), torch.tensor([2])
    got = Loop(net, loss, Clipping(kind, norm=0.25)).clipped_sum(x, y)  # type: ignore[arg-type]
    assert torch.cat([g.flatten() for g in got.gradients]).norm() <= 0.25 + 1e-6


@pytest.mark.parametrize("mode", [Loop, Functorch])
def test_an_empty_batch_is_zero(mode: type[GradientMode]) -> None:
    got = mode(mlp(), loss, Clipping()).clipped_sum(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))
    assert all(not g.any() for g in got.gradients)
    assert len(got.norms) == 0
