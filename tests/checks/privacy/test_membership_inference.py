"""Membership inference on a model that remembers, one that cannot, and data that gives itself away."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import audited, batch, context, data, digits

from audit.checks.privacy.membership_inference import MembershipInference
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, Capability
from audit.scenario import parse


@cache
def noisy() -> AuditData:
    """Digits of which two in five labels are wrong: a model that fits them has remembered them."""
    known = digits(900)
    rng = np.random.default_rng(1)
    parts = []
    for part in (known.test, known.train):
        assert part is not None
        rows = rng.permutation(len(part))[:800]
        labels = part.labels[rows].copy()
        wrong = rng.random(len(labels)) < 0.4
        labels[wrong] = rng.integers(0, 10, wrong.sum())
        parts.append(batch(part.x[rows], labels))
    return data(parts[0], parts[1], n_classes=10, bounds=(0.0, 16.0))


@cache
def overfitted() -> AuditedModel:
    members = noisy().train
    assert members is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(150):
            loss = nn.functional.cross_entropy(net(x / 16), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return audited(nn.Sequential(Scale(), net), (1, 8, 8), 10, bounds=(0.0, 16.0))


class Scale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 16


def constant(x: Tensor) -> Tensor:
    return torch.zeros(len(x), 10)


def measure(tmp_path: Path, model: AuditedModel, rows: AuditData, **parameters: object) -> dict[str, Measurement]:
    check = MembershipInference(**parameters)  # type: ignore[arg-type]
    return {
        m.metric + "".join(f"/{k}={v}" for k, v in m.dims.items()): m for m in check.run(model, rows, context(tmp_path))
    }


def test_a_model_that_remembers_leaks(tmp_path: Path) -> None:
    found = measure(tmp_path, overfitted(), noisy())
    for attack in ("loss", "class_threshold", "label_gap"):
        assert found[f"auc/attack={attack}"].estimate.interval()[0] > 0.6, attack
        assert found[f"advantage/attack={attack}"].estimate.interval()[0] > 0.2, attack
    assert found["auc"].estimate == found["auc/attack=loss"].estimate
    assert not found["blind_auc"].voids
    assert "10 / FPR" in (found["tpr_at_fpr/fpr=0.01"].unresolved or "")


def test_a_constant_model_cannot_leak(tmp_path: Path) -> None:
    found = measure(tmp_path, audited(constant, (1, 8, 8), 10, gradients=False), noisy(), attacks=["loss", "label_gap"])
    assert found["auc"].estimate.value == 0.5
    low, high = found["auc"].estimate.interval()
    assert low < 0.5 < high


def test_the_gap_attack_is_the_accuracy_gap_exactly(tmp_path: Path) -> None:
    model, rows = overfitted(), noisy()
    assert rows.train is not None
    gap = model.correct(rows.train).double().mean() - model.correct(rows.test).double().mean()
    found = measure(tmp_path, model, rows, attacks=["label_gap"])
    assert found["advantage"].estimate.value == pytest.approx(float(gap), abs=1e-12)


def shifted() -> AuditData:
    rows = noisy()
    assert rows.train is not None
    return data(batch(rows.test.x + 1.5, rows.test.labels), rows.train, n_classes=10)


@pytest.mark.parametrize(("rows", "status"), [(noisy, "fail"), (shifted, "void")])
def test_the_blind_control_voids_what_inputs_alone_tell(tmp_path: Path, rows: object, status: str) -> None:
    text = (
        "name: mia\nmodel: toy\ndata: {source: given}\nchecks:\n"
        '  - privacy.membership_inference: {attacks: [loss]}\n    require: {auc: "<= 0.55"}\n'
    )
    report = run(parse(text), home=tmp_path, models={"toy": overfitted()}, data=rows())  # type: ignore[operator]
    gated = next(f for f in report.findings if f.gated)
    assert gated.status == status
    assert (report.exit_code == 3) == (status == "void")


def test_without_members_it_does_not_apply(tmp_path: Path) -> None:
    rows = noisy()
    text = "name: mia\nmodel: toy\ndata: {source: given}\nchecks:\n  - privacy.membership_inference: {}\n    require: {auc: '<= 1'}\n"
    report = run(parse(text), home=tmp_path, models={"toy": overfitted()}, data=data(rows.test, n_classes=10))
    assert (report.findings[0].status, report.exit_code) == ("not_applicable", 3)
    assert "train_data" in report.findings[0].message


def test_labels_are_enough_for_the_gap() -> None:
    assert MembershipInference(attacks=("label_gap",)).requirements() == {Capability.TRAIN_DATA, Capability.LABELS}
    assert Capability.PROBABILITIES in MembershipInference().requirements()


def test_every_option_changes_the_result(tmp_path: Path) -> None:
    few = measure(tmp_path, overfitted(), noisy(), attacks=["loss"], fprs=[0.05])
    assert set(few) == {
        "blind_auc",
        "auc",
        "auc/attack=loss",
        "advantage",
        "advantage/attack=loss",
        "tpr_at_fpr/fpr=0.05",
        "tpr_at_fpr/attack=loss/fpr=0.05",
        "exposed_records",
    }
    assert few["tpr_at_fpr/fpr=0.05"].unresolved is None
    small = measure(tmp_path, overfitted(), noisy(), attacks=["loss"], blind_rows=100)
    assert small["blind_auc"].estimate.n < few["blind_auc"].estimate.n  # type: ignore[operator]
