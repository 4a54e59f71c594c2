"""Bands of frequencies: nets that listen to one band, closed forms, names, completeness."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from games import explained
from pydantic import ValidationError
from torch import Tensor
from toys import audited

from audit.explainers.exact_shap import shapley_weights
from audit.explainers.frequency_bands import FrequencyBands
from audit.model import AuditedModel
from audit.parameters import NotApplicable, UserError

TIME = torch.arange(64) / 64


def wave(cycles: float, height: float = 1.0) -> Tensor:
    return height * torch.sin(2 * math.pi * cycles * TIME)


def energy_of(cycles: int) -> AuditedModel:
    """Hears one frequency."""
    return audited(lambda x: torch.fft.rfft(x)[:, 0, cycles].abs().square(), (1, 64), output="value", kind="series")


def test_the_band_that_is_heard_gets_everything() -> None:
    x = (wave(3) + wave(12, 2.0) + wave(30))[None, None]
    found = explained(FrequencyBands(edges=(5, 10, 20)), energy_of(12), x)
    assert found.part_names == (
        "0-5 cycles per window", "5-10 cycles per window", "10-20 cycles per window", "20-32 cycles per window",
    )  # fmt: skip
    assert found.parts is not None
    torch.testing.assert_close(found.parts, torch.tensor([[0, 0, 64.0**2, 0]]).double(), atol=1e-2, rtol=0)
    shape = wave(12).square() / wave(12).square().sum()
    torch.testing.assert_close(found.values[0, 0], 64**2 * shape.double(), atol=1e-2, rtol=0)
    assert found.method == "all coalitions of 4 bands, absent is mean"


def test_a_product_of_two_bands_is_shared() -> None:
    def forward(x: Any) -> Any:
        heard = torch.fft.rfft(x)[:, 0].abs()
        return heard[:, 3] * heard[:, 12]

    model = audited(forward, (1, 64), output="value", kind="series")
    found = explained(FrequencyBands(bands=4), model, (wave(3) + wave(12))[None, None])
    assert found.part_names[0] == "0-8 cycles per window"
    assert found.parts is not None
    torch.testing.assert_close(found.parts, torch.tensor([[512.0, 512, 0, 0]]).double(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("shape", [(1, 64), (3, 33), (16,)])
@pytest.mark.parametrize("absent", ["auto", "background", "zero"])
def test_complete_and_by_definition(shape: tuple[int, ...], absent: Any) -> None:
    """Any net, any background: bands are swapped one coalition after the other."""
    torch.manual_seed(0)
    w = torch.randn(shape)
    model = audited(lambda x: (x * w).flatten(1).sum(dim=1).tanh(), shape, output="value", kind="series")
    x, background = torch.randn(4, *shape), torch.randn(3, *shape)
    found = explained(FrequencyBands(bands=3, absent=absent), model, x, background=background)
    assert found.parts is not None
    assert found.base_value is not None
    torch.testing.assert_close(found.parts.sum(dim=1), found.score - found.base_value)
    torch.testing.assert_close(found.values.flatten(1).sum(dim=1), found.parts.sum(dim=1))
    others = {"auto": background.mean(dim=0)[None], "zero": torch.zeros(1, *shape), "background": background}[absent]
    coalitions = (torch.arange(8)[:, None] >> torch.arange(3) & 1).bool()
    sizes = [len(part) for part in torch.tensor_split(torch.arange(shape[-1] // 2 + 1), 3)]
    worth = []
    for coalition in coalitions:
        mask = torch.cat([there.expand(size) for there, size in zip(coalition, sizes, strict=True)])
        own, other = torch.fft.rfft(x[1]), torch.fft.rfft(others)
        worth.append(model.scores(torch.fft.irfft(torch.where(mask, own, other), n=shape[-1])).mean())
    expected = torch.stack(worth).double() @ shapley_weights(coalitions)
    torch.testing.assert_close(found.parts[1], expected, atol=1e-5, rtol=0)


def test_hertz() -> None:
    x = wave(12)[None, None]
    found = explained(FrequencyBands(edges=(40,), rate=256), energy_of(12), x)
    assert found.part_names == ("0-40 Hz", "40-128 Hz")
    assert found.parts is not None
    assert float(found.parts[0, 1]) == pytest.approx(1024, abs=1e-2)  # 12 cycles in a quarter of a second
    assert explained(FrequencyBands(bands=2, rate=256), energy_of(12), x).part_names == ("0-64 Hz", "68-128 Hz")


def test_values_show_when_a_band_is_strong() -> None:
    burst = wave(20) * (TIME > 0.5)
    model = audited(lambda x: x[:, 0].square().sum(dim=1), (1, 64), output="value", kind="series")
    found = explained(FrequencyBands(edges=(10,)), model, (burst + wave(2))[None, None]).values[0, 0]
    assert float(found[40:60].mean()) > float(found[4:24].mean())


def test_a_band_of_no_energy_is_worth_nothing() -> None:
    x = torch.zeros(1, 1, 64)
    found = explained(FrequencyBands(bands=2), energy_of(5), x)
    assert float(found.values.abs().sum()) == 0
    assert bool(found.values.isfinite().all())


def test_more_bands_than_frequencies() -> None:
    model = audited(lambda x: x.sum(dim=1), (4,), output="value", kind="series")
    found = explained(FrequencyBands(bands=8), model, torch.ones(1, 4))
    assert len(found.part_names) == 3
    torch.testing.assert_close(found.parts, torch.tensor([[4.0, 0, 0]]).double())


def test_nothing_is_left_behind_and_a_stochastic_model_is_explained_the_same_twice() -> None:
    model = audited(lambda x: x.flatten(1).sum(dim=1) + torch.randn(len(x)), (1, 16), output="value", kind="series")
    x = torch.randn(2, 1, 16, requires_grad=True)
    state, before = torch.get_rng_state(), x.detach().clone()
    first = explained(FrequencyBands(bands=3), model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x.detach(), before)
    assert x.grad is None
    assert not first.values.requires_grad
    torch.rand(3)
    assert torch.equal(first.values, explained(FrequencyBands(bands=3), model, x).values)


def test_mistakes_are_told() -> None:
    image = audited(lambda x: x.flatten(1).sum(dim=1), (1, 4, 4), output="value")
    with pytest.raises(NotApplicable, match="explains series, the input of model 'toy' is an image"):
        explained(FrequencyBands(), image, torch.ones(1, 1, 4, 4))
    with pytest.raises(
        UserError, match=r"lies in 0\.1-0\.2 cycles per window: they are 1 cycles per window apart, up to 32"
    ):
        explained(FrequencyBands(edges=(0.1, 0.2)), energy_of(1), torch.ones(1, 1, 64))
    with pytest.raises(ValidationError, match="edges must ascend"):
        FrequencyBands(edges=(5, 4))
    with pytest.raises(ValidationError, match="at most 12 bands"):
        FrequencyBands(edges=tuple(range(1, 13)))
