"""The faster model is the same model, or it is not used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from toys import Linear, audited

from audit.attacks._folded import Folded, folded, wrong_for_both
from audit.attacks._gradients import logits_and_gradient
from audit.attacks.apgd_ce import ApgdCe
from audit.checks.robustness._averaged import Averaged
from audit.finding import ThreatModel
from audit.model import AuditedModel
from audit.rng import ExampleRng


class Residual(nn.Module):
    """Two convolutions and a linear layer with normalisation, one sum; `peek` also uses what the first normalisation is fed."""

    def __init__(self, peek: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.peek, self.twice = peek, twice
        self.first, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.wide, self.norm3 = nn.Linear(64, 12), nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 5)
        for norm in (self.norm1, self.norm2, self.norm3):
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        raw = self.first(x)
        a = self.norm1(raw).relu()
        a = a + self.norm2(self.second(a))
        if self.twice:
            a = a + self.norm2(self.second(a))
        if self.peek:
            a = a + raw
        return self.head(self.norm3(self.wide(a.flatten(1))).relu())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def rows(n: int = 20) -> Tensor:
    return torch.rand((n, 1, 4, 4), generator=torch.Generator().manual_seed(0))


def model(net: nn.Module, wrap: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None = None) -> AuditedModel:
    made = audited(net, (1, 4, 4), 5, bounds=(0.0, 1.0))
    if wrap is not None:
        made._forward = wrap(net)
    return made


def norms(module: nn.Module | None) -> int:
    assert module is not None
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


@pytest.mark.parametrize("wrap", [None, lambda net: lambda x: net(2 * x)], ids=["module", "around the module"])
def test_normalisation_is_folded_and_answers_and_gradients_stay(
    wrap: Callable[[nn.Module], Callable[[Tensor], Tensor]] | None,
) -> None:
    own, x = model(Residual(), wrap), rows()
    with folded(own, x) as fast:
        assert isinstance(fast, Folded)
        assert norms(fast.module) == 0
        assert norms(own.module) == 3, "the model itself is left alone"
        mine, theirs = (logits_and_gradient(m, x, lambda z, at: z.softmax(1)) for m in (own, fast))
        assert torch.allclose(mine[0], theirs[0], atol=1e-5)
        assert torch.allclose(mine[1], theirs[1], atol=1e-5)
        assert own.rows_forward == 20
    assert own.rows_forward == own.rows_backward == 40, "what the faster model was asked counts, the probe does not"
    assert "forward" not in own.module.__dict__  # type: ignore[union-attr]


def test_a_layer_used_twice_stays_as_it_is() -> None:
    own, x = model(Residual(twice=True)), rows()
    with folded(own, x) as fast:
        assert norms(fast.module) == 1
        assert torch.allclose(fast.logits(x), own.logits(x), atol=1e-5)


class Noisy(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


class Counting(Residual):
    def __deepcopy__(self, memo: object) -> Residual:
        raise RuntimeError("one of a kind")


@pytest.mark.parametrize(
    "net", [Residual(peek=True), Noisy(), Counting(), nn.Flatten()], ids=lambda n: type(n).__name__
)
def test_where_it_would_change_the_answers_the_model_itself_is_used(net: nn.Module) -> None:
    own = model(net)
    state = torch.random.get_rng_state()
    with folded(own, rows()) as fast:
        assert fast is own
    assert own.rows_forward == 0
    assert torch.equal(state, torch.random.get_rng_state())


def test_no_module_no_rows_or_already_folded_is_left_as_it_is() -> None:
    for own, x in ((audited(Linear([1.0], 0.0).forward, (1,)), torch.ones((2, 1))), (model(Residual()), rows(0))):
        with folded(own, x) as fast:
            assert fast is own
    with folded(model(Residual()), rows()) as fast, folded(fast, rows()) as faster:
        assert faster is fast


def test_a_model_that_averages_its_answers_keeps_doing_so() -> None:
    averaged = Averaged.of(model(Residual()), 3)
    with folded(averaged, rows()) as fast:
        assert fast is averaged


def test_what_is_not_wrong_for_the_model_itself_does_not_count() -> None:
    own, other = (audited(Linear([1.0], b), (1,)) for b in (0.0, 0.5))
    x = torch.tensor([[-1.0], [-0.2], [1.0]])
    y = torch.zeros(3, dtype=torch.int64)
    wrong = other.predict(x) != y
    both, asked = wrong_for_both(own, other, x, y, wrong)
    assert (wrong.tolist(), both.tolist(), asked.tolist()) == (
        [False, True, True],
        [False, False, True],
        [False, True, True],
    )
    assert own.rows_forward == 2
    assert not wrong_for_both(own, own, x, y, wrong)[1].any()


def test_an_attack_uses_it_counts_it_and_proposes_what_the_model_gets_wrong() -> None:
    own, x = model(Residual(), lambda net: lambda z: net(20 * (z - 0.5))), rows(60)
    y = own.predict(x)
    before = own.rows_forward
    limits = ThreatModel(access="white_box", norm="linf", eps=0.1, bounds=(0.0, 1.0))
    found = ApgdCe(steps=20).run(own, x, y, limits, ExampleRng(0, "t", [str(i) for i in range(60)], "a"))
    moved = (found.x != x).flatten(1).any(1)
    assert 0 < int(moved.sum()) < 60
    assert int(found.queries.sum()) == own.rows_forward - before
    assert int(found.queries.sum() - found.gradients.sum()) >= int(moved.sum()), "each success was asked about again"
    assert torch.equal(own.predict(found.x) != y, moved)
