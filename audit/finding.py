"""What a check measures and what the engine concludes.

A check yields `Measurement`s, each with an `Estimate` that knows its own uncertainty; judging turns them into `Finding`s.
Nothing here knows how it is displayed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from audit.gate import Gate
from audit.parameters import Documented

LEVEL = 0.95
"""Coverage of every interval that a verdict rests on."""


class Status(StrEnum):
    """The outcome of one gate or one ungated number; see `audit.judge`."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    VOID = "void"
    ERROR = "error"
    NOT_APPLICABLE = "not_applicable"
    INFO = "info"
    WAIVED = "waived"


class Severity(StrEnum):
    """How much a missed gate matters; ordered by `rank`."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low up to 3 for critical."""
        return list(Severity).index(self)


class Record(Documented):
    """A frozen record of a run."""


# --- estimates ---------------------------------------------------------------------------------------------------


class _Estimate(Record):
    """Every estimate gives ``interval(level)``, two-sided with infinite open sides, and ``p_value(gate)``, one-sided against
    the hypothesis that the true value misses the gate."""

    def n_to_resolve(self, gate: Gate, level: float = LEVEL) -> int | None:
        """Sample size at which this same value would decide the gate; None where no size would."""
        return None


def _sided(gate: Gate) -> Literal["greater", "less"]:
    if gate.direction == "equal":
        raise ValueError("an equality is judged by its interval")
    return gate.direction


class Proportion(_Estimate):
    """`k` of `n` independent trials; Clopper–Pearson interval, exact binomial test."""

    kind: Literal["proportion"] = "proportion"
    k: int = Field(ge=0)
    n: int = Field(ge=1)

    @model_validator(mode="after")
    def _k_within_n(self) -> Proportion:
        if self.k > self.n:
            raise ValueError(f"k={self.k} is more than n={self.n}")
        return self

    @property
    def value(self) -> float:
        """The observed rate."""
        return self.k / self.n

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        from audit.stats import clopper_pearson

        return clopper_pearson(self.k, self.n, level)

    def p_value(self, gate: Gate) -> float:
        from audit.stats import binomial_p_value

        return binomial_p_value(self.k, self.n, min(max(gate.threshold, 0.0), 1.0), _sided(gate))

    def n_to_resolve(self, gate: Gate, level: float = LEVEL) -> int | None:
        from audit.stats import n_to_resolve_proportion

        if not 0 <= gate.threshold <= 1:
            return None
        return n_to_resolve_proportion(self.k, self.n, gate.threshold, level)


def _scaled_n(estimate: Any, gate: Gate, level: float) -> int | None:
    from audit.stats import n_to_resolve_by_scaling

    low, high = estimate.interval(level)
    side = estimate.value - low if estimate.value > gate.threshold else high - estimate.value
    return n_to_resolve_by_scaling(side, abs(estimate.value - gate.threshold), estimate.n)


class Mean(_Estimate):
    """A mean with its standard error over `n` independent units; Student's t."""

    kind: Literal["mean"] = "mean"
    value: float
    se: float = Field(ge=0)
    n: int = Field(ge=1)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        from audit.stats import t_interval

        return t_interval(self.value, self.se, self.n, level)

    def p_value(self, gate: Gate) -> float:
        from audit.stats import t_p_value

        return t_p_value(self.value, self.se, self.n, gate.threshold, _sided(gate))

    def n_to_resolve(self, gate: Gate, level: float = LEVEL) -> int | None:
        return _scaled_n(self, gate, level)


class Resampled(_Estimate):
    """A statistic with its bootstrap replicates over `n` units; percentile interval."""

    kind: Literal["resampled"] = "resampled"
    value: float
    replicates: tuple[float, ...] = Field(min_length=100)
    n: int = Field(ge=1)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        from audit.stats import resampled_interval

        return resampled_interval(self.value, self.replicates, level)

    def p_value(self, gate: Gate) -> float:
        from audit.stats import resampled_p_value

        return resampled_p_value(self.value, self.replicates, gate.threshold, _sided(gate))

    def n_to_resolve(self, gate: Gate, level: float = LEVEL) -> int | None:
        return _scaled_n(self, gate, level)


class RankAuc(_Estimate):
    """Probability that a positive outranks a negative (ties half); Newcombe's score interval, valid at 0 and 1 too."""

    kind: Literal["rank_auc"] = "rank_auc"
    value: float = Field(ge=0, le=1)
    n_pos: int = Field(ge=1)
    n_neg: int = Field(ge=1)

    @property
    def n(self) -> int:
        """Positives and negatives together."""
        return self.n_pos + self.n_neg

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        from audit.stats import auc_interval

        return auc_interval(self.value, self.n_pos, self.n_neg, level)

    def p_value(self, gate: Gate) -> float:
        from audit.stats import auc_p_value

        return auc_p_value(self.value, self.n_pos, self.n_neg, gate.threshold, _sided(gate))

    def n_to_resolve(self, gate: Gate, level: float = LEVEL) -> int | None:
        return _scaled_n(self, gate, level)


class Exact(_Estimate):
    """A number without sampling error: a count, a computed epsilon, a worst case over all of a finite set."""

    kind: Literal["exact"] = "exact"
    value: float
    n: int | None = None
    """How many examples it was computed over, where that means something."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        return self.value, self.value

    def p_value(self, gate: Gate) -> float:
        return 0.0 if gate.met_by(self.value) else 1.0


class Bound(_Estimate):
    """A one-sided confidence bound, with the most extreme value that the procedure could have shown."""

    kind: Literal["bound"] = "bound"
    value: float
    side: Literal["lower", "upper"]
    level: float = Field(gt=0, lt=1)
    n: int = Field(ge=1)
    ceiling: float | None = None
    """The largest lower (smallest upper) bound that n trials could have given; without it a bound never passes a gate."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        return (self.value, math.inf) if self.side == "lower" else (-math.inf, self.value)

    def p_value(self, gate: Gate) -> float:
        low, high = self.interval()
        return 1 - self.level if gate.holds_for(low, high) else 1.0

    def could_falsify(self, gate: Gate) -> bool:
        """Whether the procedure could have shown that the gate is missed."""
        if self.ceiling is None:
            return False
        return gate.misses(self.ceiling, math.inf) if self.side == "lower" else gate.misses(-math.inf, self.ceiling)


Estimate = Annotated[Proportion | Mean | Resampled | RankAuc | Exact | Bound, Field(discriminator="kind")]
EstimateKind = Literal["proportion", "mean", "resampled", "rank_auc", "exact", "bound"]


# --- what a check declares ---------------------------------------------------------------------------------------


class Metric(Record):
    """A number that a check yields, declared before anything runs."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    """A few words for a reader: ``robust accuracy``."""
    better: Literal["higher", "lower", "neither"]
    kinds: tuple[EstimateKind, ...]
    """Which estimates it may come as; the engine refuses another."""
    varies: Literal["examples", "seeds", "models", "nothing"] = "examples"
    """What the interval is over."""
    unit: str = ""
    floor_of: str = ""
    """Name of a metric, of whatever check, that this one bounds from below on every row: 1 in the outcomes here and 0 there, for a
    perturbation that both speak of, is a contradiction, and both numbers are void."""


# --- what a check yields -----------------------------------------------------------------------------------------

Access = Literal["white_box", "black_box_scores", "black_box_labels", "training_data", "artefact"]


class ThreatModel(Record):
    """What an adversary is assumed to know and to be able to do. eps and bounds are in the units that the user feeds."""

    access: Access
    goal: Literal["untargeted", "targeted", "membership", "reconstruction"] = "untargeted"
    norm: Literal["linf", "l2", "l1"] | None = None
    eps: float | None = None
    bounds: tuple[float, float] | None = None
    units: str = ""
    queries: int | None = None
    """Cap on model queries per example, where the adversary has one."""
    realised: float | None = None
    """Largest perturbation that was really made, in the same norm and units."""
    constraints: str = ""
    """Anything else that binds the adversary, in words."""


class EvidenceRef(Record):
    """A pointer to stored evidence, relative to the run folder."""

    path: str
    kind: str
    """What a reader can do with it: ``attributions``, ``adversarial``, ``reconstruction``, ``confusion_matrix``, ``curve``, ``roc``, ``outcomes``, ``table`` …"""


class Measurement(Record):
    """One number with its uncertainty, as measured; no opinion on whether it is good."""

    metric: str
    estimate: Estimate
    dims: dict[str, str] = Field(default_factory=dict)
    """Which part it speaks of (``attack``, ``class``, ``group`` …); empty for the undivided number."""
    threat_model: ThreatModel | None = None
    evidence: tuple[EvidenceRef, ...] = ()
    voids: dict[str, str] = Field(default_factory=dict)
    """Metric → why its number means nothing. ``metric`` speaks of this entry, ``family.check:metric`` (or ``:*``) of all entries of a
    check on this model, of the same access and norm where both have a threat model."""
    cautions: tuple[str, ...] = ()
    """What a reader must know about the number that does not make it void."""
    unresolved: str | None = None
    """Why this number cannot decide any gate although its interval looks as if it could (too few non-members at an FPR)."""


class Outcome(Record):
    """How one planned step of a run ended."""

    status: Literal["completed", "error", "not_applicable"]
    message: str = ""


class Finding(Record):
    """A verdict on one gate, or an ungated number, or a step that could not be judged."""

    id: str
    step: str
    """Check id and matrix cell, as in `audit.plan.Step`."""
    check: str
    params: dict[str, Any]
    model: str
    status: Status
    severity: Severity
    message: str
    metric: str | None = None
    title: str = ""
    unit: str = ""
    better: str = "neither"
    dims: dict[str, str] = Field(default_factory=dict)
    cell: dict[str, str] = Field(default_factory=dict)
    """The matrix cell's part of `dims`."""
    estimate: Estimate | None = None
    level: float = LEVEL
    interval: tuple[float | None, float | None] | None = None
    """None stands for an open side."""
    required: str | None = None
    gate: str | None = None
    """The gate's key as the scenario writes it."""
    optional: bool = False
    threat_model: ThreatModel | None = None
    seed: int = 0
    evidence: tuple[EvidenceRef, ...] = ()
    cautions: tuple[str, ...] = ()
    remedy: str = ""
    waiver: dict[str, str] | None = None
    fingerprint: str

    @property
    def gated(self) -> bool:
        """Whether a gate stands behind it."""
        return self.required is not None


def canonical_json(value: Any) -> str:
    """JSON that is equal byte for byte where the value is equal: sorted keys, shortest floats, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def fingerprint(*parts: Any) -> str:
    """A short stable digest of what a finding is about, never of what was measured."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:32]


def part_name(metric: str, dims: Mapping[str, str]) -> str:
    """``robust_accuracy[attack=square,eps=0.1]``."""
    inner = ",".join(f"{key}={value}" for key, value in sorted(dims.items()))
    return f"{metric}[{inner}]" if inner else metric
