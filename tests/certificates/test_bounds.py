"""Interval and CROWN bounds: closed forms, brute force, and no point of the region outside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F
from toys import digits, trained_cnn

from audit.certificates._coefficients import Coefficients
from audit.certificates._region import Region
from audit.certificates._rounding import DTYPE
from audit.certificates._tracing import traced_layers
from audit.certificates.crown import CrownBounds
from audit.certificates.interval import IntervalBounds
from audit.certificates.margins import certified_margins, contain, lower_margins
from audit.parameters import NotApplicable, UserError

BOTH = (IntervalBounds, CrownBounds)
BOX = (0.0, 1.0)


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.no_grad():
        yield


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module with random weights and, where it normalises, random statistics; in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                part.running_mean.normal_()  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                part.weight.normal_()
                part.bias.normal_()
    return module.eval()


def whole(bounds: IntervalBounds, a: Tensor) -> Tensor:
    """Lower bounds of ``a·answer`` for each row and each ``a (K, C)``: ``(B, K)``."""
    b = len(bounds.region)
    rows = torch.arange(b).repeat_interleave(len(a))
    shape = bounds.layers[-1].shape
    return bounds.lower(len(bounds.layers) - 1, Coefficients(a.to(DTYPE).repeat(b, 1), shape, rows)).reshape(b, -1)


def points(x: Tensor, norm: str, eps: float, bounds: tuple[float, float], n: int, seed: int = 0) -> Tensor:
    """``(n, B, *shape)`` float32 points of the regions, most of them at their far end."""
    g = torch.Generator().manual_seed(seed)
    delta = torch.randn((n, *x.shape), generator=g)
    flat = delta.flatten(2)
    if norm == "linf":
        flat = torch.where(torch.rand(flat.shape, generator=g) < 0.8, flat.sign(), flat.clamp(-1, 1))
    else:
        sparse = flat * (torch.rand(flat.shape, generator=g) < torch.rand((n, 1, 1), generator=g))
        flat = sparse / sparse.norm(p=2 if norm == "l2" else 1, dim=2, keepdim=True).clamp_min(1e-9)
    return (x + eps * flat.reshape(delta.shape) * 0.999999).clamp(*bounds)


# --- closed forms ------------------------------------------------------------------------------------------------


def test_known_values() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    net[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, -1.0]]))
    net[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    x = torch.tensor([[0.5, -0.5]])
    layers = traced_layers(net.eval(), x)
    found = {kind: kind(layers, Region(x, "linf", 1.5, None)) for kind in BOTH}
    for bounds in found.values():
        np.testing.assert_allclose(bounds.intervals[1].low, [[-2, -3]], atol=2e-6)
        np.testing.assert_allclose(bounds.intervals[1].high, [[4, 6]], atol=2e-6)
    both = torch.tensor([[1.0], [-1.0]])
    np.testing.assert_allclose(whole(found[IntervalBounds], both), [[-6, -4]], atol=5e-6)
    np.testing.assert_allclose(whole(found[CrownBounds], both), [[-3, -3]], atol=5e-6)
    grid = torch.cartesian_prod(torch.linspace(-1, 2, 61), torch.linspace(-2, 1, 61))
    assert (net(grid).min().item(), net(grid).max().item()) == pytest.approx((-2.0, 1.0), abs=1e-5)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_a_linear_model_is_bounded_exactly(kind: type[IntervalBounds], norm: str, dual: float) -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)))
    x = torch.rand(4, 6)
    weight = net[1].weight.double() @ net[0].weight.double()
    exact = net(x).double() - 0.3 * weight.norm(p=dual, dim=1)
    found = whole(kind(traced_layers(net, x), Region(x, norm, 0.3, None)), torch.eye(3))
    assert (found <= exact).all()
    np.testing.assert_allclose(found, exact, atol=2e-5)


def test_a_certified_net_of_one_neuron_is_certified_to_its_kink() -> None:
    """relu(x) - 0.25 falls below zero at x = 0.25: from x = 1 at 0.75, exactly, for CROWN too."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    for layer, weight, bias in ((net[0], 1.0, 0.0), (net[2], 1.0, -0.25)):
        layer.weight.fill_(weight)
        layer.bias.fill_(bias)
    x, y = torch.ones(1, 1), torch.tensor([1])
    layers = traced_layers(net.eval(), x)
    for eps, certified in ((0.7499, True), (0.7501, False)):
        margins = certified_margins(layers, x, y, "linf", eps, None, crown=True)
        assert [bool(m > 0) for m in margins.values()] == [certified, certified]
    wide = certified_margins(layers, x, y, "linf", 1.9, None, crown=True)
    assert (
        lower_margins(CrownBounds(layers, Region(x, "linf", 1.9, None)), y).min() < -1
    )  # the identity below, down to -0.9
    assert wide["crown"] == wide["ibp"] == pytest.approx(-0.25, abs=1e-6)


def test_the_ball_holds_every_example_that_confirm_lets_pass() -> None:
    ulp = 2.0**-23
    for norm, growth in (("linf", 1), ("l2", 8), ("l1", 64)):
        region = Region(torch.full((1, 64), 5.0), norm, 1.0, (0.0, 16.0))
        assert region.eps - 1 == pytest.approx(16 * ulp * growth)
        assert (region.high - 6).min() >= 0.99 * 16 * ulp * growth


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_least_of_a_line_in_ball_and_box(norm: str) -> None:
    rng = np.random.default_rng(0)
    x, a = rng.uniform(0, 1, (6, 5)), rng.normal(size=(6, 5))
    x[0, :3], x[1], a[2, :4] = 0.0, 1.0, 0.0
    region = Region(torch.from_numpy(x), norm, 0.7, BOX)
    found = region.least(Coefficients(torch.from_numpy(a), (5,), torch.arange(6)))
    size = {
        "linf": lambda d: np.abs(d).max(),
        "l2": lambda d: np.sqrt((d**2).sum() + 1e-16),
        "l1": lambda d: np.abs(d).sum(),
    }[norm]
    for i in range(6):
        # As a linear programme for l1: positive and negative parts; the others as they are.
        parts = 2 if norm == "l1" else 1
        sign = np.concatenate([np.ones(5), -np.ones(5)])[: 5 * parts]
        room = np.concatenate([1 - x[i], x[i]])
        bounds = (
            [(0, r) for r in room]
            if parts == 2
            else [
                (max(-x[i, k], -0.7 if norm == "linf" else -9), min(1 - x[i, k], 0.7 if norm == "linf" else 9))
                for k in range(5)
            ]
        )
        slopes = np.concatenate([a[i]] * parts) * sign
        limit = {
            "type": "ineq",
            "fun": (lambda d: 0.7 - d.sum()) if parts == 2 else (lambda d: 0.7 - size(d) if norm == "l2" else 1.0),
        }
        best = minimize(
            lambda d, s=slopes: d @ s,
            np.full(5 * parts, 0.01),
            bounds=bounds,
            constraints=[limit],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert found[i] == pytest.approx(a[i] @ x[i] + best.fun, abs=2e-5)
        assert found[i] <= a[i] @ x[i] + best.fun + 1e-7


# --- every layer, by sampling ------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block and what else a forward method may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).reshape(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first((x - self.mean) / 0.5))
        h = (h + self.norm(self.second(h))).relu()
        return self.last(h.mean((2, 3)))


class Functional(nn.Module):
    """The same layers as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.v = nn.Parameter(torch.randn(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(F.conv2d(2 * x - 1, self.w, stride=2, padding=1))
        h = F.avg_pool2d(F.pad(h, (1, 0, 1, 0)), 2)
        h = 3 - F.dropout(h, 0.5, self.training)
        return torch.flatten(-h.relu(), 1).view(x.size(0), -1) @ self.v


class Skewed(nn.Module):
    """Constants that differ from column to column, and one linear layer for all rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(6, 4), nn.Linear(72, 3)
        self.register_buffer("ramp", torch.linspace(-1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu((self.first(x * self.ramp) + self.ramp) / (self.ramp + 3))
        return self.second(torch.relu(self.each(h)).permute(0, 3, 1, 2).flatten(1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(6, 4, 2, dilation=2, padding="valid"), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
    ),
    "max_pooling": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same"), nn.MaxPool2d(3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(4, 3),
    ),
    "normalisation": lambda: nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Identity(), nn.ReLU(), nn.Linear(8, 3),
    ),
    "adaptive": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    "series": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(2, 3, 5, stride=3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(15, 3),
    ),
    "residual": Block,
    "skewed": Skewed,
    "functional": Functional,
}  # fmt: skip


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", NETS)
def test_no_point_of_the_region_lies_outside(name: str, norm: str) -> None:
    net = seeded(NETS[name])
    x = torch.rand((3, 2, 6, 6), generator=torch.Generator().manual_seed(1))
    eps = {"linf": 0.05, "l2": 0.3, "l1": 0.8}[norm]
    layers = traced_layers(net, x)
    assert contain(layers, x, net(x)).all()
    region = Region(x, norm, eps, BOX)
    a = torch.cat([torch.eye(3), -torch.eye(3), torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])])
    values = net(points(x, norm, eps, BOX, 400).flatten(0, 1)).reshape(400, 3, 3).double() @ a.T.double()
    found = {kind: whole(kind(layers, region), a) for kind in BOTH}
    centre = net(x).double() @ a.T.double()
    for bounds in found.values():
        assert (bounds <= values.amin(dim=0)).all()
    # Not vacuous; random points of an l2 or l1 ball find little of what there is.
    assert (centre - found[CrownBounds]).mean() < (8 if norm == "linf" else 16) * (centre - values.amin(dim=0)).mean()
    assert found[CrownBounds].mean() > found[IntervalBounds].mean()


@pytest.mark.parametrize("seed", range(4))
def test_tiny_nets_against_brute_force(seed: int) -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), seed)
    x = torch.rand((1, 2), generator=torch.Generator().manual_seed(seed))
    layers = traced_layers(net, x)
    side = torch.linspace(-1, 1, 201)
    for eps in (0.05, 0.4):
        grid = net(x + eps * torch.cartesian_prod(side, side))
        margin = (grid[:, 0] - grid[:, 1]).min()
        ibp, crown = (
            lower_margins(kind(layers, Region(x, "linf", eps, None)), torch.tensor([0]))[0, 1] for kind in BOTH
        )
        assert ibp <= crown + 1e-9
        assert crown <= margin
        if eps == 0.05:  # where few neurons change sign, the relaxation is all but exact
            assert crown > margin - 0.05


class Peak(nn.Module):
    """The largest of four, and a sum in which some pull up and some down: either end of an element may be the worse one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pull", torch.tensor([[-2.0], [1.0], [-2.0], [1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(x, 4).flatten(1) + x.flatten(1) @ self.pull


def test_the_planes_of_a_maximum() -> None:
    x = torch.rand((200, 1, 4), generator=torch.Generator().manual_seed(0))
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, -0.3, 0.3, 1.0])] * 4)[:, None, None]
    net = Peak().eval()
    layers = traced_layers(net, x)
    for eps in (0.05, 0.3):
        values = net((x + eps * corners).flatten(0, 1)).reshape(-1, 200)
        bounds = CrownBounds(layers, Region(x, "linf", eps, None))
        found = whole(bounds, torch.tensor([[1.0], [-1.0]]))
        assert (found[:, 0] <= values.amin(dim=0)).all()
        assert (-found[:, 1] >= values.amax(dim=0)).all()
        sole = (
            x.flatten(1).topk(2).values.diff().abs().squeeze(1) > 2 * eps + 1e-4
        )  # one element is always the largest: linear
        assert sole.any()
        np.testing.assert_allclose(found[sole, 0], values.amin(dim=0)[sole], atol=1e-5)


def test_windows_give_what_whole_layers_give(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand((2, 2, 6, 6), generator=torch.Generator().manual_seed(1))
    one_hot = Coefficients.one_hot
    for name in ("convolutions", "max_pooling", "residual", "skewed"):
        layers = traced_layers(seeded(NETS[name]), x)
        for norm in ("linf", "l2"):
            windows = CrownBounds(layers, Region(x, norm, 0.1, BOX)).intervals
            with monkeypatch.context() as patched:
                patched.setattr(Coefficients, "one_hot", staticmethod(lambda *a: one_hot(*a).dense()))
                dense = CrownBounds(layers, Region(x, norm, 0.1, BOX)).intervals
            for ours, theirs in zip(windows, dense, strict=True):
                np.testing.assert_allclose(ours.low, theirs.low, atol=1e-9)
                np.testing.assert_allclose(ours.high, theirs.high, atol=1e-9)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand((3, 2, 6, 6), generator=torch.Generator().manual_seed(1))
    layers = traced_layers(seeded(NETS["convolutions"]), x)
    y = torch.tensor([0, 1, 2])
    for norm in ("linf", "l2"):
        region = Region(x, norm, 0.1, BOX)
        with monkeypatch.context() as patched:
            at_once = lower_margins(CrownBounds(layers, region), y)
            patched.setattr("audit.certificates.interval._ELEMENTS", 7 * max(layer.size for layer in layers))
            np.testing.assert_allclose(lower_margins(CrownBounds(layers, region), y), at_once, atol=1e-12)


def test_bounds_hold_what_float32_rounds_to() -> None:
    """x + 1e8 - 1e8 is x, but in float32 it is a multiple of eight."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    for layer, bias in ((net[0], 1e8), (net[2], -1e8)):
        layer.weight.fill_(1.0)
        layer.bias.fill_(bias)
    x = torch.tensor([[3.0]])
    assert net(x).item() in (0.0, 8.0)
    layers = traced_layers(net.eval(), x)
    for kind in BOTH:
        bounds = kind(layers, Region(x, "linf", 1e-3, None))
        low, high = whole(bounds, torch.tensor([[1.0]])).item(), -whole(bounds, torch.tensor([[-1.0]])).item()
        assert low <= 0 <= net(x).item() <= 8 <= high
        assert low > -100
        assert high < 100
    precise = traced_layers(net.double(), x)
    assert whole(CrownBounds(precise, Region(x, "linf", 1e-3, None)), torch.tensor([[1.0]])).item() == pytest.approx(
        2.999, abs=1e-5
    )


# --- what is not bounded -----------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Control flow that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Scaled(nn.Module):
    """Divides by what it is fed."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / x.flatten(1)


class Each(nn.Module):
    """Adds something else to each row of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(2.0).reshape(2, 1, 1, 1)


class Squared(nn.Module):
    """Multiplies what it is fed by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * x.flatten(1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("net", "wanted"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.GELU()), r"layer '1' \(GELU\)"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(dim=1)), r"'1' \(Softmax\)"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), "circular"),
        (nn.Sequential(nn.Conv2d(2, 2, (3, 2), padding="same")), "even kernel"),
        (Each(), "for each row"),
        (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), "batch"),
        (Branches(), "traced"),
        (Scaled(), "divides by its input"),
        (Squared(), "constant"),
        (nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).half(), "float16"),
        (nn.Sequential(nn.Flatten(0)), "flatten|Flatten"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_what_is_not_known_is_named(net: nn.Module, wanted: str) -> None:
    with pytest.raises(NotApplicable, match=wanted):
        traced_layers(net.eval(), torch.rand(1, 2, 6, 6))


def test_an_unknown_norm_is_a_line() -> None:
    with pytest.raises(UserError, match="no norm"):
        Region(torch.zeros(1, 2), "l7", 0.1, None)


def test_other_weights_are_not_the_model() -> None:
    x = torch.from_numpy(digits().test.x[:20])
    layers = traced_layers(trained_cnn(), x)
    scores = trained_cnn()(x)
    assert contain(layers, x, scores).all()
    assert not contain(layers, x, scores + 0.01).any()
