"""A training file: which model is trained on which data, and with how much privacy. YAML in, frozen `Training` out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from audit.datasets import Source
from audit.parameters import Parameters, Real
from audit.plan import bind_source
from audit.recipe import Optimiser
from audit.registry.importing import check_target
from audit.scenario import ScenarioFile, read
from audit.scenario.problems import Problem, ScenarioError, describe

_WAYS = (
    "'dp: {epsilon: 8, delta: 1e-5}', 'dp: {noise_multiplier: 1.1, delta: 1e-5}', or 'dp: off' for the plain baseline"
)


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
    canaries: Annotated[int, Field(ge=1)] | None = None
    """Gradient canaries to train with, for an audit of the claim (see `audit.train.canaries.GradientCanaries`); they cost accuracy."""

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
    """Rows that go through the model at a time; halved where memory runs out. The result does not depend on it."""
    sampler: Literal["poisson", "shuffle"] = "poisson"
    """``poisson`` draws each row by itself, as the accounting takes it; ``shuffle`` goes through a permutation, which no tight
    accounting covers (Chua et al. 2024, arXiv:2403.17673): the ledger is marked."""
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
    return bind_training(read(path))


def bind_training(file: ScenarioFile) -> TrainingFile:
    """As `read_training`, from a file that is read already."""
    problems: list[Problem] = []
    raw = dict(file.raw)
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
