"""Transfer: what the surrogate may see, what an example's queries are, and a planted pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacking import right_digits, streams
from pydantic import ValidationError
from torch import Tensor, nn
from toys import Linear, audited, batch, context, data, digits, trained_cnn

from audit.attacks import confirm
from audit.attacks._surrogate import train
from audit.attacks.transfer import Transfer
from audit.engine import run
from audit.finding import ThreatModel
from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import UserError
from audit.scenario import parse

CHEAP: dict[str, Any] = {"architecture": "mlp", "queries": 300, "epochs": 12, "steps": 8, "restarts": 2}


def threat(eps: float, norm: str = "linf", queries: int | None = None) -> ThreatModel:
    return ThreatModel(access="black_box_scores", norm=norm, eps=eps, bounds=(0.0, 16.0), queries=queries)


class Rounded(nn.Module):
    """Sees whole numbers only: its gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.net = trained_cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.round())


class Constant(nn.Module):
    """Says 3, whatever it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(x),), 3), 10).float()


def test_the_surrogate_costs_what_is_said_and_never_sees_a_row_tested_on(cnn: AuditedModel, tmp_path: Path) -> None:
    asked: list[Tensor] = []
    net = trained_cnn()

    def spying(x: Tensor) -> Tensor:
        asked.append(x.clone())
        return net(x)

    model, known = audited(spying, (1, 8, 8), 10, bounds=(0.0, 16.0)), digits()
    assert known.train is not None
    both = np.concatenate([known.train.x, known.test.x]), np.concatenate([known.train.labels, known.test.labels])
    overlapping = replace(known, train=batch(*both))
    right = int(model.correct(known.test).sum())
    asked.clear()
    fitted = Transfer(**{**CHEAP, "queries": 5000}).fit(model, overlapping, context(tmp_path))
    assert sum(len(part) for part in asked) == len(known.train)
    seen = {row.numpy().tobytes() for part in asked for row in part}
    assert seen.isdisjoint(row.tobytes() for row in known.test.x)

    x, y = right_digits(cnn, 60)
    asked.clear()
    found = fitted.run(model, x, y, threat(2.4), streams(60))
    share = -(-len(known.train) // right)
    assert int((found.queries - share).sum()) == sum(len(part) for part in asked)
    assert set((found.queries - share).tolist()) == {1, 2}
    assert not found.gradients.any(), "gradients of the surrogate are none of the model's"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_it_returns_fools_the_model_within_the_ball(cnn: AuditedModel, tmp_path: Path, norm: str) -> None:
    x, y = right_digits(cnn, 60)
    limits = threat({"linf": 2.4, "l2": 10.0, "l1": 60.0}[norm], norm)
    found = Transfer(**CHEAP).fit(cnn, digits(), context(tmp_path)).run(cnn, x, y, limits, streams(60))
    confirmed = confirm(cnn, x, y, found.x, limits)
    moved = (found.x != x).flatten(1).any(dim=1)
    assert torch.equal(confirmed.success, moved)
    assert not confirmed.refused.any()
    assert 5 <= int(moved.sum()) < 60


def test_the_cap_holds_and_one_below_the_surrogates_price_is_refused(cnn: AuditedModel, tmp_path: Path) -> None:
    x, y = right_digits(cnn, 30)
    fitted = Transfer(**{**CHEAP, "queries": 1000, "restarts": 4}).fit(cnn, digits(), context(tmp_path))
    found = fitted.run(cnn, x, y, threat(0.5, queries=5), streams(30))
    assert int(found.queries.max()) == 5
    with pytest.raises(UserError, match="3 queries per example for its surrogate"):
        fitted.run(cnn, x, y, threat(0.5, queries=3), streams(30))


def test_each_parameter_changes_the_outcome(cnn: AuditedModel, tmp_path: Path) -> None:
    x, y = right_digits(cnn, 60)

    def found(**parameters: Any) -> Tensor:
        fitted = Transfer(**{**CHEAP, **parameters}).fit(cnn, digits(), context(tmp_path))
        return fitted.run(cnn, x, y, threat(2.0), streams(60)).x

    reference = found()
    assert torch.equal(found(), reference), "the same seed, the same surrogate"
    for changed in (
        {"answers": "labels"}, {"queries": 100}, {"architecture": "cnn", "epochs": 3}, {"epochs": 3}, {"steps": 3},
        {"step_size": 0.5}, {"momentum": 0.0}, {"restarts": 1},
    ):  # fmt: skip
        assert not torch.equal(found(**changed), reference), changed


def test_labels_are_enough_where_it_learns_from_labels(tmp_path: Path, cnn: AuditedModel) -> None:
    assert (Transfer().access, Transfer().needs) == ("black_box_scores", {Capability.PROBABILITIES})
    by_labels = Transfer(**CHEAP, answers="labels")
    assert (by_labels.access, by_labels.needs) == ("black_box_labels", {Capability.LABELS})
    net = trained_cnn()
    model = audited(lambda x: net(x).argmax(dim=1).float(), (1, 8, 8), 10, output="label", gradients=False)
    x, y = right_digits(cnn, 40)
    found = by_labels.fit(model, digits(), context(tmp_path)).run(model, x, y, threat(3.0), streams(40))
    assert int(confirm(model, x, y, found.x, threat(3.0)).success.sum()) > 10


def test_bad_use_is_refused_in_one_line(cnn: AuditedModel, tmp_path: Path) -> None:
    known, (x, y) = digits(), right_digits(cnn, 2)
    with pytest.raises(UserError, match="give it a `split`"):
        Transfer().fit(cnn, replace(known, train=None), context(tmp_path))
    with pytest.raises(UserError, match="call `fit` first"):
        Transfer().run(cnn, x, y, threat(1.0), streams(2))
    with pytest.raises(ValidationError):
        Transfer(answers="gradients")  # type: ignore[arg-type]
    line = audited(Linear([3.0, 4.0], -5.0), (2,), kind="series")
    rows = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    halves = batch(rows[:30], np.zeros(30, dtype=np.int64)), batch(rows[30:], np.zeros(30, dtype=np.int64))
    with pytest.raises(UserError, match="needs images"):
        Transfer(architecture="cnn").fit(line, data(*halves, kind="series"), context(tmp_path))


def test_a_surrogate_reads_categories_and_missing_values_of_a_table() -> None:
    spec = InputSpec(
        fields=(Field(name="n", kind="number"), Field(name="c", kind="category", categories=("a", "b", "c", "d")))
    )
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=400) * 1000, rng.integers(0, 4, 400).astype(float)], axis=1)
    wanted = np.isin(x[:, 1], (0, 2)).astype(int)  # no single threshold on the code tells them apart
    x[rng.random(400) < 0.2, 0] = np.nan
    x[:4, 1] = np.nan
    state = torch.random.get_rng_state()
    targets = torch.nn.functional.one_hot(torch.from_numpy(wanted), 2).float()
    network = train(spec, torch.from_numpy(x), targets, architecture="auto", epochs=15, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    said = network(torch.from_numpy(x)).argmax(dim=1)
    assert float((said == torch.from_numpy(wanted)).double().mean()) > 0.95


def test_breaks_a_masked_net_and_never_a_constant(tmp_path: Path) -> None:
    known = digits()
    threes = known.test.take(np.flatnonzero(known.test.labels == 3)[:25])
    shares = []
    for name, net in (("rounded", Rounded()), ("constant", Constant())):
        report = run(
            parse(
                "name: r\nmodel: toy\ndata: {source: given}\nthreads: 1\nchecks:\n  - robustness.evasion:\n"
                "      attacks: [transfer: {architecture: mlp, queries: 600, epochs: 15}]\n      eps: 3.5\n"
                '    require: {"robust_accuracy[attack=transfer]": ">= 0.5"}\n'
            ),
            home=tmp_path / name,
            models={"toy": audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0))},
            data=data(threes, known.train, n_classes=10, bounds=(0.0, 16.0)),
        )
        gate = next(f for f in report.findings if f.gated)
        assert gate.estimate is not None, gate.message
        shares.append(gate.estimate.value)
    assert shares[0] < 0.3
    assert shares[1] == 1.0
