"""From a training file to a registered model with its privacy ledger."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from audit.data import AuditData, Batch
from audit.finding import canonical_json
from audit.parameters import UserError
from audit.privacy.accounting import Canaries, Caution, TrainingRecord, record_cautions
from audit.privacy.history import History, Point, when
from audit.privacy.optimiser import optimiser
from audit.registry.card import ModelCard
from audit.registry.importing import import_callable, source_digest
from audit.registry.reference import check_name
from audit.registry.store import Registry
from audit.rng import key
from audit.train import audit_scenario, building
from audit.train.canaries import GradientCanaries, InputCanaries
from audit.train.checkpoint import TrainingFolder
from audit.train.clipping import trained
from audit.train.gradients.converting import reverted
from audit.train.ledger import Budget, batches_of, budget_of, privacy_ledger
from audit.train.loop import Trainer
from audit.train.publishing import published
from audit.train.randomness import Randomness
from audit.train.training_file import Training, TrainingFile

if TYPE_CHECKING:
    from audit.model import InputSpec

_AT_ONCE = 512  # rows of a forward pass without gradients


class Observer:
    """Who watches a training; does nothing."""

    def started(self, budget: Budget, n: int, done: int) -> None:
        """Training begins, or goes on after `done` steps, on `n` rows."""

    def lost(self, steps: int) -> None:
        """So many of the steps done came after the last checkpoint: they are spent, and not in the weights."""

    def prepared(self, way: str, remarks: Sequence[str]) -> None:
        """The way to the gradients was chosen; `remarks` say what was tried and what was converted, one line each."""

    def stepped(self, done: int, loss: float) -> None:
        """A step was done; `loss` is of its rows."""

    def measured(self, score: float, epsilon: float | None) -> None:
        """After each epoch: accuracy (or mean squared error) on the test rows, and an upper bound of what was spent."""


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Args:
        score: accuracy on the test rows; of a regression, the mean squared error.
        record: the privacy ledger; None without privacy.
        cautions: what the ledger shows by itself that its epsilon hides.
    """

    card: ModelCard
    folder: Path
    score: float
    record: TrainingRecord | None
    cautions: tuple[Caution, ...] = ()

    @property
    def scenario(self) -> Path:
        """The scenario that audits it."""
        return self.folder / audit_scenario.NAME


def train(
    file: TrainingFile, registry: Registry, folder: Path, *, fresh: bool = False, observer: Observer | None = None
) -> Trained:
    """Train as the file says, or go on where an interrupted run left off, and register the model.

    Args:
        folder: keeps checkpoints on the way and, in the end, ``model.safetensors``, ``privacy.json``, ``history.jsonl`` and the
            scenario of the model's audit.
        fresh: drop what an interrupted training left in the folder.

    Raises:
        UserError: the factory, the data and the file do not fit together, the folder is another training's, or the training fails.
    """
    training, watcher = file.training, observer or Observer()
    check_name(training.name)
    factory = import_callable(training.factory, registry.trust)
    data = file.source.load(file.base, str(training.data["source"]))
    if data.train is None:
        raise UserError(f"{file.origin}: data '{data.source}' names no rows to train on: add 'split: {{test: 0.3}}'")
    members = data.train
    budget = budget_of(training, len(members) + training.input_canaries)
    identity = _identity(training, members, source_digest(factory))
    with TrainingFolder(folder) as kept, torch.random.fork_rng(devices=[]):
        if fresh:
            kept.clear()
        checkpoint = kept.resume(identity, replays=training.seed is not None or training.dp is None)
        watcher.started(budget, len(members), done := len(kept.releases))
        if lost := done - (checkpoint.releases if checkpoint else 0):
            if lost >= budget.steps:
                raise UserError(f"all {lost} steps were spent before a checkpoint was written: start anew with --fresh")
            watcher.lost(lost)
        under_way = _UnderWay(training, budget, factory, data, members, checkpoint.state if checkpoint else None)
        watcher.prepared(under_way.trainer.mode.name, under_way.remarks)
        history = History(folder, "accuracy" if data.classes else "squared_error", done)
        reached = under_way.run(kept, history, watcher)
        record = None
        if budget.accounting is not None:
            record = privacy_ledger(
                training, budget.accounting, kept.releases, n=len(under_way.trainer.x), data_digest=members.digest,
                noise=under_way.randomness.noise, gradient_mode=under_way.trainer.mode.name, canaries=under_way.seen(),
            )  # fmt: skip
        module = under_way.released()
        card = published(file, registry, module, data, members, record, under_way.examples, folder)
        kept.clear()
    return Trained(card, folder, reached, record, tuple(record_cautions(record)) if record else ())


def _identity(training: Training, members: Batch, code: str | None) -> str:
    """Digest of everything that determines a training; another one may not go on from its checkpoint."""
    parts = {"training": training.what_is_trained, "rows": members.digest, "code": code}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


class _UnderWay:
    """A training with all its parts, from the beginning or from a checkpoint.

    Args:
        state: of the checkpoint.
    """

    def __init__(
        self, training: Training, budget: Budget, factory: Any, data: AuditData, members: Batch,
        state: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self.training, self.budget, self.data, self._n = training, budget, data, len(members)
        if training.seed is None:
            torch.seed()
        else:
            torch.manual_seed(key(training.seed, "weights") % 2**63)
        self.randomness = Randomness(training.seed)
        self._made = building.made(training, factory)
        module, converted = building.in_training(training, self._made)
        x, y = building.inputs(module, members, data.spec), building.targets(members, data, training)
        building.require_answers(module, x, data, training)
        mode = building.gradient_mode(training, module, x, y)
        self.remarks = (*converted, *mode.remarks)
        self.examples, present = self._examples(module, state), None
        if self.examples is not None:
            x, y = torch.cat([x, self.examples.x]), torch.cat([y, self.examples.y])
            present = torch.cat([torch.ones(len(members), dtype=torch.bool), self.examples.included])
        canaries = None
        if training.dp is not None and training.dp.canaries is not None and training.dp.canaries.gradients is not None:
            count = training.dp.canaries.gradients
            canaries = GradientCanaries.of(mode.parameters, mode.layers, count, mode.clipping, self.randomness)
        steps = optimiser(training.optimiser, [p for _, p in trained(module)])
        self.trainer = Trainer(training, budget, mode, steps, x, y, self.randomness, canaries, present)
        if state is not None:
            self.trainer.restore(state)

    def _examples(self, module: nn.Module, state: Mapping[str, Any] | None) -> InputCanaries | None:
        if self.training.dp is None or self.training.dp.canaries is None or not self.training.input_canaries:
            return None
        pool = self.data.population
        if pool is None:
            pool = self.data.test.take(torch.arange(0))  # no row to take: the refusal says what to do
        x, y = building.inputs(module, pool, self.data.spec), building.targets(pool, self.data, self.training)
        if state is not None:
            return InputCanaries.restored(state["examples"], x)
        return InputCanaries.of(
            x, y, self.training.input_canaries, self.randomness, classes=len(self.data.classes),
            kind=self.training.dp.canaries.kind,
        )  # fmt: skip

    def run(self, kept: TrainingFolder, history: History, watcher: Observer) -> float:
        """Train to the end of the budget; the score that is reached."""
        steps, module = self.budget.steps, self.trainer.mode.module
        points = when(steps, batches_of(self.training, len(self.trainer.x)))
        spent: Sequence[float | None] = [None] * len(points)
        if self.budget.accounting is not None:
            spent = self.budget.accounting.curve(points)
        due = dict(zip(points, spent, strict=True))
        reached, sums = math.nan, []

        def stepped(done: int, loss: float) -> None:
            nonlocal reached, sums
            watcher.stepped(done, loss)
            if not math.isnan(loss):
                sums.append(loss)
            if done in due:
                reached = score(module, self.data.test, self.data.spec, self.training)
                history.add(Point(done, sum(sums) / len(sums) if sums else math.nan, reached, due[done]))
                watcher.measured(reached, due[done])
                sums = []

        examples = {} if self.examples is None else {"examples": self.examples.state()}
        self.trainer.run(kept, stepped, examples)
        self.trainer.mode.close()
        if math.isnan(reached):  # killed after the last step
            reached = score(module, self.data.test, self.data.spec, self.training)
            history.add(Point(steps, math.nan, reached, due[steps]))
        return reached

    def seen(self) -> Canaries | None:
        """What the canaries' scores say of who was in."""
        if self.examples is not None:
            return self.examples.record(self.trainer.mode.module, building.losses(self.training))
        return self.trainer.canaries.record() if self.trainer.canaries else None

    def released(self) -> nn.Module:
        """The trained module, of the layers that the factory gives it."""
        module = self.trainer.mode.module
        return module if module is self._made else reverted(self._made, module)


def score(module: nn.Module, rows: Batch, spec: InputSpec, training: Training) -> float:
    """Accuracy on the rows; of a regression, the mean squared error. The module stays in its mode."""
    was = module.training
    module.eval()
    with torch.no_grad():
        answers: Tensor = torch.cat(
            [module(part) for part in torch.split(building.inputs(module, rows, spec), _AT_ONCE)]
        )
    module.train(was)
    y = torch.from_numpy(rows.labels)
    if training.loss == "mse":
        return float((answers.reshape(len(y)) - y).square().mean())
    return float((answers.argmax(dim=1) == y).float().mean())
