"""The captum bridge gives what captum gives when called directly, in bounded passes, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor
from toys import audited, digits, trained_cnn

from audit.bridges.captum import input_x_gradient, integrated_gradients, saliency


def digits_and_targets(n: int) -> tuple[Any, Tensor, Tensor]:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:n])
    return model, x, model.predict(x)


@pytest.mark.parametrize("internal_batch", [5, 100])
def test_saliency_is_captums(internal_batch: int) -> None:
    model, x, target = digits_and_targets(12)
    expected = captum.attr.Saliency(trained_cnn()).attribute(x.clone().requires_grad_(), target=target, abs=False)
    found = saliency(model.target_score, x, target, internal_batch=internal_batch, seed=0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("internal_batch", [5, 100])
def test_input_x_gradient_is_captums(internal_batch: int) -> None:
    model, x, target = digits_and_targets(12)
    expected = captum.attr.InputXGradient(trained_cnn()).attribute(x.clone().requires_grad_(), target=target).detach()
    found = input_x_gradient(model.target_score, x, target, internal_batch=internal_batch, seed=0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("internal_batch", [5, 100])
@pytest.mark.parametrize("method", ["gausslegendre", "riemann_middle"])
def test_integrated_gradients_are_captums(internal_batch: int, method: Any) -> None:
    model, x, target = digits_and_targets(12)
    baseline = torch.full_like(x[:1], 2.0)
    expected = captum.attr.IntegratedGradients(trained_cnn()).attribute(
        x, baseline, target=target, n_steps=9, method=method
    )
    found = integrated_gradients(
        model.target_score, x, baseline, target, steps=9, method=method, internal_batch=internal_batch, seed=0
    )
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


def test_passes_are_bounded() -> None:
    sizes: list[int] = []

    def score(x: Tensor, target: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.square().sum(dim=1)

    x, target = torch.ones(7, 3), torch.zeros(7, dtype=torch.int64)
    saliency(score, x, target, internal_batch=3, seed=0)
    integrated_gradients(score, x, torch.zeros(1, 3), target, steps=4, internal_batch=3, seed=0)
    assert max(sizes) == 3


def test_no_rows_give_no_maps() -> None:
    empty, target = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    assert saliency(lambda x, t: x.sum(dim=1), empty, target, internal_batch=3, seed=0).shape == (0, 3)
    found = integrated_gradients(
        lambda x, t: x.sum(dim=1), empty, torch.zeros(1, 3), target, steps=2, internal_batch=3, seed=0
    )
    assert found.shape == (0, 3)


@pytest.mark.parametrize("fails", [False, True])
def test_inputs_and_generators_stay_as_they_were(fails: bool) -> None:
    def score(x: Tensor, target: Tensor) -> Tensor:
        noise = torch.rand(len(x))
        if fails:
            raise RuntimeError("broken on purpose")
        return x.sum(dim=1) * noise

    x, target = torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
    before = torch.get_rng_state()
    for explain in (
        lambda: saliency(score, x, target, internal_batch=2, seed=5),
        lambda: integrated_gradients(score, x, torch.zeros(1, 3), target, steps=2, internal_batch=4, seed=5),
    ):
        if fails:
            with pytest.raises(RuntimeError, match="broken on purpose"):
                explain()
        else:
            assert torch.equal(explain(), explain())
        assert torch.equal(torch.get_rng_state(), before)
        assert not x.requires_grad
        assert x.grad is None


def test_the_seed_decides_what_a_stochastic_model_draws() -> None:
    def score(x: Tensor, target: Tensor) -> Tensor:
        return x.sum(dim=1) * torch.rand(len(x))

    x, target = torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
    first, second = (saliency(score, x, target, internal_batch=4, seed=seed) for seed in (1, 2))
    assert not torch.equal(first, second)
