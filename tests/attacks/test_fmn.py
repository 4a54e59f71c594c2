"""FMN against closed forms and foolbox."""

from __future__ import annotations

import warnings

import pytest
import torch
from attacking import DISTANCE, NORMS, right_digits, streams
from attacking import limits_of as threat
from torch import Tensor, nn
from toys import Linear, audited, trained_cnn

from audit.attacks import Candidates, confirm
from audit.attacks.fmn import Fmn
from audit.finding import ThreatModel
from audit.model import AuditedModel
from audit.parameters import UserError


def sizes(model: AuditedModel, x: Tensor, y: Tensor, found: Candidates, limits: ThreatModel) -> Tensor:
    """Confirmed distances; infinite where nothing was found."""
    confirmed = confirm(model, x, y, found.x, limits)
    assert not confirmed.refused.any()
    unchanged = (found.x == x).flatten(1).all(dim=1)
    assert torch.equal(unchanged, ~confirmed.success), "where nothing is found the candidate is the input itself"
    return confirmed.size.masked_fill(~confirmed.success, torch.inf)


@pytest.mark.parametrize("bounds", [None, (-10.0, 10.0)])
@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_distance_of_a_line(norm: str, bounds: tuple[float, float] | None) -> None:
    model, x, y = audited(Linear([3.0, 4.0], -5.0), (2,)), torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    limits = threat(norm, None, bounds)
    found = Fmn(steps=40).run(model, x, y, limits, streams(1))
    assert float(sizes(model, x, y, found, limits)) == pytest.approx(DISTANCE[norm], rel=1e-4)
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(norm, factor * DISTANCE[norm], bounds)
        found = Fmn(steps=40).run(model, x, y, limits, streams(1))
        assert bool(sizes(model, x, y, found, limits).isfinite()) == flips


@pytest.mark.parametrize("norm", NORMS)
def test_every_row_crosses_a_line_wherever_it_starts(norm: str) -> None:
    # A radius of the first-order distance itself would put each of them on the line, where rounding decides.
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x = torch.rand((200, 2), generator=torch.Generator().manual_seed(0)) * 4 - 2
    y, margin = model.predict(x), x @ torch.tensor([3.0, 4.0]) - 5
    limits = threat(norm, None, (-20.0, 20.0))
    near = sizes(model, x, y, Fmn(steps=40).run(model, x, y, limits, streams(200)), limits)
    dual = {"linf": 7, "l2": 5, "l1": 4}[norm]
    assert torch.allclose(near, margin.double().abs() / dual, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_goes_along_the_box_where_it_blocks_the_way(norm: str) -> None:
    # From (0, 4) the line 3a + 4b = 5 lies 2.75 below; the first coordinate is at its bound and cannot help.
    model, y = audited(Linear([3.0, 4.0], -5.0), (2,)), torch.tensor([1])
    x, limits = torch.tensor([[0.0, 4.0]]), threat(norm, None, (0.0, 10.0))
    found = Fmn(steps=40).run(model, x, y, limits, streams(1))
    assert float(sizes(model, x, y, found, limits)) == pytest.approx(2.75, rel=1e-3)
    x, limits = torch.tensor([[3.0, 4.0]]), threat(norm, None, (2.0, 5.0))  # all of this box is one class
    assert torch.equal(Fmn(steps=20).run(model, x, y, limits, streams(1)).x, x)


@pytest.mark.parametrize("norm", NORMS)
def test_is_as_near_as_foolbox_at_equal_steps(cnn: AuditedModel, norm: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of SciPy
        foolbox = pytest.importorskip("foolbox")
    x, y = right_digits(cnn, 40)
    net = trained_cnn()
    # foolbox counts a step in the input's units, ours is a share of its range: in 0..1 they are one.
    peer = foolbox.PyTorchModel(nn.Sequential(_Times16(), net).eval(), bounds=(0, 1), device="cpu")
    named = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack", "l1": "L1FMNAttack"}[norm]
    theirs = getattr(foolbox.attacks, named)(steps=30).run(peer, x / 16, foolbox.criteria.Misclassification(y)) * 16
    limits = threat(norm)
    judged = confirm(cnn, x, y, theirs.clamp(0, 16), limits)
    theirs = judged.size.masked_fill(~judged.success, torch.inf)
    found = Fmn(steps=30, final_search=0).run(cnn, x, y, limits, streams(len(x)))
    ours = sizes(cnn, x, y, found, limits)
    assert float(ours.median()) <= 1.02 * float(theirs.median())
    assert int(ours.isfinite().sum()) >= int(theirs.isfinite().sum())
    assert (found.gradients == 30).all()
    assert (found.queries == 31).all()


class _Times16(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 16


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.6), ("l2", 8.0), ("l1", 24.0)])
def test_with_an_eps_a_row_leaves_once_something_is_within(cnn: AuditedModel, norm: str, eps: float) -> None:
    x, y = right_digits(cnn, 40)
    nearest = sizes(cnn, x, y, Fmn(steps=20).run(cnn, x, y, threat(norm), streams(len(x))), threat(norm))
    forward, backward = cnn.rows_forward, cnn.rows_backward
    found = Fmn(steps=20).run(cnn, x, y, threat(norm, eps), streams(len(x)))
    assert int(found.queries.sum()) == cnn.rows_forward - forward
    assert int(found.gradients.sum()) == cnn.rows_backward - backward
    assert found.x.dtype == x.dtype
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 16
    within = sizes(cnn, x, y, found, threat(norm, eps))
    fooled = within.isfinite()
    assert 0 < int(fooled.sum()) < len(x)
    assert float(within[fooled].max()) <= eps, "exact, not up to rounding"
    assert torch.equal(fooled, nearest <= eps), "leaving early changes no outcome"
    assert found.queries[fooled].float().mean() < 15
    assert (found.queries[~fooled] == 24).all(), "20, the last iterate, and 3 back"


def test_neither_order_nor_batch_changes_what_an_example_gets() -> None:
    model = audited(Linear([1.0, -2.0, 0.5], 0.25), (3,), bounds=(-4.0, 4.0))
    # Doubles: the last bit of a float32 matrix product hangs on the number of rows.
    x = torch.randn((40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(-4, 4)
    y = model.predict(x)
    for norm in NORMS:
        limits = threat(norm, None, (-4.0, 4.0))
        together = Fmn(steps=6).run(model, x, y, limits, streams(40))
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
        shuffled = Fmn(steps=6).run(model, x[order], y[order], limits, streams(40).take(order))
        assert torch.allclose(shuffled.x, together.x[order], rtol=0, atol=1e-12)
        parts = [Fmn(steps=6).run(model, x[i], y[i], limits, streams(40).take(i)).x for i in torch.arange(40).split(7)]
        assert torch.allclose(torch.cat(parts), together.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cap", [0, 1, 7, 12, 14])
def test_a_cap_on_queries_is_never_exceeded(cnn: AuditedModel, cap: int) -> None:
    x, y = right_digits(cnn, 6)
    found = Fmn(steps=10).run(cnn, x, y, threat("l2", queries=cap), streams(6))
    assert (found.queries == cap).all()


@pytest.mark.parametrize("changed", [{"steps": 5}, {"step_size": 0.2}, {"gamma": 0.2}, {"final_search": 0}])
def test_parameters_change_what_is_found(cnn: AuditedModel, changed: dict[str, float]) -> None:
    x, y = right_digits(cnn, 8)
    plain = {"steps": 15}
    usual, other = (Fmn(**settings).run(cnn, x, y, threat("l2"), streams(8)) for settings in (plain, plain | changed))
    assert not torch.equal(usual.x, other.x)


def test_the_walk_back_ends_just_beyond_the_boundary(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 20)
    limits = threat("l2")
    rough, near = (
        sizes(cnn, x, y, Fmn(steps=6, final_search=k).run(cnn, x, y, limits, streams(20)), limits) for k in (0, 6)
    )
    found = Fmn(steps=6, final_search=6).run(cnn, x, y, limits, streams(20))
    broken = rough.isfinite()
    assert (near <= rough).all()
    assert float((near / rough)[broken].mean()) < 0.995
    inside = x + 0.998 * (found.x - x)
    assert (cnn.predict(inside)[broken] == y[broken]).float().mean() > 0.9, "a hair less is right again"


def test_a_rounded_input_gives_zero_gradients_that_are_counted() -> None:
    model = audited(lambda x: trained_cnn()(x.round()), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(model, 6)
    found = Fmn().run(model, x, y, threat("l2"), streams(6))
    assert (found.zero_gradients == 1).all()
    assert (found.gradients == 1).all(), "with nothing to follow the search ends"
    assert torch.equal(found.x, x)


def test_nothing_to_attack_asks_nothing_and_a_wrong_norm_is_refused(cnn: AuditedModel) -> None:
    forward = cnn.rows_forward
    none = torch.zeros((0, 1, 8, 8)), torch.zeros(0, dtype=torch.int64)
    assert Fmn().run(cnn, *none, threat("l2"), streams(0)).x.shape == (0, 1, 8, 8)
    assert cnn.rows_forward == forward
    with pytest.raises(UserError, match="fmn"):
        Fmn().run(cnn, *none, ThreatModel(access="white_box"), streams(0))
