"""Every way to per-example gradients gives what a loop over examples gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from train import nets

from audit.train.clipping import Clipping, layer_numbers
from audit.train.gradients import GradientMode
from audit.train.gradients.functorch import Functorch
from audit.train.gradients.ghost import Ghost
from audit.train.gradients.hooks import Hooks
from audit.train.gradients.loop import Loop

KINDS = ["flat", "per_layer", "automatic"]
MODES = [Hooks, Ghost, Functorch]
KNOWN_GAPS = {("tied", Ghost), ("transformer_embedding", Hooks), ("transformer_embedding", Ghost)}
PAIRS = [(name, mode) for name in nets.MAKERS for mode in MODES if (name, mode) not in KNOWN_GAPS]


def compare(name: str, mode: type[GradientMode], clipping: Clipping, n: int) -> None:
    net, (x, y) = nets.net(name), nets.rows(name, n)
    wanted, way = Loop(net, nets.loss, clipping).clipped_sum(x, y), mode(net, nets.loss, clipping)
    way.clipped_sum(x[:1], y[:1])  # a call leaves nothing for the next
    got = way.clipped_sum(x, y)
    way.close()
    for a, b in zip(wanted.gradients, got.gradients, strict=True):
        assert torch.allclose(a, b, atol=2e-6)
    assert torch.allclose(wanted.norms, got.norms, atol=1e-5)
    assert torch.allclose(wanted.losses, got.losses, atol=1e-6)


@pytest.mark.parametrize(("kind", "n"), [("flat", 4), ("per_layer", 1), ("automatic", nets.LENGTH)])
@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_equals_the_loop(name: str, mode: type[GradientMode], kind: str, n: int) -> None:
    compare(name, mode, Clipping(kind, norm=0.3), n)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [Hooks, Ghost, Functorch])
def test_leaves_the_module_as_it_was(mode: type[GradientMode]) -> None:
    net, (x, y) = nets.net("lstm"), nets.rows("lstm", 4)
    modules, parameters = [set(m.__dict__) for m in net.modules()], [set(p.__dict__) for p in net.parameters()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    way = mode(net, nets.loss, Clipping())
    for _ in range(2):
        way.clipped_sum(x, y)
        assert all(p.grad is None and getattr(p, "grad_sample", None) is None for p in net.parameters())
    way.close()
    assert [set(m.__dict__) for m in net.modules()] == modules
    assert [set(p.__dict__) for p in net.parameters()] == parameters
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("mode", [Hooks, Ghost])
def test_a_pass_that_breaks_leaves_no_hooks(mode: type[GradientMode]) -> None:
    net, (x, y) = nets.net("mlp"), nets.rows("mlp", 4)
    way = mode(net, nets.loss, Clipping())
    with pytest.raises(RuntimeError, match="mat1"):
        way.clipped_sum(x[:, :2], y)
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    wanted = Loop(net, nets.loss, Clipping()).clipped_sum(x, y)
    assert torch.allclose(way.clipped_sum(x, y).gradients[0], wanted.gradients[0], atol=1e-6)
    way.close()


@pytest.mark.parametrize("mode", MODES)
def test_dropout_differs_from_row_to_row(mode: type[GradientMode]) -> None:
    torch.manual_seed(0)
    net, (x, y) = nets.mlp(dropout=0.5), nets.rows("mlp", 1)
    way = mode(net, nets.loss, Clipping())
    norms = way.clipped_sum(x.expand(16, -1), y.expand(16)).norms
    way.close()
    assert len(norms.unique()) > 4


@pytest.mark.parametrize("mode", MODES)
def test_a_parameter_without_a_part_gets_zero(mode: type[GradientMode]) -> None:
    net, (x, y) = nets.net("mlp"), nets.rows("mlp", 4)
    net.idle = nn.Linear(2, 2)
    net.forward = lambda x: net[3](net[1](net[0](x)))  # type: ignore[method-assign]
    way = mode(net, nets.loss, Clipping())
    got = way.clipped_sum(x, y)
    way.close()
    assert [bool(g.any()) for g in got.gradients] == [True] * 4 + [False] * 2


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [Loop, *MODES])
def test_no_example_weighs_more_than_the_norm(mode: type[GradientMode], kind: str) -> None:
    net, x, y = nets.net("mlp"), 50 * torch.randn(1, 6), torch.tensor([2])
    way = mode(net, nets.loss, Clipping(kind, norm=0.25))  # type: ignore[arg-type]
    got = way.clipped_sum(x, y)
    way.close()
    assert torch.cat([g.flatten() for g in got.gradients]).norm() <= 0.25 + 1e-6


@pytest.mark.parametrize("mode", [Loop, *MODES])
def test_an_empty_batch_is_zero(mode: type[GradientMode]) -> None:
    got = mode(nets.net("mlp"), nets.loss, Clipping()).clipped_sum(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))
    assert all(not g.any() for g in got.gradients)
    assert len(got.norms) == 0


def test_layers_are_what_owns_parameters() -> None:
    assert layer_numbers(nets.net("mlp")) == [0, 0, 1, 1]
    assert layer_numbers(nets.net("frozen")) == [0, 1, 1]  # frozen ones have no part in the bound
    assert layer_numbers(nets.net("tied")) == [0, 1, 1]
