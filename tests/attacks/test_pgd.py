"""PGD against closed forms, a plain loop without its shortcuts, and a reference library."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from attacking import right_digits, streams
from pydantic import ValidationError
from torch import Tensor, nn
from toys import Linear, audited, trained_cnn

from audit.attacks import Candidates, build, confirm
from audit.attacks._gradients import cross_entropy
from audit.attacks.pgd import Pgd
from audit.finding import ThreatModel
from audit.model import AuditedModel, NonFiniteOutput
from audit.parameters import UserError


def threat(eps: float, norm: str = "linf", bounds: tuple[float, float] | None = (0.0, 16.0)) -> ThreatModel:
    return ThreatModel(access="white_box", norm=norm, eps=eps, bounds=bounds)


def survivors(model: AuditedModel, x: Tensor, y: Tensor, found: Candidates, limits: ThreatModel) -> Tensor:
    confirmed = confirm(model, x, y, found.x, limits)
    assert not confirmed.refused.any()
    return ~confirmed.success


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("norm", "distance"), [("linf", 20 / 7), ("l2", 4.0), ("l1", 5.0)])
@pytest.mark.parametrize("bounds", [None, (-10.0, 10.0)])
def test_flips_a_linear_model_just_beyond_its_distance_and_never_within(
    norm: str, distance: float, loss: str, random_start: bool, bounds: tuple[float, float] | None
) -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]).repeat(16, 1), torch.ones(16, dtype=torch.int64)
    attack = Pgd(loss=loss, random_start=random_start)
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * distance, norm, bounds)
        found = attack.run(model, x, y, limits, streams(16))
        assert (confirm(model, x, y, found.x, limits).success == flips).all()
        if not flips:
            assert torch.equal(found.x, x), "where nothing is found the candidate is the input itself"


def test_a_box_that_holds_no_other_class_is_never_left() -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    for norm in ("linf", "l2", "l1"):
        limits = threat(100.0, norm, (2.0, 5.0))
        found = Pgd().run(model, x, y, limits, streams(1))
        assert torch.equal(found.x, x)


def test_l2_steps_go_along_the_box_where_it_blocks_the_gradient() -> None:
    # From (0, 4) the boundary 3a + 4b = 5 lies 2.75 below; the first coordinate is at its bound and cannot help.
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[0.0, 4.0]]), torch.tensor([1])
    for eps, flips in ((2.75 * 1.001, True), (2.75 * 0.999, False)):
        limits = threat(eps, "l2", (0.0, 10.0))
        found = Pgd(random_start=False).run(model, x, y, limits, streams(1))
        assert bool(confirm(model, x, y, found.x, limits).success) == flips


# --- what it may and may not do to an input ----------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.1, 8 / 255, 1.6, 20.0])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_candidates_stay_in_the_box_and_the_ball(cnn: AuditedModel, eps: float, norm: str) -> None:
    x, y = right_digits(cnn, 60)
    found = Pgd(steps=5, loss="margin").run(cnn, x, y, threat(eps, norm), streams(len(x)))
    assert found.x.dtype == torch.float32
    assert float(found.x.min()) >= 0.0
    assert float(found.x.max()) <= 16.0
    delta = found.x.double() - x.double()
    if norm == "linf":
        assert float(delta.abs().max()) <= eps, "exact, not up to rounding"
    else:
        assert float(delta.flatten(1).norm(p=2 if norm == "l2" else 1, dim=1).max()) <= eps * (1 + 1e-4)


def test_larger_eps_never_breaks_fewer(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 120)
    left = [
        int(survivors(cnn, x, y, Pgd().run(cnn, x, y, threat(eps), streams(len(x))), threat(eps)).sum())
        for eps in (0.4, 0.8, 1.6, 2.4, 4.0)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1]


# --- shortcuts change no outcome ---------------------------------------------------------------------------------


def plain_pgd(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, start: Tensor, eps: float, steps: int, loss: str
) -> Tensor:
    """Every row through every step; gives the first misclassified iterate, or the input."""
    found, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    current = start
    for step in range(steps + 1):
        current = current.detach().requires_grad_()
        logits = model(current)
        new = (logits.argmax(1) != y) & ~fooled
        found[new], fooled = current.detach()[new], fooled | new
        if step == steps:
            break
        if loss == "ce":
            total = nn.functional.cross_entropy(logits, y, reduction="sum")
        else:
            others = logits.masked_fill(nn.functional.one_hot(y, 10).bool(), -torch.inf)
            total = (others.amax(1) - logits.gather(1, y[:, None])[:, 0]).sum()
        (gradient,) = torch.autograd.grad(total, current)
        current = (current + eps / 2 * gradient.sign()).detach()
        current = torch.minimum(torch.maximum(current, (x - eps).clamp_min(0)), (x + eps).clamp_max(16))
    return found


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_examples_that_leave_early_end_as_they_would_have(loss: str) -> None:
    import copy

    module = copy.deepcopy(trained_cnn()).double()  # doubles: a gradient's sign does not hang on the batch's size
    model = audited(module, (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(audited(trained_cnn(), (1, 8, 8), 10), 80)
    x, eps, steps = x.double(), 1.6, 40
    found = Pgd(loss=loss, steps=steps).run(model, x, y, threat(eps), streams(len(x)))
    start = (x + eps * streams(len(x)).uniform((1, 8, 8), -1.0, 1.0).double()).clamp(x - eps, x + eps).clamp(0, 16)
    expected = plain_pgd(module, x, y, start, eps, steps, loss)
    broken = (expected != x).flatten(1).any(1)
    assert 0 < int(broken.sum()) < len(x)
    assert torch.equal((found.x != x).flatten(1).any(1), broken)
    assert torch.allclose(found.x, expected, rtol=0, atol=1e-12)
    assert int(found.gradients.sum()) < len(x) * steps / 3


def test_neither_order_nor_batch_changes_what_an_example_gets(cnn: AuditedModel) -> None:
    model = audited(Linear([1.0, -2.0, 0.5], 0.25), (3,), bounds=(-4.0, 4.0))
    x = torch.randn((40, 3), generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    y, limits = model.predict(x), threat(0.4, "linf", (-4.0, 4.0))
    together = Pgd(steps=3).run(model, x, y, limits, streams(40))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = Pgd(steps=3).run(model, x[order], y[order], limits, streams(40).take(order))
    assert torch.equal(shuffled.x, together.x[order])
    assert torch.equal(shuffled.queries, together.queries[order])
    parts = [Pgd(steps=3).run(model, x[i], y[i], limits, streams(40).take(i)).x for i in torch.arange(40).split(7)]
    assert torch.equal(torch.cat(parts), together.x)
    model.micro_batch = 6
    assert torch.equal(Pgd(steps=3).run(model, x, y, limits, streams(40)).x, together.x)


def test_every_row_through_the_model_is_counted(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 120)
    forward, backward = cnn.rows_forward, cnn.rows_backward
    found = Pgd(restarts=2, steps=10).run(cnn, x, y, threat(1.6), streams(len(x)))
    assert int(found.queries.sum()) == cnn.rows_forward - forward
    assert int(found.gradients.sum()) == cnn.rows_backward - backward
    assert (found.queries >= 1).all()
    assert len(set(found.queries.tolist())) > 1, "an example that is fooled leaves"


def test_nothing_to_attack_asks_nothing(cnn: AuditedModel) -> None:
    forward = cnn.rows_forward
    found = Pgd().run(cnn, torch.zeros((0, 1, 8, 8)), torch.zeros(0, dtype=torch.int64), threat(1.0), streams(0))
    assert found.x.shape == (0, 1, 8, 8)
    assert cnn.rows_forward == forward


# --- every parameter does something ------------------------------------------------------------------------------


def test_more_steps_break_at_least_as_many_as_one(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 120)
    single = Pgd(steps=1, step_size=1.0, random_start=False).run(cnn, x, y, threat(1.6), streams(len(x)))
    many = Pgd().run(cnn, x, y, threat(1.6), streams(len(x)))
    left_single, left_many = (survivors(cnn, x, y, found, threat(1.6)).sum() for found in (single, many))
    assert left_many < left_single < len(x)
    assert (single.queries == 2).all()
    assert (single.gradients == 1).all()


@pytest.mark.parametrize(
    "changed", [{"step_size": 0.1}, {"loss": "margin"}, {"random_start": False}, {"steps": 3}, {"momentum": 1}]
)
def test_parameters_change_what_is_found(cnn: AuditedModel, changed: dict[str, object]) -> None:
    x, y = right_digits(cnn, 60)
    usual = Pgd(steps=10).run(cnn, x, y, threat(1.6), streams(len(x)))
    other = Pgd(**{"steps": 10, **changed}).run(cnn, x, y, threat(1.6), streams(len(x)))
    assert not torch.equal(usual.x, other.x)


def test_a_restart_takes_on_what_is_left_and_can_only_add() -> None:
    # Two basins: the gradient leads away from the boundary unless the start is beyond the ridge at 0.8.
    def ridge(x: Tensor) -> Tensor:
        margin = 0.3 - (x[:, 0] - 0.8).abs()
        return torch.stack([torch.zeros_like(margin), -margin + 0.25], dim=1)

    model = audited(ridge, (1,), bounds=(-1.0, 1.0))
    x = torch.zeros((200, 1)) + 0.75
    y = model.predict(x)
    limits = threat(0.2, "linf", (-1.0, 1.0))
    once, thrice = (Pgd(steps=2, step_size=0.01, restarts=r).run(model, x, y, limits, streams(200)) for r in (1, 3))
    broken = [(found.x != x).flatten(1).any(1) for found in (once, thrice)]
    assert (broken[1] | ~broken[0]).all()
    assert int(broken[1].sum()) > int(broken[0].sum()) > 0
    assert (thrice.queries[broken[0]] == once.queries[broken[0]]).all(), "what fell at once is not attacked again"


def test_restarts_that_would_repeat_themselves_are_refused() -> None:
    with pytest.raises(ValidationError, match="random_start"):
        Pgd(restarts=2, random_start=False)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ThreatModel(access="white_box", eps=1.0), "linf"),
        (ThreatModel(access="white_box", norm="linf"), "eps"),
    ],
)
def test_a_threat_model_it_is_not_made_for_is_refused(cnn: AuditedModel, limits: ThreatModel, said: str) -> None:
    x, y = right_digits(cnn, 2)
    with pytest.raises(UserError, match=said):
        Pgd().run(cnn, x, y, limits, streams(2))


def test_a_scenario_builds_it_by_name() -> None:
    assert build({"pgd": {"steps": 7, "step_size": "1/8"}}) == ("pgd", Pgd(steps=7, step_size=0.125))


def test_global_generators_and_the_inputs_are_left_alone(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 20)
    before, state = x.clone(), torch.random.get_rng_state()
    Pgd(steps=3).run(cnn, x, y, threat(2.4), streams(20))
    assert torch.equal(x, before)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("candidate", "success", "refused"),
    [
        ([0.0, 1.0], True, False),
        ([3.0, 4.0], False, False),  # the clean input
        ([-0.1, 1.0], False, True),  # outside the box
        ([0.0, 0.9], False, True),  # beyond eps
        ([float("nan"), 1.0], False, False),
    ],
)
def test_confirm_counts_nothing_that_breaks_the_rules(candidate: list[float], success: bool, refused: bool) -> None:
    model, x, y = audited(Linear([3.0, 4.0], -5.0), (2,)), torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    judged = confirm(model, x, y, torch.tensor([candidate]), threat(3.0, bounds=(0.0, 10.0)))
    assert (bool(judged.success), bool(judged.refused)) == (success, refused)


# --- gradients that are not there --------------------------------------------------------------------------------


def scaled(factor: float) -> AuditedModel:
    def forward(x: Tensor) -> Tensor:
        answer: Tensor = factor * trained_cnn()(x)
        return answer

    return audited(forward, (1, 8, 8), 10, bounds=(0.0, 16.0))


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_saturated_logits_blind_plain_cross_entropy_and_neither_loss_here(loss: str) -> None:
    model, plain = scaled(1000.0), scaled(1.0)
    x, y = right_digits(plain, 120)
    eps, limits = 1.6, threat(1.6)
    usual = Pgd(loss="margin").run(plain, x, y, limits, streams(len(x)))
    left = int(survivors(plain, x, y, usual, limits).sum())
    found = Pgd(loss=loss).run(model, x, y, limits, streams(len(x)))
    assert abs(int(survivors(model, x, y, found, limits).sum()) - left) <= 1
    assert int(found.zero_gradients.sum()) == 0
    start = (x + streams(len(x)).uniform((1, 8, 8), -eps, eps)).clamp(0, 16)
    naive = plain_pgd(lambda z: 1000 * trained_cnn()(z), x, y, start, eps, 40, "ce")
    assert int((naive == x).flatten(1).all(1).sum()) > left + 20, "what these losses are computed to avoid"


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_cross_entropy_direction_is_that_of_autograd_where_that_has_one(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn((50, 7), generator=generator, dtype=torch.float64)).requires_grad_()
    y = torch.randint(7, (50,), generator=generator)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(logits, y, reduction="sum"), logits)
    ours = cross_entropy(logits, y)
    factor = -expected.gather(1, y[:, None])
    assert torch.allclose(ours * factor, expected, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_rounded_input_gives_zero_gradients_that_are_counted(norm: str) -> None:
    model = audited(lambda x: trained_cnn()(x.round()), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(model, 40)
    found = Pgd(random_start=False).run(model, x, y, threat(0.4, norm), streams(40))
    assert (found.zero_gradients == 1).all()
    assert (found.gradients == 1).all(), "with nothing to follow the search ends"
    assert torch.equal(found.x, x)


def test_a_model_cut_off_from_its_input_counts_as_zero_gradients() -> None:
    model = audited(lambda x: Linear([1.0, 1.0], 0.0)(x.detach()).detach(), (2,))
    found = Pgd().run(model, torch.ones((3, 2)), torch.ones(3, dtype=torch.int64), threat(0.1), streams(3))
    assert (found.zero_gradients == 1).all()


def test_nan_in_one_element_of_the_gradient_does_not_stop_the_others() -> None:
    def forward(x: Tensor) -> Tensor:
        margin = x[:, 1] - 1 + 0 * x[:, 0].sqrt()  # at 0 the root's slope is infinite, and 0 times it NaN
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    model = audited(forward, (2,), bounds=(0.0, 4.0))
    x, y = torch.tensor([[0.0, 1.5]]), torch.tensor([1])
    for norm in ("linf", "l2"):
        limits = threat(0.6, norm, (0.0, 4.0))
        found = Pgd(random_start=False).run(model, x, y, limits, streams(1))
        assert bool(confirm(model, x, y, found.x, limits).success)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_tiny_and_huge_gradients_keep_their_direction(factor: float) -> None:
    model = audited(lambda x: factor * Linear([3.0, 4.0], -5.0)(x), (2,))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    limits = threat(4.004, "l2", (-10.0, 10.0))
    found = Pgd(loss="margin", random_start=False).run(model, x, y, limits, streams(1))
    assert bool(confirm(model, x, y, found.x, limits).success)


def test_a_model_that_answers_nan_is_an_error_not_a_robust_model() -> None:
    def forward(x: Tensor) -> Tensor:
        logits = Linear([1.0, 1.0], 0.0)(x)
        return torch.where((x[:, :1] > 1.05), torch.nan, logits)

    model = audited(forward, (2,), bounds=(0.0, 4.0))
    x = torch.ones((8, 2))
    with pytest.raises(NonFiniteOutput):
        Pgd().run(model, x, torch.ones(8, dtype=torch.int64), threat(0.5, "linf", (0.0, 4.0)), streams(8))


# --- the caller's model ------------------------------------------------------------------------------------------


def test_parameter_gradients_are_off_meanwhile_and_given_back() -> None:
    seen: list[bool] = []

    class Watched(Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.w.requires_grad or self.b.requires_grad)
            if len(seen) == 2:
                raise RuntimeError("mid-way")
            return super().forward(x)

    module = Watched([3.0, 4.0], -5.0)
    model = audited(module, (2,))
    module.w.requires_grad_(True)  # and b stays off
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    for expected in (pytest.raises(RuntimeError, match="mid-way"), warnings.catch_warnings()):
        with expected:
            Pgd().run(model, x, y, threat(5.0, "linf", None), streams(1))
        assert module.w.requires_grad
        assert not module.b.requires_grad
        assert module.w.grad is None
    assert not any(seen)


def test_it_works_where_the_caller_has_gradients_switched_off(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 20)
    with torch.no_grad():
        inside = Pgd().run(cnn, x, y, threat(2.4), streams(20))
    assert torch.equal(inside.x, Pgd().run(cnn, x, y, threat(2.4), streams(20)).x)
    assert not inside.x.requires_grad


@pytest.mark.parametrize("output", ["margin", "probability"])
def test_margins_and_probabilities_are_attacked_too(output: str) -> None:
    def forward(x: Tensor) -> Tensor:
        logits = Linear([3.0, 4.0], -5.0)(x)
        return logits[:, 1] if output == "margin" else logits.softmax(1)

    model = audited(forward, (2,), bounds=(-10.0, 10.0), output=output)
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * 20 / 7, "linf", (-10.0, 10.0))
        found = Pgd().run(model, x, y, limits, streams(1))
        assert bool(confirm(model, x, y, found.x, limits).success) == flips


# --- the reference -----------------------------------------------------------------------------------------------


def test_momentum_carries_across_a_dent_where_the_plain_gradient_turns_back() -> None:
    # The margin falls from 1 to 0.4 at x = 1, rises to 0.6 at x = 1.2 and falls again, below 0 at x = 1.8.
    def dented(x: Tensor) -> Tensor:
        at = x[:, 0]
        margin = torch.where(at < 1, 1 - 0.6 * at, torch.where(at < 1.2, at - 0.6, 1.8 - at))
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    model, x, y = audited(dented, (1,)), torch.zeros((1, 1)), torch.tensor([1])
    limits = threat(2.0, "linf", None)
    for momentum, flips in ((0.0, False), (1.0, True)):
        attack = Pgd(momentum=momentum, step_size=0.075, random_start=False)
        found = attack.run(model, x, y, limits, streams(1))
        assert bool(confirm(model, x, y, found.x, limits).success) == flips


def test_a_cap_on_queries_is_never_exceeded(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 40)
    for cap in (1, 2, 7):
        limits = threat(0.8).model_copy(update={"queries": cap})
        found = Pgd(restarts=3).run(cnn, x, y, limits, streams(40))
        assert int(found.queries.max()) == cap


@pytest.mark.parametrize(("norm", "name", "eps"), [("linf", "LinfPGD", 1.6), ("l2", "L2PGD", 6.0)])
def test_breaks_at_least_what_foolbox_breaks(cnn: AuditedModel, norm: str, name: str, eps: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of SciPy
        foolbox = pytest.importorskip("foolbox")
    x, y = right_digits(cnn, 120)
    peer = foolbox.PyTorchModel(cnn.module, bounds=(0, 16), device="cpu")
    for steps, step_size in ((20, 0.125), (20, 0.5)):
        attack = getattr(foolbox.attacks, name)(abs_stepsize=step_size * eps, steps=steps, random_start=False)
        _, _, fooled = attack(peer, x, y, epsilons=eps)
        ours = Pgd(steps=steps, step_size=step_size, random_start=False)
        left = survivors(cnn, x, y, ours.run(cnn, x, y, threat(eps, norm), streams(len(x))), threat(eps, norm))
        assert int(left.sum()) <= int((~fooled).sum()) < len(x)
