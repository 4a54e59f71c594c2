"""Which way to per-example gradients to take: of those proven right for the module, the fastest that memory allows."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audit.parameters import UserError
from audit.train.clipping import Clipping
from audit.train.gradients import GradientMode, Loss
from audit.train.gradients._memory import PeakMemory
from audit.train.gradients.functorch import Functorch
from audit.train.gradients.ghost import Ghost
from audit.train.gradients.hooks import Hooks
from audit.train.gradients.loop import Loop
from audit.train.gradients.proving import Proof

MODES: dict[str, type[GradientMode]] = {mode.name: mode for mode in (Hooks, Ghost, Functorch, Loop)}
STEPS, SECONDS = 5, 0.5
"""At most so many steps are timed of each way, in turns, and no more once the fastest alone has taken this long; three at least."""
HOPELESS = 3.0
"""A way that took this many times the fastest's first step is timed no further."""


@dataclass
class _Trial:
    """A way at work on a copy of the module.

    Args:
        rows: that it takes at once.
        seconds: of a whole batch, in pieces of so many rows.
    """

    way: GradientMode
    rows: int
    peak: int
    seconds: float

    def remark(self) -> str:
        return f"{self.way.name}: {self.seconds:.3g} s a batch, {self.rows} rows and at most {self.peak / 1e6:.3g} MB at once"


def choose(
    module: nn.Module,
    loss: Loss,
    clipping: Clipping,
    x: Tensor,
    y: Tensor,
    mode: str = "auto",
    memory_limit: int | None = None,
) -> GradientMode:
    """A way that is right for this module, ready for training; its `remarks` say what was tried and what came of it.

    Each way's clipped sum is held against single examples, in batches of every size that a layer of the module could mistake for its own.
    Those that are right run a batch as training will, dropout included, in pieces halved until they keep to `memory_limit`; the
    fastest is taken. The loop over examples is tried only where nothing else is left. All of it happens on copies.

    Args:
        x, y: a batch of the size that a step takes at once.
        mode: ``auto``, or a name of `MODES`.
        memory_limit: bytes of tensors that may be held at once beyond model and data; none by default.

    Raises:
        UserError: what `Proof` refuses; the mode asked for is unknown, wrong for this module, or beyond the limit.
    """
    if mode != "auto" and mode not in MODES:
        raise UserError(f"gradients: {mode} is no way to per-example gradients; there are auto, {', '.join(MODES)}")
    with torch.random.fork_rng(devices=[]):
        proof = Proof(module, loss, clipping, x, y)
        tried = copy.deepcopy(module).train()
        names = [name for name in MODES if name != Loop.name] if mode == "auto" else [mode]
        remarks: list[str] = []
        trials: list[_Trial] = []
        for name in names:
            # the loop is what others are proven against
            fault = None if name == Loop.name else proof.fault(MODES[name])
            found = fault or _trial(MODES[name](tried, loss, clipping), x, y, memory_limit, proof)
            if isinstance(found, str):
                remarks.append(f"{name}: {found}")
            else:
                trials.append(found)
        if not trials:
            if mode != "auto":
                raise UserError(f"gradients: {remarks[0]}")
            found = _trial(Loop(tried, loss, clipping), x, y, memory_limit, proof)
            if isinstance(found, str):
                raise UserError(
                    f"no way to per-example gradients serves this module; {'; '.join([*remarks, f'loop: {found}'])}"
                )
            trials.append(found)
        if len(trials) > 1:
            _time(trials, x, y)
    trials.sort(key=lambda trial: trial.seconds)
    chosen = MODES[trials[0].way.name](module, loss, clipping)
    chosen.rows = trials[0].rows if trials[0].rows < len(x) or memory_limit is not None else None
    chosen.remarks = (*(trial.remark() for trial in trials), *remarks)
    return chosen


def fitting(way: GradientMode, x: Tensor, y: Tensor, limit: int | None) -> tuple[int, int]:
    """How many of these rows a way can take at once, by halving, and the bytes that it then holds.

    Raises:
        OverLimit: a single row holds more.
    """
    n = len(x)
    while True:
        with PeakMemory() as memory:
            try:
                way.clipped_sum(x[:n], y[:n])
                fits = limit is None or memory.peak <= limit
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                fits = False
        if fits:
            return n, memory.peak
        if n == 1:
            allowed = "there is" if limit is None else f"the {limit / 1e6:.3g} MB allowed"
            raise OverLimit(f"a single row holds {memory.peak / 1e6:.3g} MB at once, more than {allowed}")
        n //= 2


class OverLimit(UserError):
    """A way needs more memory than it may have."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _trial(way: GradientMode, x: Tensor, y: Tensor, limit: int | None, proof: Proof) -> _Trial | str:
    """As many rows as fit, as in training: their memory and time, or why it cannot be."""
    try:
        rows, peak = fitting(way, x, y, limit)
        return _Trial(way, rows, peak, _seconds(way, x[:rows], y[:rows]) * len(x) / rows)
    except OverLimit as error:
        return str(error)
    except Exception as error:  # as in the proof: dropout inside a layer of one's own breaks here alone
        return proof.explained(error)
    finally:
        way.close()


def _time(trials: list[_Trial], x: Tensor, y: Tensor) -> None:
    """The shortest of several steps each, taking turns, so that what else the machine does falls on all alike."""
    best = min(trial.seconds for trial in trials)
    running = [trial for trial in trials if trial.seconds < HOPELESS * best]
    if len(running) == 1:
        return
    for _ in range(max(3, min(STEPS, int(SECONDS / best)))):
        for trial in running:
            _seconds(trial.way, x[:1], y[:1])  # puts hooks on before the clock starts
            again = _seconds(trial.way, x[: trial.rows], y[: trial.rows]) * len(x) / trial.rows
            trial.seconds = min(trial.seconds, again)
            trial.way.close()


def _seconds(way: GradientMode, x: Tensor, y: Tensor) -> float:
    """Of one batch: processor time where one thread does it all, which other programs do not lengthen; else by the clock."""
    accelerated = x.device.type == "cuda"
    clock = time.process_time if torch.get_num_threads() == 1 and x.device.type == "cpu" else time.perf_counter
    if accelerated:
        torch.cuda.synchronize(x.device)  # it answers before it is done
    start = clock()
    way.clipped_sum(x, y)
    if accelerated:
        torch.cuda.synchronize(x.device)
    return clock() - start
