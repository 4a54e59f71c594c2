"""FGSM against closed forms and the attack it must not outdo."""

from __future__ import annotations

import pytest
import torch
from attacking import streams
from toys import Linear, audited, digits, trained_cnn

from audit.attacks import build, confirm
from audit.attacks.fgsm import Fgsm
from audit.attacks.pgd import Pgd
from audit.finding import ThreatModel
from audit.parameters import UserError


def threat(eps: float, norm: str = "linf", bounds: tuple[float, float] | None = (0.0, 16.0)) -> ThreatModel:
    return ThreatModel(access="white_box", norm=norm, eps=eps, bounds=bounds)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("bounds", [None, (-10.0, 10.0)])
@pytest.mark.parametrize(("norm", "distance"), [("linf", 20 / 7), ("l2", 4.0), ("l1", 5.0)])
def test_one_step_flips_a_linear_model_just_beyond_its_distance(
    norm: str, distance: float, bounds: tuple[float, float] | None, loss: str
) -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * distance, norm, bounds)
        found = Fgsm(loss=loss).run(model, x, y, limits, streams(1))
        assert bool(confirm(model, x, y, found.x, limits).success) == flips
        assert torch.equal(found.x, x) != flips
        assert (int(found.queries), int(found.gradients), int(found.zero_gradients)) == (2, 1, 0)


@pytest.mark.parametrize(("norm", "distance"), [("l2", (2.5**2 + (10 / 3) ** 2) ** 0.5), ("l1", 2.5 + 10 / 3)])
def test_what_the_box_blocks_goes_to_the_other_elements(norm: str, distance: float) -> None:
    # 20 has to go; the second element may fall by 2.5, worth 10, and the first makes up the rest.
    model = audited(Linear([3.0, 4.0], -11.0), (2,))
    x, y = torch.tensor([[5.0, 4.0]]), torch.tensor([1])
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * distance, norm, (1.5, 10.0))
        found = Fgsm().run(model, x, y, limits, streams(1))
        assert bool(confirm(model, x, y, found.x, limits).success) == flips


def test_it_breaks_some_and_pgd_more() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = torch.from_numpy(digits().test.x[:100]), torch.from_numpy(digits().test.labels[:100])
    right = model.predict(x) == y
    x, y = x[right], y[right]
    broken = {}
    forward, backward = model.rows_forward, model.rows_backward
    for name, attack in {"ce": Fgsm(), "margin": Fgsm(loss="margin"), "pgd": Pgd()}.items():
        found = attack.run(model, x, y, threat(1.8), streams(len(x)))
        if name == "ce":
            assert model.rows_forward - forward == int(found.queries.sum()) == 2 * len(x)
            assert model.rows_backward - backward == int(found.gradients.sum()) == len(x)
        broken[name] = confirm(model, x, y, found.x, threat(1.8)).success
    assert 0 < int(broken["ce"].sum()) < int(broken["pgd"].sum())
    assert not torch.equal(broken["ce"], broken["margin"])


@pytest.mark.parametrize(("cap", "asked"), [(1, 0), (2, 2)])
def test_a_cap_that_is_too_small_for_it_is_kept(cap: int, asked: int) -> None:
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    found = Fgsm().run(model, x, y, threat(9.0).model_copy(update={"queries": cap}), streams(1))
    assert int(found.queries) == model.rows_forward == asked


def test_a_scenario_builds_it_and_it_wants_an_eps() -> None:
    assert build({"fgsm": {"loss": "margin"}}) == ("fgsm", Fgsm(loss="margin"))
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    with pytest.raises(UserError, match="eps"):
        Fgsm().run(
            model, torch.ones((1, 2)), torch.ones(1).long(), ThreatModel(access="white_box", norm="l2"), streams(1)
        )
