"""Planted pairs for every control: a model on which the number means nothing, and one on which it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import digit_model, measured, some_digits, value
from torch import Tensor
from toys import audited, batch, context, data, trained_cnn

from audit.checks.robustness._attacked import Rows
from audit.checks.robustness._controls import Controls
from audit.checks.robustness.evasion import Evasion
from audit.finding import Measurement, ThreatModel


def voids(found: dict[str, Measurement]) -> str:
    assert set(found["robust_accuracy"].voids) <= {"robust_accuracy", "attack_success"}
    return found["robust_accuracy"].voids.get("robust_accuracy", "")


def test_an_honest_model_is_not_void(tmp_path: Path) -> None:
    for check in (Evasion(eps=1.6), Evasion(eps=4.0, norm="l2"), Evasion(eps=0.01)):
        assert voids(measured(check, digit_model(), some_digits(), tmp_path)) == ""


def test_rounded_inputs_are_flagged_for_zero_gradients(tmp_path: Path) -> None:
    model = digit_model(lambda x: trained_cnn()(4 * (x / 4).round()))
    found = measured(Evasion(eps=1.0), model, some_digits(), tmp_path)
    assert "zero gradients" in voids(found)
    assert any("the gradient was mostly zero" in c for c in found["robust_accuracy"].cautions)


def test_a_softmax_declared_as_logits_is_flagged(tmp_path: Path) -> None:
    found = measured(Evasion(eps=1.6), digit_model(lambda x: trained_cnn()(x).softmax(1)), some_digits(), tmp_path)
    assert "probabilities" in voids(found)
    declared = digit_model(lambda x: trained_cnn()(x).softmax(1), output="probability")
    assert voids(measured(Evasion(eps=1.6), declared, some_digits(), tmp_path)) == ""


def test_logits_times_a_thousand_hide_nothing_from_pgd_and_all_from_plain_cross_entropy(tmp_path: Path) -> None:
    model = digit_model(lambda x: 1000 * trained_cnn()(x))
    usual = measured(Evasion(eps=1.6), digit_model(), some_digits(60), tmp_path)
    for loss in ("ce", "margin"):
        ours = measured(Evasion(eps=1.6, attacks=[{"pgd": {"loss": loss}}]), model, some_digits(60), tmp_path)
        assert voids(ours) == ""
        assert abs(value(ours["robust_accuracy"])[0] - value(usual["robust_accuracy"])[0]) <= 2
    plain = Evasion(eps=1.6, attacks=[{"art.projected_gradient_descent": {"max_iter": 10, "rows_per_call": 60}}])
    weak = measured(plain, model, some_digits(60), tmp_path)
    assert (
        value(weak["robust_accuracy[attack=art.projected_gradient_descent]"])[0]
        > value(usual["robust_accuracy"])[0] + 10
    )
    assert "zero gradients" in voids(weak)
    assert "a single gradient step" in voids(weak)


def misleading(x: Tensor) -> Tensor:
    """A gradient that exists and points the wrong way."""

    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return -gradient

    answer: Tensor = trained_cnn()(Reversed.apply(x))
    return answer


def test_a_gradient_that_leads_away_is_found_out_by_noise_and_by_the_full_range(tmp_path: Path) -> None:
    found = measured(
        Evasion(eps=3.0, attacks=[{"pgd": {"random_start": False}}]), digit_model(misleading), some_digits(), tmp_path
    )
    assert "random noise" in voids(found)
    assert "full range" in voids(found)
    # What the noise found is known to be adversarial, whatever else the number is worth.
    assert value(found["robust_accuracy"])[0] < value(found["robust_accuracy[attack=pgd]"])[0]


def test_black_box_success_where_white_box_fails_is_found_out(tmp_path: Path) -> None:
    attacks = [{"pgd": {"random_start": False}}, {"art.square_attack": {"max_iter": 30, "rows_per_call": 40}}]
    check = Evasion(eps=3.0, attacks=attacks)
    found = measured(check, digit_model(misleading), some_digits(40), tmp_path)
    assert "black-box attacks fooled" in voids(found)
    honest = measured(check, digit_model(), some_digits(40), tmp_path)
    assert voids(honest) == ""


def test_a_constant_model_is_robust_and_not_void(tmp_path: Path) -> None:
    def constant(x: Tensor) -> Tensor:
        return torch.stack([-(x**2).sum(1) - 1, (x**2).sum(1) + 1], dim=1)

    rows = data(batch(np.random.default_rng(0).uniform(0, 1, (50, 2)).astype(np.float32), np.ones(50, dtype=np.int64)))
    found = measured(Evasion(eps=0.5), audited(constant, (2,), bounds=(0.0, 1.0)), rows, tmp_path)
    assert value(found["robust_accuracy"]) == (50, 50)
    assert voids(found) == ""


def test_a_few_rows_more_by_a_weaker_method_are_a_caution_and_count(tmp_path: Path) -> None:
    rows = Rows(digit_model(), torch.zeros(0), torch.zeros(0), (), ThreatModel(access="white_box"), context(tmp_path))
    controls = Controls(rows, torch.zeros(0), varied=True)
    fooled = torch.zeros(300, dtype=torch.bool)
    for only, void in ((1, False), (6, False), (7, True)):
        controls.voids, controls.cautions = [], []
        weaker = fooled.clone()
        weaker[:only] = True
        controls.not_weaker("a control", weaker, fooled, "the attacks")
        assert bool(controls.voids) == void, "McNemar's exact test at 1 %: 2**-7 is below, 2**-6 is not"
        assert bool(controls.cautions) != void
    both = fooled.clone()
    both[100:200] = True
    controls.voids, controls.cautions = [], []
    controls.not_weaker("a control", weaker, both, "the attacks")
    assert not controls.voids, "a hundred rows the other way"
