"""Every evasion attack of ART: run through the bridge, or refused with its reason."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import audited

from audit.attacks import Candidates, build, confirm
from audit.bridges import art_catalogue as catalogue
from audit.finding import ThreatModel
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.rng import ExampleRng

BOX = (0.0, 1.0)
FAR = {"linf": 0.5, "l2": 2.0, "l1": 8.0}
"""Half of the box in every element: enough for any attack that works."""

RUNS: dict[str, dict[str, Any]] = {
    "auto_conjugate_gradient": {"max_iter": 4, "nb_random_init": 1},
    "auto_projected_gradient_descent": {"max_iter": 4, "nb_random_init": 1},
    "basic_iterative_method": {"max_iter": 4},
    "boundary_attack": {"max_iter": 5, "delta": 0.1, "epsilon": 0.1, "num_trial": 5, "sample_size": 5},
    "carlini_l0_method": {"max_iter": 5, "binary_search_steps": 1, "initial_const": 10, "learning_rate": 0.1},
    "carlini_l2_method": {"max_iter": 10, "binary_search_steps": 1, "initial_const": 10, "learning_rate": 0.1},
    "carlini_linf_method": {"max_iter": 2, "largest_const": 1e-3, "decrease_factor": 0.3},
    "deep_fool": {"max_iter": 10, "epsilon": 0.1},
    "elastic_net": {"max_iter": 10, "binary_search_steps": 1, "initial_const": 1, "learning_rate": 0.1},
    "fast_gradient_method": {},
    "hop_skip_jump": {"max_iter": 1, "max_eval": 50, "init_eval": 10},
    "momentum_iterative_method": {"max_iter": 4},
    "newton_fool": {"max_iter": 10, "eta": 0.5},
    "pixel_attack": {"max_iter": 3, "th": 10},
    "projected_gradient_descent": {"max_iter": 4},
    "projected_gradient_descent_numpy": {"max_iter": 4},
    "projected_gradient_descent_pytorch": {"max_iter": 4},
    "rescaling_auto_conjugate_gradient": {"max_iter": 4, "nb_random_init": 1},
    "saliency_map_method": {"gamma": 0.5},
    "sign_opt_attack": {"max_iter": 2, "num_trial": 3, "query_limit": 200, "k": 5},
    "simba": {"attack": "px", "max_iter": 40, "epsilon": 0.3},
    "square_attack": {"max_iter": 20, "p_init": 0.3},
    "threshold_attack": {"max_iter": 3, "th": 120},
    "universal_perturbation": {"max_iter": 1, "attacker": "fgsm"},
    "virtual_adversarial_method": {"max_iter": 1},
    "zoo_attack": {"max_iter": 5, "nb_parallel": 8, "use_resize": False, "use_importance": False},
}
L0 = {"carlini_l0_method", "pixel_attack", "saliency_map_method"}
"""They change few elements and those wholly, which only l2 and l1 of half the box allow."""


def threat(norm: str, eps: float) -> ThreatModel:
    return ThreatModel(access="white_box", norm=norm, eps=eps, bounds=BOX)


@cache
def weak() -> tuple[AuditedModel, Tensor, Tensor]:
    """A linear model of three classes, in float32 as doubles would make it raise, and rows that half the box turns."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        draw = np.random.default_rng(0)
        net[1].weight.copy_(torch.from_numpy(draw.normal(size=(3, 16))))
        net[1].bias.copy_(-0.5 * net[1].weight.sum(dim=1))
    model = audited(net, (1, 4, 4), 3, bounds=BOX)
    x = torch.from_numpy(draw.uniform(0.3, 0.7, size=(40, 1, 4, 4)).astype(np.float32))
    scores = model.logits(x).topk(2).values
    near = (scores[:, 0] - scores[:, 1]).argsort()[4:6]
    return model, x[near], model.predict(x[near])


def attacked(name: str, limits: ThreatModel, **more: Any) -> tuple[Candidates, Tensor, Tensor]:
    """What it finds, and which of it is confirmed and refused."""
    model, x, y = weak()
    built = build({f"art.{name}": {**RUNS[name], "rows_per_call": 2, **more}})[1]
    found = built.run(model, x, y, limits, ExampleRng(2, "t", ["a", "b"], "x"))
    confirmed = confirm(model, x, y, found.x, limits)
    return found, confirmed.success, confirmed.refused


def test_every_attack_runs_here_or_is_refused_with_a_reason() -> None:
    told = {name for names in catalogue.refused().values() for name in names}
    assert set(RUNS) == set(catalogue.available())
    assert set(RUNS) | told == set(catalogue.signatures())
    assert not set(RUNS) & told
    for reason, names in catalogue.refused().items():
        assert len(reason) > 10
        for name in names:
            with pytest.raises(ValueError, match="is not offered"):
                build(f"art.{name}")


@pytest.mark.parametrize("name", RUNS)
def test_it_breaks_a_weak_model_and_reports_itself_truly(name: str) -> None:
    built = build({f"art.{name}": {}})[1]
    norm = "l2" if name in L0 or "linf" not in built.norms else "linf"
    model, x, _ = weak()
    forward, backward = model.rows_forward, model.rows_backward
    found, success, refused = attacked(name, threat(norm, FAR[norm]))
    spent, derived = model.rows_forward - forward - len(x), model.rows_backward - backward
    assert bool(success.any()), "nothing found"
    assert not bool(refused.any())
    assert found.x.dtype == x.dtype
    assert spent <= int(found.queries.sum()) <= spent + 2
    assert derived <= int(found.gradients.sum()), "one pass forward may be followed back more than once"
    assert (derived > 0) == (built.access == "white_box")
    # An eps that nothing can turn: what is beyond is the clean input again, not a claim.
    tight, success, refused = attacked(name, threat(norm, 1e-4))
    assert not bool((success | refused).any())
    told_eps = "eps" in catalogue.signature(name).parameters
    assert told_eps or torch.equal(tight.x, x)


TAKE_L1 = [name for name in RUNS if "norm" in catalogue.signature(name).parameters and "l1" in catalogue.norms(name)]


@pytest.mark.parametrize("name", ["elastic_net", "deep_fool", *(name for name in TAKE_L1 if name != "square_attack")])
def test_l1_passes_through_where_art_supports_it(name: str) -> None:
    _, success, refused = attacked(name, threat("l1", FAR["l1"]))
    assert bool(success.any())
    assert not bool(refused.any())


def test_l1_is_refused_where_it_does_not() -> None:
    assert catalogue.norms("hop_skip_jump") == {"linf", "l2"}
    assert catalogue.norms("basic_iterative_method") == {"linf"}
    assert catalogue.norms("virtual_adversarial_method") == {"l2"}
    for norm in ("linf", "l2", "l1"):
        for name in ("hop_skip_jump", "square_attack", "projected_gradient_descent", "auto_projected_gradient_descent"):
            if norm not in catalogue.norms(name):
                with pytest.raises(UserError, match="Norm order"):
                    attacked(name, threat(norm, FAR[norm]))


# --- traps -----------------------------------------------------------------------------------------------------------


def test_doubles_never_reach_a_float_model() -> None:
    seen: set[torch.dtype] = set()

    class Recorded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(x.dtype)
            return x.flatten(1)[:, :3] * 2 - x.flatten(1)[:, 3:6]

    model = audited(Recorded(), (1, 4, 4), 3, bounds=BOX)
    x = torch.rand(1, 1, 4, 4)
    for name in ("zoo_attack", "boundary_attack", "sign_opt_attack", "threshold_attack", "deep_fool"):
        build({f"art.{name}": RUNS[name]})[1].run(
            model, x, model.predict(x), threat("l2", 2.0), ExampleRng(0, "t", ["a"], "a")
        )
    assert seen == {torch.float32}


@pytest.mark.parametrize("name", ["pixel_attack", "threshold_attack"])
def test_an_undeclared_package_is_named(name: str) -> None:
    if importlib.util.find_spec("cma") is not None:
        pytest.skip("cma is installed here")
    with pytest.raises(UserError, match=r"needs a package that is not installed.*cma") as caught:
        attacked(name, threat("l2", 2.0), es=0)
    assert "\n" not in str(caught.value)


def test_what_art_cannot_do_is_one_line() -> None:
    with pytest.raises(UserError, match=r"art\.square_attack cannot attack inputs of shape \(1, 4, 4\)") as caught:
        attacked("square_attack", threat("linf", 1e-3), p_init=0.9)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attacker", ["fgsm", "deepfool", "bim"])
def test_the_attack_inside_a_universal_one_is_quiet(attacker: str, capfd: pytest.CaptureFixture[str]) -> None:
    _, success, _ = attacked("universal_perturbation", threat("linf", 0.5), attacker=attacker)
    assert bool(success.any())
    assert "it/s" not in capfd.readouterr().err


def test_reasons_that_the_source_can_show_are_true() -> None:
    root = catalogue._root() / "attacks" / "evasion"
    assert "import multiprocess" in (root / "auto_attack.py").read_text()
    assert "np.mat(" in (root / "geometric_decision_based_attack.py").read_text()
    assert not hasattr(np, "mat")
    assert "AutoAttack" in catalogue.refusal("auto_attack")  # type: ignore[operator]
    for name in ("feature_adversaries_pytorch", "targeted_universal_perturbation"):
        assert "targeted" not in catalogue.signature(name).parameters
