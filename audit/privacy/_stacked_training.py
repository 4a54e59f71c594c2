"""Training of shadow modules as stacks: who is in which, on which rows, by which recipe, kept on the way and at the end."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from audit import __version__
from audit.model import AuditedModel, OutputSpace
from audit.parameters import NotApplicable, UserError
from audit.privacy._stacked import Alone, Stack, named_tensors, stack_height, stacked_tensors, way_for
from audit.privacy._stacked_cache import Entry, StackCache, as_bytes, pack, unpack
from audit.privacy.optimiser import optimiser
from audit.privacy.shadow_models import Part, Progress, Trained
from audit.recipe import Recipe
from audit.registry.loaders.state_dict import input_dtype
from audit.rng import generator, key

MOST_EPOCHS = 100
"""Of a training whose recipe is not known, where it does not get as far as the model under audit before."""
CHECKPOINT_SECONDS = 20.0
"""Between checkpoints: what a kill costs at most."""
_MEASURED = 1000  # rows of each shadow that tell how far it is
_FEW = 4  # rows of a proof
_TOLD_EVERY = 16  # steps
_ELEMENTWISE = {"adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd"}
"""Optimisers that move every number by its own gradients alone: on a stack they do what they do on each module."""


def train_stacked(
    model: AuditedModel, x: NDArray[Any], labels: NDArray[Any], inside: NDArray[np.bool_], recipe: Recipe | None,
    reach: float | None, seed: int, cache: Path, progress: Progress,
) -> Trained:  # fmt: skip
    """Train a torch module's shadows; see `audit.privacy.shadow_models.train_shadows`."""
    plan = _Plan.of(model, recipe, reach)
    maker = _Maker(model, x, seed)
    work = _Work(plan, maker, torch.from_numpy(np.ascontiguousarray(labels)).long(), inside, seed)
    kept = StackCache(cache / work.digest)
    epochs, fresh, done = plan.recipe.epochs, 0, 0
    for group in work.groups:
        found, size = _finished(kept, group), len(group.members)
        if found is None:

            def told(steps: int, of: int, before: int = done, size: int = size) -> None:
                progress(before * of + steps * size, len(inside) * of, "shadow models")

            found = _train_group(work, group, epochs, kept, told)
            fresh += size
        epochs = found.about["epochs"]  # the first group finds how long; the others are trained alike
        done += size
    return Trained(lambda inputs: _parts(work, kept, inputs), len(model.classes), fresh, plan.note(epochs))


# --- what is trained, and how ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """A recipe, where it is from, and how accurate shadows are to become where it is only assumed."""

    recipe: Recipe
    source: str
    until: float | None

    @classmethod
    def of(cls, model: AuditedModel, recipe: Recipe | None, reach: float | None) -> _Plan:
        """The recipe given, else the model's own, else an assumed one."""
        for found, source in ((recipe, "the recipe given"), (model.recipe, "the model's own recipe")):
            if found is not None:
                if found.loss != "cross_entropy":
                    raise NotApplicable(f"shadow models learn classes: loss {found.loss} is for numbers")
                return cls(found, source, None)
        return cls(Recipe(epochs=MOST_EPOCHS), "an assumed recipe, for the model's own is not known", reach)

    def note(self, epochs: int) -> str:
        """How the shadows were trained."""
        name, parameters = self.recipe.optimiser
        shown = ", ".join(f"{k}={v}" for k, v in parameters.items())
        return f"trained by {self.source}: {epochs} epoch{'s' * (epochs != 1)} in batches of {self.recipe.batch} by {name}({shown})"


class _Whole(nn.Module):
    """A module with what the model under audit does around it, such as splitting a text into tokens."""

    def __init__(self, model: AuditedModel, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.model, self.around = inner, model, model.with_module(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.around.logits(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Whole:
        made = _Whole(self.model, copy.deepcopy(self.inner, memo))
        made.train(self.training)
        return made


class _Maker:
    """Makes untrained modules, and inputs as they take them.

    Args:
        x: ``(N, …)`` rows of the pool.
        seed: of initial weights.
    """

    def __init__(self, model: AuditedModel, x: NDArray[Any], seed: int) -> None:
        self.model, self._seed = model, seed
        self.direct = self._same_answers(x[:_FEW])
        """Whether the module takes rows as they are; else it runs inside all that the model does around it."""
        self.output: OutputSpace = model.output if self.direct else "logit"
        self.x = self.fed(x)

    def untrained(self, shadow: int) -> nn.Module:
        """The module of a shadow as its training begins, with initial weights of its own."""
        assert self.model.fresh is not None
        made = self.model.fresh(key(self._seed, "shadow", shadow) % 2**31)
        if not isinstance(made, nn.Module):
            raise UserError(f"model '{self.model.name}' makes a {type(made).__name__} anew, not a torch.nn.Module")
        made.to(self.model.device).train()
        return made if self.direct else _Whole(self.model, made)

    def fed(self, x: NDArray[Any]) -> Tensor:
        """Rows of a batch as `untrained` takes them."""
        found = torch.from_numpy(np.ascontiguousarray(x)).to(self.model.input_dtype).to(self.model.device)
        return self._cast(found) if self.direct else found

    def _cast(self, x: Tensor) -> Tensor:
        assert self.model.module is not None
        return x.long() if self.model.spec.kind == "text" else x.to(input_dtype(self.model.module))

    def _same_answers(self, x: NDArray[Any]) -> bool:
        module = self.model.module
        assert module is not None
        rows = torch.from_numpy(np.ascontiguousarray(x)).to(self.model.input_dtype).to(self.model.device)
        try:
            with torch.no_grad():
                alone = module(self._cast(rows))
        except (
            Exception
        ):  # a module fed with what it was not written for may raise anything: it is fed through the model
            return False
        answers = self.model.scores(rows)
        return isinstance(alone, Tensor) and alone.shape == answers.shape and torch.allclose(alone, answers)


@dataclass(frozen=True)
class _Group:
    """Shadows that are trained as one stack.

    Args:
        members: their places among all.
        rows: ``(s, n)`` positions of each one's own rows, equally many.
    """

    members: tuple[int, ...]
    rows: NDArray[np.intp]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"shadows-{self.members[0]}-{self.members[-1]}-{len(self.members)}"


class _Work:
    """All shadows: in which groups, in which way, and what they are determined by."""

    def __init__(self, plan: _Plan, maker: _Maker, labels: Tensor, inside: NDArray[np.bool_], seed: int) -> None:
        self.plan, self.maker, self.seed, self.inside = plan, maker, seed, inside
        self.labels = labels.to(maker.x.device)
        self.base = maker.untrained(0)

    @cached_property
    def way(self) -> type[Stack]:
        """How a stack runs."""
        two = [self.base, self.maker.untrained(1)]
        rows = torch.arange(2 * _FEW, device=self.maker.x.device) % len(self.maker.x)
        return way_for(two, self.maker.x[rows].view(2, _FEW, *self.maker.x.shape[1:]))

    @property
    def training_way(self) -> type[Stack]:
        """How a stack is trained: an optimiser that looks across a tensor must not see those of others."""
        return self.way if self.plan.recipe.optimiser[0].lower() in _ELEMENTWISE else Alone

    @cached_property
    def groups(self) -> list[_Group]:
        """Shadows with equally many rows, as many at a time as `stack_height` allows."""
        height = stack_height(self.base, self.maker.x[: self.plan.recipe.batch])
        sizes = self.inside.sum(axis=1)
        groups: list[_Group] = []
        for size in np.unique(sizes):
            alike = np.flatnonzero(sizes == size)
            for part in np.array_split(alike, math.ceil(len(alike) / height)):
                rows = np.stack([np.flatnonzero(self.inside[shadow]) for shadow in part])
                groups.append(_Group(tuple(int(shadow) for shadow in part), rows))
        return groups

    @cached_property
    def digest(self) -> str:
        """Of everything that determines the trained weights."""
        found = hashlib.blake2b(digest_size=16)
        parts = {
            "versions": [__version__, torch.__version__, np.__version__],
            "structure": repr(self.base),
            "code": sorted({_source(type(part)) for part in self.base.modules()}),
            "around": None if self.maker.direct else self.maker.model.digest,
            "output": self.maker.output,
            "recipe": self.plan.recipe.model_dump(mode="json"),
            "until": self.plan.until,
            "seed": self.seed,
            "shapes": [self.maker.x.shape, self.inside.shape],
        }
        found.update(json.dumps(parts, sort_keys=True).encode())
        for name, tensor in named_tensors(self.base).items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(as_bytes(tensor))
        for tensor in (self.maker.x, self.labels):
            found.update(as_bytes(tensor))
        found.update(np.packbits(self.inside).tobytes())
        return found.hexdigest()


def _source(kind: type) -> str:
    """A class's code; torch's own is known by torch's version."""
    if kind.__module__.startswith("torch."):
        return kind.__qualname__
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # defined where no source is kept
        return kind.__qualname__


# --- training -------------------------------------------------------------------------------------------------------


def _finished(kept: StackCache, group: _Group) -> Entry | None:
    found = kept.read(group.name)
    return found if found is not None and found.about.get("members") == list(group.members) else None


def _train_group(work: _Work, group: _Group, epochs: int, kept: StackCache, told: Callable[[int, int], None]) -> Entry:
    """Train a stack from its beginning or its checkpoint; at most so many epochs."""
    under_way = f"{group.name}-checkpoint"
    training = _Training(work, group, kept.read(under_way))
    saved = time.monotonic()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            while training.step < epochs * training.per_epoch:
                training.advance()
                if training.step % _TOLD_EVERY == 0:
                    told(training.step, epochs * training.per_epoch)
                if training.step % training.per_epoch == 0 and training.arrived():
                    break
                if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    kept.write(under_way, training.entry())
                    saved = time.monotonic()
    except (KeyboardInterrupt, TimeoutError):  # asked to stop: nothing is lost
        kept.write(under_way, training.entry())
        raise
    about = {"members": list(group.members), "epochs": training.step // training.per_epoch, "way": training.stack.name}
    entry = Entry(training.stack.state(), about)
    kept.write(group.name, entry)
    kept.drop(under_way)
    return entry


class _Training:
    """A stack under training.

    Args:
        entry: a checkpoint to go on from.
    """

    def __init__(self, work: _Work, group: _Group, entry: Entry | None) -> None:
        self.work, self.group, self.step, self._loss = work, group, 0, 0.0
        recipe = work.plan.recipe
        if entry is None:
            tensors = stacked_tensors([work.maker.untrained(member) for member in group.members])
        else:
            tensors = {n: t for n, t in entry.tensors.items() if not n.startswith("optimiser.")}
            tensors = {n.removeprefix("module."): t for n, t in tensors.items()}
        self.stack = work.training_way(work.base, tensors)
        self.stack.train()
        self.optimiser = optimiser(recipe.optimiser, self.stack.parameters, fused=True)
        if entry is not None:
            unpack(self.optimiser, entry.tensors, entry.about["optimiser"])
            self.step = entry.about["step"]
        size = group.rows.shape[1]
        batches = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in work.base.modules())
        # one row has no variance to normalise a batch by
        self._used = size - 1 if batches and size % recipe.batch == 1 and size > 1 else size
        self.per_epoch = math.ceil(self._used / recipe.batch)
        self._order: tuple[int, Tensor] | None = None

    def advance(self) -> None:
        """One step of every shadow on rows of its own.

        Raises:
            UserError: a loss is not finite.
        """
        work, batch = self.work, self.work.plan.recipe.batch
        epoch, place = divmod(self.step, self.per_epoch)
        rows = self._rows_of(epoch)[:, place * batch : (place + 1) * batch]
        # dropout; torch.manual_seed does the same and, for accelerators, formats a stack trace each time
        torch.default_generator.manual_seed(key(work.seed, "chance", self.group.members[0], self.step) % 2**63)
        said = log_probabilities(self.stack(work.maker.x[rows]), work.maker.output)
        truth = work.labels[rows]
        loss = functional.nll_loss(said.flatten(0, 1), truth.flatten(), reduction="sum") / rows.shape[1]
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        if self.step % self.per_epoch == 0 and not bool(loss.isfinite()):
            raise UserError(
                f"a shadow model's loss is not finite after {epoch + 1} epochs: give a recipe with a lower learning rate, or look for "
                "missing and infinite values in the data"
            )

    def arrived(self) -> bool:
        """Whether the shadows get as many of their own rows right as the model under audit does, on average."""
        until = self.work.plan.until
        if until is None:
            return False
        size = self.group.rows.shape[1]
        some = torch.from_numpy(self.group.rows[:, np.linspace(0, size - 1, min(size, _MEASURED)).astype(np.intp)])
        self.stack.train(False)
        with torch.no_grad():
            right = [
                log_probabilities(self.stack(self.work.maker.x[part]), self.work.maker.output).argmax(dim=2)
                == self.work.labels[part]
                for part in torch.split(some, self.work.plan.recipe.batch, dim=1)
            ]
        self.stack.train()
        return float(torch.cat(right, dim=1).double().mean()) >= until

    def entry(self) -> Entry:
        """A checkpoint."""
        tensors, plain = pack(self.optimiser)
        state = {f"module.{name}": tensor for name, tensor in self.stack.state().items()}
        return Entry({**state, **tensors}, {"step": self.step, "optimiser": plain})

    def _rows_of(self, epoch: int) -> Tensor:
        """``(s, n)`` rows of every shadow in its own order of this epoch."""
        if self._order is None or self._order[0] != epoch:
            order = [
                generator(self.work.seed, "order", member, epoch).permutation(rows)[: self._used]
                for member, rows in zip(self.group.members, self.group.rows, strict=True)
            ]
            self._order = epoch, torch.from_numpy(np.stack(order))
        return self._order[1]


# --- what trained shadows say ---------------------------------------------------------------------------------------


def log_probabilities(answers: Tensor, output: OutputSpace) -> Tensor:
    """``(S, B, C)`` of modules' answers in their output space, ``(S, B, C)`` or, of margins, ``(S, B)`` or ``(S, B, 1)``."""
    if output == "margin":
        margin = answers.reshape(answers.shape[:2])
        return torch.stack([functional.logsigmoid(-margin), functional.logsigmoid(margin)], dim=2)
    if output == "probability":
        return answers.clamp_min(torch.finfo(answers.dtype).tiny).log()
    return functional.log_softmax(answers, dim=2)


def _parts(work: _Work, kept: StackCache, inputs: NDArray[Any]) -> Iterator[Part]:
    """Answers of every group to a batch after another."""
    x = work.maker.fed(inputs)
    for group in work.groups:
        found = _finished(kept, group)
        if found is None:
            raise UserError(f"shadow models were taken out of {kept.folder} while they were in use: run again")
        stack = work.way(work.base, found.tensors)
        stack.train(False)
        start = 0
        for rows in torch.split(x, work.plan.recipe.batch):
            with torch.no_grad():
                answers = stack(rows.expand(stack.count, *rows.shape))
            if not bool(answers.isfinite().all()):
                raise UserError("a shadow model answers NaN or infinity: give a recipe with a lower learning rate")
            said = log_probabilities(answers.double(), work.maker.output)
            yield np.array(group.members), slice(start, start + len(rows)), said.cpu().numpy()
            start += len(rows)
