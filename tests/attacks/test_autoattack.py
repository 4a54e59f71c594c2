"""AutoAttack: the ensemble of the paper and no other, sequential, each part on what is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attacking import streams
from pydantic import ValidationError
from torch import Tensor
from toys import Linear, audited, digits, trained_cnn

from audit.attacks import Attack, Candidates, build, confirm
from audit.attacks import autoattack as ensemble
from audit.attacks.apgd_ce import ApgdCe
from audit.attacks.apgd_t import ApgdT
from audit.attacks.autoattack import Autoattack, _parts
from audit.attacks.fab_t import FabT
from audit.attacks.square import Square
from audit.finding import ThreatModel
from audit.parameters import UserError
from audit.rng import ExampleRng


def threat(eps: float, norm: str = "linf", bounds: tuple[float, float] | None = (0.0, 16.0)) -> ThreatModel:
    return ThreatModel(access="white_box", norm=norm, eps=eps, bounds=bounds)


def test_it_is_the_standard_ensemble() -> None:
    for norm in ("linf", "l2"):
        assert _parts(norm) == (
            ApgdCe(steps=100, restarts=1),
            ApgdT(steps=100, targets=9),
            FabT(steps=100, targets=9, restarts=1),
            Square(queries=5000, restarts=1),
        )
    assert _parts("l1")[:2] == (ApgdCe(steps=100, restarts=5), ApgdT(steps=100, targets=5))
    assert _parts("l1")[2:] == _parts("linf")[2:]
    assert not Autoattack.model_fields, "nothing turns it into something else"
    with pytest.raises(ValidationError):
        Autoattack(steps=10)
    assert build("autoattack") == ("autoattack", Autoattack())


@pytest.mark.parametrize(("classes", "second"), [(2, "apgd_margin"), (3, "apgd_margin"), (4, "apgd_t"), (10, "apgd_t")])
def test_it_says_which_parts_apply(classes: int, second: str) -> None:
    assert Autoattack().stages(classes) == ("apgd_ce", second, "fab_t", "square")


@pytest.mark.parametrize(("norm", "distance"), [("linf", 20 / 7), ("l2", 4.0), ("l1", 5.0)])
def test_flips_a_linear_model_just_beyond_its_distance_and_never_within(
    norm: str, distance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "_parts", lambda norm: (*_parts(norm)[:3], Square(queries=50)))
    model = audited(Linear([3.0, 4.0], -5.0), (2,))
    x, y = torch.tensor([[3.0, 4.0]]).repeat(4, 1), torch.ones(4, dtype=torch.int64)
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * distance, norm, (-10.0, 10.0))
        forward, backward = model.rows_forward, model.rows_backward
        found = Autoattack().run(model, x, y, limits, streams(4))
        assert int(found.queries.sum()) == model.rows_forward - forward
        assert int(found.gradients.sum()) == model.rows_backward - backward
        judged = confirm(model, x, y, found.x, limits)
        assert (judged.success == flips).all()
        assert not judged.refused.any()
        assert (found.stage == (0 if flips else -1)).all()


class Planted(Attack):
    """Moves the rows whose first value is among `finds`, for 10 queries a row."""

    access = "white_box"
    norms = frozenset({"linf"})
    needs = frozenset()
    finds: tuple[float, ...]

    def run(self, model: Any, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        seen.append((x[:, 0].tolist(), threat.queries, rng.uniform(()).tolist()))
        hit = torch.tensor([float(v) in self.finds for v in x[:, 0]])
        ones = torch.ones(len(x), dtype=torch.int64)
        cost = 10 * ones + x[:, 0].long()
        return Candidates(torch.where(hit[:, None], x + 0.5, x), cost, ones, ones if self.finds else None)


seen: list[tuple[list[float], int | None, list[float]]] = []


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    parts = tuple(Planted(finds=f) for f in ((1.0,), (2.0, 3.0), (), (5.0,)))
    monkeypatch.setattr(ensemble, "_parts", lambda norm: parts)


def test_each_part_takes_on_what_is_left(planted: None) -> None:
    model = audited(Linear([1.0], 0.0), (1,))
    x = torch.arange(6.0)[:, None]
    found = Autoattack().run(model, x, torch.ones(6).long(), threat(1.0), streams(6))
    assert [rows for rows, _, _ in seen] == [[0, 1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [0, 4, 5], [0, 4, 5]]
    assert found.stage is not None
    assert found.stage.tolist() == [-1, 0, 1, 1, -1, 3]
    assert found.x.flatten().tolist() == [0, 1.5, 2.5, 3.5, 4, 5.5]
    assert found.queries.tolist() == [40, 11, 24, 26, 56, 60]
    assert found.gradients.tolist() == [4, 1, 2, 2, 4, 4]
    assert found.zero_gradients is not None
    assert found.zero_gradients.tolist() == [3, 1, 2, 2, 3, 3]
    assert seen[1][2][0] != seen[0][2][0], "the parts draw their own numbers"


def test_numbers_do_not_hang_on_who_else_is_attacked(planted: None) -> None:
    model = audited(Linear([1.0], 0.0), (1,))
    x, y = torch.arange(6.0)[:, None], torch.ones(6).long()
    Autoattack().run(model, x, y, threat(1.0), streams(6))
    together = [dict(zip(rows, drawn, strict=True)) for rows, _, drawn in seen]
    seen.clear()
    Autoattack().run(model, x[[4, 2]], y[:2], threat(1.0), streams(6).take([4, 2]))
    for before, (rows, _, drawn) in zip(together, seen, strict=True):
        assert {row: before[row] for row in rows} == dict(zip(rows, drawn, strict=True))


def test_the_parts_share_a_cap_on_queries(planted: None) -> None:
    model = audited(Linear([1.0], 0.0), (1,))
    x = torch.tensor([[0.0], [4.0], [4.0]])
    limits = threat(1.0).model_copy(update={"queries": 28})
    found = Autoattack().run(model, x, torch.ones(3).long(), limits, streams(3))
    # The planted parts pay no heed to what they are told; what they are told is what is left.
    assert [(rows, cap) for rows, cap, _ in seen] == [([0, 4, 4], 28), ([0], 18), ([4, 4], 14), ([0], 8)]
    assert found.queries.tolist() == [30, 28, 28]


def test_a_cap_is_never_exceeded() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = torch.from_numpy(digits().test.x[:12]), torch.from_numpy(digits().test.labels[:12])
    right = model.predict(x) == y
    x, y = x[right], y[right]
    for cap in (30, 300):
        limits = threat(0.8).model_copy(update={"queries": cap})
        found = Autoattack().run(model, x, y, limits, streams(len(x)))
        assert cap - 10 < int(found.queries.max()) <= cap


def test_it_is_the_worst_case_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "_parts", lambda norm: (ApgdCe(), ApgdT(), FabT(steps=5), Square(queries=30)))
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = torch.from_numpy(digits().test.x[:24]), torch.from_numpy(digits().test.labels[:24])
    right = model.predict(x) == y
    x, y = x[right], y[right]
    limits = threat(2.4)
    found = Autoattack().run(model, x, y, limits, streams(len(x)))
    judged = confirm(model, x, y, found.x, limits)
    assert found.stage is not None
    assert torch.equal(judged.success, found.stage >= 0)
    first = ApgdCe().run(model, x, y, limits, streams(len(x)).fork("apgd_ce"))
    assert torch.equal((first.x != x).flatten(1).any(1), found.stage == 0)


def test_a_threat_model_it_is_not_made_for_is_refused() -> None:
    model = audited(Linear([1.0], 0.0), (1,))
    with pytest.raises(UserError, match="autoattack"):
        Autoattack().run(model, torch.ones((1, 1)), torch.ones(1).long(), ThreatModel(access="white_box"), streams(1))
