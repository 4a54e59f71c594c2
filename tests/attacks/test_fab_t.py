"""Targeted FAB against closed forms and the plain loop of its paper."""

from __future__ import annotations

import pytest
import torch
from attacking import DISTANCE, NORMS, right_digits, streams
from attacking import limits_of as threat
from torch import Tensor, nn
from toys import Linear, audited, trained_cnn

from audit.attacks import Candidates, confirm, perturbation_size
from audit.attacks._hyperplane import to_hyperplane
from audit.attacks.fab_t import FabT
from audit.finding import ThreatModel
from audit.model import AuditedModel
from audit.parameters import UserError


def line() -> tuple[AuditedModel, Tensor, Tensor]:
    return audited(Linear([3.0, 4.0], -5.0), (2,)), torch.tensor([[3.0, 4.0]]), torch.tensor([1])


def linear_classes(classes: int = 5, features: int = 6, n: int = 40) -> tuple[AuditedModel, Tensor, Tensor]:
    """A linear model of several classes in doubles, so that what is exact is exact, and rows with their labels."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Linear(features, classes).double()
    with torch.no_grad():
        net.weight.copy_(torch.randn((classes, features), generator=generator))
        net.bias.copy_(torch.randn(classes, generator=generator))
    model = audited(net, (features,), classes)
    x = torch.randn((n, features), generator=generator, dtype=torch.float64)
    return model, x, model.predict(x)


def sizes(model: AuditedModel, x: Tensor, y: Tensor, found: Candidates, limits: ThreatModel) -> Tensor:
    """Confirmed distances; infinite where nothing was found."""
    confirmed = confirm(model, x, y, found.x, limits)
    assert not confirmed.refused.any()
    unchanged = (found.x == x).flatten(1).all(dim=1)
    assert torch.equal(unchanged, ~confirmed.success), "where nothing is found the candidate is the input itself"
    return confirmed.size.masked_fill(~confirmed.success, torch.inf)


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [None, (-10.0, 10.0)])
@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_distance_of_a_line(norm: str, bounds: tuple[float, float] | None) -> None:
    model, x, y = line()
    limits = threat(norm, None, bounds)
    found = FabT(steps=20).run(model, x, y, limits, streams(1))
    assert float(sizes(model, x, y, found, limits)) == pytest.approx(DISTANCE[norm], rel=1e-4)
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(norm, factor * DISTANCE[norm], bounds)
        found = FabT(steps=20).run(model, x, y, limits, streams(1))
        assert bool(sizes(model, x, y, found, limits).isfinite()) == flips


@pytest.mark.parametrize(("norm", "distance"), [("linf", 2.75), ("l2", 2.75), ("l1", 2.75)])
def test_goes_along_the_box_where_it_blocks_the_way(norm: str, distance: float) -> None:
    # From (0, 4) the line 3a + 4b = 5 lies 2.75 below; the first coordinate is at its bound and cannot help.
    model, y = audited(Linear([3.0, 4.0], -5.0), (2,)), torch.tensor([1])
    x, limits = torch.tensor([[0.0, 4.0]]), threat(norm, None, (0.0, 10.0))
    found = FabT(steps=10).run(model, x, y, limits, streams(1))
    assert float(sizes(model, x, y, found, limits)) == pytest.approx(distance, rel=1e-4)
    limits = threat(norm, None, (2.0, 5.0))  # all of this box is one class
    x = torch.tensor([[3.0, 4.0]])
    assert torch.equal(FabT(steps=10).run(model, x, y, limits, streams(1)).x, x)


@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_nearest_of_several_classes(norm: str) -> None:
    model, x, y = linear_classes()
    assert isinstance(model.module, nn.Linear)
    weight, logits = model.module.weight.detach(), model.logits(x)
    apart = weight[None] - weight[y][:, None]
    dual = {"linf": apart.abs().sum(2), "l2": apart.norm(dim=2), "l1": apart.abs().amax(2)}[norm]
    distance = ((logits.gather(1, y[:, None]) - logits) / dual).scatter(1, y[:, None], torch.inf)
    limits = threat(norm, None, None)
    every, first = (
        sizes(model, x, y, FabT(steps=20, targets=t).run(model, x, y, limits, streams(len(x))), limits) for t in (9, 1)
    )
    assert torch.allclose(every, distance.amin(dim=1), rtol=1e-3)
    likeliest = logits.scatter(1, y[:, None], -torch.inf).argmax(dim=1)
    farther = distance.gather(1, likeliest[:, None]).squeeze(1) > 1.01 * distance.amin(dim=1)
    assert farther.any(), "the likeliest class is not always the nearest"
    assert (first >= every * (1 - 1e-9)).all()
    assert (first > 1.005 * every)[farther].float().mean() > 0.5


def test_a_margin_model_has_one_target() -> None:
    model = audited(lambda x: x @ torch.tensor([3.0, 4.0]) - 5, (2,), output="margin")
    x, limits = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), threat("l2", None, None)
    y = model.predict(x)
    found = FabT(steps=15, final_search=0).run(model, x, y, limits, streams(2))
    assert torch.allclose(sizes(model, x, y, found, limits), torch.tensor([4.0, 1.0]).double(), rtol=0.02)
    assert (found.gradients == 15).all()
    assert (found.queries == 17).all(), "one for the logits of the input, one for the last iterate"


# --- the paper's loop --------------------------------------------------------------------------------------------


def plain_fab(net: nn.Module, x: Tensor, y: Tensor, target: Tensor, norm: str, steps: int) -> Tensor:
    """Distances that the paper's iteration finds, two forward passes a step, without the final search."""
    best, z, clean, rows = torch.full((len(x),), torch.inf).double(), x.clone(), x.flatten(1), torch.arange(len(x))
    for _ in range(steps):
        z.requires_grad_()
        logits = net(z)
        lead = logits[rows, target] - logits[rows, y]
        (gradient,) = torch.autograd.grad(lead.sum(), z)
        w, flat = gradient.flatten(1), z.detach().flatten(1)
        moves = [
            to_hyperplane(point, w, lead.detach() + (w * (point - flat)).sum(1), norm, 0.0, 16.0)
            for point in (flat, clean)
        ]
        near, far = (perturbation_size(move, norm) for move in moves)
        alpha = (near / (near + far).clamp_min(1e-8)).clamp_max(0.1).float()[:, None]
        mixed = (1 - alpha) * (flat + 1.05 * moves[0]) + alpha * (clean + 1.05 * moves[1])
        z = mixed.clamp(0, 16).reshape(x.shape)
        wrong = net(z).argmax(1) != y
        best = torch.where(wrong, best.minimum(perturbation_size(z.double() - x.double(), norm)), best)
        z = torch.where(wrong[:, None, None, None], x + 0.9 * (z - x), z)
    return best


@pytest.mark.parametrize("norm", NORMS)
def test_one_pass_a_step_finds_examples_as_near_as_two_do(cnn: AuditedModel, norm: str) -> None:
    x, y = right_digits(cnn, 40)
    net = trained_cnn()
    others = net(x).detach().scatter(1, y[:, None], -torch.inf)
    paper = plain_fab(net, x, y, others.argmax(dim=1), norm, 30)
    limits = threat(norm)
    found = FabT(steps=30, targets=1, final_search=0).run(cnn, x, y, limits, streams(len(x)))
    ours = sizes(cnn, x, y, found, limits)
    assert ours.isfinite().all()
    assert float(ours.mean()) < 1.01 * float(paper.mean())
    assert float((ours / paper).median()) < 1.005
    assert int(found.queries.sum()) == len(x) * 32


@pytest.mark.parametrize("norm", NORMS)
def test_the_nearest_examples_hold_in_any_batch(cnn: AuditedModel, norm: str) -> None:
    x, y = right_digits(cnn, 40)
    found = FabT(steps=10, targets=1, final_search=8).run(cnn, x, y, threat(norm), streams(40)).x
    alone = torch.cat([cnn.predict(row[None]) for row in found])
    assert torch.equal(alone, cnn.predict(found))
    assert (alone != y).float().mean() > 0.9


# --- what it may and may not do ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.6), ("l2", 8.0), ("l1", 24.0)])
def test_with_an_eps_a_row_leaves_once_something_is_within(cnn: AuditedModel, norm: str, eps: float) -> None:
    x, y = right_digits(cnn, 24)
    attack = FabT(steps=12, targets=4)
    free, bound = threat(norm), threat(norm, eps)
    nearest = attack.run(cnn, x, y, free, streams(len(x)))
    forward, backward = cnn.rows_forward, cnn.rows_backward
    found = attack.run(cnn, x, y, bound, streams(len(x)))
    assert int(found.queries.sum()) == cnn.rows_forward - forward
    assert int(found.gradients.sum()) == cnn.rows_backward - backward
    assert found.x.dtype == x.dtype
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 16
    least = sizes(cnn, x, y, nearest, free)
    within = sizes(cnn, x, y, found, bound)
    assert 0 < int(within.isfinite().sum()) < len(x)
    assert float(within[within.isfinite()].max()) <= eps, "exact, not up to rounding"
    assert torch.equal(within.isfinite(), least <= eps), "leaving early changes no outcome"
    assert found.queries[within.isfinite()].float().mean() < nearest.queries.float().mean() / 2
    held = found.queries[within.isinf()]
    assert (held == nearest.queries[0]).all(), "1 + 4 * (12 + 1) + 3 for what withstands"
    assert int(held[0]) == 56


@pytest.mark.parametrize("eps", [None, 0.3])
def test_neither_order_nor_batch_changes_what_an_example_gets(eps: float | None) -> None:
    model, x, y = linear_classes()
    attack = FabT(steps=4, restarts=2, targets=3)
    limits = threat("l2", eps, (-4.0, 4.0))
    x = x.clamp(-4, 4)
    y = model.predict(x)
    together = attack.run(model, x, y, limits, streams(len(x)))
    assert int((together.x != x).any(1).sum()) > 0
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    shuffled = attack.run(model, x[order], y[order], limits, streams(len(x)).take(order))
    assert torch.allclose(shuffled.x, together.x[order], rtol=0, atol=1e-12)
    assert torch.equal(shuffled.queries, together.queries[order])
    model.micro_batch = 7
    parts = attack.run(model, x, y, limits, streams(len(x)))
    assert torch.allclose(parts.x, together.x, rtol=0, atol=1e-12)
    assert torch.equal(parts.queries, together.queries)
    alone = [attack.run(model, x[i : i + 1], y[i : i + 1], limits, streams(len(x)).take([i])).x for i in range(5)]
    assert torch.allclose(torch.cat(alone), together.x[:5], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cap", [0, 1, 2, 5, 30, 60])
def test_a_cap_on_queries_is_never_exceeded(cap: int) -> None:
    model, x, y = linear_classes(n=12)
    forward = model.rows_forward
    found = FabT(steps=10).run(model, x, y, threat("l2", None, None, queries=cap), streams(12))
    assert int(found.queries.sum()) == model.rows_forward - forward
    assert int(found.queries.max()) <= cap
    assert cap < 5 or (found.x != x).any()


def test_a_restart_takes_on_what_is_left_and_can_only_add() -> None:
    # Around 0 the gradient leads to a boundary 3 away on the left; on the right, beyond the ridge at .2, there is one at 1.
    def ridge(x: Tensor) -> Tensor:
        margin = torch.where(x[:, 0] < 0.2, 3 + x[:, 0], 4 * (1 - x[:, 0])).clamp_max(4)
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    model, x, y = audited(ridge, (1,), bounds=(-4.0, 4.0)), torch.zeros((60, 1)), torch.ones(60, dtype=torch.int64)
    for eps, far in ((1.2, torch.inf), (None, 3.0)):
        limits = threat("linf", eps, (-4.0, 4.0))
        once, thrice = (FabT(steps=8, restarts=r).run(model, x, y, limits, streams(60)) for r in (1, 3))
        assert sizes(model, x, y, once, limits).amin() == pytest.approx(far, rel=0.01)
        more = sizes(model, x, y, thrice, limits)
        assert int((more < 1.2).sum()) > 0, "a start beyond the ridge finds the boundary there"
        assert (more <= far * 1.01).all()
    assert (thrice.queries > once.queries).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 3},
        {"targets": 1},
        {"alpha_max": 0.5},
        {"eta": 1.2},
        {"beta": 0.5},
        {"final_search": 0},
        {"restarts": 2},
    ],
)
def test_parameters_change_what_is_found(cnn: AuditedModel, changed: dict[str, float]) -> None:
    x, y = right_digits(cnn, 8)
    plain = {"steps": 6, "targets": 2}
    usual, other = (FabT(**settings).run(cnn, x, y, threat("l2"), streams(8)) for settings in (plain, plain | changed))
    assert not torch.equal(usual.x, other.x)


def test_a_rounded_input_gives_zero_gradients_that_are_counted() -> None:
    model = audited(lambda x: trained_cnn()(x.round()), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(model, 6)
    found = FabT(targets=3).run(model, x, y, threat("l2"), streams(6))
    assert (found.zero_gradients == 3).all()
    assert (found.gradients == 3).all(), "with nothing to follow the search ends"
    assert torch.equal(found.x, x)


def test_nothing_to_attack_asks_nothing_and_a_wrong_norm_is_refused(cnn: AuditedModel) -> None:
    forward = cnn.rows_forward
    none = torch.zeros((0, 1, 8, 8)), torch.zeros(0, dtype=torch.int64)
    assert FabT().run(cnn, *none, threat("l2"), streams(0)).x.shape == (0, 1, 8, 8)
    assert cnn.rows_forward == forward
    with pytest.raises(UserError, match="fab_t"):
        FabT().run(cnn, *none, ThreatModel(access="white_box"), streams(0))
    with pytest.raises(UserError, match="eps > 0"):
        FabT().run(cnn, *none, threat("l2", 0.0), streams(0))
