"""From a training file to a registered model with its privacy ledger."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audit.data import AuditData, Batch
from audit.finding import canonical_json
from audit.names import nearest
from audit.parameters import UserError
from audit.privacy.accounting import Caution, TrainingRecord, record_cautions
from audit.privacy.rdp import rdp_epsilon
from audit.registry.card import ModelCard
from audit.registry.importing import import_callable, one_line, source_digest
from audit.registry.loaders.state_dict import input_dtype
from audit.registry.reference import check_name
from audit.registry.store import Registry
from audit.rng import key
from audit.train.canaries import GradientCanaries
from audit.train.checkpoint import TrainingFolder, write_whole
from audit.train.clipping import Clipping, trained
from audit.train.gradients import GradientMode, Loss
from audit.train.gradients.choosing import choose
from audit.train.ledger import Budget, as_json, budget_of, privacy_ledger
from audit.train.loop import Plain, Trainer
from audit.train.randomness import Randomness
from audit.train.training_file import Training, TrainingFile

if TYPE_CHECKING:
    from audit.model import InputSpec

_AT_ONCE = 512  # rows of a forward pass without gradients
_UNHASHED = {
    "checkpoint_seconds",
    "checkpoint_steps",
    "micro_batch",
    "trials",
}  # may change while a training is interrupted


class Observer:
    """Who watches a training; does nothing."""

    def started(self, budget: Budget, n: int, done: int) -> None:
        """Training begins, or goes on after `done` steps, on `n` rows."""

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


def train(
    file: TrainingFile, registry: Registry, folder: Path, *, fresh: bool = False, observer: Observer | None = None
) -> Trained:
    """Train as the file says, or go on where an interrupted run left off, and register the model.

    Args:
        folder: keeps checkpoints on the way and, in the end, ``model.safetensors`` and ``privacy.json``.
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
    budget = budget_of(training, len(members))
    identity = _identity(training, members, source_digest(factory))
    with TrainingFolder(folder) as kept, torch.random.fork_rng(devices=[]):
        if fresh:
            kept.clear()
        checkpoint = kept.resume(identity, replays=training.seed is not None or training.dp is None)
        trainer = _trainer(training, budget, factory, data, members)
        if checkpoint is not None:
            trainer.restore(checkpoint.state)
        module = trainer.mode.module
        watcher.started(budget, len(members), len(kept.releases))
        every = max(1, len(members) // training.batch)

        def stepped(done: int, loss: float) -> None:
            watcher.stepped(done, loss)
            if observer is not None and done % every == 0 and done < budget.steps:
                watcher.measured(score(module, data.test, data.spec, training), _bound(budget, done))

        trainer.run(kept, stepped)
        trainer.mode.close()
        reached = score(module, data.test, data.spec, training)
        record = None
        if budget.accounting is not None:
            record = privacy_ledger(
                training, budget.accounting, kept.releases, n=len(members), data_digest=members.digest,
                noise=trainer.randomness.noise, gradient_mode=trainer.mode.name,
                canaries=trainer.canaries.record() if trainer.canaries else None,
            )  # fmt: skip
        card = _registered(training, registry, module, data, members, record, folder)
        kept.clear()
    return Trained(card, folder, reached, record, tuple(record_cautions(record)) if record else ())


def _identity(training: Training, members: Batch, code: str | None) -> str:
    """Digest of everything that determines a training; another one may not go on from its checkpoint."""
    parts = {"training": training.model_dump(mode="json", exclude=_UNHASHED), "rows": members.digest, "code": code}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _bound(budget: Budget, steps: int) -> float | None:
    """What so many steps spend at most: by RDP, quick enough to show on the way, and never more than all of them do."""
    known = budget.accounting
    if known is None:
        return None
    so_far = rdp_epsilon([(known.rate, known.sigma, steps)], known.delta).epsilon
    return min(so_far, known.spent(budget.steps)[0])


# --- the parts of a training ---------------------------------------------------------------------------------------


def _trainer(training: Training, budget: Budget, factory: Any, data: AuditData, members: Batch) -> Trainer:
    if training.seed is None:
        torch.seed()
    else:
        torch.manual_seed(key(training.seed, "weights") % 2**63)
    module = _module(training, factory)
    x, y = inputs(module, members, data.spec), _targets(members, data, training)
    loss = losses(training)
    _require_answers(module, loss, x, y, data, training)
    mode, randomness = _mode(training, module, loss, x, y), Randomness(training.seed)
    canaries = None
    if training.dp is not None and training.dp.canaries is not None:
        canaries = GradientCanaries.of(mode.parameters, mode.layers, training.dp.canaries, mode.clipping, randomness)
    return Trainer(training, budget, mode, _optimiser(training, module), x, y, randomness, canaries)


def _module(training: Training, factory: Any) -> nn.Module:
    try:
        module = factory(**training.kwargs)
    except Exception as error:  # someone else's code may raise anything
        raise UserError(f"factory '{training.factory}' failed: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"factory '{training.factory}' made a {type(module).__name__}, not a torch.nn.Module")
    if not trained(module):
        raise UserError(f"factory '{training.factory}' made a module without parameters to train")
    return module


def inputs(module: nn.Module, rows: Batch, spec: InputSpec) -> Tensor:
    """Rows as the module takes them: numbers in its own type, texts as int64 code points."""
    x = torch.from_numpy(rows.x)
    return x.long() if spec.kind == "text" else x.to(input_dtype(module))


def _targets(rows: Batch, data: AuditData, training: Training) -> Tensor:
    if bool(data.classes) != (training.loss == "cross_entropy"):
        kind = "classes: use loss cross_entropy" if data.classes else "numbers: use loss mse"
        raise UserError(f"loss {training.loss} does not fit data '{data.source}', whose labels are {kind}")
    y = torch.from_numpy(rows.labels)
    return y.long() if data.classes else y.float()


def losses(training: Training) -> Loss:
    """The file's loss, one value per row."""
    if training.loss == "mse":
        return lambda answers, y: (answers.reshape(len(y)) - y).square()
    return lambda answers, y: functional.cross_entropy(answers, y, reduction="none")


def _require_answers(module: nn.Module, loss: Loss, x: Tensor, y: Tensor, data: AuditData, training: Training) -> None:
    """Refuse a module that does not answer these rows, before a step is spent on it."""
    module.eval()
    try:
        with torch.no_grad():
            answer = module(x[:2])
    except Exception as error:  # someone else's code may raise anything
        raise UserError(
            f"the module of '{training.factory}' does not take data '{data.source}': {one_line(error)}"
        ) from error
    width = len(data.classes)
    wanted = f"({len(x[:2])}, {width})" if width else f"({len(x[:2])}, 1)"
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else None
    fits = shape == (len(x[:2]), width) if width else shape in ((len(x[:2]),), (len(x[:2]), 1))
    if not fits:
        got = f"shape {shape}" if shape is not None else f"a {type(answer).__name__}"
        raise UserError(f"the module of '{training.factory}' answers two rows in {got}, not {wanted}")


def _mode(training: Training, module: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> GradientMode:
    dp = training.dp
    if dp is None:
        return Plain(module, loss, Clipping())
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise UserError(
                f"layer '{name}' is a {type(layer).__name__}, which mixes the rows of a batch, so that no row's gradient is its "
                "own: use GroupNorm in its place"
            )
    few = min(training.batch, training.micro_batch)
    return choose(module, loss, Clipping(dp.clipping, dp.clipping_norm), x[:few], y[:few], dp.gradients)


def _optimiser(training: Training, module: nn.Module) -> torch.optim.Optimizer:
    name, parameters = training.optimiser
    known = {
        found.lower(): kind
        for found, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and found not in ("Optimizer", "LBFGS", "SparseAdam")
    }
    if name.lower() not in known:
        guess = nearest(name.lower(), sorted(known))
        raise UserError(
            f"torch.optim has no '{name}' that trains by steps of a dense gradient"
            + (f"; did you mean '{guess}'?" if guess else f"; known: {', '.join(sorted(known))}")
        )
    try:
        made: torch.optim.Optimizer = known[name.lower()]([p for _, p in trained(module)], **parameters)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimiser '{name}': {one_line(error)}") from error
    return made


# --- what comes of it ----------------------------------------------------------------------------------------------


def score(module: nn.Module, rows: Batch, spec: InputSpec, training: Training) -> float:
    """Accuracy on the rows; of a regression, the mean squared error. The module stays in its mode."""
    was = module.training
    module.eval()
    with torch.no_grad():
        answers = torch.cat([module(part) for part in torch.split(inputs(module, rows, spec), _AT_ONCE)])
    module.train(was)
    y = torch.from_numpy(rows.labels)
    if training.loss == "mse":
        return float((answers.reshape(len(y)) - y).square().mean())
    return float((answers.argmax(dim=1) == y).float().mean())


def _registered(
    training: Training, registry: Registry, module: nn.Module, data: AuditData, members: Batch,
    record: TrainingRecord | None, folder: Path,
) -> ModelCard:  # fmt: skip
    """Write model and ledger, and register them."""
    from safetensors.torch import save_model

    model, ledger = folder / "model.safetensors", folder / "privacy.json"
    new = folder / "model.safetensors.new"
    save_model(module.eval(), str(new))
    new.replace(model)
    if record is None:
        ledger.unlink(missing_ok=True)
    else:
        write_whole(ledger, as_json(record))
    return registry.add(
        training.name, model, loader="state_dict", parameters={"factory": training.factory, "kwargs": training.kwargs},
        task="classification" if data.classes else "regression", classes=data.classes or None, spec=data.spec,
        output="logit" if data.classes else "value", members=members.ids, ledger=as_json(record) if record else None,
    )  # fmt: skip
