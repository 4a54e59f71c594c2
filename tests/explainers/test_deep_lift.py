"""DeepLIFT: closed forms, captum where it is right, networks where it is not, and those that are refused."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import captum.attr
import pytest
import torch
from families import MODELS, Residual
from torch import Tensor, nn
from torch.nn import functional
from toys import audited, digits, trained_cnn

from audit.bridges.shap import library as shap_library
from audit.explainers import Attribution
from audit.explainers._completeness import relative_gap
from audit.explainers.deep_lift import DeepLift
from audit.model import AuditedModel, NonFiniteOutput
from audit.parameters import NotApplicable, UserError
from audit.rng import ExampleRng


def explain(model: AuditedModel, x: Tensor, target: Any = None, background: Any = None, **options: Any) -> Attribution:
    target = torch.zeros(len(x), dtype=torch.int64) if target is None else target
    rng = ExampleRng(0, "check", [str(i) for i in range(len(x))], "explainer")
    options = {"baseline": "zero", **options}
    return DeepLift(**options).run(model, x, target, x[:0] if background is None else background, rng)


def captums(module: nn.Module, x: Tensor, start: Tensor, target: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return captum.attr.DeepLift(copy.deepcopy(module)).attribute(x.clone(), start, target=target).detach()


def value_model(function: Any, features: int = 1) -> AuditedModel:
    return audited(function, (features,), output="value", kind="number")


def test_a_saturated_line_has_the_slope_from_its_baseline() -> None:
    found = explain(value_model(lambda x: 1 - (1 - x[:, 0]).relu()), torch.tensor([[2.0], [0.5]]))
    assert found.values.tolist() == [[1.0], [0.5]]
    assert found.base_value.tolist() == [0, 0]
    assert found.score.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("call", [torch.tanh, torch.sigmoid, torch.exp, lambda x: x.pow(3), functional.silu, torch.sin])
def test_one_function_hands_down_its_whole_difference(call: Any) -> None:
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    x, start = torch.tensor([[0.3, 0.2, 0.9]]).double(), 0.25
    found = explain(value_model(lambda z: call(z @ w), 3), x, baseline=start)
    moved = (x - start) * w
    whole = call(x @ w) - call(torch.full_like(x, start) @ w)
    torch.testing.assert_close(found.values, whole * moved / moved.sum())


def test_a_pool_hands_its_rise_to_the_new_maximum_and_its_fall_to_the_old() -> None:
    model = audited(
        lambda x: functional.max_pool1d(x[:, None], 2)[:, 0].sum(dim=1), (4,), output="value", kind="series"
    )
    background = torch.tensor([[1.0, 0.0, 5.0, 0.0]])
    found = explain(model, torch.tensor([[0.0, 3.0, 2.0, 0.0]]), background=background, baseline="mean")
    assert found.values.tolist() == [[0.0, 2.0, -3.0, 0.0]]


def test_where_nothing_moves_the_derivative_stands_in() -> None:
    """Input and baseline give the unit the same sum, by parts that cancel."""
    found = explain(value_model(lambda x: x.sum(dim=1).tanh(), 2), torch.tensor([[1.0, -1.0]]))
    assert found.values.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("family", ["mlp", "value"])
def test_equals_captum(family: str) -> None:
    model, x, target = MODELS[family]()
    assert model.module is not None
    background = x.flip(0)[:2]
    start = background.mean(dim=0, keepdim=True).expand_as(x)
    if family == "value":
        module, aim = nn.Sequential(*list(model.module.children())[:-1]), torch.zeros(len(x), dtype=torch.int64)
    else:
        module, aim = model.module, target
    found = explain(model, x, target, background, baseline="mean")
    torch.testing.assert_close(found.values, captums(module, x, start, aim), atol=1e-8, rtol=1e-5)
    assert float(found.error.max()) < 1e-9
    assert found.space == model.output


def shaps(module: nn.Module, x: Tensor, start: Tensor, target: Tensor) -> Tensor:
    explainer = shap_library().DeepExplainer(copy.deepcopy(module), start[None])
    found = torch.from_numpy(explainer.shap_values(x, check_additivity=False))
    return found[torch.arange(len(x)), ..., target]


def test_equals_captum_and_shap_through_a_pool() -> None:
    """captum's values of a pool add up for a baseline of zeros alone; shap's always do."""
    model, x, target = MODELS["cnn"]()
    module = model.module
    assert module is not None
    found = explain(model, x, target)
    torch.testing.assert_close(found.values, captums(module, x, torch.zeros_like(x), target), atol=1e-8, rtol=1e-5)
    background = x.flip(0)[:2]
    found, start = explain(model, x, target, background, baseline="mean"), background.mean(dim=0)
    torch.testing.assert_close(found.values, shaps(module, x, start, target), atol=1e-8, rtol=1e-5)
    off = captums(module, x, start.expand_as(x), target).flatten(1).sum(dim=1) - (found.score - found.base_value)
    assert float(off.abs().min()) > 1e-3


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_equals_shap_on_digits_in_single_precision(start: float) -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:20])
    target = model.predict(x)
    found = explain(model, x, target, internal_batch=7, baseline=start)
    expected = shaps(trained_cnn(), x, torch.full_like(x[0], start), target).float()
    torch.testing.assert_close(found.values, expected, atol=1e-4, rtol=1e-4)
    assert float(relative_gap(found.error, found.score, found.base_value).max()) < 1e-4


def test_a_margin_speaks_for_the_target() -> None:
    model, x, _ = MODELS["margin"]()
    one, other = (explain(model, x, torch.full((len(x),), aim)).values for aim in (0, 1))
    torch.testing.assert_close(one, -other)
    assert model.module is not None
    torch.testing.assert_close(other, captums(model.module, x, torch.zeros_like(x), torch.zeros(len(x)).long()))


class Reused(nn.Module):
    """One rectifier in two places, in place or not; the same as functions; or two modules, as captum needs it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.second, self.head = how, nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 4)
        self.relu, self.other, self.in_place = nn.ReLU(), nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        one, two = {
            "modules": (self.relu, self.other), "reused": (self.relu, self.relu), "in place": (self.in_place,) * 2,
            "function": (functional.relu, torch.relu), "method": (Tensor.relu, lambda z: z.relu_()),
            "ignored answer": (self._kept, self._kept),
        }[self.how]  # fmt: skip
        return self.head(two(self.second(one(self.first(x)))))

    @staticmethod
    def _kept(x: Tensor) -> Tensor:
        functional.relu(x, inplace=True)
        return x


@pytest.mark.parametrize("how", ["reused", "in place", "function", "method", "ignored answer"])
def test_activations_however_called(how: str) -> None:
    torch.manual_seed(0)
    apart = Reused("modules").double()
    module = copy.deepcopy(apart)
    module.how = how
    x, target = torch.randn(6, 6).double(), torch.arange(6) % 4
    expected = captums(apart.eval(), x, torch.zeros_like(x), target)
    found = explain(audited(module, (6,), 4, kind="number"), x, target)
    torch.testing.assert_close(found.values, expected)


@pytest.mark.parametrize("how", ["reused", "function"])
def test_captum_itself_gives_other_values_there(how: str) -> None:
    """Why this one is not captum's: issues 1082 and 1104."""
    torch.manual_seed(0)
    apart = Reused("modules").double()
    module = copy.deepcopy(apart)
    module.how = how
    x, target = torch.randn(6, 6).double(), torch.arange(6) % 4
    try:
        theirs = captums(module, x, torch.zeros_like(x), target)
    except RuntimeError:
        return
    expected = captums(apart, x, torch.zeros_like(x), target)
    assert float((theirs - expected).abs().max()) > 0.01


def test_shortcuts_normalisation_and_reuse_add_up() -> None:
    model, x, target = MODELS["residual"]()
    assert isinstance(model.module, Residual)
    found = explain(model, x, target)
    assert float(found.error.max()) < 1e-9


@pytest.mark.parametrize(
    ("family", "step"),
    [("lstm", "MkldnnRnnLayer|Mul"), ("transformer", "NativeLayerNorm"), ("probability", "Softmax")],
)
def test_networks_without_a_rule_are_refused(family: str, step: str) -> None:
    with pytest.raises(NotApplicable, match=rf"no rule for .*({step}).* use integrated_gradients") as refusal:
        explain(*MODELS[family]())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, 0] * x[:, 1], "no rule for Mul"),
        (lambda x: x.min(dim=1).values, "no rule for Min"),
        (lambda x: (x[:, 0].abs() + 1).pow(x[:, 1]), "no rule for pow of two answers"),
        (lambda x: (x * (x.detach() > 0.5)).sum(dim=1), "do not add up"),
        (lambda x: (x.relu() if float(x.detach().sum()) > 1 else x.tanh()).sum(dim=1), "takes another way"),
        (lambda x: (x.relu() if float(x.detach().sum()) > 1 else x).sum(dim=1), "takes another way"),
    ],
    ids=["product", "minimum", "power", "gate", "branch", "step more"],
)
def test_what_has_no_rule_is_told(function: Any, message: str) -> None:
    model = value_model(function, 2)
    with pytest.raises(NotApplicable, match=message) as refusal:
        explain(model, torch.tensor([[3.0, 2.0]]), baseline=0.4)
    assert "\n" not in str(refusal.value)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model, x, target = MODELS["cnn"]()
    whole, alone = explain(model, x, target), explain(model, x[2:3], target[2:3])
    torch.testing.assert_close(alone.values, whole.values[2:3])
    torch.testing.assert_close(explain(model, x, target, internal_batch=3).values, whole.values)


def test_passes_are_bounded_and_few() -> None:
    model = value_model(lambda x: x.relu().sum(dim=1), 2)
    explain(model, torch.rand(10, 2), internal_batch=4)
    assert (model.rows_forward, model.rows_backward) == (20, 10)
    sizes: list[int] = []
    explain(value_model(lambda x: sizes.append(len(x)) or x.sum(dim=1), 2), torch.rand(10, 2), internal_batch=4)
    assert max(sizes) == 4


def test_mistakes_are_told() -> None:
    with pytest.raises(NonFiniteOutput):
        explain(value_model(lambda x: x[:, 0].log()), torch.ones(1, 1))
    text = audited(lambda x: x.float().sum(dim=1), (4,), output="value", kind="text")
    with pytest.raises(UserError, match="a gradient means nothing"):
        explain(text, torch.zeros(1, 4))
