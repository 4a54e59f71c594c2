"""The steps of a training: sample, clip and sum, note the release, add noise, move the parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from audit.parameters import UserError
from audit.rng import generator, key
from audit.train.canaries import GradientCanaries
from audit.train.checkpoint import TrainingFolder
from audit.train.gradients import ClippedSum, GradientMode
from audit.train.gradients.choosing import out_of_memory
from audit.train.interruption import held_back
from audit.train.ledger import Budget
from audit.train.randomness import Randomness
from audit.train.training_file import Training

Stepped = Callable[[int, float], None]
"""Called after each step with the number of steps done and the mean loss of its rows (NaN without rows). It sees the training
rows without noise: it is for the trainer's eyes, no part of what is released."""


class Rows:
    """Which rows each step takes.

    A shuffled order is drawn from the training file, not from its rows, and no secret: its accounting takes it as known. So it
    goes on over interruptions, and no row takes part more than once an epoch.

    Args:
        n: rows to train on.
    """

    def __init__(self, n: int, training: Training, randomness: Randomness) -> None:
        self._n, self._batch, self._randomness = n, training.batch, randomness
        self._shuffled, self._file = training.sampler == "shuffle", training.what_is_trained
        self._order: tuple[int, Tensor] | None = None

    def of(self, step: int) -> Tensor:
        """Positions of the rows of a step; a Poisson sample may be empty."""
        if not self._shuffled:
            return self._randomness.poisson(self._n, self._batch / self._n, step)
        epoch, place = divmod(step, -(-self._n // self._batch))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, torch.from_numpy(generator(0, "order", self._file, epoch).permutation(self._n))
        return self._order[1][place * self._batch : (place + 1) * self._batch]


class Plain(GradientMode):
    """The sum of the gradients as they are, by one backward pass: nothing is clipped."""

    name = "plain"

    def clipped_sum(self, x: Tensor, y: Tensor) -> ClippedSum:
        """See `GradientMode.clipped_sum`; norms of single examples stay unknown, and are NaN."""
        losses = self.loss(self.module(x), y)
        found = torch.autograd.grad(losses.sum(), self.parameters, allow_unused=True)
        sums = tuple(torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True))
        return ClippedSum(sums, losses.new_full((len(x),), math.nan), losses.detach())


class Trainer:
    """A training under way.

    The update of a step is ``(sum of clipped gradients + N(0, (sigma·C)²)) / (q·n)``: the normaliser is the expected batch, whatever
    batch was drawn, and a step whose sample is empty releases noise and counts.

    Args:
        mode: how the clipped sums are computed; `Plain` where the budget has no accounting.
        x, y: all rows that a step may draw.
        present: ``(n,)`` bool, which of them are trained on; the others are drawn and count, and their gradients are 0 (canaries
            that are out). All by default.
        canaries: are added to the sums and seen in what is released.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
    """

    def __init__(
        self,
        training: Training,
        budget: Budget,
        mode: GradientMode,
        optimiser: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        randomness: Randomness,
        canaries: GradientCanaries | None = None,
        present: Tensor | None = None,
    ) -> None:
        self.training, self.budget, self.mode, self.optimiser = training, budget, mode, optimiser
        self.x, self.y, self.present, self.randomness = x, y, present, randomness
        self.micro_batch, self.canaries = min(training.micro_batch, mode.rows or training.micro_batch), canaries
        self._last = math.nan

    def run(
        self, folder: TrainingFolder, stepped: Stepped | None = None, also: Mapping[str, object] | None = None
    ) -> None:
        """Train from where the folder's releases end to the end of the budget.

        An interruption ends it after the step that is under way, with a checkpoint.

        Args:
            also: further things that a checkpoint is to hold.

        Raises:
            UserError: the loss or a gradient is not finite, or one row alone needs more memory than there is.
        """
        self.mode.module.train()
        first = len(folder.releases)
        rows = Rows(len(self.x), self.training, self.randomness)
        saved, saved_at = first, time.monotonic()
        with held_back() as interrupted:
            for step in range(first, self.budget.steps):
                if self.training.seed is not None:  # dropout draws from torch's own generator
                    torch.manual_seed(key(self.training.seed, "step", step) % 2**63)
                taken = rows.of(step)
                summed, loss = self.summed(taken if self.present is None else taken[self.present[taken]], step)
                folder.release(len(taken))  # before there is anything to release: never counted too low
                self.move(self.noisy(summed, step))
                self._last = loss
                if stepped is not None:
                    stepped(step + 1, loss)
                due = self._due(step + 1 - saved, time.monotonic() - saved_at) or step + 1 == self.budget.steps
                if (stop := interrupted()) or due:
                    folder.save(self.state() | dict(also or {}))
                    saved, saved_at = step + 1, time.monotonic()
                if stop:
                    break

    def summed(self, rows: Tensor, step: int) -> tuple[tuple[Tensor, ...], float]:
        """The clipped sum of a step's rows, one micro-batch after the other, and their mean loss."""
        total, loss, start = self.mode.nothing().gradients, 0.0, 0
        while start < len(rows):
            piece = rows[start : start + self.micro_batch]
            try:
                part = self.mode.clipped_sum(self.x[piece], self.y[piece])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if len(piece) == 1:
                    raise UserError("a single row's gradient needs more memory than there is") from error
                self.micro_batch = len(piece) // 2
                continue
            self._require_finite(part, step)
            for whole, some in zip(total, part.gradients, strict=True):
                whole += some
            loss += float(part.losses.sum())
            start += len(piece)
        return total, loss / len(rows) if len(rows) else math.nan

    def noisy(self, summed: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """What a step releases: the sum, with noise for its sensitivity C."""
        if self.budget.accounting is None:
            return summed
        known = self.budget.accounting
        if self.canaries is not None:
            self.canaries.add(summed, known.rate)
        deviation = known.sigma * self.mode.clipping.norm
        noisy = tuple(s + self.randomness.gaussian(s, deviation, step, place) for place, s in enumerate(summed))
        if self.canaries is not None:
            self.canaries.seen(noisy)
        return noisy

    def move(self, released: tuple[Tensor, ...]) -> None:
        """One step of the optimiser along what was released."""
        for parameter, gradient in zip(self.mode.parameters, released, strict=True):
            parameter.grad = gradient / self.training.batch
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        """What a checkpoint holds; no randomness."""
        canaries = {} if self.canaries is None else {"canaries": self.canaries.state()}
        return {"module": self.mode.module.state_dict(), "optimiser": self.optimiser.state_dict(), **canaries}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.mode.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.canaries is not None:
            mode = self.mode
            self.canaries = GradientCanaries.restored(
                state["canaries"], mode.parameters, mode.layers, mode.clipping, self.randomness
            )

    def _due(self, steps: int, seconds: float) -> bool:
        every = self.training.checkpoint_steps
        return seconds >= self.training.checkpoint_seconds or (every is not None and steps >= every)

    def _require_finite(self, part: ClippedSum, step: int) -> None:
        for what, values in (("loss", part.losses), ("gradient", part.norms)):
            bad = ~values.isfinite()
            if not bool(bad.any()) or (what == "gradient" and self.budget.accounting is None):
                continue
            before = "" if math.isnan(self._last) else f" (mean loss of the step before: {self._last:.4g})"
            raise UserError(
                f"the {what} of {int(bad.sum())} of {len(values)} rows is {float(values[bad][0])} at step {step + 1}{before}: lower "
                "the learning rate, or look for missing, infinite and unscaled values in the data"
            )
