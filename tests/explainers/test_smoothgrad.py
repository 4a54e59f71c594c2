"""SmoothGrad: closed forms, captum on the same noise, and its own error."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from families import MODELS
from torch import Tensor
from toys import Linear, audited

from audit.explainers import Attribution
from audit.explainers.smoothgrad import Smoothgrad
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import UserError
from audit.rng import ExampleRng


def explain(
    model: AuditedModel, x: Tensor, target: Any = None, background: Any = None, ids: Any = None, **options: Any
) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    rng = ExampleRng(0, "check", ids or [str(i) for i in range(len(x))], "explainer")
    return Smoothgrad(**options).run(model, x, target, x[:0] if background is None else background, rng)


def cube(kind: str = "number", bounds: Any = None, features: int = 1) -> AuditedModel:
    return audited(lambda x: x.pow(3).sum(dim=1), (features,), output="value", kind=kind, bounds=bounds)


def test_a_linear_model_has_its_weights_without_error() -> None:
    model = audited(Linear([3.0, -4.0], 1.0), (2,), kind="number")
    found = explain(model, torch.tensor([[0.5, 2.0], [1.0, 1.0]]), torch.tensor([1, 0]))
    assert found.values.tolist() == [[3, -4], [0, 0]]
    assert found.error.tolist() == [0, 0]
    assert found.base_value is None


@pytest.mark.parametrize("statistic", ["mean", "square", "variance"])
def test_the_smoothed_slope_of_a_cube_within_its_own_error(statistic: Any) -> None:
    """The gradient 3 z² at z ~ N(m, s²): mean 3 (m² + s²), second moment 9 (m⁴ + 6 m² s² + 3 s⁴)."""
    x = torch.tensor([[1.0], [2.0], [-0.5]], dtype=torch.float64)
    found = explain(cube(bounds=(0.0, 2.0)), x, sigma=0.25, samples=4000, statistic=statistic)
    spread = (2 * 0.25) ** 2
    mean = 3 * (x**2 + spread)
    square = 9 * (x**4 + 6 * x**2 * spread + 3 * spread**2)
    expected = {"mean": mean, "square": square, "variance": square - mean**2}[statistic]
    off = (found.values - expected).abs()[:, 0] / found.error
    assert float(off.max()) < 3
    assert float((found.error / expected[:, 0].abs()).max()) < 0.1


def test_error_shrinks_with_the_root_of_the_samples() -> None:
    x = torch.tensor([[1.0]])
    few, many = (explain(cube(bounds=(0.0, 2.0)), x, samples=samples).error for samples in (200, 3200))
    assert 3 < float(few / many) < 5.5


def test_error_is_the_spread_of_repeated_runs() -> None:
    x = torch.ones(200, 1, dtype=torch.float64)
    for statistic in ("mean", "square", "variance"):
        found = explain(cube(bounds=(0.0, 2.0)), x, samples=100, statistic=statistic)
        assert float(found.values.std() / found.error.mean()) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(("statistic", "nt_type"), [("mean", "smoothgrad"), ("square", "smoothgrad_sq")])
def test_equals_captum_on_the_same_noise(
    family: str, statistic: Any, nt_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, target = MODELS[family]()
    noise = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer").normal((6, *x.shape[1:])).double()
    span = (x.flatten(1).amax(dim=1) - x.flatten(1).amin(dim=1)).reshape(-1, *[1] * x[0].ndim)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model.target_score))
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise.flatten(0, 1) * (0.2 * span).repeat_interleave(6, 0))
    background = x * span.flatten()[:, None] if model.spec.tabular else None
    expected = tunnel.attribute(
        x.clone().requires_grad_(), nt_type=nt_type, nt_samples=6, stdevs=1.0, abs=False, additional_forward_args=target
    )
    found = explain(model, x, target, background, samples=6, sigma=0.2, statistic=statistic)
    torch.testing.assert_close(found.values, expected.detach(), atol=1e-5, rtol=1e-5)
    assert found.space == model.output


def test_a_row_has_its_own_noise_whatever_the_pass() -> None:
    model, x, target = MODELS["cnn"]()
    whole = explain(model, x, target, samples=9)
    for found in (
        explain(model, x, target, samples=9, internal_batch=4),
        explain(model, x.flip(0), target.flip(0), samples=9, ids=[str(i) for i in range(len(x))][::-1]),
    ):
        values = found.values if found.values[0].allclose(whole.values[0]) else found.values.flip(0)
        torch.testing.assert_close(values, whole.values, atol=1e-9, rtol=0)
    alone = explain(model, x[3:4], target[3:4], samples=9, ids=["3"])
    torch.testing.assert_close(alone.values, whole.values[3:4], atol=1e-9, rtol=0)
    torch.testing.assert_close(alone.error, whole.error[3:4], atol=1e-9, rtol=0)


def test_noise_follows_the_range() -> None:
    """The mean second derivative-like excess 3 s² tells which s was used."""
    x = torch.tensor([[0.0, 4.0]], dtype=torch.float64)

    def spread(model: AuditedModel, **options: Any) -> list[float]:
        values = explain(model, x, samples=20_000, sigma=0.1, internal_batch=20_000, **options).values - 3 * x**2
        return (values / 3).sqrt()[0].tolist()

    assert spread(cube("series", features=2)) == pytest.approx([0.4, 0.4], rel=0.1)  # the row's own range
    assert spread(cube("series", (0.0, 10.0), 2)) == pytest.approx([1, 1], rel=0.1)
    table = AuditedModel(
        name="table", digest="", task="regression", classes=(), output="value",
        spec=InputSpec(fields=(Field(name="a", kind="number"), Field(name="b", kind="number", bounds=(0.0, 5.0)))),
        capabilities=implied("value", gradients=True, layers=False), forward=lambda x: x.pow(3).sum(dim=1),
    )  # fmt: skip
    background = torch.tensor([[1.0, 0.0], [4.0, float("nan")], [2.0, 1.0]], dtype=torch.float64)
    assert spread(table, background=background) == pytest.approx([0.3, 0.5], rel=0.1)


def test_internal_batch_bounds_every_pass() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.sum(dim=1)

    explain(audited(forward, (2,), output="value", kind="series"), torch.ones(3, 2), samples=7, internal_batch=4)
    assert max(sizes) == 4
    assert sum(sizes) == 21


def test_codes_have_no_gradient() -> None:
    model = audited(lambda x: x.float().sum(dim=1), (4,), output="value", kind="text")
    with pytest.raises(UserError, match="a gradient means nothing"):
        explain(model, torch.zeros(1, 4))
