"""A training file: which model is trained on which data, and with how much privacy. YAML in, frozen `Training` out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from audit.datasets import Source
from audit.finding import canonical_json
from audit.parameters import Parameters, Real
from audit.plan import bind_source
from audit.recipe import Optimiser
from audit.registry.importing import check_target
from audit.scenario import ScenarioFile, read
from audit.scenario.problems import FileKind, Problem, ScenarioError, describe

KIND = FileKind(
    "training file",
    "name, factory, data, epochs, optimiser and dp",
    "say name, factory, data, epochs, optimiser and dp",
)
_MAY_CHANGE = {"checkpoint_seconds", "checkpoint_steps", "micro_batch", "memory_limit", "trials"}
"""While a training is interrupted."""
_WAYS = (
    "'dp: {epsilon: 8, delta: 1e-5}', 'dp: {noise_multiplier: 1.1, delta: 1e-5}', or 'dp: off' for the plain baseline"
)


_BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def _bytes(value: Any) -> Any:
    """``4 GB`` as a number of bytes; leaves a number as it is."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgKMG]i?[bB])\s*", value) if isinstance(value, str) else None
    if isinstance(value, str) and found is None:
        raise ValueError(f"'{value}' is no amount of memory: write it as '4 GB', '512 MB' or '2 GiB'")
    return value if found is None else int(float(found[1]) * _BYTES[found[2].lower()])


def _gradient_canaries(value: Any) -> Any:
    return {"gradients": value} if isinstance(value, int) and not isinstance(value, bool) else value


class CanaryChoice(Parameters):
    """Canaries to train with: a number alone is of gradients."""

    gradients: Annotated[int, Field(ge=1)] | None = None
    """Gradients of one coordinate each, seen in every noisy release (white box); see `audit.train.canaries.GradientCanaries`."""
    inputs: Annotated[int, Field(ge=2)] | None = None
    """Examples instead, out of the data's population rows, scored by the trained model (black box)."""
    kind: Literal["mislabelled", "genuine"] = "mislabelled"
    """Of `inputs`: with wrong labels, which only a model that remembers them says; or as they are."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> CanaryChoice:
        if (self.gradients is None) == (self.inputs is None):
            raise ValueError("say how many canaries, by 'gradients' or by 'inputs', one of the two")
        return self


class Privacy(Parameters):
    """The ``dp`` of a training file: a budget to keep, or a noise level to use."""

    epsilon: Annotated[Real, Field(gt=0)] | None = None
    """Target: the noise level is the smallest whose whole training stays within it."""
    noise_multiplier: Annotated[Real, Field(gt=0)] | None = None
    """Noise level instead of a target: standard deviation of the noise over `clipping_norm`."""
    max_epsilon: Annotated[Real, Field(gt=0)] | None = None
    """With `noise_multiplier`: training ends before the step that would spend more."""
    delta: Annotated[Real, Field(gt=0, lt=1)]
    """At which epsilon is meant; well below one over the number of training rows."""
    accountant: Literal["prv", "rdp"] = "prv"
    """Numerical composition (Gopi et al. 2021, arXiv:2106.02848), or Rényi (Mironov et al. 2019, arXiv:1908.10530)."""
    clipping: Literal["flat", "per_layer", "automatic"] = "flat"
    """How each example's gradient is bounded; see `audit.train.clipping.Clipping`."""
    clipping_norm: Annotated[Real, Field(gt=0)] = 1.0
    """Bound C on the norm of one example's gradient, all layers together."""
    gradients: Literal["auto", "functorch", "hooks", "ghost", "loop"] = "auto"
    """How the examples' gradients are computed: ``auto`` takes the fastest way that is proven right for this module."""
    convert: bool = True
    """Train LSTM, GRU, RNN and attention as layers of the same outputs that every way can follow, and release the factory's own;
    see `audit.train.gradients.converting.converted`."""
    group_norm: bool = False
    """Replace each BatchNorm, which mixes the rows of a batch, by GroupNorm: another model than the factory's, released as such."""
    canaries: Annotated[CanaryChoice, BeforeValidator(_gradient_canaries)] | None = None
    """Canaries to train with, for an audit of the claim; they cost accuracy."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Privacy:
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise ValueError("epsilon and noise_multiplier are both set, and each determines the other: leave one out")
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("neither epsilon nor noise_multiplier is set: give a target or a noise level")
        if self.epsilon is not None and self.max_epsilon is not None:
            raise ValueError("max_epsilon goes with noise_multiplier: epsilon is a limit by itself")
        return self


class Training(Parameters):
    """What a training does."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """The model is registered under it."""
    factory: Annotated[str, AfterValidator(check_target)]
    """``package.module:function`` that makes the untrained module; its package must be allowed."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    data: dict[str, Any]
    """``source`` and its parameters, as in a scenario; trained on are the rows that its split calls members."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """How often each row takes part, on average; or `steps`."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Rows of a step: exactly, or, sampled by Poisson, on average."""
    micro_batch: Annotated[int, Field(ge=1)] = 256
    """Rows that go through the model at a time, at most; halved where memory runs out. The result does not depend on it, but for BatchNorm."""
    memory_limit: Annotated[int, BeforeValidator(_bytes), Field(ge=1)] | None = None
    """What may be held at once beyond model and data, such as ``4 GB``; as many rows go through the model as fit."""
    sampler: Literal["poisson", "shuffle"] = "poisson"
    """``poisson`` draws each row by itself, which amplifies privacy; ``shuffle`` goes through permutations of all rows, and each
    epoch is accounted as a whole Gaussian mechanism: no more is proven of it (Chua et al. 2024, arXiv:2403.17673)."""
    optimiser: Optimiser
    """One of ``torch.optim`` by name, with its parameters."""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """For classes, and for numbers."""
    dp: Privacy | None
    """``off`` trains without privacy."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """For tests alone: weights, noise and samples repeat, whoever knows it can take the noise off, and the ledger says so."""
    checkpoint_seconds: Annotated[Real, Field(gt=0)] = 60.0
    """A checkpoint is written when this much time has passed since the last."""
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    """The same in steps; whichever comes first."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """Trainings that the hyper-parameters were chosen among; for the ledger, which does not account for them."""

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("say how long to train, by 'epochs' or by 'steps', one of the two")
        return self

    @model_validator(mode="after")
    def _canaries_as_rows(self) -> Training:
        if (
            self.sampler == "shuffle"
            and self.dp is not None
            and self.dp.canaries is not None
            and self.dp.canaries.gradients
        ):
            raise ValueError(
                "gradient canaries join by Poisson sampling, not in shuffled batches: take 'sampler: poisson', or canaries by 'inputs'"
            )
        return self

    @property
    def input_canaries(self) -> int:
        """How many examples are canaries."""
        return 0 if self.dp is None or self.dp.canaries is None else self.dp.canaries.inputs or 0

    @property
    def what_is_trained(self) -> str:
        """Digest of all here that determines the training; another may not go on from its checkpoint."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude=_MAY_CHANGE)).encode()).hexdigest()


@dataclass(frozen=True)
class TrainingFile:
    """A training file, read and checked.

    Args:
        source: its data source, built.
        base: folder that relative paths in it start from.
    """

    origin: str
    training: Training
    source: Source
    base: Path


def read_training(path: Path | str) -> TrainingFile:
    """Read and check a training file; neither data nor model is touched.

    Raises:
        ScenarioError: with one line per problem: where, which field, what was expected, the nearest known name.
    """
    return bind_training(read(path, kind=KIND))


def bind_training(file: ScenarioFile) -> TrainingFile:
    """As `read_training`, from a file that is read already."""
    problems: list[Problem] = []
    raw = dict(file.raw)
    if "checks" in raw and "factory" not in raw:
        said = f"this is a scenario, which `audit run` takes: a training file holds {KIND.holds}"
        raise ScenarioError(file.origin, [file.problem(("checks",), said)])
    raw["dp"] = _privacy(file, problems)
    training = None
    try:
        training = Training.model_validate(raw)
    except ValidationError as error:
        problems += describe(error, (), file, Training)
    data = raw.get("data")
    source = bind_source(file, data, problems) if isinstance(data, dict) else None
    if problems or training is None or source is None:
        raise ScenarioError(file.origin, sorted(problems, key=lambda p: (p.line or 0, p.column or 0)))
    return TrainingFile(file.origin, training, source, file.base)


def _privacy(file: ScenarioFile, problems: list[Problem]) -> Privacy | None:
    """The ``dp`` of a file; None where it is off, and where it is wrong, with one more problem or several."""
    given = file.raw.get("dp")
    if given is False or given == "off":
        return None
    if not isinstance(given, dict):
        problems.append(file.problem(("dp",), f"say how private the training is: {_WAYS}"))
        return None
    try:
        return Privacy.model_validate(given)
    except ValidationError as error:
        problems += describe(error, ("dp",), file, Privacy)
        return None
