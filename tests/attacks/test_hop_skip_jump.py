"""HopSkipJump against closed forms, its counts, reference libraries, and a planted pair."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacking import right_digits, streams
from torch import Tensor, nn
from toys import audited, data, digits, trained_cnn

from audit.attacks import confirm, perturbation_size
from audit.attacks.hop_skip_jump import HopSkipJump
from audit.engine import run
from audit.finding import ThreatModel
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.scenario import parse


def threat(norm: str = "l2", eps: float | None = None, **more: Any) -> ThreatModel:
    return ThreatModel(access="black_box_labels", norm=norm, eps=eps, **{"bounds": (0.0, 16.0), **more})


def line() -> tuple[AuditedModel, Tensor, Tensor]:
    """Eight times the input that lies 4 (l2) and 20/7 (linf) from the boundary; the model says labels only."""
    model = audited(lambda x: (x @ torch.tensor([3.0, 4.0]) > 5).float(), (2,), output="label", gradients=False)
    return model, torch.tensor([[3.0, 4.0]]).repeat(8, 1), torch.ones(8, dtype=torch.int64)


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "distance"), [("l2", 4.0), ("linf", 20 / 7)])
@pytest.mark.parametrize("bounds", [None, (-10.0, 10.0)])
def test_finds_the_distance_of_a_linear_model(norm: str, distance: float, bounds: tuple[float, float] | None) -> None:
    model, x, y = line()
    found = HopSkipJump(queries=1500).run(model, x, y, threat(norm, bounds=bounds), streams(8))
    size = perturbation_size(found.x - x, norm)
    assert (model.predict(found.x) == 0).all()
    assert ((size >= distance * 0.9999) & (size <= distance * 1.02)).all(), size


@pytest.mark.parametrize(("norm", "distance"), [("l2", 4.0), ("linf", 20 / 7)])
def test_with_an_eps_a_row_leaves_as_soon_as_it_is_within(norm: str, distance: float) -> None:
    model, x, y = line()
    spent = []
    for factor, flips in ((2.5, True), (1.03, True), (0.999, False)):
        limits = threat(norm, factor * distance, bounds=(-10.0, 10.0))
        found = HopSkipJump(queries=1500).run(model, x, y, limits, streams(8))
        assert (confirm(model, x, y, found.x, limits).success == flips).all()
        assert flips or torch.equal(found.x, x)
        spent.append(float(found.queries.double().mean()))
    assert spent[0] < spent[1] < spent[2]
    assert spent[2] > 1400


# --- counts, caps, independence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("cap", [1, 3, 17, 40, 260])
def test_queries_are_counted_and_the_cap_holds(cnn: AuditedModel, norm: str, cap: int) -> None:
    x, y = right_digits(cnn, 16)
    before = cnn.rows_forward
    found = HopSkipJump().run(cnn, x, y, threat(norm, queries=cap), streams(len(x)))
    assert int(found.queries.sum()) == cnn.rows_forward - before
    assert int(found.queries.max()) <= cap
    moved = (found.x != x).flatten(1).any(dim=1)
    assert ((cnn.predict(found.x) != y) == moved).all()
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 16
    if cap > 200:
        assert int(found.queries.min()) > 200
        assert moved.all(), "a digit that noise is taken for has a start as well"


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_batch_and_order_do_not_change_an_outcome(norm: str) -> None:
    model = audited(copy.deepcopy(trained_cnn()).double(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(audited(trained_cnn(), (1, 8, 8), 10), 10)
    x = x.double()
    rng, attack = streams(len(x)), HopSkipJump(queries=400, gradient_queries=40)
    whole = attack.run(model, x, y, threat(norm), streams(len(x)))
    for part in (torch.arange(9, 4, -1), torch.tensor([0])):
        found = attack.run(model, x[part], y[part], threat(norm), rng.take(part))
        assert torch.equal(found.queries, whole.queries[part])
        assert torch.allclose(found.x, whole.x[part], atol=1e-6)


# --- parameters, strength ----------------------------------------------------------------------------------------


def test_each_parameter_changes_the_outcome(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 16)

    def distance(**parameters: int) -> float:
        found = HopSkipJump(**parameters).run(cnn, x, y, threat(), streams(len(x)))
        return float(perturbation_size(found.x - x, "l2").median())

    assert distance(queries=800) < distance(queries=200)
    assert distance(queries=200, gradient_queries=30) != distance(queries=200)
    constant = audited(Constant(), (1, 8, 8), 10)
    for starts in (3, 7):
        found = HopSkipJump(starts=starts).run(constant, x, torch.full_like(y, 3), threat(), streams(len(x)))
        assert (found.queries == starts).all()
        assert torch.equal(found.x, x)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_comes_as_near_as_art_with_as_many_queries(cnn: AuditedModel, norm: str) -> None:
    from art.attacks.evasion import HopSkipJump as Peer
    from art.estimators.classification import PyTorchClassifier

    x, y = right_digits(cnn, 7)
    start = HopSkipJump(queries=4).run(cnn, x, y, threat(norm), streams(len(x))).x
    begun = cnn.predict(start) != y
    x, y, start = x[begun], y[begun], start[begun]
    counted = Counted()
    peer = PyTorchClassifier(counted, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 16.0), device_type="cpu")
    np.random.seed(0)
    attack = Peer(
        peer,
        norm=2 if norm == "l2" else np.inf,
        max_iter=3,
        max_eval=1000,
        init_eval=100,
        batch_size=512,
        verbose=False,
    )
    moved = torch.from_numpy(attack.generate(x.numpy(), y.numpy(), x_adv_init=start.numpy().copy()))
    theirs = perturbation_size(moved - x, norm)
    limits = threat(norm, queries=counted.rows // len(x))
    ours = perturbation_size(HopSkipJump().run(cnn, x, y, limits, streams(len(x))).x - x, norm)
    assert 0 < float(ours.median()) <= float(theirs.median())


class Counted(nn.Module):
    """The net in single precision, which ART leaves, and the rows it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rows = trained_cnn(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.net(x.float())


def test_another_norm_is_refused(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 2)
    with pytest.raises(UserError, match="l2 and linf"):
        HopSkipJump().run(cnn, x, y, threat("l1"), streams(2))
    assert HopSkipJump().run(cnn, x[:0], y[:0], threat(), streams(0)).x.shape == (0, 1, 8, 8)


# --- the planted pair --------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Says 3, whatever it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(x),), 3), 10).float()


def test_breaks_a_net_that_says_labels_only_and_never_a_constant(tmp_path: Path) -> None:
    known = digits()
    rows = data(known.test.take(np.flatnonzero(known.test.labels == 3)[:12]), n_classes=10, bounds=(0.0, 16.0))
    shares = []
    for name, net in (("net", trained_cnn()), ("constant", Constant())):
        model = audited(
            lambda x, net=net: net(x).argmax(dim=1).float(),
            (1, 8, 8), 10, bounds=(0.0, 16.0), output="label", gradients=False,
        )  # fmt: skip
        report = run(
            parse(
                "name: r\nmodel: toy\ndata: {source: given}\nthreads: 1\nchecks:\n"
                "  - robustness.evasion: {attacks: [hop_skip_jump: {queries: 600}], eps: 22, norm: l2}\n"
                '    require: {"robust_accuracy[attack=hop_skip_jump]": ">= 0.5"}\n'
            ),
            home=tmp_path / name,
            models={"toy": model},
            data=rows,
        )
        gate = next(f for f in report.findings if f.gated)
        assert gate.estimate is not None, gate.message
        shares.append(gate.estimate.value)
    assert shares[0] < 0.3
    assert shares[1] == 1.0
