"""Robust accuracy through the engine: planted pairs, and every mask that must make the number void."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Linear, audited, batch, data, digits, trained_cnn

from audit.attacks import perturbation_size
from audit.data import AuditData
from audit.engine import run
from audit.finding import Finding
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.plan import bind
from audit.scenario import parse
from audit.scenario.problems import ScenarioError
from audit.stored import Report


def go(
    tmp_path: Path,
    model: AuditedModel,
    rows: AuditData,
    params: str,
    require: str = '{robust_accuracy: ">= 0.5"}',
    more: str = "",
) -> Report:
    text = f"name: r\nmodel: toy\ndata: {{source: given}}\nthreads: 1\nchecks:\n  - robustness.evasion: {params}\n    require: {require}\n{more}"
    return run(parse(text), home=tmp_path, models={"toy": model}, data=rows)


def gate(report: Report) -> Finding:
    return next(f for f in report.findings if f.gated)


@cache
def rows(n: int = 80) -> AuditData:
    known = digits()
    return data(known.test.take(np.arange(n)), n_classes=10, bounds=(0.0, 16.0))


def model(net: Any = None, **options: Any) -> AuditedModel:
    return audited(net or trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0), **options)


class Wrapped(nn.Module):
    """A mask around the trained net."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = trained_cnn(), kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rounded":
            return self.net(x.round())
        if self.kind == "noise":
            return self.net(x + torch.randn_like(x))
        if self.kind == "softmax":
            return self.net(x).softmax(dim=1)
        return self.net(x) * 1000


@pytest.mark.parametrize(
    ("kind", "params", "wanted"),
    [
        ("rounded", "{attacks: [pgd: {steps: 10}], eps: 1}", "zero gradients"),
        ("noise", "{attacks: [pgd: {steps: 10}], eps: 1}", "randomised"),
        ("softmax", "{attacks: [pgd: {steps: 10}], eps: 1}", "probabilities"),
        (
            "loud",
            "{attacks: [art.projected_gradient_descent: {max_iter: 10, rows_per_call: 80}], eps: 1}",
            "zero gradients",
        ),
    ],
)
def test_masked_gradients_make_the_number_void(tmp_path: Path, kind: str, params: str, wanted: str) -> None:
    report = go(tmp_path, model(Wrapped(kind)), rows(), params)
    assert gate(report).status == "void", gate(report).message
    assert wanted in gate(report).message
    assert report.exit_code == 3


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_loud_logits_hide_nothing_from_either_loss(tmp_path: Path, loss: str) -> None:
    params = f"{{attacks: [pgd: {{loss: {loss}}}], eps: 1.6}}"
    loud, plain = (gate(go(tmp_path, model(net), rows(), params)) for net in (Wrapped("loud"), trained_cnn()))
    assert loud.status != "void", loud.message
    assert abs(loud.estimate.k - plain.estimate.k) <= 2  # type: ignore[union-attr]


def test_scaled_logits_do_not_blind_our_own_pgd(tmp_path: Path) -> None:
    params = "{attacks: [pgd: {steps: 10}], eps: 1}"
    loud, plain = (
        gate(go(tmp_path, subject, rows(), params)).estimate for subject in (model(Wrapped("loud")), model())
    )
    assert loud is not None
    assert plain is not None
    assert abs(loud.value - plain.value) <= 2 / 80


def test_a_plain_net_breaks_and_a_robust_line_holds(tmp_path: Path) -> None:
    params = "{attacks: [pgd], eps: 3}"
    broken = go(tmp_path, model(), rows(), params)
    assert gate(broken).status == "fail", gate(broken).message
    assert gate(broken).threat_model is not None
    assert gate(broken).threat_model.model_dump(include={"access", "norm", "eps", "bounds"}) == {  # type: ignore[union-attr]
        "access": "white_box", "norm": "linf", "eps": 3.0, "bounds": (0.0, 16.0),
    }  # fmt: skip
    x = np.concatenate([np.full((60, 2), 9.0), np.full((60, 2), 1.0)]).astype(np.float32)
    x += np.random.default_rng(0).uniform(-0.5, 0.5, x.shape).astype(np.float32)
    line = audited(Linear([1.0, 1.0], -10.0), (2,), bounds=(0.0, 10.0), kind="series")
    wide = data(batch(x, np.repeat([1, 0], 60)), bounds=(0.0, 10.0), kind="series")
    held = go(tmp_path, line, wide, params, '{robust_accuracy: ">= 0.95"}')
    assert gate(held).status == "pass", gate(held).message


def test_an_attack_that_lies_counts_for_nothing(tmp_path: Path) -> None:
    report = go(
        tmp_path,
        model(),
        rows(),
        "{attacks: [lying_attack], eps: 0.01}",
        '{"robust_accuracy[attack=lying_attack]": ">= 0.5"}',
    )
    found = {f.metric: f for f in report.findings if f.dims == {"attack": "lying_attack"}}
    assert found["attack_success"].estimate.value == 0  # type: ignore[union-attr]
    assert any("do not count" in caution for caution in gate(report).cautions)


def test_stored_examples_are_adversarial_and_outcomes_pair_up(tmp_path: Path) -> None:
    subject = model()
    report = go(tmp_path, subject, rows(), "{attacks: [pgd], eps: 1.6, keep: 5}")
    stored = report.stored
    refs = {ref.kind: ref for ref in gate(report).evidence}
    kept = stored.evidence(refs["adversarial"])
    assert len(kept) == 5
    for i in range(5):
        row = kept.row(i)
        assert np.abs(row["adversarial"] - row["x"]).max() <= 1.6 + 1e-5
        assert (
            int(subject.predict(torch.from_numpy(np.array(row["adversarial"]))[None]))
            == int(row["adversarial_prediction"])
            != int(row["label"])
        )
        for name, stage in (("x", "confidence"), ("adversarial", "adversarial_confidence")):
            answer = subject.scores(torch.from_numpy(np.array(row[name]))[None]).double().softmax(dim=1)
            assert float(row[stage]) == pytest.approx(float(answer.max()))
    outcomes = stored.evidence(refs["outcomes"])
    assert outcomes.ids == rows().test.ids
    clean = next(f for f in report.findings if f.metric == "clean_accuracy").evidence[0]
    assert (stored.evidence(clean).column("label") == rows().test.labels).all()
    assert outcomes.column("value").sum() == gate(report).estimate.k  # type: ignore[union-attr]


def test_misclassified_rows_are_not_attacked_and_count_against(tmp_path: Path) -> None:
    known = rows()
    labels = known.test.labels.copy()
    labels[:40] = (labels[:40] + 1) % 10
    report = go(
        tmp_path,
        model(),
        data(batch(known.test.x, labels), n_classes=10, bounds=(0.0, 16.0)),
        "{attacks: [pgd], eps: 1e-6}",
    )
    found = {f.metric: f.estimate for f in report.findings if not f.dims}
    assert found["robust_accuracy"].value <= 0.5  # type: ignore[union-attr]
    assert found["attack_success"].n <= 40  # type: ignore[union-attr]


def test_black_box_models_take_black_box_attacks_only(tmp_path: Path) -> None:
    net = trained_cnn()
    blind = audited(
        lambda x: net(x).detach().softmax(dim=1),
        (1, 8, 8),
        10,
        bounds=(0.0, 16.0),
        output="probability",
        gradients=False,
    )
    report = go(tmp_path, blind, rows(20), "{attacks: [pgd], eps: 1}")
    assert gate(report).status == "not_applicable"
    square = go(tmp_path, blind, rows(20), "{attacks: [art.square_attack: {max_iter: 60, rows_per_call: 20}], eps: 6}")
    assert gate(square).status == "fail", gate(square).message


@pytest.mark.parametrize(
    "attack",
    [
        "art.projected_gradient_descent: {max_iter: 10, rows_per_call: 20}",
        "art.hop_skip_jump: {max_iter: 3, max_eval: 200, init_eval: 10}",
        "art.zoo_attack: {max_iter: 5}",
    ],
)
def test_art_attacks_run_through_the_bridge(tmp_path: Path, attack: str) -> None:
    norm = "l2" if "hop" in attack or "zoo" in attack else "linf"
    report = go(tmp_path, model(), rows(8), f"{{attacks: [{attack}], eps: 4, norm: {norm}}}")
    assert not [f for f in report.findings if f.status == "error"], report.findings
    name = attack.split(":")[0]
    queries = next(f for f in report.findings if f.metric == "queries" and f.dims["attack"] == name)
    assert queries.estimate is not None
    assert queries.estimate.value > 1


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ("{attacks: [pdg], eps: 1}", "did you mean 'pgd'"),
        ("{attacks: [art.sqare_attack], eps: 1}", "square_attack"),
        ("{attacks: [art.square_attack: {max_itr: 3}], eps: 1}", "max_iter"),
        ("{attacks: [art.auto_attack], eps: 1}", "auto_attack"),
        ("{attacks: [pgd: {stepz: 3}], eps: 1}", "stepz"),
        ("{attacks: [pgd], eps: 0}", "greater than 0"),
        ("{attacks: [], eps: 1}", "at least 1"),
        ("{attacks: [pgd]}", "'eps' is missing"),
    ],
)
def test_a_typo_costs_milliseconds_and_one_line(params: str, wanted: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        bind(parse(f"name: r\nmodel: toy\ndata: {{source: given}}\nchecks:\n  - robustness.evasion: {params}\n"))
    assert len(caught.value.problems) == 1
    assert wanted in str(caught.value)


def test_a_model_without_bounds_is_told_where_to_declare_them(tmp_path: Path) -> None:
    free = audited(trained_cnn(), (1, 8, 8), 10)
    report = go(tmp_path, free, rows(), "{attacks: [pgd], eps: 1}")
    assert gate(report).status == "error"
    assert "bounds" in gate(report).message
    with pytest.raises(UserError, match="no norm"):
        perturbation_size(torch.zeros(1, 2), "l7")


def test_nan_answers_are_an_error(tmp_path: Path) -> None:
    def sick(x: Tensor) -> Tensor:
        return torch.full((len(x), 10), torch.nan) + x.flatten(1)[:, :10] * 0

    report = go(tmp_path, model(sick), rows(8), "{attacks: [pgd], eps: 1}")
    assert gate(report).status == "error"
    assert "NaN" in gate(report).message


def test_samples_are_the_same_rows_for_every_eps(tmp_path: Path) -> None:
    report = go(
        tmp_path, model(), rows(), "{attacks: [pgd: {steps: 5}], samples: 30}", more="    matrix: {eps: [0.1, 2]}\n"
    )
    ids = {
        report.stored.evidence(ref).ids
        for f in report.findings
        if f.gated
        for ref in f.evidence
        if ref.kind == "outcomes"
    }
    assert len(ids) == 1
    assert len(next(iter(ids))) == 30
