"""The way that a training takes to its gradients is the brute force's, and what it releases is what the factory makes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from train import nets

from audit.parameters import UserError
from audit.train import building
from audit.train.clipping import Clipping
from audit.train.gradients.choosing import fitting
from audit.train.gradients.converting import reverted
from audit.train.gradients.loop import Loop
from audit.train.loop import Plain
from audit.train.training_file import Training

NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "MLP": (nets.mlp, "mlp"),
    "CNN with GroupNorm": (nets.cnn, "cnn"),
    "LSTM": (lambda: nets.Recurrent(nn.LSTM), "lstm"),
    "GRU": (lambda: nets.Recurrent(nn.GRU), "gru"),
    "transformer, positions a parameter": (nets.Transformer, "transformer"),
    "transformer, positions an embedding": (lambda: nets.Transformer("embedding"), "transformer"),
}


def training(**dp: object) -> Training:
    return Training.model_validate({
        "name": "m", "factory": "trainable:Softmax", "data": {"source": "sklearn.digits"}, "steps": 9, "batch": 64,
        "optimiser": "sgd", "dp": {"noise_multiplier": 1, "delta": 1e-5, "clipping_norm": 0.3, **dp},
    })  # fmt: skip


def a_step(module: nn.Module, gradients: tuple[torch.Tensor, ...]) -> None:
    """Parameters along a sum, a tenth of it."""
    with torch.no_grad():
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient


@pytest.mark.parametrize("n", [nets.LENGTH, 7], ids=["batch as long as a sequence", "another batch"])
@pytest.mark.parametrize("name", list(NETS))
def test_a_training_steps_as_the_brute_force_does(name: str, n: int) -> None:
    torch.manual_seed(4)
    make, like = NETS[name]
    own, (x, y) = make(), nets.rows(like, n)
    module, said = building.in_training(training(), own)
    assert bool(said) == (like in ("lstm", "gru", "transformer"))
    way = building.gradient_mode(training(), module, x, y)
    assert way.name != "loop"
    got = way.clipped_sum(x, y)
    way.close()
    truth = Loop(own, building.losses(training()), Clipping(norm=0.3)).clipped_sum(x, y)
    torch.testing.assert_close(got.norms, truth.norms, rtol=1e-4, atol=1e-6)
    a_step(module, got.gradients)
    released = reverted(own, module) if module is not own else module
    wanted = copy.deepcopy(make())
    wanted.load_state_dict(own.state_dict())
    if module is not own:
        a_step(wanted, truth.gradients)
        for (where, mine), true in zip(released.named_parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-4, atol=2e-6, msg=where)
    else:
        for mine, true in zip(got.gradients, truth.gradients, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-4, atol=2e-6)


def test_without_conversion_the_layer_is_named() -> None:
    x, y = nets.rows("gru", 6)
    module, said = building.in_training(training(convert=False), own := nets.Recurrent(nn.GRU))
    assert (module, said) == (own, [])
    with pytest.raises(UserError, match=r"gradients: hooks: .*layer 'layer' \(GRU\)"):
        building.gradient_mode(training(convert=False, gradients="hooks"), module, x, y)
    assert building.gradient_mode(training(convert=False), module, x, y).name == "loop"


def test_group_norm_where_asked() -> None:
    def factory() -> nn.Module:
        return nets.cnn(nn.BatchNorm2d)

    assert isinstance(building.made(training(group_norm=True), factory)[1], nn.GroupNorm)  # type: ignore[index]
    assert isinstance(building.made(training(), factory)[1], nn.BatchNorm2d)  # type: ignore[index]


def test_a_memory_limit_bounds_the_rows_of_a_pass() -> None:
    x, y = torch.randn(64, 200), torch.zeros(64).long()
    net = nn.Sequential(nn.Linear(200, 200), nn.BatchNorm1d(200), nn.Tanh(), nn.Linear(200, 3))
    before = copy.deepcopy(net.state_dict())
    _, peak = fitting(Plain(copy.deepcopy(net), building.losses(training()), Clipping()), x, y, None)
    limit = f"{peak // 1000 - 1} kB"
    changes: dict[str, object] = {"memory_limit": limit, "dp": None}
    plain = training().model_dump() | {"optimiser": "sgd"} | changes
    way = building.gradient_mode(Training.model_validate(plain), net, x, y)
    assert way.rows is not None
    assert 1 < way.rows < 64
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items()), "no step was taken"
    assert building.gradient_mode(Training.model_validate(plain | {"memory_limit": None}), net, x, y).rows is None
    private = Training.model_validate(plain | {"dp": training(gradients="hooks").dp, "memory_limit": "2 MB"})
    net[1] = nn.Identity()
    rows = building.gradient_mode(private, net, x, y).rows
    assert rows is not None
    assert 0 < rows < 16, "64 rows have gradients of 10 MB"
