"""Square against closed forms, its own schedule, a reference library, and a planted pair."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from attacking import right_digits, streams
from torch import Tensor, nn
from toys import Linear, audited, data, digits, trained_cnn

from audit.attacks import Candidates, confirm
from audit.attacks.square import Square
from audit.engine import run
from audit.finding import ThreatModel
from audit.model import AuditedModel, NonFiniteOutput
from audit.parameters import UserError
from audit.scenario import parse


def threat(
    eps: float, norm: str = "linf", bounds: tuple[float, float] | None = (0.0, 16.0), queries: int | None = None
):
    return ThreatModel(access="black_box_scores", norm=norm, eps=eps, bounds=bounds, queries=queries)


def fallen(model: AuditedModel, x: Tensor, y: Tensor, found: Candidates, limits: ThreatModel) -> Tensor:
    confirmed = confirm(model, x, y, found.x, limits)
    assert not confirmed.refused.any()
    return confirmed.success


class Spy(nn.Module):
    """Never changes its mind, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return torch.tensor([1.0, 0.0]).repeat(len(x), 1)


def spied(shape: tuple[int, ...], norm: str, queries: int, n: int = 4, eps: float = 1.0) -> list[Tensor]:
    spy = Spy()
    x, y = torch.full((n, *shape), 8.0), torch.zeros(n, dtype=torch.int64)
    found = Square(queries=queries).run(audited(spy, shape), x, y, threat(eps, norm), streams(n))
    assert torch.equal(found.x, x)
    return spy.asked


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [None, (-10.0, 10.0)])
def test_linf_flips_a_linear_model_just_beyond_its_distance_and_never_within(
    bounds: tuple[float, float] | None,
) -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]).repeat(16, 1), torch.ones(16, dtype=torch.int64)
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * 20 / 7, "linf", bounds)
        found = Square(queries=60).run(model, x, y, limits, streams(16))
        assert (fallen(model, x, y, found, limits) == flips).all()
        if not flips:
            assert torch.equal(found.x, x), "where nothing is found the candidate is the input itself"
            assert (found.queries == 60).all()


@pytest.mark.parametrize(("norm", "distance"), [("l2", 3.0), ("l1", 9.0)])
def test_mass_gathers_where_a_linear_model_looks_and_never_flips_it_within(norm: str, distance: float) -> None:
    # The nine elements that count are 1 each: the boundary is 9/3 away in l2, 9 in l1; evenly spread, eps moves them by a ninth of it.
    x = torch.zeros(12, 1, 12, 12)
    x[:, :, 4:7, 6:9] = 1.0
    model = audited(Linear(x[0].flatten().tolist(), 0.0), (1, 12, 12))
    y = torch.ones(12, dtype=torch.int64)
    for factor, flips in ((2.0 if norm == "l2" else 4.0, True), (0.999, False)):
        limits = threat(factor * distance, norm, (-16.0, 16.0))
        found = Square(queries=400).run(model, x, y, limits, streams(12))
        assert (fallen(model, x, y, found, limits) == flips).all()


# --- what it may and may not do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.05, 1.6, 40.0])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6), (2, 32), (64,), (3,)])
def test_every_query_stays_in_the_box_and_the_ball(norm: str, eps: float, shape: tuple[int, ...]) -> None:
    x = torch.full((4, *shape), 8.0)
    for asked in spied(shape, norm, 40, eps=eps):
        delta = (asked - x).double().flatten(1)
        assert float(asked.min()) >= 0.0
        assert float(asked.max()) <= 16.0
        size = {"linf": delta.abs().amax(1), "l2": delta.norm(dim=1), "l1": delta.norm(p=1, dim=1)}[norm]
        assert float(size.max()) <= eps + 2e-6 * x[0].numel(), "up to the rounding of 8 + delta"
        assert float(size.min()) > 0.5 * min(eps, 8.0), "at the ball's edge, or the box's"


def test_no_query_repeats_what_is_known_and_patches_reach_every_corner() -> None:
    first, *later = spied((1, 8, 8), "linf", 400, n=2)
    changed = torch.stack([asked != first for asked in later])
    assert changed.flatten(2).any(dim=2).all(), "a proposal that changes nothing wastes a query"
    assert changed.any(dim=0).all(), "every element, the last row and column too"
    assert not torch.equal(changed[:, 0], changed[:, 1]), "every example has patches of its own"


def test_the_patch_shrinks_over_the_queries_there_are() -> None:
    for queries in (100, 1000):
        first, *later = spied((1, 16, 16), "linf", queries, n=1)
        extent = [int(((asked != first)[0, 0].any(dim=1)).sum()) for asked in later]
        assert extent[0] >= 7
        assert max(extent[queries // 2 :]) == 1
        assert extent[queries // 50] > extent[queries // 5] > 1


# --- counts, caps, independence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    ("queries", "restarts", "cap"), [(30, 1, None), (30, 2, None), (30, 2, 41), (30, 3, 4), (30, 1, 1)]
)
def test_queries_are_counted_and_the_cap_holds(
    cnn: AuditedModel, norm: str, queries: int, restarts: int, cap: int | None
) -> None:
    x, y = right_digits(cnn, 40)
    before = cnn.rows_forward
    eps = {"linf": 2.0, "l2": 6.0, "l1": 30.0}[norm]
    attack = Square(queries=queries, restarts=restarts)
    found = attack.run(cnn, x, y, threat(eps, norm, queries=cap), streams(len(x)))
    assert int(found.queries.sum()) == cnn.rows_forward - before
    most = int(found.queries.max())
    assert most in ((cap - 1, cap) if cap else (queries * restarts, queries * restarts + 1)), (
        "one confirms what is found"
    )
    assert not found.gradients.any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_batch_and_order_do_not_change_an_outcome(norm: str) -> None:
    module = copy.deepcopy(trained_cnn()).double()
    model = audited(module, (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(audited(trained_cnn(), (1, 8, 8), 10), 24)
    x = x.double()
    limits = threat({"linf": 2.0, "l2": 6.0, "l1": 30.0}[norm], norm)
    rng, attack = streams(len(x)), Square(queries=150)
    whole = attack.run(model, x, y, limits, streams(len(x)))
    for part in (torch.arange(23, 11, -1), torch.tensor([0])):
        found = attack.run(model, x[part], y[part], limits, rng.take(part))
        assert torch.equal(found.queries, whole.queries[part])
        assert torch.allclose(found.x, whole.x[part], atol=1e-9)


# --- parameters, strength ----------------------------------------------------------------------------------------


def test_each_parameter_changes_the_outcome(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 40)
    limits = threat(2.0)

    def robust(**parameters: float) -> int:
        found = Square(**parameters).run(cnn, x, y, limits, streams(len(x)))  # type: ignore[arg-type]
        return len(x) - int(fallen(cnn, x, y, found, limits).sum())

    short = robust(queries=30)
    assert robust(queries=200) < short
    assert robust(queries=30, restarts=4) < short
    assert robust(queries=200, p_init=0.02) != robust(queries=200)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2.0), ("l2", 8.0)])
def test_leaves_no_more_rows_right_than_art_after_as_many_proposals(cnn: AuditedModel, norm: str, eps: float) -> None:
    from art.attacks.evasion import SquareAttack
    from art.estimators.classification import PyTorchClassifier

    x, y = right_digits(cnn, 40)
    peer = PyTorchClassifier(
        trained_cnn(), nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 16.0), device_type="cpu"
    )
    np.random.seed(0)
    size = np.inf if norm == "linf" else 2
    attack = SquareAttack(peer, norm=size, eps=eps, max_iter=80, batch_size=512, verbose=False)
    with np.errstate(all="ignore"):
        moved = attack.generate(x.numpy(), y.numpy())
    theirs = int((cnn.predict(torch.from_numpy(moved)) == y).sum())
    limits = threat(eps, norm)
    found = Square(queries=80).run(cnn, x, y, limits, streams(len(x)))
    assert len(x) - int(fallen(cnn, x, y, found, limits).sum()) <= theirs < len(x)


def test_probabilities_are_enough(cnn: AuditedModel) -> None:
    net = trained_cnn()
    said = audited(lambda x: net(x).softmax(dim=1), (1, 8, 8), 10, output="probability", gradients=False)
    x, y = right_digits(cnn, 40)
    limits = threat(2.0)
    broken = [
        int(fallen(m, x, y, Square(queries=100).run(m, x, y, limits, streams(len(x))), limits).sum())
        for m in (cnn, said)
    ]
    assert abs(broken[0] - broken[1]) <= 2


def test_bad_input_is_refused() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    model = audited(lambda x: torch.full((len(x), 2), torch.nan), (3,))
    with pytest.raises(NonFiniteOutput):
        Square().run(model, x, y, threat(1.0), streams(2))
    with pytest.raises(UserError, match="eps > 0"):
        Square().run(model, x, y, ThreatModel(access="black_box_scores", norm="linf"), streams(2))
    empty = Square().run(model, x[:0], y[:0], threat(1.0), streams(0))
    assert empty.x.shape == (0, 3)


# --- the planted pair --------------------------------------------------------------------------------------------


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
        return nn.functional.one_hot(torch.full((len(x),), 3), 10).float() + 0 * x.flatten(1)[:, :10]


def robust_share(tmp_path: Path, module: nn.Module, attack: str) -> float:
    known = digits()
    rows = data(known.test.take(np.flatnonzero(known.test.labels == 3)[:25]), n_classes=10, bounds=(0.0, 16.0))
    model = audited(module, (1, 8, 8), 10, bounds=(0.0, 16.0))
    name = attack.split(":")[0]
    report = run(
        parse(
            "name: r\nmodel: toy\ndata: {source: given}\nthreads: 1\nchecks:\n"
            f"  - robustness.evasion: {{attacks: [{attack}], eps: 3}}\n"
            f'    require: {{"robust_accuracy[attack={name}]": ">= 0.5"}}\n'
        ),
        home=tmp_path,
        models={"toy": model},
        data=rows,
    )
    gate = next(f for f in report.findings if f.gated)
    assert gate.estimate is not None, gate.message
    return gate.estimate.value


def test_breaks_a_masked_net_that_gradients_do_not_and_never_a_constant(tmp_path: Path) -> None:
    gradient = "art.projected_gradient_descent: {max_iter: 10, rows_per_call: 25}"
    assert robust_share(tmp_path / "gradient", Rounded(), gradient) > 0.8
    assert robust_share(tmp_path / "square", Rounded(), "square: {queries: 200}") < 0.1
    assert robust_share(tmp_path / "constant", Constant(), "square: {queries: 50}") == 1.0
