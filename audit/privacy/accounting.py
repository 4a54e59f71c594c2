"""A training record, and what it says of epsilon when it is accounted again by independent means."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, model_validator

from audit.bridges.opacus import PrvEpsilon, prv_epsilon
from audit.finding import Record
from audit.parameters import Real, UserError
from audit.privacy import gaussian, rdp, tuning
from audit.privacy.sampling import compare_batches

SAMPLING_LEVEL = 0.01
"""Policy: chance, over all batch-size tests of a record, of accusing a training that did sample as it says."""

Sampler = Literal["poisson", "shuffle", "unknown"]
Rate = Annotated[Real, Field(gt=0, le=1)]
Delta = Annotated[Real, Field(gt=0, lt=1)]


class Stretch(Record):
    """Steps of a training during which nothing that bears on privacy changed."""

    sampling_rate: Rate
    """Chance q of one example to be in one batch, as accounted; may be written ``1/240``."""
    sigma: Annotated[Real, Field(ge=0)]
    """Noise multiplier: standard deviation of the noise over the clipping norm."""
    steps: int = Field(ge=1)
    """Optimiser steps, that is noisy releases."""


class Claim(Record):
    """What the training says of itself: (epsilon, delta)-differential privacy under adding or removing one example."""

    epsilon: Annotated[Real, Field(ge=0)]
    """As claimed."""
    delta: Delta
    """The delta that the epsilon belongs to."""


class Trials(Record):
    """Numbers of trials drawn at random, from the truncated negative binomial distribution: what a bound on tuning rests on."""

    eta: Annotated[Real, Field(gt=-1)]
    """Shape: 1 is the geometric distribution, 0 the logarithmic."""
    gamma: Annotated[Real, Field(gt=0, lt=1)]
    """Smaller means more trials."""


class Canaries(Record):
    """Examples put into the training, or left out of it, by a fair coin each, and how much each seems to have been in."""

    kind: Literal["gradient", "input"]
    """``gradient``: a gradient of its own, seen in every noisy release (white box); ``input``: an example, scored by the model."""
    included: tuple[bool, ...] = Field(min_length=1)
    """Which of them were in."""
    scores: tuple[Annotated[Real, Field()], ...]
    """Higher says "in"; one for each."""

    @model_validator(mode="after")
    def _one_each(self) -> Canaries:
        if len(self.included) != len(self.scores):
            raise ValueError(f"{len(self.included)} canaries and {len(self.scores)} scores: one for each is needed")
        return self


class TrainingRecord(Record):
    """The privacy ledger: what a DP-SGD training writes down so that its privacy can be accounted again."""

    stretches: tuple[Stretch, ...] = Field(min_length=1)
    """In the order they ran."""
    dataset_size: int = Field(ge=1)
    """Number n of training examples."""
    sampler: Sampler = "unknown"
    """How batches were drawn: each example independently (``poisson``), epochs over a permutation (``shuffle``)."""
    noise: Literal["entropy", "reproducible", "unknown"] = "unknown"
    """Where noise and sampling took their randomness: the operating system, or a seed that can be set again."""
    delta: Delta | None = None
    """At which to state epsilon; a claim brings its own."""
    expected_batch_size: Annotated[Real, Field(gt=0)] | None = None
    """Batch size that was asked for, or that gradients were divided by."""
    batch_sizes: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Realised size of every batch, in order."""
    claim: Claim | None = None
    """To be compared with the recomputed epsilon."""
    clipping: Literal["flat", "per_layer", "automatic", "none", "unknown"] = "unknown"
    """How each example's gradient was bounded: as a whole, layer by layer, normalised, or not at all."""
    clipping_norm: Annotated[Real, Field(gt=0)] | None = None
    """Bound C on the norm of one example's gradient, all layers together."""
    one_order: bool = False
    """Of shuffled batches: whether resumed stretches went on in the order begun, so that an epoch holds each example once;
    without it every stretch may have begun a new one."""
    accountant: Literal["rdp", "prv", "gaussian", "unknown"] = "unknown"
    """Which accountant the claim was computed with; ``gaussian`` is the closed form, of batches in a fixed order."""
    gradient_mode: str = ""
    """How per-example gradients were computed."""
    data_digest: str = ""
    """SHA-256 over the row ids trained on."""
    batch_norm: tuple[str, ...] = ()
    """Layers that mix the examples of a batch: no example's gradient is its own there."""
    trials: int | None = Field(default=None, ge=1)
    """Trainings that the hyper-parameters were chosen among; None where nobody said."""
    trials_drawn: Trials | None = None
    """How that number was drawn, where it was drawn at random and nothing but the best training is published."""
    canaries: Canaries | None = None
    """What an empirical audit of this very training starts from."""

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainingRecord:
        if self.delta is None and self.claim is None:
            raise ValueError("a record needs delta, or a claim with one: epsilon means nothing without")
        if self.batch_sizes is not None:
            if len(self.batch_sizes) != self.steps:
                raise ValueError(f"batch_sizes has {len(self.batch_sizes)} entries for {self.steps} steps")
            if max(self.batch_sizes) > self.dataset_size:
                raise ValueError(f"a batch of {max(self.batch_sizes)} is larger than the {self.dataset_size} examples")
        return self

    @property
    def steps(self) -> int:
        """Over all stretches."""
        return sum(stretch.steps for stretch in self.stretches)

    @property
    def target_delta(self) -> float:
        """The delta to account at: the claim's where there is one."""
        return self.claim.delta if self.claim else cast(float, self.delta)

    @property
    def history(self) -> list[rdp.Stretch]:
        """The stretches as accountants take them: (q, sigma, steps); of shuffled batches, without amplification by sampling."""
        told = [(stretch.sampling_rate, stretch.sigma, stretch.steps) for stretch in self.stretches]
        return gaussian.fixed_order(told, self.one_order) if self.sampler == "shuffle" else told


CautionCode = Literal[
    "sampler_shuffle", "sampler_unknown", "noise_reproducible", "delta_above_1_over_n", "delta_differs",
    "rate_below_batch", "rate_above_batch", "batches_too_large", "batches_too_small", "batches_not_poisson",
    "clipping_none", "clipping_unknown", "batch_norm", "trials_not_accounted",
    "prv_fallback", "rdp_order_at_edge", "accountants_disagree",
]  # fmt: skip


@dataclass(frozen=True)
class Caution:
    """Something about a record that a number alone would hide."""

    code: CautionCode
    message: str
    understates: bool
    """Whether the true privacy loss can be larger than the recomputed epsilon because of it."""


@dataclass(frozen=True)
class Recomputed:
    """A training record accounted again: Poisson samples as such, shuffled batches as if their order were known.

    `cautions` say where that does not describe it.
    """

    delta: float
    epsilon: float
    """The smallest upper bound among exact, PRV and RDP (the largest where they contradict each other)."""
    lower: float
    """No epsilon below this is true of the recorded mechanism; 0 where nothing is known."""
    rdp: rdp.RdpEpsilon
    """By the project's own accountant."""
    prv: PrvEpsilon
    """By Opacus's, or why it fell back."""
    clt: gaussian.CltEpsilon
    """Central-limit approximation; errs both ways."""
    exact: float | None
    """Closed form; only where every step saw every example, or where batches were shuffled."""
    tuned: float | None
    """Of a training that was chosen among several: an upper bound that counts the choice."""
    claim: Claim | None
    cautions: tuple[Caution, ...]

    @property
    def claim_verdict(self) -> Literal["holds", "refuted", "undecided"] | None:
        """Whether the recomputed epsilon bears the claim out; None without a claim.

        ``undecided`` where the claim lies between the lower and the upper bound. Only the arithmetic is judged: a caution
        that understates takes the ground from under ``holds``.
        """
        if self.claim is None:
            return None
        if self.epsilon <= _with_slack(self.claim):
            return "holds"
        return "refuted" if self.lower > _with_slack(self.claim) else "undecided"


def recompute(
    record: TrainingRecord, *, prv: Callable[..., PrvEpsilon] = prv_epsilon, eps_error: float = 0.01
) -> Recomputed:
    """Account a training record again, by RDP and by numerical composition.

    Args:
        prv: called as ``prv(stretches, delta, eps_error=…)``.
        eps_error: half-width of the numerical error; a tenth is tried where a claim falls inside it.

    Raises:
        UserError: eps_error outside (0, 1).
    """
    history, delta = record.history, record.target_delta
    by_rdp = rdp.rdp_epsilon(history, delta)
    by_prv = prv(history, delta, eps_error=eps_error)
    mu = gaussian.full_batch_mu(history)
    exact = None if mu is None else gaussian.gaussian_epsilon(mu, delta)
    claim = record.claim
    if claim and exact is None and by_prv.fallback is None and by_prv.lower <= claim.epsilon < by_prv.epsilon:
        finer = prv(history, delta, eps_error=eps_error / 10)
        by_prv = finer if finer.fallback is None else by_prv

    contradiction = _contradiction(exact, by_prv, by_rdp.epsilon)
    bounds = [by_rdp.epsilon, by_prv.epsilon, *([] if exact is None else [exact])]
    tuned = _tuned(record)
    cautions = [*record_cautions(record), *_of_the_trials(record, tuned)]
    if by_prv.fallback:
        cautions.append(Caution("prv_fallback", by_prv.fallback, False))
    if by_rdp.at_edge and min(bounds) == by_rdp.epsilon:
        message = f"the RDP bound is at the edge of its orders ({by_rdp.order:g}): the true epsilon may be far smaller"
        cautions.append(Caution("rdp_order_at_edge", message, False))
    if contradiction:
        cautions.append(Caution("accountants_disagree", contradiction, True))
    return Recomputed(
        delta=delta,
        epsilon=max(bounds) if contradiction else min(bounds),
        # a shuffled order that nobody knows may spend less than a known one, by an unknown amount
        lower=0.0 if contradiction or record.sampler == "shuffle" else by_prv.lower if exact is None else exact,
        rdp=by_rdp,
        prv=by_prv,
        clt=gaussian.clt_epsilon(history, delta),
        exact=exact,
        tuned=tuned,
        claim=claim,
        cautions=tuple(cautions),
    )


def _with_slack(claim: Claim) -> float:
    """A claimed epsilon as it may be printed, in decimals."""
    return claim.epsilon + 1e-6 * max(1.0, claim.epsilon)


def _in_any_order(record: TrainingRecord) -> float:
    """Epsilon of shuffled batches, whatever their order."""
    return gaussian.gaussian_epsilon(gaussian.full_batch_mu(record.history) or 0.0, record.target_delta)


def record_cautions(record: TrainingRecord) -> list[Caution]:
    """What a record shows by itself, before any accountant is asked."""
    return [*_of_the_record(record), *_of_the_batches(record)]


def _contradiction(exact: float | None, prv: PrvEpsilon, by_rdp: float) -> str | None:
    """What breaks exact <= PRV <= RDP + eps_error, the order that correct accountants keep."""
    slack = 1e-9 * max(1.0, by_rdp if math.isfinite(by_rdp) else 1.0)
    if prv.fallback:  # Opacus's RDP beside the project's own
        if prv.epsilon != by_rdp and abs(prv.epsilon - by_rdp) > 1e-4 * max(1.0, by_rdp):
            return f"Opacus's RDP epsilon {prv.epsilon:g} and the project's own {by_rdp:g} differ; the larger is taken"
    elif prv.epsilon > by_rdp + prv.eps_error + slack:
        return f"PRV epsilon {prv.epsilon:g} exceeds RDP epsilon {by_rdp:g} by more than its error; the larger is taken"
    if exact is not None and exact > min(prv.epsilon, by_rdp) + slack:
        return f"a stated upper bound lies below the exact epsilon {exact:g}; the larger is taken"
    return None


def _of_the_record(record: TrainingRecord) -> Iterator[Caution]:
    n, delta = record.dataset_size, record.target_delta
    if record.sampler == "shuffle" and record.claim and (bound := _in_any_order(record)) > _with_slack(record.claim):
        yield Caution(
            "sampler_shuffle",
            f"batches were shuffled, and the claim counts on Poisson samples: without them epsilon {bound:.4g} is proven, and the "
            "truth can be near it (arXiv:2403.17673, arXiv:2411.04205)",
            True,
        )
    if record.sampler == "unknown":
        message = (
            "the record does not say how batches were drawn: the recomputed epsilon holds for Poisson sampling only"
        )
        yield Caution("sampler_unknown", message, True)
    if record.noise == "reproducible":
        message = "noise came from a seed: whoever knows or guesses it removes the noise, and nothing is private"
        yield Caution("noise_reproducible", message, True)
    if record.clipping == "none":
        message = "gradients were not clipped: one example can move a step by any amount, and no noise hides it"
        yield Caution("clipping_none", message, True)
    if record.clipping == "unknown":
        message = (
            "the record does not say how gradients were clipped: the recomputed epsilon holds only if each example's was "
            "bounded by the norm that sigma multiplies"
        )
        yield Caution("clipping_unknown", message, True)
    if record.batch_norm:
        layers = ", ".join(record.batch_norm[:3]) + (" …" if len(record.batch_norm) > 3 else "")
        message = (
            f"batch normalisation ({layers}) mixes the examples of a batch: no example's part can be clipped by itself "
            "(GroupNorm takes its place)"
        )
        yield Caution("batch_norm", message, True)
    if delta > 1 / n:
        message = (
            f"delta={delta:g} is above 1/n = {1 / n:.3g}: a mechanism that publishes one example outright would meet it"
        )
        yield Caution("delta_above_1_over_n", message, False)
    if record.claim and record.delta is not None and record.delta != record.claim.delta:
        message = (
            f"the record's delta={record.delta:g} is not the claim's {record.claim.delta:g}; accounted at the claim's"
        )
        yield Caution("delta_differs", message, False)
    if (asked := record.expected_batch_size) is not None:
        for q in dict.fromkeys(stretch.sampling_rate for stretch in record.stretches):
            mean = q * n
            # Opacus divides by int(n q), a whole number below the mean: harmless for privacy
            if asked == math.floor(mean + 1e-9) or abs(mean - asked) <= 0.01 * asked:
                continue
            # the last batch of a shuffled epoch may be short, or left out
            if record.sampler == "shuffle" and math.floor(n / asked) <= 1 / q + 1e-9 <= math.ceil(n / asked) + 1e-6:
                continue
            low = mean < asked
            message = (
                f"q={q:.6g} of {n} examples makes batches of {mean:.4g} on average, not {asked:g} "
                f"(q={asked / n:.6g}): epsilon is {'under' if low else 'over'}stated if batches of {asked:g} were drawn"
            )
            yield Caution("rate_below_batch" if low else "rate_above_batch", message, low)


def _tuned(record: TrainingRecord) -> float | None:
    """Epsilon with the choice among trials; None where there was one training, as far as is known."""
    if record.trials_drawn is not None:
        drawn = record.trials_drawn
        return tuning.random_trials_epsilon(record.history, record.target_delta, drawn.eta, drawn.gamma).epsilon
    if record.trials is None or record.trials == 1:
        return None
    return tuning.all_trials_epsilon(record.history, record.target_delta, record.trials).epsilon


def _of_the_trials(record: TrainingRecord, tuned: float | None) -> Iterator[Caution]:
    if tuned is None or (record.claim is not None and tuned <= record.claim.epsilon):
        return
    if record.trials_drawn is not None:
        how = "the number of trials was drawn at random"
        source = "by theorem 2 of arXiv:2110.03620"
    else:
        how = f"hyper-parameters were chosen among {record.trials} trainings"
        source = "as if all were published: no number of trials fixed before gives much less, arXiv:2110.03620"
    message = f"{how}, which the claim does not count: with the choice epsilon is at most {tuned:.4g} ({source})"
    yield Caution("trials_not_accounted", message, True)


def _of_the_batches(record: TrainingRecord) -> Iterator[Caution]:
    if record.batch_sizes is None:
        return
    level = SAMPLING_LEVEL / (2 * len(record.stretches))
    start = 0
    for number, stretch in enumerate(record.stretches, start=1):
        sizes, start = record.batch_sizes[start : start + stretch.steps], start + stretch.steps
        test = compare_batches(sizes, record.dataset_size, stretch.sampling_rate)
        where = f"stretch {number}: " if len(record.stretches) > 1 else ""
        if test.rate_p < level:
            more = test.realised_rate > stretch.sampling_rate
            message = (
                f"{where}examples entered batches at rate {test.realised_rate:.6g}, accounted is q={stretch.sampling_rate:.6g} "
                f"(exact two-sided p={test.rate_p:.2g}): epsilon is {'under' if more else 'over'}stated"
            )
            yield Caution("batches_too_large" if more else "batches_too_small", message, more)
        if record.sampler != "shuffle" and test.spread_p < level:
            message = (
                f"{where}{test.usual_share:.0%} of the batches hold {test.usual[0]} to {test.usual[1]} examples, Poisson "
                f"sampling gives {test.usual_chance:.0%} (exact two-sided p={test.spread_p:.2g}): they were not drawn so"
            )
            yield Caution("batches_not_poisson", message, True)


def parse_training_record(values: Mapping[str, Any], where: str = "training record") -> TrainingRecord:
    """A record from plain values, as JSON or YAML hold them.

    Raises:
        UserError: a field is unknown, missing or out of range; names the first one.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected fields such as 'stretches' and 'dataset_size', got {type(values).__name__}")
    try:
        return TrainingRecord.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r:.80}"
        raise UserError(f"{where}: {field + ': ' if field else ''}{message}{got}") from error


def read_training_record(path: Path) -> TrainingRecord:
    """A record from a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        UserError: the file cannot be read, is neither, or holds a bad record.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if path.suffix not in (".json", ".yaml", ".yml"):
        raise UserError(f"{path}: a training record is a .json, .yaml or .yml file")
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else YAML(typ="safe", pure=True).load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except (json.JSONDecodeError, YAMLError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    return parse_training_record(values, str(path))
