"""Model inversion on a net whose classes have three members each, and on one whose classes have ninety."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_tables import measure, stored
from torch import Tensor, nn
from toys import audited, batch, data, digits

from audit.checks.privacy.model_inversion import ModelInversion
from audit.data import AuditData
from audit.datasets._arrays import from_arrays
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, Capability
from audit.parameters import NotApplicable, UserError
from audit.privacy.blind_control import BlindAuc
from audit.report import render
from audit.scenario import parse

Numbers = dict[tuple[str, str], Measurement]


@cache
def rows(per_class: int) -> AuditData:
    """Digits, of which so many of each class are members."""
    known = digits(500)
    assert known.train is not None
    x, labels = (np.concatenate([getattr(known.train, name), getattr(known.test, name)]) for name in ("x", "labels"))
    inside = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)])
    outside = np.setdiff1d(np.arange(len(x)), inside)[:400]
    return data(batch(x[outside], labels[outside]), batch(x[inside], labels[inside]), n_classes=10, bounds=(0.0, 16.0))


def trained(per_class: int) -> AuditedModel:
    """A perceptron that has learnt these members by heart; one that remembers nothing of other tests."""
    return audited(network(per_class), (1, 8, 8), 10, bounds=(0.0, 16.0))


@cache
def network(per_class: int) -> nn.Module:
    members = rows(per_class).train
    assert members is not None
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), Share(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(150):
            loss = nn.functional.cross_entropy(net(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net


class Share(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 16


@pytest.fixture
def no_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blind control takes most of the time, and has its own tests."""
    monkeypatch.setattr(
        "audit.privacy.blind_control.blind_auc", lambda *_, **__: BlindAuc(0.5, 50, 50, ("boosted trees",) * 2)
    )


TEXT = (
    "name: inversion\nmodel: toy\ndata: {source: given}\nchecks:\n"
    '  - privacy.model_inversion: {show_members: true}\n    require: {member_auc: "<= 0.6"}\n'
)


@pytest.mark.parametrize(("per_class", "status"), [(3, "fail"), (90, "pass")])
def test_few_members_are_read_off_the_model_and_many_are_not(per_class: int, status: str, tmp_path: Path) -> None:
    report = run(parse(TEXT), home=tmp_path, models={"toy": trained(per_class)}, data=rows(per_class))
    (gated,) = [finding for finding in report.findings if finding.gated]
    assert gated.status == status


@pytest.mark.usefixtures("no_control")
def test_the_report_shows_reconstructions_beside_the_class(tmp_path: Path) -> None:
    report = run(parse(TEXT), home=tmp_path, models={"toy": trained(3)}, data=rows(3))
    page = render("html", report.stored)
    assert "Reconstructions: what the model is led to, by class" in page
    for told in ("mean of members", "nearest member", "nearest held-out row"):
        assert f"<figcaption>{told}</figcaption>" in page, told


@pytest.mark.usefixtures("no_control")
def test_numbers_of_a_leak(tmp_path: Path) -> None:
    found = measure(ModelInversion(), trained(3), rows(3), tmp_path)
    assert found["nearest_is_member", ""].estimate.value > 0.7
    assert found["reached", ""].estimate.value == 1.0
    assert -1 < found["similarity_to_mean", ""].estimate.value < 1
    by_class = [found["member_auc", f"class={label}"].estimate for label in range(10)]
    assert found["member_auc", ""].estimate.n == sum(estimate.n for estimate in by_class)
    weights = [estimate.n_pos * estimate.n_neg for estimate in by_class]
    pooled = np.average([estimate.value for estimate in by_class], weights=weights)
    assert found["member_auc", ""].estimate.value == pytest.approx(pooled)


@pytest.mark.usefixtures("no_control")
def test_a_climb_that_gets_nowhere_decides_nothing(tmp_path: Path) -> None:
    def flat(x: Tensor) -> Tensor:
        return torch.zeros(len(x), 10) + 0 * x.flatten(1).sum(dim=1, keepdim=True)

    found = measure(ModelInversion(steps=2), audited(flat, (1, 8, 8), 10, bounds=(0.0, 16.0)), rows(3), tmp_path)
    assert "72 of 80 climbs did not reach" in (found["member_auc", ""].unresolved or "")
    assert found["nearest_is_member", ""].unresolved


@pytest.mark.usefixtures("no_control")
def test_members_are_named_and_shown_only_when_asked_for(tmp_path: Path) -> None:
    model, known = trained(3), rows(3)
    assert known.train is not None
    for asked in (False, True):
        found = measure(ModelInversion(steps=5, show_members=asked), model, known, tmp_path)
        kept = stored(found["member_auc", ""], "inversions", tmp_path, int(asked))
        assert set(kept.column("member_id").tolist()) <= set(known.train.ids)
        assert ("nearest_member" in kept.fields) == asked
        assert np.isnan(kept.column("class_mean")).all() == (not asked)
        assert kept.column("x").min() >= 0
        assert kept.column("x").max() <= 16
    own = known.train.x[known.train.labels == 4]
    assert kept.row(4)["class_mean"] == pytest.approx(own.mean(axis=0), rel=1e-5)
    assert kept.row(4)["nearest_member"].tolist() in own.tolist()


@pytest.mark.usefixtures("no_control")
def test_every_option_changes_the_result(tmp_path: Path) -> None:
    def seen(**options: object) -> list[object]:
        check = ModelInversion(**{"steps": 10, "images": 2, **options})  # type: ignore[arg-type]
        return [m.estimate for m in measure(check, trained(3), rows(3), tmp_path).values()]

    usual = seen()
    for option in (
        {"images": 3}, {"steps": 20}, {"step": 0.1}, {"start": 0.0}, {"decay": 9}, {"total_variation": 9},
        {"distance": "euclidean"}, {"samples": 200}, {"classes": ["1", "7"]},
    ):  # fmt: skip
        assert seen(**option) != usual, option
    assert seen(distance="correlation") == usual
    assert seen(samples=None) == usual


@pytest.mark.usefixtures("no_control")
def test_scores_alone_are_enough(tmp_path: Path) -> None:
    assert Capability.GRADIENTS in ModelInversion().requirements()
    assert Capability.GRADIENTS not in ModelInversion(directions=8).requirements()
    net = network(3).eval().requires_grad_(False)
    black_box = audited(lambda x: net(x), (1, 8, 8), 10, bounds=(0.0, 16.0), gradients=False)
    found = measure(ModelInversion(directions=16, images=4), black_box, rows(3), tmp_path)["member_auc", ""]
    assert found.estimate.interval()[0] > 0.5
    assert found.threat_model is not None
    assert (found.threat_model.access, found.threat_model.queries) == ("black_box_scores", 200 * 32)


@pytest.mark.usefixtures("no_control")
def test_columns_of_numbers_are_inverted_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) * [1, 1000]
    known = from_arrays(x[:200], (x[:200, 0] > 0).astype(int), x_train=x[200:], y_train=(x[200:, 0] > 0).astype(int))

    def forward(x: Tensor) -> Tensor:
        return torch.stack([-x[:, 0], x[:, 0]], dim=1)

    model = audited(forward, (2,), 2).variant(AuditedModel, spec=known.spec)
    found = measure(ModelInversion(decay=0), model, known, tmp_path)
    low, high = found["member_auc", ""].estimate.interval()
    assert low < 0.5 < high
    kept = stored(found["member_auc", ""], "inversions", tmp_path)
    assert kept.column("x")[:, 0].tolist() == pytest.approx([x[:200, 0].min(), x[:200, 0].max()])
    assert ("similarity_to_mean", "") not in found


def test_what_it_cannot_speak_of_is_said(tmp_path: Path) -> None:
    text = audited(lambda x: x, (5,), 2, kind="text")
    with pytest.raises(NotApplicable, match="climbs in numbers"):
        measure(ModelInversion(), text, rows(3), tmp_path)


@pytest.mark.usefixtures("no_control")
def test_classes_are_known_and_have_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'12'"):
        measure(ModelInversion(classes=("12",)), trained(3), rows(3), tmp_path)
    known = rows(3)
    assert known.train is not None
    without = data(known.test, known.train.take(known.train.labels != 4), n_classes=10, bounds=(0.0, 16.0))
    found = measure(ModelInversion(classes=("4", "5"), steps=2), trained(3), without, tmp_path)
    assert found["member_auc", ""].cautions == ("left out, for lack of members or held-out rows: 4",)
    with pytest.raises(NotApplicable, match="no class"):
        measure(ModelInversion(classes=("4",), steps=2), trained(3), without, tmp_path)


def test_members_from_elsewhere_make_it_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told_apart = BlindAuc(0.9, 50, 50, ("boosted trees", "boosted trees"))
    monkeypatch.setattr("audit.privacy.blind_control.blind_auc", lambda *_, **__: told_apart)
    report = run(parse(TEXT), home=tmp_path, models={"toy": trained(3)}, data=rows(3))
    assert [finding.status for finding in report.findings if finding.gated] == ["void"]
