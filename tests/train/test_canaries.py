"""A private training keeps its claim; one without noise, and one that does not clip, are caught."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import Linear, audited, batch, context, data, digits

from audit.checks.privacy.dp_audit import DpAudit
from audit.finding import Bound, part_name
from audit.parameters import UserError
from audit.privacy.accounting import Canaries, Claim, Stretch, TrainingRecord, recompute
from audit.train.canaries import FAR, GradientCanaries, InputCanaries
from audit.train.clipping import Clipping
from audit.train.gradients.functorch import Functorch
from audit.train.randomness import Randomness

RATE, SIGMA, STEPS, ROWS = 0.05, 1.2, 60, 400


class Unclipped(Clipping):
    """A training's clipping that forgets to clip."""

    def factors(self, squares: Tensor) -> Tensor:
        return torch.ones_like(squares)


def each_loss(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, y, reduction="none")


def trained(clipping: Clipping, noise: float, count: int = 1000) -> Canaries:
    """DP-SGD with canaries, on a few digits; the ledger will say sigma = SIGMA, whatever `noise` was."""
    rows = digits().train
    assert rows is not None
    x, y = torch.from_numpy(rows.x[:ROWS]) / 16, torch.from_numpy(rows.labels[:ROWS])
    randomness = Randomness(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    mode = Functorch(net, each_loss, clipping)
    canaries = GradientCanaries.of(mode.parameters, mode.layers, count, clipping, randomness)
    for step in range(STEPS):
        taken = randomness.poisson(ROWS, RATE, step)
        sums = mode.clipped_sum(x[taken], y[taken]).gradients
        canaries.add(sums, RATE)
        deviation = noise * clipping.norm
        noisy = [s + randomness.gaussian(s, deviation, step, place) for place, s in enumerate(sums)]
        canaries.seen(noisy)
        with torch.no_grad():
            for parameter, gradient in zip(mode.parameters, noisy, strict=True):
                parameter -= gradient / (RATE * ROWS)
    return canaries.record()


@cache
def claimed() -> TrainingRecord:
    """The ledger that all these trainings write, with the epsilon that its accounting gives."""
    record = TrainingRecord(
        stretches=(Stretch(sampling_rate=RATE, sigma=SIGMA, steps=STEPS),), dataset_size=ROWS, sampler="poisson",
        noise="entropy", delta=1e-5, clipping="flat",
    )  # fmt: skip
    return record.model_copy(update={"claim": Claim(epsilon=recompute(record).epsilon, delta=1e-5)})


def excess(canaries: Canaries, tmp_path: Path) -> Bound:
    record = claimed().model_copy(update={"canaries": canaries})
    rows = data(batch(torch.zeros(2, 2).numpy(), torch.arange(2).numpy()), kind="series")
    check = DpAudit(record=record.model_dump(mode="json"))
    model = audited(Linear([1.0, 1.0], 0.0), (2,), kind="series")
    found = {part_name(m.metric, m.dims): m.estimate for m in check.run(model, rows, context(tmp_path))}
    bound = found["excess"]
    assert isinstance(bound, Bound)
    assert bound.ceiling is not None
    assert bound.ceiling > 0, "so many canaries could have falsified the claim"
    return bound


@pytest.mark.parametrize("kind", ["flat", "automatic", "per_layer"])
def test_a_training_as_recorded_is_not_falsified(kind: str, tmp_path: Path) -> None:
    assert excess(trained(Clipping(kind, 1.0), SIGMA), tmp_path).value <= 0  # type: ignore[arg-type]


def test_a_training_without_noise_is_caught(tmp_path: Path) -> None:
    assert excess(trained(Clipping("flat", 1.0), 0.0), tmp_path).value > 0.5


def test_a_training_that_does_not_clip_is_caught(tmp_path: Path) -> None:
    assert excess(trained(Unclipped("flat", 1.0), SIGMA), tmp_path).value > 0.5


def of(count: int, clipping: Clipping, seed: int = 0) -> tuple[GradientCanaries, tuple[Tensor, ...]]:
    parameters = (torch.zeros(4, 5), torch.zeros(5), torch.zeros(5, 15))
    return GradientCanaries.of(parameters, (0, 0, 1), count, clipping, Randomness(seed)), parameters


@pytest.mark.parametrize(
    ("clipping", "norm"),
    [
        (Clipping("flat", 0.5), 0.5),
        (Clipping("automatic", 0.5, 0.01), 0.5 * 50 / 50.01),
        (Clipping("per_layer", 0.5), 0.5 / 2**0.5),
        (Unclipped("flat", 0.5), FAR * 0.5),
    ],
)
def test_each_canary_moves_its_own_coordinate_by_its_clipped_norm(clipping: Clipping, norm: float) -> None:
    canaries, sums = of(100, clipping)
    canaries.add(sums, 1.0)
    flat = torch.cat([s.flatten() for s in sums])
    assert torch.allclose(flat[canaries.coordinates], canaries.included * norm)
    assert int((flat > 0).sum()) == int(canaries.included.sum())
    canaries.seen(sums)
    assert canaries.record().scores == pytest.approx((canaries.included * norm).tolist())


def test_layers_share_the_bound_whether_a_canary_is_there_or_not() -> None:
    one = torch.tensor([3])
    canaries = GradientCanaries([20, 5, 75], (0, 1, 2), one, one > 0, Clipping("per_layer", 1.0), Randomness(0))
    assert float(canaries.clipped_norms()) == pytest.approx(1 / 3**0.5)


def test_the_sum_of_the_true_examples_is_no_part_of_a_score() -> None:
    canaries, sums = of(40, Clipping("flat", 1.0))
    for s in sums:
        s += 7
    canaries.add(sums, 0.0)
    canaries.seen([s + 2 for s in sums])
    assert canaries.record().scores == pytest.approx([2.0] * 40)
    with pytest.raises(RuntimeError, match="added"):
        canaries.seen(sums)


def test_canaries_are_drawn_as_examples_are() -> None:
    canaries, sums = of(100, Clipping("flat", 1.0))
    for _ in range(200):
        canaries.add([torch.zeros_like(s) for s in sums], 0.1)
        canaries.seen(sums)
    counted, sums = of(100, Clipping("flat", 1.0))
    for _ in range(200):
        counted.add(sums, 0.1)
    drawn = torch.cat([s.flatten() for s in sums])[counted.coordinates][counted.included]
    assert abs(float(drawn.mean()) - 20) < 4 * (18 / len(drawn)) ** 0.5
    assert float(drawn.var()) == pytest.approx(18, rel=0.6)
    assert 30 < int(counted.included.sum()) < 70


def test_a_resumed_training_goes_on_with_its_canaries() -> None:
    straight, sums = of(50, Clipping("flat", 1.0))
    stopped, _ = of(50, Clipping("flat", 1.0))
    for canaries in (straight, stopped):
        part = [torch.zeros_like(s) for s in sums]
        canaries.add(part, 0.5)
        canaries.seen(part)
    resumed = GradientCanaries.restored(stopped.state(), sums, (0, 0, 1), Clipping("flat", 1.0), Randomness(0))
    for canaries in (straight, resumed):
        part = [torch.zeros_like(s) for s in sums]
        canaries.add(part, 0.5)
        canaries.seen(part)
    assert resumed.record() == straight.record()


def test_more_canaries_than_weights_are_refused() -> None:
    with pytest.raises(UserError, match="100 trained weights"):
        of(101, Clipping("flat", 1.0))


def test_remembered_wrong_labels_are_told_from_others() -> None:
    rows = digits().train
    assert rows is not None
    x, y = torch.from_numpy(rows.x[:200]) / 16, torch.from_numpy(rows.labels[:200])
    canaries = InputCanaries.of(x, y, 200, Randomness(1), classes=10)
    assert sorted(canaries.rows.tolist()) == list(range(200))
    assert torch.equal(canaries.x, x[canaries.rows])
    assert set(((canaries.y - y[canaries.rows]) % 10).tolist()) == set(range(1, 10))
    genuine = InputCanaries.of(x, y, 50, Randomness(1), classes=10, kind="genuine")
    assert torch.equal(genuine.y, y[genuine.rows])
    again = InputCanaries.restored(canaries.state(), x)
    assert all(torch.equal(a, b) for a, b in zip(vars(again).values(), vars(canaries).values(), strict=True))
    inside, wrong = canaries.x[canaries.included], canaries.y[canaries.included]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(80):
            optimiser.zero_grad()
            each_loss(net(inside), wrong).mean().backward()
            optimiser.step()
    record = canaries.record(net, each_loss)
    assert net.training
    scores, included = torch.tensor(record.scores), torch.tensor(record.included)
    assert float(scores[included].min()) > float(scores[~included].median())
    with pytest.raises(UserError, match="another class"):
        InputCanaries.of(x, y, 9, Randomness(1), classes=1)
    with pytest.raises(UserError, match=r"201 input canaries need .* there are 200: give the data a population"):
        InputCanaries.of(x, y, 201, Randomness(1), classes=10)
