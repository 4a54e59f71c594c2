"""Integrated gradients: closed forms, captum as the reference, and the policy on steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from families import MODELS
from pydantic import ValidationError
from torch import Tensor, nn
from toys import audited, digits, trained_cnn

from audit.bridges import captum
from audit.explainers import Attribution
from audit.explainers._completeness import TOLERANCE, relative_gap
from audit.explainers._passes import rows_per_gradient
from audit.explainers.integrated_gradients import IntegratedGradients
from audit.model import AuditedModel, Field, InputSpec, NonFiniteOutput, implied
from audit.parameters import UserError
from audit.rng import ExampleRng


def rows(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def value_model(function: Any, features: int) -> AuditedModel:
    return audited(function, (features,), output="value", kind="number")


def explain(
    model: AuditedModel, x: Tensor, target: Tensor | None = None, background: Tensor | None = None, **options: Any
) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    background = torch.zeros_like(x[:1]) if background is None else background
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    return IntegratedGradients(**options).run(model, x, target, background, rng)


class MultiLayer(nn.Module):
    """captum's ``BasicModel_MultiLayer``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        with torch.no_grad():
            self.linear1.weight.fill_(1.0)
            self.linear1.bias.copy_(torch.tensor([-10.0, 1.0, 1.0, 1.0]))
            self.linear2.weight.fill_(1.0)
            self.linear2.bias.copy_(torch.tensor([-1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x).relu())


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (lambda x: x[:, 0] * x[:, 1], (3, 2), (3, 3)),
        (lambda x: x.min(dim=1).values, (1, 3), (1, 0)),
        (lambda x: 1 - (1 - x[:, 0]).relu(), (2,), (1,)),
    ],
    ids=["product", "minimum", "saturated"],
)
def test_known_values(function: Any, x: tuple[float, ...], expected: tuple[float, ...]) -> None:
    found = explain(value_model(function, len(x)), rows(x), baseline="zero")
    # The saturated line has a kink in its middle, where quadrature on an even number of points is exact.
    torch.testing.assert_close(found.values, rows(expected), atol=1e-6, rtol=0)
    assert found.space == "value"
    assert float(found.error.max()) < 1e-6


@pytest.mark.parametrize(("baseline", "start"), [("zero", 0.0), ("mean", 2.0), (-1.5, -1.5), ("auto", 2.0)])
def test_linear_is_weight_times_distance_from_the_baseline(baseline: Any, start: float) -> None:
    w = rows(1.0, -2.0, 0.5)
    x = rows((3, 1, 4), (0, 0, 2))
    background = rows((1, 2, 3), (3, 2, 1))
    found = explain(value_model(lambda z: z @ w, 3), x, background=background, baseline=baseline)
    torch.testing.assert_close(found.values, w * (x - start), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.score, x @ w, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.base_value, torch.full((2,), start * float(w.sum())).double(), atol=1e-12, rtol=0)


def test_captums_multi_layer_model() -> None:
    model = audited(MultiLayer(), (3,), 2, kind="number")
    found = explain(model, rows((20, 50, 30)), baseline="zero", max_steps=50)
    torch.testing.assert_close(found.values, rows((78, 195, 117)), rtol=2e-3, atol=0)


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_middle"])
def test_equals_captum(method: Any) -> None:
    """In double precision: in single, a unit within rounding of its kink falls on either side, in captum as here."""
    model = audited(copy.deepcopy(trained_cnn()).double(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:24]).double()
    target = model.predict(x)
    found = explain(model, x, target, method=method, steps=20, max_steps=20, internal_batch=37)
    expected = captum.integrated_gradients(
        model.target_score, x, torch.zeros_like(x), target, steps=20, method=method, internal_batch=64, seed=0
    )
    torch.testing.assert_close(found.values, expected, atol=1e-7, rtol=1e-7)  # captum keeps its weights in single
    single = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    rough = explain(single, x.float(), target, method=method, steps=20, max_steps=20).values
    off = (rough - expected).flatten(1).abs().amax(dim=1)
    assert int((off > 1e-5).sum()) <= 1
    assert float(off.max()) < 0.01


@pytest.mark.parametrize("family", MODELS)
def test_equals_captum_on_every_family(family: str) -> None:
    model, x, target = MODELS[family]()
    found = explain(model, x, target, x[:2], baseline="mean", steps=30, max_steps=30)
    start = x[:2].mean(dim=0, keepdim=True)
    expected = captum.integrated_gradients(model.target_score, x, start, target, steps=30, internal_batch=64, seed=0)
    torch.testing.assert_close(found.values, expected, atol=1e-7, rtol=1e-5)
    assert found.space == model.output
    alone = explain(model, x[4:5], target[4:5], x[:2], baseline="mean", steps=30, max_steps=30)
    torch.testing.assert_close(alone.values, found.values[4:5], atol=1e-9, rtol=1e-7)


def test_passes_keep_within_the_cache_and_follow_from_the_shape() -> None:
    """A row of 4,096 numbers, of which each of 16 functions keeps one for the way back: 0.5 MB in double precision."""

    def deep(x: Tensor, depth: int = 16) -> Tensor:
        for _ in range(depth):
            x = x.sin()
        return x.sum(dim=1)

    wide = value_model(deep, 4096)
    assert rows_per_gradient(wide, torch.ones(3, 4096).double()) == (1 << 25) // (16 * 4096 * 8)
    assert rows_per_gradient(value_model(deep, 4), torch.ones(3, 4)) == wide.micro_batch
    deeper = value_model(lambda x: deep(x, 32), 8192)
    assert rows_per_gradient(deeper, torch.ones(1, 8192).double()) == 64  # fewer would pay for their calls
    assert (wide.rows_forward, wide.rows_backward) == (0, 0)


def test_methods_differ() -> None:
    model = value_model(lambda x: x[:, 0] ** 5, 1)
    gauss = explain(model, rows((2,)), baseline="zero", steps=4, max_steps=4)
    middle = explain(model, rows((2,)), baseline="zero", steps=4, max_steps=4, method="riemann_middle")
    assert abs(float(gauss.values) - 32) < 1e-9
    assert abs(float(middle.values) - 32) > 0.5


def wave(x: Tensor) -> Tensor:
    """Oscillates as far as x goes: the further, the more steps it takes."""
    return (40 * x[:, 0]).sin() + x[:, 0]


def test_only_incomplete_rows_get_more_steps() -> None:
    model = value_model(wave, 1)
    x = rows((0.1,), (7.0,))
    found = explain(model, x, baseline="zero", steps=10)
    assert bool((relative_gap(found.error, found.score, found.base_value) <= TOLERANCE).all())
    # 10 steps for both, then 20 and 40 for the second alone
    assert model.rows_backward == 20 + 20 + 40
    assert "10 to 40 steps" in found.method


def test_max_steps_ends_the_doubling_and_leaves_the_gap() -> None:
    model = value_model(wave, 1)
    found = explain(model, rows((7.0,)), baseline="zero", steps=10, max_steps=25)
    assert model.rows_backward == 10 + 20 + 25
    gap = abs(float(found.values) - float(wave(rows((7.0,)))))
    assert gap > 0.5
    assert float(found.error) == pytest.approx(gap, abs=1e-12)


def test_internal_batch_bounds_every_pass_and_changes_nothing() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.square().sum(dim=1)

    x = rows((1, 2), (3, 4), (5, 6))
    whole = explain(value_model(forward, 2), x, baseline="zero", steps=7, max_steps=7)
    assert max(sizes) == 21
    sizes.clear()
    parts = explain(value_model(forward, 2), x, baseline="zero", steps=7, max_steps=7, internal_batch=4)
    assert max(sizes) == 4
    torch.testing.assert_close(whole.values, parts.values, atol=1e-12, rtol=0)


def test_large_images_go_ten_at_a_time_by_default() -> None:
    sizes: list[int] = []

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.flatten(1).sum(dim=1)

    model = audited(forward, (3, 224, 224), output="value")
    explain(model, torch.ones(1, 3, 224, 224), baseline="zero", steps=25, max_steps=25)
    assert max(sizes) == 10


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model = value_model(wave, 1)
    x = rows((0.1,), (7.0,), (3.0,))
    together, alone = explain(model, x, baseline="zero"), explain(model, x[1:2], baseline="zero")
    torch.testing.assert_close(together.values[1:2], alone.values, atol=1e-12, rtol=0)


def test_margin_speaks_for_the_target() -> None:
    model = audited(lambda x: x @ torch.tensor([[2.0], [-1.0]]).double(), (2,), 2, output="margin", kind="number")
    found = explain(model, rows((1, 1), (1, 1)), torch.tensor([1, 0]), baseline="zero")
    torch.testing.assert_close(found.values, rows((2, -1), (-2, 1)))
    assert found.space == "margin"


def test_probability_output_is_explained_as_probability() -> None:
    model = audited(lambda x: torch.cat([1 - x, x], dim=1), (1,), 2, output="probability", kind="number")
    found = explain(model, rows((0.75,)), torch.tensor([0]), baseline="zero")
    torch.testing.assert_close(found.values, rows((-0.75,)), atol=1e-6, rtol=0)
    assert found.space == "probability"


def test_black_is_the_lower_bound_and_the_default_of_images() -> None:
    w = torch.arange(4.0).reshape(1, 1, 2, 2)
    model = audited(lambda x: (x * w).flatten(1).sum(dim=1), (1, 2, 2), output="value", bounds=(-1.0, 1.0))
    x = torch.full((1, 1, 2, 2), 0.5)
    for baseline in ("auto", "black"):
        torch.testing.assert_close(explain(model, x, baseline=baseline).values.float(), w * 1.5)
    torch.testing.assert_close(explain(model, x, baseline="zero").values.float(), w * 0.5)


def test_blur_keeps_what_is_even_and_loses_what_is_sharp() -> None:
    model = audited(lambda x: x.flatten(1).square().sum(dim=1), (1, 8, 8), output="value", bounds=(0.0, 1.0))
    flat, dot = torch.full((1, 1, 8, 8), 0.7), torch.zeros(1, 1, 8, 8)
    dot[0, 0, 4, 4] = 1.0
    assert float(explain(model, flat, baseline="blur").values.abs().max()) < 1e-6
    values = explain(model, dot, baseline="blur").values[0, 0]
    assert float(values[4, 4]) > 0.9
    assert float(values[4, 4]) == float(values.max())


@pytest.mark.parametrize(
    ("spec_options", "baseline", "message"),
    [({"kind": "number"}, "blur", "needs an image"), ({"kind": "number"}, "black", "no bounds")],
)
def test_baselines_that_do_not_fit_are_refused(spec_options: Any, baseline: Any, message: str) -> None:
    model = audited(lambda x: x.sum(dim=1), (2,), output="value", **spec_options)
    with pytest.raises(UserError, match=message):
        explain(model, rows((1, 2)), baseline=baseline)


def test_codes_have_no_gradient() -> None:
    model = AuditedModel(
        name="table", digest="", task="regression", classes=(), output="value",
        spec=InputSpec(fields=(Field(name="age", kind="number"), Field(name="job", kind="category", categories=("a",)))),
        capabilities=implied("value", gradients=True, layers=False), forward=lambda x: x.sum(dim=1),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"job.*use shap_values"):
        explain(model, rows((1, 0)))


def test_an_answer_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(NonFiniteOutput):
        explain(value_model(lambda x: x[:, 0].log(), 1), rows((1.0,)), baseline="zero")


def test_max_steps_below_steps_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_steps=10 is less than steps=50"):
        IntegratedGradients(max_steps=10)
