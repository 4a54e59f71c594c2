"""Values known by hand, of every explainer that is exact there and whose own tests do not hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import GAMES, airport, explained, rows, table
from lightgbm import LGBMRegressor
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor, nn
from toys import audited
from xgboost import XGBRegressor

from audit.explainers import Explainer
from audit.explainers.deep_lift import DeepLift
from audit.explainers.exact_shap import ExactShap
from audit.explainers.frequency_bands import FrequencyBands
from audit.explainers.gradient_shap import GradientShap
from audit.explainers.input_x_gradient import InputXGradient
from audit.explainers.integrated_gradients import IntegratedGradients
from audit.explainers.kernel_shap import KernelShap
from audit.explainers.linear_shap import LinearShap
from audit.explainers.lrp import Lrp
from audit.explainers.occlusion import Occlusion
from audit.explainers.permutation_shap import PermutationShap
from audit.explainers.saliency import Saliency
from audit.explainers.shap_values import ShapValues
from audit.explainers.smoothgrad import Smoothgrad
from audit.explainers.tree_shap import TreeShap
from audit.model import AuditedModel
from audit.parameters import NotApplicable


def name(explainer: Explainer) -> str:
    return type(explainer).__name__


def smooth(function: Any, features: int) -> AuditedModel:
    """A function of torch tensors, with gradients."""
    return audited(function, (features,), output="value", kind="number")


# --- a linear model ----------------------------------------------------------------------------------------------

W, BIAS, X, ABSENT = (
    torch.tensor([1.0, -2.0, 0.5]).double(),
    0.75,
    rows((3, 1, 4), (0, 0, 2)),
    rows((1, -1, 2), (3, 2, 5)),
)


def linear() -> AuditedModel:
    module = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    with torch.no_grad():
        module[0].weight.copy_(W[None])
        module[0].bias.fill_(BIAS)
    return audited(module, (3,), output="value", kind="number")


@pytest.mark.parametrize(
    "explainer",
    [
        IntegratedGradients(baseline="mean"),
        IntegratedGradients(baseline="mean", method="riemann_middle"),
        DeepLift(baseline="mean"),
        GradientShap(samples=10),
        Occlusion(absent="mean"),
        Occlusion(absent="background"),
        ExactShap(),
        KernelShap(),
        PermutationShap(permutations=2),
        ShapValues(),
        LinearShap(),
    ],
    ids=name,
)
def test_contributions_to_a_line_are_weight_times_distance(explainer: Explainer) -> None:
    found = explained(explainer, linear(), X, background=ABSENT)
    torch.testing.assert_close(found.values, W * (X - ABSENT.mean(dim=0)), atol=1e-6, rtol=0)
    if explainer.complete:
        assert found.score is not None
        assert found.base_value is not None
        torch.testing.assert_close(found.score, X @ W + BIAS, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.base_value.expand(2), (ABSENT.mean(dim=0) @ W + BIAS).expand(2))


@pytest.mark.parametrize(
    ("explainer", "expected"),
    [
        (Saliency(absolute=False), W.expand(2, 3)),
        (Smoothgrad(samples=2), W.expand(2, 3)),
        (InputXGradient(), W * X),
        (Lrp(epsilon=1e-12), W * X),  # the bias is handed to nobody
    ],
    ids=lambda part: name(part) if isinstance(part, Explainer) else "",
)
def test_slopes_of_a_line_are_its_weights(explainer: Explainer, expected: Tensor) -> None:
    found = explained(explainer, linear(), X, background=ABSENT)
    torch.testing.assert_close(found.values, expected, atol=1e-6, rtol=0)


# --- trees -------------------------------------------------------------------------------------------------------

CORNERS, AND = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1]


def and_trees() -> list[Any]:
    boosted = {"n_estimators": 1, "learning_rate": 1.0, "max_depth": 2}
    once = {"reg_lambda": 0.0, "min_child_weight": 0.0, "base_score": 0.0}
    leaves = {"min_child_samples": 1, "min_data_in_bin": 1, "boost_from_average": False, "verbose": -1}
    return [
        DecisionTreeRegressor(),
        RandomForestRegressor(3, bootstrap=False, random_state=0),
        GradientBoostingRegressor(n_estimators=50, learning_rate=0.5),
        XGBRegressor(**boosted, **once),
        LGBMRegressor(**boosted, **leaves),
    ]


@pytest.mark.parametrize("estimator", and_trees(), ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "explainer", [TreeShap(), ShapValues(), ExactShap(), KernelShap(), PermutationShap()], ids=name
)
def test_the_and_tree(explainer: Explainer, estimator: Any) -> None:
    tree = estimator.fit(np.array(CORNERS, dtype=np.float64), np.array(AND, dtype=np.float64))
    found = explained(explainer, table(tree.predict, 2, "value", native=tree), rows((1, 1)))
    torch.testing.assert_close(found.values.double(), rows((0.5, 0.5)), atol=1e-6, rtol=0)


# --- games -------------------------------------------------------------------------------------------------------


def cosines(features: int) -> Tensor:
    """``(features, 4 · features)``, of 1 cycle, 2 cycles …"""
    steps = torch.arange(4 * features, dtype=torch.float64) / (4 * features)
    return torch.stack([torch.cos(2 * torch.pi * cycles * steps) for cycles in range(1, features + 1)])


@pytest.mark.parametrize(("function", "x", "expected"), GAMES)
def test_games_of_frequency_bands(function: Any, x: Any, expected: Any) -> None:
    """Players are the sizes of cosines in a sum; the mean before them and what is above them play no part."""
    waves = cosines(len(x))
    model = audited(
        lambda z: torch.as_tensor(function((z[:, 0] @ waves.T * 2 / waves.shape[1]).numpy())),
        (1, waves.shape[1]), output="value", kind="series", gradients=False,
    )  # fmt: skip
    edges = tuple(cycles + 0.5 for cycles in range(len(x) + 1))
    found = explained(FrequencyBands(edges=edges, absent="zero"), model, (rows(x) @ waves)[:, None])
    assert found.parts is not None
    torch.testing.assert_close(found.parts, nn.functional.pad(rows(expected), (1, 1)), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.values.sum(dim=(1, 2)), rows(expected).sum(dim=1), atol=1e-6, rtol=0)


def test_the_airport_in_another_order() -> None:
    """Who pays does not depend on where a column stands."""
    order = [2, 0, 3, 1]
    shuffled = table(lambda z: airport(z[:, [order.index(j) for j in range(4)]]), 4, "value")
    expected = rows([(2, 3, 4, 9)[j] for j in order])
    for explainer in (ExactShap(), KernelShap(), ShapValues()):
        torch.testing.assert_close(
            explained(explainer, shuffled, rows((1, 1, 1, 1))).values, expected, atol=1e-6, rtol=0
        )


# --- where explainers part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("explainer", "expected"),
    [
        (IntegratedGradients(baseline="zero"), 1.0),
        (DeepLift(baseline="zero"), 1.0),
        (ExactShap(), 1.0),
        (KernelShap(), 1.0),
        (PermutationShap(permutations=2), 1.0),
        (ShapValues(), 1.0),
        (Occlusion(absent="zero"), 1.0),
        (Saliency(), 0.0),
        (InputXGradient(), 0.0),
        (Lrp(), 0.0),
    ],
    ids=lambda part: name(part) if isinstance(part, Explainer) else "",
)
def test_beyond_the_kink_only_gradients_are_blind(explainer: Explainer, expected: float) -> None:
    found = explained(explainer, smooth(lambda x: 1 - (1 - x[:, 0]).relu(), 1), rows((2,)))
    torch.testing.assert_close(found.values.double(), rows((expected,)), atol=1e-6, rtol=0)


def test_what_is_left_out_of_a_product_is_all_of_it() -> None:
    found = explained(Occlusion(absent="zero"), table(lambda x: x[:, 0] * x[:, 1], 2, "value"), rows((3, 2)))
    torch.testing.assert_close(found.values, rows((6, 6)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("function", [lambda x: x[:, 0] * x[:, 1], lambda x: x.min(dim=1).values], ids=["xy", "min"])
def test_no_line_is_seen_where_there_is_none(function: Any) -> None:
    """From one row alone, whatever is drawn: slope and both ends of the line agree for the minimum."""
    for seed in range(10):
        with pytest.raises(NotApplicable, match="not linear"):
            explained(LinearShap(), smooth(function, 2), rows((3, 2)), seed=seed)


def test_captums_multi_layer_model_with_steps_doubled() -> None:
    """The line crosses a kink, so that Gauss–Legendre converges slowly; doubling until complete is enough all the same."""

    def forward(x: Tensor) -> Tensor:
        total = x.sum(dim=1, keepdim=True)
        return (total + torch.tensor([-10.0, 1, 1, 1]).double()).relu().sum(dim=1) - 1

    found = explained(IntegratedGradients(baseline="zero"), smooth(forward, 3), rows((20, 50, 30)))
    torch.testing.assert_close(found.values, rows((78, 195, 117)), rtol=2e-3, atol=0)
    by_draws = explained(GradientShap(samples=2000), smooth(forward, 3), rows((20, 50, 30)))
    torch.testing.assert_close(by_draws.values, rows((78, 195, 117)), rtol=1e-2, atol=0)
