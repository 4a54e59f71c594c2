"""PGD and ART's attacks where the answer is known in closed form, and what `confirm` lets count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import Linear, audited, digits, trained_cnn

from audit.attacks import build, confirm, perturbation_size
from audit.attacks.pgd import Pgd
from audit.finding import ThreatModel
from audit.model import AuditedModel
from audit.rng import ExampleRng

BOUNDS = (-100.0, 100.0)
# w·x + b = 20 at x = (3, 4): the boundary is 20 / |w|_dual away.
DISTANCE = {"l2": 4.0, "linf": 20 / 7}


def line(scale: float = 1.0) -> AuditedModel:
    """The same boundary at any scale. At 1 the margin of 20 saturates cross-entropy in float32: its gradient is zero."""
    return audited(Linear([3.0 * scale, 4.0 * scale], -5.0 * scale), (2,), bounds=BOUNDS, kind="series")


def threat(norm: Any, eps: float, bounds: tuple[float, float] = BOUNDS) -> ThreatModel:
    return ThreatModel(access="white_box", norm=norm, eps=eps, bounds=bounds)


def rng(n: int, seed: int = 0) -> ExampleRng:
    return ExampleRng(seed, "test", [str(i) for i in range(n)], "attack")


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(
    ("attack", "scale"),
    [
        (Pgd(loss="margin"), 1.0),
        (Pgd(loss="margin", random_start=False), 1.0),
        (Pgd(), 0.1),
        (Pgd(random_start=False), 0.1),
        (Pgd(steps=10, restarts=3), 0.1),
    ],
)
def test_a_line_is_crossed_at_its_distance_and_never_before(norm: str, attack: Pgd, scale: float) -> None:
    model, x, y = line(scale), torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    for factor, flips in ((1.001, True), (0.999, False)):
        told = threat(norm, DISTANCE[norm] * factor)
        found = attack.run(model, x, y, told, rng(1))
        assert bool(confirm(model, x, y, found.x, told).success) is flips


@pytest.mark.parametrize("name", ["art.projected_gradient_descent", "art.fast_gradient_method"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_art_crosses_the_same_line(name: str, norm: str) -> None:
    model, x, y = line(0.1), torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    _, attack = build(name)
    for factor, flips in ((1.01, True), (0.999, False)):
        told = threat(norm, DISTANCE[norm] * factor)
        found = attack.run(model, x, y, told, rng(1))
        assert bool(confirm(model, x, y, found.x, told).success) is flips


def cnn() -> tuple[AuditedModel, torch.Tensor, torch.Tensor]:
    model, rows = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0)), digits().test
    right = model.correct(rows)
    return model, torch.from_numpy(rows.x)[right][:60], torch.from_numpy(rows.labels)[right][:60]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2.5), ("l2", 8.0)])
def test_what_comes_back_lies_in_the_ball_and_the_box(norm: str, eps: float) -> None:
    model, x, y = cnn()
    told = threat(norm, eps, (0.0, 16.0))
    found = Pgd().run(model, x, y, told, rng(len(x)))
    judged = confirm(model, x, y, found.x, told)
    assert not judged.refused.any()
    assert judged.success.any()
    assert bool((found.x >= 0).all() and (found.x <= 16).all())
    assert float(perturbation_size(found.x - x, norm).max()) <= eps * (1 + 1e-6)


def test_an_example_gets_the_same_alone_and_in_company() -> None:
    model, x, y = cnn()
    told = threat("linf", 1.6, (0.0, 16.0))
    together = Pgd(steps=10).run(model, x[:12], y[:12], told, rng(12))
    for i in (0, 7, 11):
        alone = Pgd(steps=10).run(model, x[i : i + 1], y[i : i + 1], told, rng(12).take([i]))
        torch.testing.assert_close(alone.x[0], together.x[i], atol=1e-4, rtol=0)


def test_more_steps_and_a_larger_ball_break_no_fewer() -> None:
    model, x, y = cnn()

    def broken(eps: float, **parameters: Any) -> int:
        told = threat("linf", eps, (0.0, 16.0))
        return int(confirm(model, x, y, Pgd(**parameters).run(model, x, y, told, rng(len(x))).x, told).success.sum())

    single = broken(1.0, steps=1, step_size=1.0, random_start=False)
    assert single <= broken(1.0, steps=40)
    counts = [broken(eps, steps=20) for eps in (0.2, 0.5, 1.0, 2.0, 16.0)]
    assert counts == sorted(counts)
    assert counts[-1] == len(x), "with the whole range allowed nothing stays right"


def test_every_parameter_reaches_the_result() -> None:
    model, x, y = cnn()
    told = threat("linf", 0.7, (0.0, 16.0))
    plain = Pgd(steps=5).run(model, x, y, told, rng(len(x)))
    for other in (
        Pgd(steps=9),
        Pgd(steps=5, step_size=0.1),
        Pgd(steps=5, random_start=False),
        Pgd(steps=5, loss="margin"),
        Pgd(steps=5, restarts=2),
    ):
        changed = other.run(model, x, y, told, rng(len(x)))
        assert not (torch.equal(plain.x, changed.x) and torch.equal(plain.queries, changed.queries)), other
    assert not torch.equal(plain.x, Pgd(steps=5).run(model, x, y, told, rng(len(x), seed=1)).x)


def test_spent_passes_are_counted_truly() -> None:
    model, x, y = cnn()
    model.rows_forward = model.rows_backward = 0
    found = Pgd(steps=12).run(model, x, y, threat("linf", 0.7, (0.0, 16.0)), rng(len(x)))
    assert int(found.queries.sum()) == model.rows_forward
    assert int(found.gradients.sum()) == model.rows_backward
    assert int(found.gradients.max()) <= 12
    assert int(found.gradients.min()) < 12, "an example leaves as soon as it is fooled"


def test_margin_sees_through_scaled_logits_where_cross_entropy_is_blind() -> None:
    model, x, y = cnn()
    loud = audited(lambda v: trained_cnn()(v) * 1000, (1, 8, 8), 10, bounds=(0.0, 16.0))
    told = threat("linf", 1.6, (0.0, 16.0))

    def broken(subject: AuditedModel, attack: Pgd) -> int:
        return int(confirm(subject, x, y, attack.run(subject, x, y, told, rng(len(x))).x, told).success.sum())

    plain, blind = broken(model, Pgd()), broken(loud, Pgd(random_start=False))
    assert blind < plain / 2
    assert broken(loud, Pgd(loss="margin")) >= plain - 2


def test_the_model_is_left_as_it_was() -> None:
    net = trained_cnn()
    model, x, y = cnn()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    before, state = x.clone(), torch.random.get_rng_state()
    Pgd(steps=3).run(model, x, y, threat("linf", 1.0, (0.0, 16.0)), rng(len(x)))
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    net.requires_grad_(False)
    assert not net.training
    assert torch.equal(x, before)
    assert torch.equal(state, torch.random.get_rng_state())


def test_confirm_counts_nothing_that_breaks_the_rules() -> None:
    model, x, y = line(), torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    told = threat("linf", 3.0, (0.0, 10.0))
    for candidate, success, refused in (
        ([0.0, 1.0], True, False),
        ([3.0, 4.0], False, False),  # the clean input
        ([-0.1, 1.0], False, True),  # outside the box
        ([0.0, 0.9], False, True),  # beyond eps
        ([float("nan"), 1.0], False, False),
    ):
        judged = confirm(model, x, y, torch.tensor([candidate]), told)
        assert (bool(judged.success), bool(judged.refused)) == (success, refused), candidate
