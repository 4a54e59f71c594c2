"""Auto-PGD: closed forms, its schedule, and shortcuts that change no outcome."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from attacking import right_digits, streams
from pydantic import ValidationError
from torch import Tensor, nn
from toys import Linear, audited, trained_cnn

from audit.attacks import Attack, Candidates, build, confirm
from audit.attacks._apgd import _stages, _windows
from audit.attacks._ball import Ball
from audit.attacks._losses import cross_entropy, dlr, margin, targeted_dlr, targeted_margin
from audit.attacks._tally import Tally
from audit.attacks.apgd_ce import ApgdCe
from audit.attacks.apgd_dlr import ApgdDlr
from audit.attacks.apgd_t import ApgdT
from audit.finding import ThreatModel
from audit.model import AuditedModel, NonFiniteOutput
from audit.parameters import UserError

ATTACKS = [ApgdCe(), ApgdDlr(), ApgdT()]
BY_NAME = [pytest.param(attack, id=type(attack).__name__) for attack in ATTACKS]


def threat(eps: float, norm: str = "linf", bounds: tuple[float, float] | None = (0.0, 16.0)) -> ThreatModel:
    return ThreatModel(access="white_box", norm=norm, eps=eps, bounds=bounds)


def cnn(factor: float = 1.0) -> AuditedModel:
    net = trained_cnn()
    forward: Callable[[Tensor], Tensor] = net if factor == 1.0 else lambda x: factor * net(x)
    return audited(forward, (1, 8, 8), 10, bounds=(0.0, 16.0))


def fooled(model: AuditedModel, x: Tensor, y: Tensor, found: Candidates, limits: ThreatModel) -> Tensor:
    judged = confirm(model, x, y, found.x, limits)
    assert not judged.refused.any()
    assert torch.equal((found.x != x).flatten(1).any(1), judged.success), "what was not found is the input itself"
    return judged.success


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", BY_NAME)
@pytest.mark.parametrize("bounds", [None, (-10.0, 10.0)])
@pytest.mark.parametrize(("norm", "distance"), [("linf", 20 / 7), ("l2", 4.0), ("l1", 5.0)])
def test_flips_a_linear_model_just_beyond_its_distance_and_never_within(
    attack: Attack, norm: str, distance: float, bounds: tuple[float, float] | None
) -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]).repeat(16, 1), torch.ones(16, dtype=torch.int64)
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * distance, norm, bounds)
        assert (fooled(model, x, y, attack.run(model, x, y, limits, streams(16)), limits) == flips).all()


@pytest.mark.parametrize("classes", [3, 4, 6])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", float("inf"))])
def test_the_nearest_of_several_linear_boundaries_is_found(classes: int, norm: str, dual: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    weights = torch.randn((classes, 5), generator=generator)
    model = audited(lambda z: z @ weights.to(z.dtype).T, (5,), classes)
    x = torch.randn((30, 5), generator=generator)
    y = model.predict(x)
    logits = x @ weights.T
    lead = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], torch.inf)
    slopes = (weights[y][:, None] - weights[None]).norm(p=dual, dim=2)
    distance = (lead / slopes.clamp_min(1e-9)).amin(dim=1)
    x = x / distance[:, None]  # without an offset the distance scales along: now 1 for all
    for factor, flips in ((1.02, True), (0.99, False)):
        limits = threat(factor, norm, None)
        assert (fooled(model, x, y, ApgdT().run(model, x, y, limits, streams(30)), limits) == flips).all()


@pytest.mark.parametrize("attack", BY_NAME)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("linf", 20.0), ("l2", 3.0), ("l1", 12.0)])
def test_candidates_stay_in_the_box_and_the_ball(attack: Attack, eps: float, norm: str) -> None:
    model = cnn()
    x, y = right_digits(model, 12)
    found = attack.model_copy(update={"steps": 10}).run(model, x, y, threat(eps, norm), streams(12))
    assert float(found.x.min()) >= 0.0
    assert float(found.x.max()) <= 16.0
    fooled(model, x, y, found, threat(eps, norm))


# --- losses ------------------------------------------------------------------------------------------------------


def plain_dlr(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    s = z.sort(dim=1).values
    other = z.scatter(1, y[:, None], -torch.inf).amax(1)
    return -(z.gather(1, y[:, None])[:, 0] - other) / (s[:, -1] - s[:, -3] + 1e-12)


def plain_targeted_dlr(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    s = z.sort(dim=1).values
    lead = z.gather(1, y[:, None])[:, 0] - z.gather(1, t[:, None])[:, 0]
    return -lead / (s[:, -1] - (s[:, -3] + s[:, -4]) / 2 + 1e-12)


def plain_ce(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    return nn.functional.cross_entropy(z, y, reduction="none")


def plain_margin(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    return z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0]


def plain_targeted_margin(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    return z.gather(1, t[:, None])[:, 0] - z.gather(1, y[:, None])[:, 0]


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (dlr, plain_dlr),
        (targeted_dlr, plain_targeted_dlr),
        (cross_entropy, plain_ce),
        (margin, plain_margin),
        (targeted_margin, plain_targeted_margin),
    ],
)
def test_losses_order_and_point_as_the_papers_do(ours: Callable, plain: Callable) -> None:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(0)
    z = torch.randn((200, 6), generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.randint(6, (200,), generator=generator)
    t = (y + 1 + torch.randint(5, (200,), generator=generator)) % 6
    value, slope = ours(z.detach(), y, t)
    expected = plain(z, y, t)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    assert torch.equal(value.argsort(), expected.argsort())
    if ours is not cross_entropy:
        assert torch.allclose(value, expected)
    moves = slope.norm(dim=1) > 1e-9  # where the label is third the ratio is constant
    ours_at, expected_at = (nn.functional.normalize(s[moves], dim=1) for s in (slope, gradient))
    assert torch.allclose(ours_at, expected_at, atol=1e-9)


def test_the_value_of_the_cross_entropy_does_not_saturate() -> None:
    z = torch.tensor([[500.0, 0.0], [501.0, 0.0]])
    y = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(plain_ce(z, y, y), torch.zeros(2)), "nothing to compare"
    first, second = cross_entropy(z, y, y)[0].tolist()
    assert first > second


@pytest.mark.parametrize("attack", BY_NAME)
def test_loud_logits_hide_nothing(attack: Attack) -> None:
    plain, loud = cnn(), cnn(1000.0)
    x, y = right_digits(plain, 30)
    attack = attack.model_copy(update={"steps": 30})
    usual, other = (
        int(fooled(m, x, y, attack.run(m, x, y, threat(1.6), streams(len(x))), threat(1.6)).sum())
        for m in (plain, loud)
    )
    assert usual > 3
    assert abs(usual - other) <= 1


# --- the schedule ------------------------------------------------------------------------------------------------


def test_checkpoints_are_the_papers() -> None:
    ends = [i + 1 for i, length in enumerate(_windows("linf", 100)) if length]
    assert ends == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [length for length in _windows("l1", 40) if length] == [1] * 40
    assert _windows("linf", 1) == [1]
    assert _stages("linf", 100) == [(1.0, 100)]
    assert _stages("l1", 100) == [(3.0, 30), (2.0, 30), (1.0, 40)]
    assert _stages("l1", 1) == [(1.0, 1)]


def plain_apgd(module: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float, norm: str) -> list[Tensor]:
    """One example through algorithm 1 of the paper, as a loop: its iterates up to the first that is misclassified."""

    def project(z: Tensor) -> Tensor:
        if norm == "linf":
            return z.clamp(x - eps, x + eps)
        return x + (z - x) * min(1.0, eps / max(float((z - x).norm()), 1e-30))

    def asked(z: Tensor) -> tuple[float, Tensor, bool]:
        z = z.detach().requires_grad_()
        logits = module(z[None])
        value = nn.functional.cross_entropy(logits, y[None])
        (gradient,) = torch.autograd.grad(value, z)
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        return float(value.detach()), direction, bool(logits.argmax() != y)

    windows, step = _windows(norm, 100), 2 * eps
    current = past = best = start
    value, direction, wrong = asked(current)
    best_value, best_direction, values, iterates = value, direction, [value], [current]
    checked, halved = value, True
    for k in range(100):
        if wrong:
            break
        climbed = project(current + step * direction)
        new = climbed if k == 0 else project(current + 0.75 * (climbed - current) + 0.25 * (current - past))
        past, current = current, new
        iterates.append(new)
        value, direction, wrong = asked(current)
        values.append(value)
        if value > best_value:
            best, best_value, best_direction = current, value, direction
        if length := windows[k]:
            rises = sum(values[-i] > values[-i - 1] for i in range(1, length + 1))
            halved, checked = rises <= 0.75 * length or (not halved and checked >= best_value), best_value
            if halved:
                step, current, direction = step / 2, best, best_direction
    return iterates


def plain_l1(module: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float) -> list[Tensor]:
    """The same for l1: sparse steps, three radii (Croce & Hein 2021); projection and step are tested by themselves."""
    ball, iterates, best = Ball.around(x[None], "l1", eps, None), [], start[None]
    for factor, count in _stages("l1", 100):
        wide = dataclasses.replace(ball, eps=ball.eps * factor)
        current, step, best_value = wide.project(best), 1.0, -float("inf")
        changed = int((current != x).sum())
        length = max(int(0.04 * count), 1)
        for k in range(count + 1):
            iterates.append(current[0])
            z = current.detach().requires_grad_()
            logits = module(z)
            value = nn.functional.cross_entropy(logits, y[None])
            (gradient,) = torch.autograd.grad(value, z)
            if factor == 1 and bool(logits.argmax() != y):
                return iterates
            if float(value.detach()) > best_value:
                best, best_value, best_gradient = current, float(value.detach()), gradient
            if k and k % length == 0:
                now = int((best != x).sum())
                if now < 0.95 * changed:
                    step, current, gradient = 1.0, best, best_gradient
                else:
                    step = max(step / 1.5, 0.1)
                changed = now
            size = torch.tensor([changed * 2 // 3])
            current = wide.project(wide.ascend_sparsely(current, gradient, step * wide.eps, size))
    return iterates


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.3), ("l2", 5.0), ("l1", 12.0)])
def test_its_iterates_are_those_of_a_plain_loop(norm: str, eps: float) -> None:
    module = copy.deepcopy(trained_cnn()).double()
    seen: list[Tensor] = []

    def forward(z: Tensor) -> Tensor:
        seen.append(z.detach())
        answer: Tensor = module(z)
        return answer

    model = audited(forward, (1, 8, 8), 10)
    x, y = right_digits(cnn(), 4)
    x, lengths = x.double(), []
    for i in range(4):
        start = Ball.around(x[i : i + 1], norm, eps * (3 if norm == "l1" else 1), None).start(streams(1))[0]
        expected = (
            plain_l1(module, x[i], y[i], start, eps)
            if norm == "l1"
            else plain_apgd(module, x[i], y[i], start, eps, norm)
        )
        seen.clear()
        ApgdCe().run(model, x[i : i + 1], y[i : i + 1], threat(eps, norm, None), streams(1))
        ours = torch.cat(seen)
        lengths.append(len(expected))
        assert len(ours) == len(expected) or torch.equal(ours[-1], ours[-2]), "less only once it has come to rest"
        assert torch.allclose(ours, torch.stack(expected)[: len(ours)], atol=1e-8)
    assert min(lengths) < max(lengths), "some fall, some do not"
    assert max(lengths) >= 101


def test_of_several_rows_for_an_example_the_first_is_kept() -> None:
    tally = Tally(torch.zeros((2, 1)))
    example, wrong = torch.tensor([0, 0, 0, 1]), torch.tensor([False, True, True, False])
    tally.record(example, wrong, torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    assert tally.x.flatten().tolist() == [2.0, 0.0]
    assert tally.left().tolist() == [1]


def test_a_narrow_summit_needs_the_steps_to_shrink() -> None:
    # Steps of 2 eps and their momentum jump across a summit that is a fiftieth of the ball wide.
    def summit(x: Tensor) -> Tensor:
        lead = (x[:, 0] - 0.123).abs() * 10 - 0.1
        return torch.stack([torch.zeros_like(lead), lead], dim=1)

    model, x, y = audited(summit, (1,)), torch.full((40, 1), 0.6), torch.ones(40, dtype=torch.int64)
    limits = threat(1.0, "linf", None)
    assert fooled(model, x, y, ApgdCe().run(model, x, y, limits, streams(40)), limits).all()
    short = ApgdCe(steps=20).run(model, x, y, limits, streams(40))
    assert not fooled(model, x, y, short, limits).all()


# --- what it costs, and what it hangs on -------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("attack", [ApgdCe(steps=20, restarts=3), ApgdDlr(steps=20), ApgdT(steps=20)])
def test_every_row_through_the_model_is_counted(attack: Attack, norm: str) -> None:
    model = cnn()
    x, y = right_digits(model, 20)
    forward, backward = model.rows_forward, model.rows_backward
    eps = {"linf": 1.2, "l2": 4.0, "l1": 16.0}[norm]
    found = attack.run(model, x, y, threat(eps, norm), streams(20))
    assert int(found.queries.sum()) == model.rows_forward - forward
    assert int(found.gradients.sum()) == model.rows_backward - backward
    assert len(set(found.queries.tolist())) > 1, "an example that is fooled leaves"


def test_targets_leave_together_and_the_likeliest_comes_first() -> None:
    weights = torch.eye(4)
    model = audited(lambda z: z @ weights, (4,), 4)
    x, y = torch.tensor([[1.0, 0.9, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), torch.tensor([0, 0])
    found = ApgdT().run(model, x, y, threat(0.2, "linf", None), streams(2))
    assert found.gradients[0] < 10, "the first target does it"
    assert int(model.predict(found.x)[0]) == 1
    assert found.gradients[1] > 3
    assert torch.equal(found.x[1], x[1])


def test_a_row_at_rest_leaves() -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    found = ApgdCe().run(model, x, y, threat(1.0, "linf", None), streams(1))
    assert int(found.gradients) < 10, "in the corner of the box a linear model has nothing more to offer"


@pytest.mark.parametrize("attack", [ApgdCe(restarts=3, steps=12), ApgdDlr(steps=12), ApgdT(steps=12)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_neither_order_nor_batch_changes_what_an_example_gets(attack: Attack, norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn((5, 4), generator=generator)

    def forward(z: Tensor) -> Tensor:  # sums in one order whatever the batch
        return (z[:, None] * weights.to(z.dtype)).sum(dim=2).sin()

    model = audited(forward, (4,), 5, bounds=(-4.0, 4.0))
    x = torch.randn((30, 4), generator=generator).clamp(-4, 4)
    y, limits = model.predict(x), threat(0.08 if norm == "linf" else 0.15, norm, (-4.0, 4.0))
    together = attack.run(model, x, y, limits, streams(30))
    assert 0 < int(fooled(model, x, y, together, limits).sum()) < 30
    order = torch.randperm(30, generator=generator)
    shuffled = attack.run(model, x[order], y[order], limits, streams(30).take(order))
    assert torch.equal(shuffled.x, together.x[order])
    assert torch.equal(shuffled.queries, together.queries[order])
    model.micro_batch = 7
    small = attack.run(model, x, y, limits, streams(30))
    assert torch.equal(small.x, together.x)
    assert torch.equal(small.queries, together.queries)


def test_a_batch_is_never_larger_than_a_forward_pass_may_be() -> None:
    sizes: list[int] = []

    def forward(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return torch.cat([z.sin(), z.cos()], dim=1)

    model = audited(forward, (3,), 6)
    model.micro_batch = 16
    x = torch.randn((40, 3), generator=torch.Generator().manual_seed(0))
    y = model.predict(x)
    ApgdT(steps=10).run(model, x, y, threat(0.01, "linf", None), streams(40))
    assert max(sizes) == 16
    assert sum(sizes) / len(sizes) > 13, "waiting examples take the places of those that leave"


@pytest.mark.parametrize("attack", BY_NAME)
def test_a_cap_on_queries_is_never_exceeded(attack: Attack) -> None:
    model = cnn()
    x, y = right_digits(model, 12)
    for cap in (1, 5, 40):
        found = attack.run(model, x, y, threat(0.4).model_copy(update={"queries": cap}), streams(12))
        assert int(found.queries.max()) <= cap
        assert int(found.queries.max()) > 0


def test_nothing_to_attack_asks_nothing() -> None:
    model = cnn()
    for attack in ATTACKS:
        found = attack.run(model, torch.zeros((0, 1, 8, 8)), torch.zeros(0, dtype=torch.int64), threat(1.0), streams(0))
        assert found.x.shape == (0, 1, 8, 8)
    assert model.rows_forward == 0


# --- every parameter does something ------------------------------------------------------------------------------


def test_restarts_take_on_what_is_left() -> None:
    # Only a start within a twentieth of the ball sees the slope to the summit.
    def island(x: Tensor) -> Tensor:
        lead = ((x[:, 0] - 0.5).abs() * 20 - 0.5).clamp_max(0.5)
        return torch.stack([torch.zeros_like(lead), lead], dim=1)

    model, x, y = audited(island, (1,)), torch.zeros((100, 1)), torch.ones(100, dtype=torch.int64)
    limits = threat(1.0, "linf", None)
    once, often = (
        fooled(model, x, y, ApgdCe(restarts=r).run(model, x, y, limits, streams(100)), limits) for r in (1, 8)
    )
    assert (often | ~once).all()
    assert int(often.sum()) > 2 * int(once.sum()) > 0
    also = ApgdDlr(restarts=8).run(model, x, y, limits, streams(100))
    assert int(fooled(model, x, y, also, limits).sum()) == int(often.sum())


def test_more_targets_find_more() -> None:
    # The likeliest target's lead has a floor above zero; the second likeliest class is within reach.
    def forward(x: Tensor) -> Tensor:
        a = x[:, 0]
        return torch.stack([1 + 0 * a, 0.9 - 0.5 * a.abs(), 1.2 * a, -1 + 0 * a, -1 + 0 * a], dim=1)

    model, x, y = audited(forward, (1,), 5), torch.zeros((4, 1)), torch.zeros(4, dtype=torch.int64)
    limits = threat(1.0, "linf", None)
    one, two = (fooled(model, x, y, ApgdT(targets=t).run(model, x, y, limits, streams(4)), limits) for t in (1, 2))
    assert two.all()
    assert int(one.sum()) < 4


def test_two_and_three_classes_fall_back_to_the_margin() -> None:
    two = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    limits = threat(3.0, "linf", None)
    for attack in (ApgdDlr(), ApgdT()):
        assert fooled(two, x, y, attack.run(two, x, y, limits, streams(1)), limits).all()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"rho": 0.5}])
def test_parameters_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ApgdCe(**wrong)


def test_a_threat_model_it_is_not_made_for_is_refused() -> None:
    model = cnn()
    x, y = right_digits(model, 2)
    for limits in (ThreatModel(access="white_box", eps=1.0), ThreatModel(access="white_box", norm="l2")):
        with pytest.raises(UserError, match="apgd"):
            ApgdCe().run(model, x, y, limits, streams(2))


def test_scenarios_build_them_by_name() -> None:
    assert build({"apgd_ce": {"restarts": 2}}) == ("apgd_ce", ApgdCe(restarts=2))
    assert build("apgd_dlr") == ("apgd_dlr", ApgdDlr())
    assert build({"apgd_t": {"targets": 3}}) == ("apgd_t", ApgdT(targets=3))


# --- masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", BY_NAME)
def test_rounded_inputs_give_zero_gradients_that_are_counted(attack: Attack) -> None:
    model = audited(lambda x: trained_cnn()(x.round()), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(model, 8)
    found = attack.run(model, x, y, threat(0.4), streams(8))
    assert (2 * found.zero_gradients > found.gradients).all()


def test_a_model_that_answers_nan_is_an_error_not_a_robust_model() -> None:
    def forward(x: Tensor) -> Tensor:
        return torch.where((x[:, :1] > 1.05), torch.nan, Linear([1.0, 1.0], 0.0)(x))

    model, x = audited(forward, (2,), bounds=(0.0, 4.0)), torch.ones((8, 2))
    with pytest.raises(NonFiniteOutput):
        ApgdCe().run(model, x, torch.ones(8, dtype=torch.int64), threat(0.5, "linf", (0.0, 4.0)), streams(8))


def test_global_generators_and_the_inputs_are_left_alone() -> None:
    model = cnn()
    x, y = right_digits(model, 8)
    before, state = x.clone(), torch.random.get_rng_state()
    ApgdCe(steps=3).run(model, x, y, threat(2.4), streams(8))
    assert torch.equal(x, before)
    assert torch.equal(state, torch.random.get_rng_state())
