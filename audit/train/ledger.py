"""What a training may spend, what it spent, and the privacy ledger that says so."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal, cast

from audit.bridges.opacus import noise_multiplier, prv_curve, prv_epsilon
from audit.parameters import UserError
from audit.privacy import gaussian, rdp
from audit.privacy.accounting import Canaries, Claim, Stretch, TrainingRecord
from audit.train.training_file import Training

Accountant = Literal["prv", "rdp", "gaussian"]
_SLACK = 1e-9  # relative: the noise search and the count of steps may round differently


@dataclass(frozen=True)
class Release:
    """One noisy gradient that a training gave away.

    Args:
        part: which run of the program it belongs to: 0, and one more after each resumption.
        step: its number, from 0.
        size: rows that were sampled.
    """

    part: int
    step: int
    size: int


@dataclass(frozen=True)
class Accounting:
    """The Gaussian mechanism of a training: what a number of its steps spends.

    Args:
        rate: chance q of a row to be in one batch; of shuffled batches, the share of an epoch that one is.
        sigma: noise multiplier.
        accountant: ``prv`` and ``rdp`` of Poisson samples, ``gaussian`` of shuffled batches, without amplification.
    """

    rate: float
    sigma: float
    delta: float
    accountant: Accountant

    def spent(self, steps: int) -> tuple[float, Accountant]:
        """Epsilon of so many steps, and the accountant that gave it (RDP stands in where PRV fails)."""
        return _spent(self, steps) if steps else (0.0, self.accountant)

    def curve(self, counts: Sequence[int]) -> list[float]:
        """Epsilon after each of several numbers of steps, at little more than the price of one."""
        if self.accountant == "prv":
            return prv_curve(self.rate, self.sigma, counts, self.delta)
        return [self.spent(steps)[0] for steps in counts]

    def steps_within(self, epsilon: float, most: int) -> int:
        """The largest number of steps, up to `most`, that spends no more than `epsilon`."""
        limit = epsilon * (1 + _SLACK)
        if self.spent(most)[0] <= limit:
            return most
        low, high = 0, most  # spent(low) is within, spent(high) is not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.spent(middle)[0] <= limit else (low, middle)
        return low


@lru_cache(maxsize=64)  # the claim asks again for what the budget was tried with, and PRV takes a second
def _spent(known: Accounting, steps: int) -> tuple[float, Accountant]:
    history = [(known.rate, known.sigma, steps)]
    if known.accountant == "gaussian":
        mu = gaussian.full_batch_mu(gaussian.fixed_order(history))
        return gaussian.gaussian_epsilon(mu or 0.0, known.delta), "gaussian"
    if known.accountant == "rdp":
        return rdp.rdp_epsilon(history, known.delta).epsilon, "rdp"
    found = prv_epsilon(history, known.delta)
    return found.epsilon, found.accountant


@dataclass(frozen=True)
class Budget:
    """How long a training goes on, and, where it is private, under which accounting.

    Args:
        steps: it never releases more.
        fallback: why PRV did not choose the noise level; None where it did, or was not asked.
    """

    steps: int
    accounting: Accounting | None = None
    fallback: str | None = None


def steps_of(training: Training, n: int) -> int:
    """Steps that a training file asks for on `n` rows: an epoch of Poisson samples is n/batch of them, on average."""
    if training.steps is not None:
        return training.steps
    epochs = training.epochs or 0
    return epochs * batches_of(training, n) if training.sampler == "shuffle" else -(-epochs * n // training.batch)


def batches_of(training: Training, n: int) -> int:
    """Batches of a shuffled epoch; the last may be short."""
    return -(-n // training.batch)


def budget_of(training: Training, n: int) -> Budget:
    """The budget of a training on `n` rows. The sampling rate is the one that is drawn with: batch/n, not one over a number of batches.

    Shuffled batches are accounted as if their order were known, one Gaussian mechanism an epoch (Chua et al. 2024,
    arXiv:2403.17673): sampling amplifies nothing that is proven of them.

    Raises:
        UserError: a batch is larger than the data, or no noise level keeps the target.
    """
    if training.batch > n:
        raise UserError(f"batch {training.batch} is larger than the {n} rows to train on: make it at most {n}")
    steps, dp = steps_of(training, n), training.dp
    if dp is None:
        return Budget(steps)
    rate, fallback, sigma = training.batch / n, None, dp.noise_multiplier
    limit, accountant = dp.max_epsilon, cast(Accountant, dp.accountant)
    if training.sampler == "shuffle":
        rate, accountant = 1 / batches_of(training, n), "gaussian"
    if dp.epsilon is not None:
        limit = dp.epsilon
        if accountant == "gaussian":
            sigma = math.sqrt(-(-steps // batches_of(training, n))) / gaussian.mu_within(dp.epsilon, dp.delta)
        else:
            chosen = noise_multiplier(dp.epsilon, dp.delta, rate, steps=steps, accountant=dp.accountant)
            sigma, fallback = chosen.sigma, chosen.fallback
    if sigma is None or not math.isfinite(sigma):
        raise UserError(f"no noise level keeps epsilon {dp.epsilon} over {steps} steps: ask for more, or train less")
    accounting = Accounting(rate, sigma, dp.delta, "rdp" if fallback else accountant)
    if limit is not None and not (steps := accounting.steps_within(limit, steps)):
        raise UserError(
            f"one step at noise_multiplier {sigma:g} spends epsilon {accounting.spent(1)[0]:.3g}, more than "
            f"max_epsilon {limit:g}: raise one of them"
        )
    return Budget(steps, accounting, fallback)


def privacy_ledger(
    training: Training,
    accounting: Accounting,
    releases: Sequence[Release],
    *,
    n: int,
    data_digest: str,
    noise: Literal["entropy", "reproducible"],
    gradient_mode: str,
    canaries: Canaries | None = None,
) -> TrainingRecord:
    """The ledger of a training that made these releases; its claim is what they spent, however often it was resumed.

    Args:
        n: rows trained on.
        data_digest: over their ids (`Batch.digest`).
    """
    if training.dp is None or not releases:
        raise UserError("there is no ledger of a training that released nothing under differential privacy")
    epsilon, accountant = accounting.spent(len(releases))
    parts = [len(list(part)) for _, part in groupby(releases, key=lambda release: release.part)]
    return TrainingRecord(
        stretches=tuple(Stretch(sampling_rate=accounting.rate, sigma=accounting.sigma, steps=k) for k in parts),
        dataset_size=n,
        sampler=training.sampler,
        one_order=training.sampler == "shuffle",  # see `audit.train.loop.Rows`
        noise=noise,
        delta=accounting.delta,
        expected_batch_size=training.batch,
        batch_sizes=tuple(release.size for release in releases),
        claim=Claim(epsilon=epsilon, delta=accounting.delta),
        clipping=training.dp.clipping,
        clipping_norm=training.dp.clipping_norm,
        accountant=accountant,
        gradient_mode=gradient_mode,
        data_digest=data_digest,
        trials=training.trials,
        canaries=canaries,
    )


def as_json(record: TrainingRecord) -> bytes:
    """A ledger as ``privacy.json`` holds it."""
    return (json.dumps(record.model_dump(mode="json", exclude_none=True), indent=1) + "\n").encode()
