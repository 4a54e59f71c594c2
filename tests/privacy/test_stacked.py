"""Modules run as one: the way that is taken is the fastest that does to every module what it does alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from audit.privacy import _stacked_layers
from audit.privacy._stacked import STACK_BYTES, Alone, Stack, Vmapped, proven, stack_height, stacked_tensors, way_for
from audit.privacy._stacked_layers import Layered


class Residual(nn.Module):
    """Two norms, a sum, a mean over places, operations by function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.batch = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.group = nn.GroupNorm(2, 8)
        self.last = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.batch(self.first(x / 2)), inplace=True)
        x = torch.relu(x + self.group(self.second(x)))
        return self.last(x.mean((2, 3)))


class Classic(nn.Module):
    """As tutorials write it: pools of ReLUs, dropout by function, ``view``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3)
        self.drop = nn.Dropout2d(0.3)
        self.last = nn.Linear(72, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.first(x.float())), 2)
        x = functional.dropout(functional.relu(self.drop(self.second(x))), 0.2, training=self.training)
        x = functional.adaptive_avg_pool2d(x, 3)
        return self.last(x.view(x.size(0), -1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.norm = nn.LayerNorm(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.table(x))).mean(dim=1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(8, 16)
        self.place = nn.Parameter(0.1 * torch.randn(8, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.into(x[:, 0]) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.LSTM(8, 12, batch_first=True)
        self.last = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.steps(x[:, 0])[0][:, -1])


class Looks(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found = self.last(x.flatten(1))
        return found * 2 if found.sum() > 0 else found


class Mixing(nn.Module):
    """Rows of a batch meet: what a layer does to a stack's rows must not be guessed from a module's."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found = self.last(x.flatten(1))
        return found - found.mean(0)


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, stride=2), nn.GroupNorm(3, 6), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2),
        nn.GELU(), nn.AvgPool2d(1), nn.Flatten(), nn.Linear(4, 10, bias=False),
    )  # fmt: skip


def series() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(8, 10)
    )


MODULES: dict[Callable[[], nn.Module], type[Stack]] = {
    mlp: Layered, cnn: Layered, Residual: Layered, Classic: Layered, Tied: Layered, Attention: Vmapped, Mixing: Vmapped,
    series: Layered, Recurrent: Alone, Looks: Alone,
}  # fmt: skip


def made(maker: Callable[[], nn.Module], count: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [maker().train() for _ in range(count)]


def images(count: int = 3, rows: int = 4) -> Tensor:
    return torch.randn(count, rows, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("maker", MODULES, ids=lambda maker: maker.__name__)
def test_the_fastest_way_that_is_right(maker: Callable[[], nn.Module]) -> None:
    assert way_for(made(maker), images()) is MODULES[maker]


@pytest.mark.parametrize("maker", MODULES, ids=lambda maker: maker.__name__)
def test_a_stack_answers_as_each_module_alone(maker: Callable[[], nn.Module]) -> None:
    modules, x = made(maker), images()
    stack = MODULES[maker](modules[0], stacked_tensors(modules))
    stack.train(False)
    expected = torch.stack([module.eval()(part) for module, part in zip(modules, x, strict=True)])
    assert torch.allclose(stack(x), expected, atol=1e-5)


def test_words_are_looked_up_in_each_modules_own_table() -> None:
    modules = made(Words)
    x = torch.randint(0, 20, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    assert way_for(modules, x) is Layered


def test_a_wrong_layer_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(layer: nn.GroupNorm, value: _stacked_layers._Value, stack: Layered) -> _stacked_layers._Value:
        found = functional.group_norm(value.as_channels(), layer.num_groups)  # over the modules
        return _stacked_layers._Value(found, channels=True)

    monkeypatch.setitem(_stacked_layers._RULES, nn.GroupNorm, careless)
    assert not proven(Layered, made(cnn), images())
    assert way_for(made(cnn), images()) is Vmapped


def test_a_gradient_that_is_wrong_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = _stacked_layers._RULES[nn.Linear]

    def detached(layer: nn.Linear, value: _stacked_layers._Value, stack: Layered) -> _stacked_layers._Value:
        found = right(layer, value, stack)
        return _stacked_layers._Value(found.tensor * 0.5 + found.tensor.detach() * 0.5, found.channels)

    monkeypatch.setitem(_stacked_layers._RULES, nn.Linear, detached)
    assert not proven(Layered, made(mlp), images())


@pytest.mark.parametrize("way", [Layered, Vmapped])
def test_every_module_draws_its_own_dropout(way: type[Stack]) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    stack = way(module, stacked_tensors([module] * 3))
    torch.manual_seed(0)
    out = stack(torch.ones(3, 2, 1, 8, 8))
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[1], out[2])


def test_a_pool_of_relus_is_a_relu_of_the_pool() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    walk = _stacked_layers._Walk(Layered(module, stacked_tensors([module])))
    assert [str(node.target) for node in walk.module.graph.nodes][1:4] == ["0", "2", "1"]


def test_frozen_weights_stay() -> None:
    modules = made(mlp)
    for module in modules:
        module[1].weight.requires_grad_(False)  # type: ignore[index]
    stack = Layered(modules[0], stacked_tensors(modules))
    assert len(stack.parameters) == len(list(modules[0].parameters())) - 1


def test_a_stacks_largest_tensor_stays_in_the_cache() -> None:
    module = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 10))
    x = torch.zeros(32, 1, 8, 8)
    assert stack_height(module, x) == STACK_BYTES // (32 * 64 * 64 * 4)
    assert stack_height(nn.Linear(10, 1), torch.zeros(1, 10)) > 1000
    wide = nn.Linear(1 << 12, 1 << 11)  # 32 MB of weights
    assert stack_height(wide, torch.zeros(1, 1 << 12)) == 1
