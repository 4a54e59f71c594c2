"""From a file to a registered model: it learns, it spends what it says, and no interruption makes it forget."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from trainable import Recurrent, Softmax, known_entropy

from audit.parameters import UserError
from audit.privacy.accounting import read_training_record, recompute
from audit.registry.store import Registry
from audit.scenario import parse
from audit.train import training as whole
from audit.train.building import losses
from audit.train.checkpoint import TrainingFolder
from audit.train.clipping import Clipping
from audit.train.gradients.functorch import Functorch
from audit.train.ledger import Accounting, Budget
from audit.train.loop import Plain, Rows, Trainer
from audit.train.randomness import Randomness
from audit.train.training import Observer, Trained, train
from audit.train.training_file import Training, TrainingFile, bind_training

FILE = """\
name: private-digits
factory: trainable:Softmax
data: {source: sklearn.digits, split: {test: 0.2}}
epochs: 8
batch: 120
optimiser: {adam: {lr: 0.03}}
dp: {noise_multiplier: 1.2, delta: 1e-4, accountant: rdp, gradients: functorch}
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "home")
    registry.trust.allow_package("trainable")
    return registry


def file(*changes: tuple[str, str]) -> TrainingFile:
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return bind_training(parse(text, "t.yaml"))


SEEDED = ("epochs: 8", "epochs: 8\nseed: 3")


def trainer(*changes: tuple[str, str], sigma: float = 1.0, seed: int | None = 1, n: int = 40) -> Trainer:
    """On rows of noise, by functorch, flat clipping at the file's norm."""
    training = file(*changes).training
    torch.manual_seed(0)
    module = Softmax()
    x, y = torch.rand(n, 1, 8, 8) * 16, torch.randint(0, 10, (n,))
    norm = training.dp.clipping_norm if training.dp else 1.0
    mode = (
        Functorch(module, losses(training), Clipping("flat", norm))
        if training.dp
        else Plain(module, losses(training), Clipping())
    )
    accounting = Accounting(training.batch / n, sigma, 1e-5, "rdp") if training.dp else None
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    return Trainer(training, Budget(5, accounting), mode, optimiser, x, y, Randomness(seed))


# --- the steps ---


def test_no_row_moves_the_sum_by_more_than_the_norm_and_noise_is_made_for_it() -> None:
    made = trainer(("delta: 1e-4", "delta: 1e-4, clipping_norm: 0.5"), sigma=3.0)
    for row in range(10):
        summed, _ = made.summed(torch.tensor([row]), 0)
        assert torch.cat([g.flatten() for g in summed]).norm() <= 0.5 * (1 + 1e-6)
    summed, _ = made.summed(torch.arange(30), 0)
    noise = [
        torch.cat([(a - b).flatten() for a, b in zip(made.noisy(summed, step), summed, strict=True)])
        for step in range(9)
    ]
    assert kstest(torch.cat(noise).numpy() / 1.5, "norm").pvalue > 1e-3


def test_a_step_is_divided_by_the_expected_batch_even_where_no_row_was_drawn(tmp_path: Path) -> None:
    made = trainer(("batch: 120", "batch: 8"))
    before = [p.detach().clone() for p in made.mode.parameters]
    released = made.noisy(made.summed(torch.empty(0, dtype=torch.long), 0)[0], 0)
    made.move(released)
    for old, new, gradient in zip(before, made.mode.parameters, released, strict=True):
        torch.testing.assert_close(old - new, gradient / 8)
        assert gradient.any(), "an empty batch releases noise"


def test_micro_batches_sum_to_the_batch_and_are_halved_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_sum, loss = trainer().summed(torch.arange(20), 0)
    split = trainer(("batch: 120", "batch: 120\nmicro_batch: 7"))
    usual, sizes = split.mode.clipped_sum, []

    def tight(x: torch.Tensor, y: torch.Tensor) -> object:
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return usual(x, y)

    monkeypatch.setattr(split.mode, "clipped_sum", tight)
    parts, same_loss = split.summed(torch.arange(20), 0)
    assert sizes[:2] == [7, 3]
    assert max(sizes[2:]) == 1
    assert loss == pytest.approx(same_loss, rel=1e-5)
    for a, b in zip(whole_sum, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

    fitted = trainer().mode
    fitted.rows = 6
    assert (
        Trainer(split.training, split.budget, fitted, split.optimiser, split.x, split.y, Randomness(1)).micro_batch == 6
    )

    def none(x: torch.Tensor, y: torch.Tensor) -> object:
        raise MemoryError

    monkeypatch.setattr(split.mode, "clipped_sum", none)
    with pytest.raises(UserError, match="a single row's gradient needs more memory"):
        split.summed(torch.arange(2), 0)


def test_shuffled_batches_go_through_every_row_once_an_epoch() -> None:
    shuffled = file(("batch: 120", "batch: 4\nsampler: shuffle")).training
    rows = Rows(10, shuffled, Randomness())
    epochs = [[rows.of(step) for step in steps] for steps in ((0, 1, 2), (3, 4, 5))]
    for epoch in epochs:
        assert [len(part) for part in epoch] == [4, 4, 2]
        assert sorted(torch.cat(epoch).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    resumed = Rows(10, shuffled, Randomness())
    assert torch.equal(resumed.of(4), epochs[1][1]), "an interruption begins no new epoch"
    other = file(("batch: 120", "batch: 4\nsampler: shuffle"), ("lr: 0.03", "lr: 0.02")).training
    assert not torch.equal(Rows(10, other, Randomness()).of(0), epochs[0][0])


def test_the_release_is_counted_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "noisy", killed)
    with TrainingFolder(tmp_path) as folder:
        folder.resume("id", replays=False)
        with pytest.raises(KeyboardInterrupt):
            made.run(folder)
    with TrainingFolder(tmp_path) as folder:
        folder.resume("id", replays=False)
        assert len(folder.releases) == 1


def test_the_baseline_is_neither_clipped_nor_noisy(tmp_path: Path) -> None:
    made = trainer(("{noise_multiplier: 1.2, delta: 1e-4, accountant: rdp, gradients: functorch}", "off"))
    summed, _ = made.summed(torch.arange(40), 0)
    losses(made.training)(made.mode.module(made.x), made.y).sum().backward()
    for parameter, gradient in zip(made.mode.parameters, made.noisy(summed, 0), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(("value", "what"), [(math.nan, "loss"), (1e38, "loss|gradient")])
def test_a_loss_that_is_not_finite_ends_the_training_before_it_is_released(
    tmp_path: Path, value: float, what: str
) -> None:
    made = trainer()
    made.x[:] = value
    with TrainingFolder(tmp_path) as folder:
        folder.resume("id", replays=False)
        with pytest.raises(UserError, match=rf"the ({what}) of \d+ of \d+ rows is (nan|inf) at step \d.*: lower"):
            made.run(folder)


# --- the whole ---


def test_digits_are_learnt_at_epsilon_eight_and_the_ledger_says_so(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_entropy(monkeypatch)

    class Seen(Observer):
        spent: list[float] = []
        steps = 0

        def stepped(self, done: int, loss: float) -> None:
            self.steps += 1

        def measured(self, score: float, epsilon: float | None) -> None:
            assert 0 <= score <= 1
            self.spent.append(epsilon or 0.0)

    seen = Seen()
    made = train(
        file(("noise_multiplier: 1.2", "epsilon: 8"), ("functorch", "auto")), registry, tmp_path / "out", observer=seen
    )
    assert made.score > 0.85
    assert made.record is not None
    record = read_training_record(tmp_path / "out" / "privacy.json")
    assert record == made.record
    assert record.gradient_mode in ("functorch", "hooks", "ghost")
    assert record.canaries is None
    assert (record.steps, record.dataset_size, record.sampler, record.noise) == (96, 1438, "poisson", "entropy")
    assert record.stretches[0].sampling_rate == 120 / 1438
    assert record.claim is not None
    assert 7.8 < record.claim.epsilon <= 8
    assert recompute(record).claim_verdict == "holds"
    assert not made.cautions, "the realised batches are Poisson samples at that rate"
    assert seen.steps == 96
    assert len(seen.spent) == 8
    assert seen.spent == sorted(seen.spent)
    assert seen.spent[-1] <= 8
    card = registry.get("private-digits")
    assert card == made.card
    assert json.loads(registry.ledger(card) or b"")["claim"]["delta"] == 1e-4
    assert len(registry.members(card) or ()) == 1438
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "checkpoint.pt").exists()
    assert registry.open("private-digits").task == "classification"


def test_the_baseline_has_no_ledger(registry: Registry, tmp_path: Path) -> None:
    made = train(
        file(("{noise_multiplier: 1.2, delta: 1e-4, accountant: rdp, gradients: functorch}", "off")),
        registry,
        tmp_path / "out",
    )
    assert made.record is None
    assert registry.ledger(made.card) is None
    assert not (tmp_path / "out" / "privacy.json").exists()
    assert made.score > 0.9


class Killed(Exception):
    """Stands in for a kill at one place."""


def interrupted(given: TrainingFile, registry: Registry, out: Path, after: int) -> None:
    class Killer(Observer):
        def stepped(self, done: int, loss: float) -> None:
            if done == after:
                raise Killed

    with pytest.raises(Killed):
        train(given, registry, out, observer=Killer())


def weights(made: Trained) -> bytes:
    return (made.folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("sampler", "canaries"), [("poisson", "30"), ("shuffle", "{inputs: 30}")])
def test_a_seeded_training_in_parts_is_the_same_to_the_bit(
    registry: Registry, tmp_path: Path, sampler: str, canaries: str
) -> None:
    given = file(
        SEEDED, (":Softmax", ":Flaky"), ("split: {test: 0.2}", "split: {test: 0.2, population: 0.1}"), ("delta: 1e-4", f"delta: 1e-4, canaries: {canaries}"), ("batch: 120", f"batch: 120\nsampler: {sampler}\ncheckpoint_steps: 10\nsteps: 33"), ("epochs: 8\n", "")
    )  # fmt: skip
    at_once = train(given, registry, tmp_path / "a")
    interrupted(given, registry, tmp_path / "b", after=7)  # before the first checkpoint
    interrupted(given, registry, tmp_path / "b", after=25)
    in_parts = train(given, registry, tmp_path / "b")
    assert weights(at_once) == weights(in_parts)
    assert at_once.record is not None
    assert in_parts.record is not None
    assert at_once.record.claim == in_parts.record.claim
    assert at_once.record.batch_sizes == in_parts.record.batch_sizes
    assert at_once.record.canaries == in_parts.record.canaries
    assert at_once.record.canaries is not None
    assert len(at_once.record.canaries.scores) == 30
    assert [s.steps for s in in_parts.record.stretches] == [20, 13]
    assert in_parts.record.noise == "reproducible"
    assert {caution.code for caution in at_once.cautions} == {"noise_reproducible"}
    assert recompute(in_parts.record).claim_verdict == "holds"


def test_without_a_seed_lost_steps_are_spent_and_the_budget_holds(registry: Registry, tmp_path: Path) -> None:
    given = file(("epochs: 8", "steps: 30\ncheckpoint_steps: 10"))
    interrupted(given, registry, tmp_path / "out", after=17)
    seen: list[int] = []

    class Counter(Observer):
        def started(self, budget: Budget, n: int, done: int) -> None:
            seen.append(done)

        def stepped(self, done: int, loss: float) -> None:
            seen.append(done)

    made = train(given, registry, tmp_path / "out", observer=Counter())
    assert seen == [17, *range(18, 31)], "seven steps were lost, and are not had again"
    assert made.record is not None
    assert made.record.claim is not None
    assert made.record.claim.epsilon == Accounting(120 / 1438, 1.2, 1e-4, "rdp").spent(30)[0]
    assert [s.steps for s in made.record.stretches] == [17, 13]


def test_canaries_that_were_in_are_seen(registry: Registry, tmp_path: Path) -> None:
    loud = ("noise_multiplier: 1.2", "noise_multiplier: 0.05, canaries: 60")
    made = train(file(("epochs: 8", "steps: 40"), loud), registry, tmp_path / "out")
    assert made.record is not None
    found = made.record.canaries
    assert found is not None
    inside = [score for score, was in zip(found.scores, found.included, strict=True) if was]
    outside = [score for score, was in zip(found.scores, found.included, strict=True) if not was]
    assert sum(inside) / len(inside) > max(outside)


def test_another_file_does_not_go_on_from_a_checkpoint(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(file(), registry, out, after=3)
    with pytest.raises(UserError, match="unfinished training of another kind"):
        train(file(("noise_multiplier: 1.2", "noise_multiplier: 1.3")), registry, out)
    made = train(file(("epochs: 8", "steps: 5")), registry, out, fresh=True)
    assert made.record is not None
    assert made.record.steps == 5


# --- mistakes ---


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ((":Softmax", ":normed"), r"layer '0' \(BatchNorm2d\) mixes .*: change the factory to nn.GroupNorm\(1, 1\), or let"),
        ((":Softmax", ":no_module"), "made a Tensor, not a torch.nn.Module"),
        ((":Softmax", ":broken"), "failed: RuntimeError: no weights today"),
        (("trainable:", "elsewhere:"), "run `audit model allow elsewhere`"),
        (("Softmax", "Softmax\nkwargs: {answers: 9}"), r"answers two rows in shape \(2, 9\), not \(2, 10\)"),
        (("Softmax", "Softmax\nkwargs: {width: 9}"), "unexpected keyword argument 'width'"),
        (("{adam: {lr: 0.03}}", "{adan: {lr: 0.03}}"), "torch.optim has no 'adan' .*; did you mean 'adam'"),
        (("{adam: {lr: 0.03}}", "{adam: {lr: -1}}"), "optimiser 'adam': ValueError: Invalid learning rate"),
        (("{adam: {lr: 0.03}}", "{adam: {speed: 1}}"), "optimiser 'adam': TypeError: .*'speed'"),
        (("{adam: {lr: 0.03}}", "lbfgs"), "torch.optim has no 'lbfgs'"),
        (("batch: 120", "batch: 2000"), "batch 2000 is larger than the 1438 rows"),
        ((", split: {test: 0.2}", ""), "names no rows to train on"),
        (("epochs: 8", "epochs: 8\nloss: mse"), "labels are classes: use loss cross_entropy"),
        (("sklearn.digits", "sklearn.diabetes"), "labels are numbers: use loss mse"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(registry: Registry, tmp_path: Path, change: tuple[str, str], line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        train(file(change), registry, tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_layers_that_only_autograd_can_do_are_trained_as_others_and_released_as_they_are(
    registry: Registry, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Watcher(Observer):
        def prepared(self, way: str, remarks: Sequence[str]) -> None:
            seen.extend([way, *remarks])

    given = file(("epochs: 8", "steps: 3"), (":Softmax", ":Recurrent"), ("functorch", "hooks"))
    made = train(given, registry, tmp_path / "out", observer=Watcher())
    assert seen[:2] == ["hooks", "layer: GRU is now DPGRU, with its weights"]
    opened = registry.open(made.card.ref)
    assert isinstance(opened.module, Recurrent)
    data = given.source.load(given.base, "sklearn.digits")
    assert float(opened.correct(data.test).float().mean()) == pytest.approx(made.score)
    with pytest.raises(UserError, match=r"gradients: hooks: .*layer 'layer' \(GRU\).*convert"):
        train(file((":Softmax", ":Recurrent"), ("functorch", "hooks, convert: false")), registry, tmp_path / "no")


def test_group_norm_is_released_where_it_was_asked_for(registry: Registry, tmp_path: Path) -> None:
    given = file(("epochs: 8", "steps: 3"), (":Softmax", ":normed"), ("functorch", "hooks, group_norm: true"))
    made = train(given, registry, tmp_path / "out")
    opened = registry.open(made.card.ref)
    assert isinstance(opened.module[0], nn.GroupNorm)  # type: ignore[index]
    assert isinstance(opened.fresh(1)[0], nn.GroupNorm)  # type: ignore[misc]
    data = given.source.load(given.base, "sklearn.digits")
    assert float(opened.correct(data.test).float().mean()) == pytest.approx(made.score)
    assert made.card.recipe is not None
    assert made.card.recipe.epochs == 1  # 3 batches of 120 out of 1438 rows


def test_a_shuffled_training_is_accounted_without_amplification(registry: Registry, tmp_path: Path) -> None:
    private = "noise_multiplier: 1.2, delta: 1e-4, accountant: rdp", "epsilon: 5, delta: 1e-4"
    made = train(file(("epochs: 8", "epochs: 3\nsampler: shuffle"), private), registry, tmp_path / "out")
    assert made.record is not None
    assert made.record.claim is not None
    assert made.record.claim.epsilon == pytest.approx(5)
    assert (made.record.accountant, made.record.steps, made.cautions) == ("gaussian", 36, ())
    assert made.record.history == [(1.0, made.record.stretches[0].sigma, 3)], "three times in all, full batches"


def test_a_way_that_is_asked_for_is_taken(registry: Registry, tmp_path: Path) -> None:
    made = train(file(("epochs: 8", "steps: 2"), ("functorch", "loop")), registry, tmp_path / "out")
    assert made.record is not None
    assert made.record.gradient_mode == "loop"


def test_the_baseline_may_have_batch_norm(registry: Registry, tmp_path: Path) -> None:
    given = file(
        (":Softmax", ":normed"), ("{noise_multiplier: 1.2, delta: 1e-4, accountant: rdp, gradients: functorch}", "off")
    )
    assert train(given, registry, tmp_path / "out").score > 0.8


def test_a_regression_learns_by_squared_error(registry: Registry, tmp_path: Path) -> None:
    registry.trust.allow_package("torch")
    given = file(
        ("trainable:Softmax", "torch.nn:Linear\nkwargs: {in_features: 10, out_features: 1}\nloss: mse"),
        ("sklearn.digits", "sklearn.diabetes"), ("{adam: {lr: 0.03}}", "{adam: {lr: 5}}"), ("batch: 120", "batch: 60"), ("epochs: 8", "epochs: 20"),
        ("{noise_multiplier: 1.2, delta: 1e-4, accountant: rdp, gradients: functorch}", "off"),
    )  # fmt: skip
    made = train(given, registry, tmp_path / "out")
    assert made.card.task == "regression"
    assert math.isfinite(made.score)


def test_delta_above_one_over_n_is_cautioned(registry: Registry, tmp_path: Path) -> None:
    made = train(file(("epochs: 8", "steps: 3"), ("delta: 1e-4", "delta: 1e-3")), registry, tmp_path / "out")
    assert [caution.code for caution in made.cautions] == ["delta_above_1_over_n"]


def test_identity_leaves_out_what_may_change() -> None:
    from audit.data import Batch

    rows = Batch(torch.zeros(1, 2).numpy(), torch.zeros(1).numpy(), ("0" * 16,))
    first = file().training
    same = Training.model_validate(
        first.model_dump() | {"optimiser": {"adam": {"lr": 0.03}}, "micro_batch": 3, "checkpoint_steps": 9, "trials": 4}
    )
    assert whole._identity(first, rows, "c") == whole._identity(same, rows, "c")
    assert whole._identity(first, rows, "c") != whole._identity(first, rows, "d")
    assert whole._identity(first, rows, "c") != whole._identity(file(("batch: 120", "batch: 9")).training, rows, "c")
    bounded = file(("batch: 120", "batch: 120\nmemory_limit: 2 GB")).training
    assert (bounded.memory_limit, bounded.what_is_trained) == (2 * 10**9, first.what_is_trained)
