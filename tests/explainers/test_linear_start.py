"""The linear start of a network: found where there is one, left alone where anything else looks at the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import MODELS
from torch import Tensor, nn
from toys import audited

from audit.explainers import integrated_gradients
from audit.explainers._linear_start import linear_start
from audit.explainers.integrated_gradients import IntegratedGradients
from audit.rng import ExampleRng


def values(model: Any, x: Tensor, target: Tensor) -> Tensor:
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return IntegratedGradients(steps=8, max_steps=8, baseline="zero").run(model, x, target, x[:0], rng).values


@pytest.mark.parametrize("family", ["cnn", "residual", "mlp", "transformer", "margin", "probability", "value"])
def test_it_changes_no_value_and_spares_the_first_layer(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, target = MODELS[family]()
    cut = linear_start(model, x, torch.zeros_like(x), target)
    assert cut is not None
    rows = 0

    def count(_: nn.Module, fed: tuple[Tensor], __: Tensor) -> None:
        nonlocal rows
        rows += len(fed[0])

    forward, layer = cut.layer.forward, cut.layer
    handle = layer.register_forward_pre_hook(lambda _, fed: None)
    layer.forward = lambda z: (count(layer, (z,), z), forward(z))[1]  # type: ignore[method-assign]
    found = values(model, x, target)
    handle.remove()
    del layer.__dict__["forward"]
    assert rows < 5 * len(x) + 10  # 8 steps a row otherwise
    assert model.rows_backward == 8 * len(x)
    monkeypatch.setattr(integrated_gradients, "linear_start", lambda *_: None)
    torch.testing.assert_close(found, values(model, x, target), atol=1e-9, rtol=1e-7)


class Beside(nn.Module):
    """A first layer, and something else that happens to the input."""

    def __init__(
        self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor, Tensor], Tensor], calls: int = 1
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # weights under which no part hides behind zeros of the rectifier
            torch.manual_seed(0)
            self.before, self.after, self.calls = before, after, calls
            self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.before(x)
        for _ in range(self.calls):
            answer = self.first(answer)
        return self.head(self.after(answer.relu(), x))


def same(x: Tensor) -> Tensor:
    return x


def answer(y: Tensor, _: Tensor) -> Tensor:
    return y


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Beside(lambda x: (x - 0.5) / 3, answer), True),
        (Beside(torch.sigmoid, answer), False),
        (Beside(lambda x: x / x.detach().abs().amax(), answer), False),
        (Beside(lambda x: x + torch.rand_like(x), answer), False),
        (Beside(same, lambda y, x: y + x), False),
        (Beside(same, lambda y, x: y * (x.detach() > 0.3)), False),
        (Beside(same, answer, calls=2), False),
        (Beside(same, lambda y, _: y + torch.rand_like(y)), False),
    ],
    ids=["scaled", "curved", "own scale", "noise before", "shortcut", "mask", "twice", "noise behind"],
)
def test_it_is_found_where_nothing_else_looks_at_the_input(module: nn.Module, found: bool) -> None:
    model, x = audited(module, (4,), 2, kind="number"), torch.linspace(-1, 1, 12).reshape(3, 4)
    target = torch.tensor([0, 1, 0])
    cut = linear_start(model, x, torch.zeros_like(x), target)
    assert (cut is not None) == found
    assert (model.rows_forward, model.rows_backward) == (0, 0)


def test_recurrent_networks_and_functions_have_none() -> None:
    model, x, target = MODELS["lstm"]()
    assert linear_start(model, x, torch.zeros_like(x), target) is None
    plain = audited(lambda z: z, (4,), 4, kind="number")
    assert linear_start(plain, torch.ones(1, 4), torch.zeros(1, 4), torch.zeros(1).long()) is None


def test_a_rectifier_in_place_gets_a_copy() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.Linear(6, 2)
    apart, in_place = (
        audited(nn.Sequential(layers[0], nn.ReLU(inplace=how), layers[1]).double(), (4,), 2, kind="number")
        for how in (False, True)
    )
    x, target = torch.randn(3, 4).double(), torch.tensor([0, 1, 0])
    cut = linear_start(in_place, x, torch.zeros_like(x), target)
    assert cut is not None
    assert cut.in_place
    torch.testing.assert_close(values(in_place, x, target), values(apart, x, target))
