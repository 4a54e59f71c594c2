"""Controls on a white-box attack: planted masks are found, an honest model has none, and what is found voids other checks' numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring import DIGITS, digit_model, measured
from pydantic import ValidationError
from torch import Tensor
from toys import batch, data, digits, trained_cnn

from audit.checks.robustness.gradient_masking import GradientMasking
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement, Proportion
from audit.parameters import UserError
from audit.scenario import parse


@cache
def rows(n: int = 60, members: bool = False) -> AuditData:
    known = digits()
    train = known.train.take(np.arange(300)) if members and known.train is not None else None
    return data(known.test.take(np.arange(n)), train, n_classes=10, bounds=DIGITS)


def share(measurement: Measurement) -> float:
    assert isinstance(measurement.estimate, Proportion)
    return measurement.estimate.value


QUICK: dict[str, Any] = {"eps": 1.5, "queries": 60, "attack": {"pgd": {"steps": 10}}}


def test_an_honest_model_breaks_no_control(tmp_path: Path) -> None:
    found = measured(GradientMasking(**QUICK), digit_model(), rows(members=True), tmp_path)
    broken = found["broken_controls"]
    assert broken.estimate.value == 0, broken.cautions
    assert broken.voids == {}
    assert found["controls"].estimate.value == 9
    without = measured(GradientMasking(**QUICK, transfer=False), digit_model(), rows(members=True), tmp_path)
    assert without["controls"].estimate.value == 8
    assert "success[method=transfer]" not in without
    whole = share(found["success[method=pgd]"])
    for method in ("noise", "single step", "black box", "transfer", "half the eps", "a quarter of the eps"):
        assert share(found[f"success[method={method}]"]) <= whole
    assert share(found["success[method=ten times the iterations]"]) >= whole
    threat = found["success[method=half the eps]"].threat_model
    assert threat is not None
    assert threat.eps == 0.75


def test_the_transfer_attack_is_run_where_there_are_rows_to_train_on(tmp_path: Path) -> None:
    assert "success[method=transfer]" not in measured(GradientMasking(**QUICK), digit_model(), rows(), tmp_path)


class Reversed(torch.autograd.Function):
    """The identity, with a gradient that points the wrong way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (lambda x: trained_cnn()((x / 4).round() * 4), "zero gradients"),
        (lambda x: trained_cnn()(x + 0.5 * torch.randn_like(x)), "randomised"),
        (lambda x: trained_cnn()(x).softmax(dim=1), "probabilities"),
        (lambda x: trained_cnn()(Reversed.apply(x)), "black-box attacks|square fooled"),
    ],
)
def test_planted_masks_are_found(mask: Any, said: str, tmp_path: Path) -> None:
    import re

    found = measured(GradientMasking(**{**QUICK, "eps": 3, "queries": 100}), digit_model(mask), rows(), tmp_path)
    assert found["broken_controls"].estimate.value >= 1
    why = found["broken_controls"].voids["robustness.evasion:robust_accuracy"]
    assert re.search(said, why), why


def test_more_iterations_that_find_more_are_found_out(tmp_path: Path) -> None:
    slow = {"pgd": {"steps": 3, "step_size": 0.03, "random_start": False}}
    found = measured(GradientMasking(eps=2.5, queries=1, attack=slow), digit_model(), rows(), tmp_path)
    assert share(found["success[method=ten times the iterations]"]) > share(found["success[method=pgd]"]) + 0.1
    assert "pgd with 30 steps" in found["broken_controls"].voids["robustness.evasion:robust_accuracy"]


def test_a_broken_control_voids_white_box_numbers_of_the_run_and_no_others(tmp_path: Path) -> None:
    text = """
name: masked
model: toy
data: {source: given}
threads: 1
checks:
  - robustness.evasion: {attacks: [art.square_attack: {max_iter: 20, rows_per_call: 60}], eps: 0.1}
    id: black
    require: {robust_accuracy: ">= 0.1"}
  - robustness.evasion: {eps: 0.1}
    id: white
    require: {robust_accuracy: ">= 0.1"}
  - robustness.evasion: {eps: 0.1, norm: l2}
    id: other-norm
    require: {robust_accuracy: ">= 0.1"}
  - robustness.gradient_masking: {eps: 3, queries: 50, attack: {pgd: {steps: 1, step_size: 0.01, random_start: false}}}
    require: {broken_controls: "== 0"}
"""
    report = run(parse(text), home=tmp_path, models={"toy": digit_model()}, data=rows())
    gated = {f.step: f for f in report.findings if f.gated}
    assert gated["robustness.gradient_masking"].status == "fail"
    assert gated["white"].status == "void"
    assert "shown by robustness.gradient_masking" in gated["white"].message
    assert gated["black"].status == gated["other-norm"].status == "pass"


def test_what_cannot_be_controlled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="takes no gradients"):
        GradientMasking(eps=1, attack="art.square_attack")
    with pytest.raises(ValidationError, match="defined for linf"):
        GradientMasking(eps=1, norm="l2", attack="art.basic_iterative_method")
    given = rows().test
    never = (digit_model().predict(torch.from_numpy(given.x)).numpy() + 1) % 10
    wrong = data(batch(given.x, never), n_classes=10, bounds=DIGITS)
    with pytest.raises(UserError, match="nothing to attack"):
        measured(GradientMasking(eps=1), digit_model(), wrong, tmp_path)


def test_fewer_samples_are_attacked(tmp_path: Path) -> None:
    few = measured(GradientMasking(**QUICK, samples=20), digit_model(), rows(), tmp_path)
    assert few["success[method=pgd]"].estimate.n <= 20
