"""Certified accuracy through the engine: a net trained to be certified and one that was not, and a certificate that lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import audited, batch, data, digits, trained_cnn

from audit.certificates import margins as certificates
from audit.data import AuditData
from audit.engine import run
from audit.finding import Finding
from audit.model import AuditedModel
from audit.scenario import parse
from audit.stored import Report, rejudge

EPS = 2.5


def go(tmp_path: Path, model: AuditedModel, rows: AuditData, checks: str) -> Report:
    text = f"name: r\nmodel: toy\ndata: {{source: given}}\nthreads: 1\nchecks:\n{checks}"
    return run(parse(text), home=tmp_path, models={"toy": model}, data=rows)


def entry(params: str = f"{{eps: {EPS}}}", require: str = '{certified_accuracy: ">= 0.5"}') -> str:
    return f"  - robustness.certified_bounds: {params}\n    require: {require}\n"


ATTACK = f'  - robustness.evasion: {{attacks: [pgd], eps: {EPS}}}\n    require: {{robust_accuracy: ">= 0.02"}}\n'


def found(report: Report, metric: str = "certified_accuracy", **dims: str) -> Finding:
    return next(f for f in report.findings if f.metric == metric and f.dims == dims)


def value(report: Report, **dims: str) -> float:
    estimate = found(report, **dims).estimate
    assert estimate is not None
    return float(estimate.value)


@cache
def rows(n: int = 60) -> AuditData:
    return data(digits().test.take(np.arange(n)), n_classes=10, bounds=(0.0, 16.0))


def model(net: Any, **options: Any) -> AuditedModel:
    return audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0), **options)


class Dense(nn.Module):
    """Digits through one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x.flatten(1) / 16)))

    def worst(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Logits with the label's lower and the others' upper bound."""
        low, high = (x - eps).clamp(0, 16).flatten(1) / 16, (x + eps).clamp(0, 16).flatten(1) / 16
        for layer in (self.first, self.second):
            centre, radius = layer((low + high) / 2), nn.functional.linear((high - low) / 2, layer.weight.abs())
            low, high = centre - radius, centre + radius
            if layer is self.first:
                low, high = low.relu(), high.relu()
        return high.scatter(1, y[:, None], low.gather(1, y[:, None]))


@cache
def dense(eps: float) -> Dense:
    """Trained on its own interval bounds; with eps 0 plainly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Dense()
        members = digits().train
        assert members is not None
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for epoch in range(20 if eps else 8):
            for part in torch.randperm(len(x)).split(64):
                loss = nn.functional.cross_entropy(net.worst(x[part], y[part], eps * min(1, epoch / 10)), y[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return net.eval()


def test_a_net_trained_to_be_certified_is_and_a_plain_one_is_not(tmp_path: Path) -> None:
    trained = go(tmp_path, model(dense(EPS)), rows(), entry(require='{certified_accuracy: ">= 0.2"}'))
    plain = go(tmp_path, model(dense(0.0)), rows(), entry(require='{certified_accuracy: ">= 0.2"}'))
    assert found(trained).status == "pass", found(trained).message
    assert found(plain).status == "fail", found(plain).message
    assert value(trained, method="ibp") > 0.3
    assert value(plain, method="ibp") == 0
    for report in (trained, plain):
        assert value(report) == value(report, method="crown") >= value(report, method="ibp")
    assert found(trained).threat_model.model_dump(include={"norm", "eps", "bounds"}) == {  # type: ignore[union-attr]
        "norm": "linf", "eps": EPS, "bounds": (0.0, 16.0),
    }  # fmt: skip


def test_methods_are_those_asked_for_and_eps_counts(tmp_path: Path) -> None:
    only = go(tmp_path, model(dense(0.0)), rows(), entry("{eps: 0.3, methods: [ibp]}"))
    assert {f.dims.get("method") for f in only.findings} == {None, "ibp"}
    crown = go(tmp_path, model(dense(0.0)), rows(), entry("{eps: 0.3}"))
    wider = go(tmp_path, model(dense(0.0)), rows(), entry("{eps: 0.6}"))
    assert value(crown) > value(only)
    assert value(crown) > value(wider)


def test_norms_are_nested(tmp_path: Path) -> None:
    shares = [
        value(go(tmp_path, model(dense(0.0)), rows(), entry(f"{{eps: 0.6, norm: {n}}}"))) for n in ("linf", "l2", "l1")
    ]
    assert shares[0] < shares[1] <= shares[2]


def test_no_attack_breaks_a_certificate(tmp_path: Path) -> None:
    report = go(
        tmp_path, model(trained_cnn()), rows(40), ATTACK.replace("2.5", "0.3") + entry("{eps: 0.3, samples: 30}")
    )
    assert not [f for f in report.findings if f.status == "void"], report.findings
    assert 0.5 < value(report) <= found(report, "robust_accuracy").estimate.value  # type: ignore[union-attr]
    assert found(report).estimate.n == 30  # type: ignore[union-attr]


def test_attack_and_certificate_take_the_same_rows(tmp_path: Path) -> None:
    attack = "  - robustness.evasion: {attacks: [pgd: {steps: 1}], eps: 0.1, samples: 10}\n"
    report = go(tmp_path, model(dense(0.0)), rows(), attack + entry("{eps: 0.1, samples: 10, methods: [ibp]}"))
    ids = [
        report.stored.evidence(next(ref for ref in finding.evidence if ref.kind == "outcomes")).ids
        for finding in (found(report), found(report, "robust_accuracy"))
    ]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 10


def test_wrong_rows_are_not_certified(tmp_path: Path) -> None:
    test = rows(20).test
    labels = (test.labels + (np.arange(20) < 10)) % 10
    mislabelled = data(batch(test.x, labels), n_classes=10, bounds=(0.0, 16.0))
    report = go(tmp_path, model(dense(EPS)), mislabelled, entry("{eps: 1e-6}"))
    assert value(report) <= 0.55
    margins = report.stored.evidence(next(ref for ref in found(report).evidence if ref.kind == "table"))
    assert np.isnan(margins.column("margin_ibp")[:10]).all()


def test_a_certificate_that_lies_voids_itself_and_the_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = certificates.certified_margins
    monkeypatch.setattr(
        certificates, "certified_margins", lambda *a, **k: {m: v.abs() + 1 for m, v in true(*a, **k).items()}
    )
    report = go(tmp_path, model(dense(0.0)), rows(), ATTACK.replace("2.5", "3") + entry("{eps: 3}"))
    for finding in (found(report), found(report, method="ibp"), found(report, "robust_accuracy")):
        assert finding.status == "void", finding.message
        assert "cannot be" in finding.message
    assert found(report, "clean_accuracy").status == "info"
    assert report.exit_code == 3
    again = rejudge(report.stored)
    assert [f.status for f in again.findings] == [f.status for f in report.findings]


@pytest.mark.parametrize(
    ("attack", "proof", "void"),
    [
        ("eps: 2, norm: linf", "eps: 3, norm: linf", True),
        ("eps: 3, norm: linf", "eps: 2, norm: linf", False),
        ("eps: 4, norm: l2", "eps: 4, norm: linf", True),
        ("eps: 3, norm: linf", "eps: 9, norm: l2", False),
    ],
)
def test_only_what_a_certificate_covers_contradicts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, proof: str, void: bool
) -> None:
    true = certificates.certified_margins
    monkeypatch.setattr(
        certificates, "certified_margins", lambda *a, **k: {m: v.abs() + 1 for m, v in true(*a, **k).items()}
    )
    checks = f"  - robustness.evasion: {{attacks: [pgd], {attack}}}\n" + entry(f"{{{proof}, methods: [ibp]}}")
    report = go(tmp_path, model(dense(0.0)), rows(), checks)
    assert (found(report).status == "void") is void, found(report).message


def test_an_unknown_layer_is_named_and_not_applicable(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.GELU())
    report = go(tmp_path, model(net), rows(5), entry())
    assert found(report).status == "not_applicable"
    assert "'2' (GELU)" in found(report).message
    assert report.exit_code == 3


def test_a_module_that_is_not_the_model_is_not_applicable(tmp_path: Path) -> None:
    subject = model(dense(0.0))
    subject._forward = lambda x: dense(0.0)(x) * 1.001
    report = go(tmp_path, subject, rows(5), entry())
    assert found(report).status == "not_applicable"
    assert "something else" in found(report).message


def test_a_black_box_is_not_applicable(tmp_path: Path) -> None:
    net = dense(0.0)
    blind = model(lambda x: net(x), gradients=False)
    assert found(go(tmp_path, blind, rows(5), entry())).status == "not_applicable"


def test_a_margin_is_certified_as_far_as_the_line(tmp_path: Path) -> None:
    line = nn.Linear(2, 1)
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[3.0, 4.0]]))
        line.bias.fill_(-5.0)
    subject = audited(line, (2,), bounds=(-10.0, 10.0), kind="series", output="margin")
    point = data(batch(np.array([[3.0, 4.0]], dtype=np.float32), np.array([1])), bounds=(-10.0, 10.0), kind="series")
    for norm, distance in (("l2", 4.0), ("linf", 20 / 7), ("l1", 5.0)):
        for factor, share in ((0.9999, 1), (1.0001, 0)):
            report = go(tmp_path, subject, point, entry(f"{{eps: {distance * factor}, norm: {norm}}}"))
            assert value(report) == share, (norm, factor)
