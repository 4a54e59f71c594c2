"""How much privacy a training can be shown to have lost, whatever its accounting says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from audit.checks import Check
from audit.checks.privacy._ledger import ClaimedBudget, ledger_of
from audit.finding import Bound, Exact, Measurement, Metric, ThreatModel
from audit.model import Capability
from audit.parameters import NotApplicable, Real, UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from audit.context import Context
    from audit.data import AuditData
    from audit.finding import EvidenceRef
    from audit.model import AuditedModel

Share = Annotated[Real, Field(gt=0, le=1)]


class DpAudit(Check):
    """A lower bound on epsilon that the training itself gives away, held against the epsilon that is claimed.

    Of one training: canaries that were put in or left out by a fair coin each are guessed back from their scores; more right
    guesses than an (epsilon, delta)-private training allows refute that epsilon. Gradient canaries are seen in every noisy release
    (white box); input canaries are examples that the model answers (black box). Of many trainings (``runs``): the rates of a test
    for one canary, by Clopper–Pearson intervals, and by the trade-off curve of a Gaussian mechanism (``method=gaussian``, true
    only of one). The number of guesses is declared before, with confidence shared among several, or chosen on one half of the
    canaries and measured on the other; so is the threshold of many trainings.

    ``epsilon_lower_bound`` holds with 95 % confidence; ``excess`` is that bound minus the claim: above 0 the claim is false, below
    it is *not falsified*, never proven. ``ceiling`` is the largest bound that so many canaries could have shown; where the
    claim is not below it, this audit decides nothing.

    Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846 (one training); Jagielski et al. 2020, arXiv:2006.07709, and Nasr et al.
    2023, arXiv:2302.07956 (many trainings).
    Blind spots: a low bound is no proof of privacy: canaries may be harder to tell than the most exposed example, and scores may
    hide what the model gives away. Gradient canaries join after the examples' own gradients are summed: a fault in how those are
    computed is seen by input canaries alone.
    """

    controls: ClassVar = ("NIST SP 800-226", "NIST AI RMF MEASURE 2.10")
    metrics: ClassVar = (
        Metric(
            name="epsilon_lower_bound", title="epsilon shown to be spent, at least", better="lower", kinds=("bound",),
            varies="models",
        ),
        Metric(
            name="excess", title="epsilon shown minus claimed", better="lower", kinds=("bound",), varies="models"
        ),
        Metric(
            name="ceiling", title="largest epsilon that could have been shown", better="higher", kinds=("exact",),
            varies="nothing",
        ),
    )  # fmt: skip
    remedy: ClassVar = (
        "The training spends more than it claims: see that noise is added with the recorded multiplier, that every example's "
        "gradient is clipped before the sum, and that batches are drawn as accounted; then train again."
    )

    record: str | dict[str, Any] | None = None
    """Path of the training record with its canaries (.json or .yaml, relative to the scenario), or the record itself; without it,
    the ledger that the registry keeps with the model."""
    runs: str | None = None
    """Scores of many trainings instead: path of a ``.npz`` or ``.json`` with ``inside`` and ``outside``, one score for each training
    with the canary and for each without; higher says "in"."""
    examples: str | None = None
    """Examples that were canaries instead: path of a ``.npz`` or ``.json`` with ``x``, ``labels`` (class indices; wrong ones are remembered best)
    and ``included``, put into the training by a fair coin each; their score is the model's loss."""
    claim: ClaimedBudget | None = None
    """The claim to hold it against, instead of the record's own."""
    guesses: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.1, 0.4, 0.8, 1.0)
    """Shares of the canaries that are guessed about, declared before: few where only the clearest can be told, all where everything
    can."""
    choose: Literal["declared", "half"] = "declared"
    """``declared`` tries every share in `guesses` at a corrected level; ``half`` chooses among them on half of the canaries."""
    threshold: Real | None = None
    """Of `runs`: score from which on the canary is said to be in, declared before; without it, chosen on half of the trainings."""
    level: Annotated[Real, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the bound."""

    @model_validator(mode="after")
    def _one_source(self) -> DpAudit:
        if self.runs is not None and self.examples is not None:
            raise ValueError("give 'runs' or 'examples', not both: they are audits of their own")
        return self

    def requirements(self) -> frozenset[Capability]:
        """Scores, where the model is to answer examples."""
        return frozenset() if self.examples is None else frozenset({Capability.PROBABILITIES})

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield the ceiling, the bound and what it says of the claim, for every method."""
        record = ledger_of(model, ctx, self.record, self.claim)
        claim = self.claim or (record.claim if record else None)
        delta = claim.delta if claim else record.target_delta if record else None
        if delta is None:
            raise NotApplicable(
                f"model '{model.name}' has no privacy ledger in the registry: give 'record', the file that its training wrote, "
                "or a 'claim' with 'runs' or 'examples'"
            )
        if self.runs is not None:
            shown = self._of_many(delta, ctx)
        elif self.examples is not None:
            included, scores = _scored(model, ctx.base / self.examples)
            threat = ThreatModel(access="black_box_scores", goal="membership")
            shown = self._of_one(included, scores, delta, threat, ctx)
        elif record is not None and record.canaries is not None:
            canaries = record.canaries
            threat = ThreatModel(
                access="white_box" if canaries.kind == "gradient" else "black_box_scores", goal="membership"
            )
            shown = self._of_one(canaries.included, canaries.scores, delta, threat, ctx)
        else:
            raise NotApplicable(
                "the training record has no canaries: train with 'canaries: 1000', or give 'examples' that were canaries, or scores "
                "of many trainings by 'runs'"
            )
        for found in shown:
            yield from _measured(found, None if claim is None else claim.epsilon, self.level)

    def _of_one(self, included: Any, scores: Any, delta: float, threat: ThreatModel, ctx: Context) -> Iterator[_Shown]:
        """One training: undivided, then each number of guesses."""
        import numpy as np

        from audit.privacy.empirical_epsilon import audit_one_run, audit_one_run_by_halves

        truth, values = np.asarray(included, dtype=bool), np.asarray(scores, dtype=float)
        if self.choose == "half":
            rng = ctx.generator("halves")
            tried = [audit_one_run_by_halves(truth, values, delta, self.guesses, rng, self.level)]
        else:
            tried = audit_one_run(truth, values, delta, self.guesses, self.level)
        best = max(tried, key=lambda one: (one.epsilon, one.ceiling))
        told = f"{best.right} of {best.guesses} guesses about {best.canaries} canaries were right"
        roc = _roc(values[truth], values[~truth], ctx)
        yield _Shown(best.epsilon, max(one.ceiling for one in tried), best.canaries, {}, threat, (told,), roc)
        if len(tried) > 1:
            for one in tried:
                told = f"{one.right} of {one.guesses} guesses were right; at confidence {one.level:.4g} by itself"
                yield _Shown(
                    one.epsilon,
                    one.ceiling,
                    one.canaries,
                    {"guesses": f"{one.share:g}"},
                    threat,
                    (told,),
                    level=one.level,
                )

    def _of_many(self, delta: float, ctx: Context) -> Iterator[_Shown]:
        """Many trainings: of any mechanism, then of a Gaussian one."""
        from audit.privacy.empirical_epsilon import audit_many_runs

        inside, outside = _read_runs(ctx.base / str(self.runs))
        found = audit_many_runs(
            inside, outside, delta, threshold=self.threshold, rng=ctx.generator("halves"), level=self.level
        )
        n = found.inside + found.outside
        told = (
            f"{found.true_positives} of {found.inside} trainings with the canary and {found.false_positives} of {found.outside} without "
            f"score {found.threshold:.4g} or more"
        )
        roc = _roc(inside, outside, ctx)
        yield _Shown(found.epsilon, found.ceiling, n, {}, None, (told,), roc)
        yield _Shown(
            found.gaussian_epsilon, found.gaussian_ceiling, n, {"method": "gaussian"}, None,
            (told, "a bound only where the mechanism's trade-off curve is Gaussian"), roc,
        )  # fmt: skip


@dataclass(frozen=True)
class _Shown:
    """A bound on epsilon, and the largest that its procedure could have given."""

    epsilon: float
    ceiling: float
    n: int
    dims: dict[str, str]
    threat: ThreatModel | None
    cautions: tuple[str, ...]
    roc: EvidenceRef | None = None
    level: float | None = None


def _measured(shown: _Shown, claimed: float | None, level: float) -> Iterator[Measurement]:
    """The ceiling, the bound, and the excess over the claim."""

    cautions = shown.cautions
    if claimed is not None and shown.ceiling <= claimed:
        cautions = (
            f"{shown.n:,} canaries or trainings show epsilon {shown.ceiling:.4g} at most: the claim of {claimed:g} could not have "
            "been falsified",
            *cautions,
        )

    def measurement(metric: str, estimate: Exact | Bound) -> Measurement:
        return Measurement(
            metric=metric, estimate=estimate, dims=shown.dims, threat_model=shown.threat, cautions=cautions,
            evidence=() if shown.roc is None else (shown.roc,),
        )  # fmt: skip

    def bound(shift: float) -> Bound:
        return Bound(
            value=shown.epsilon - shift, side="lower", level=shown.level or level, n=shown.n, ceiling=shown.ceiling - shift
        )  # fmt: skip

    yield measurement("ceiling", Exact(value=shown.ceiling, n=shown.n))
    yield measurement("epsilon_lower_bound", bound(0.0))
    if claimed is not None:
        yield measurement("excess", bound(claimed))


def _read_runs(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores with and without the canary.

    Raises:
        UserError: the file cannot be read, or does not hold two lists of numbers.
    """
    import numpy as np

    held = _arrays(path, "inside", "outside")
    try:
        inside, outside = (array.astype(np.float64) for array in held)
    except ValueError as error:
        raise UserError(f"{path}: 'inside' and 'outside' hold numbers ({error})") from error
    if inside.ndim != 1 or outside.ndim != 1:
        raise UserError(
            f"{path}: 'inside' and 'outside' hold one score for each training, got {inside.shape}, {outside.shape}"
        )
    return inside, outside


def _scored(model: AuditedModel, path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which examples were canaries that were in, and the model's negative loss of each.

    Raises:
        UserError: the file cannot be read, or its rows are none of the model's.
    """
    import numpy as np

    from audit.data import Batch, row_ids
    from audit.privacy.membership import loss_scores

    x, labels, included = _arrays(path, "x", "labels", "included")
    if x.shape[1:] != model.spec.shape or not len(x) == len(labels) == len(included):
        raise UserError(
            f"{path}: expected rows of shape {model.spec.shape} with a label and 'included' each, got {x.shape}, {labels.shape} "
            f"and {included.shape}"
        )
    if labels.dtype.kind not in "iu" or included.dtype.kind != "b":
        raise UserError(
            f"{path}: 'labels' are class indices and 'included' is true or false, got {labels.dtype}, {included.dtype}"
        )
    scores = model.outputs(Batch(x, labels.astype(np.int64), row_ids(x, labels), {}))
    model.check_finite(scores)
    answers = scores.double().numpy()
    by = "probabilities" if model.output == "probability" else "logits"
    return included, loss_scores(labels, **{by: answers})


def _arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of a file.

    Raises:
        UserError: it cannot be read, or lacks one.
    """
    import json
    import zipfile

    import numpy as np

    wanted = " and ".join(f"'{name}'" for name in names)
    if path.suffix not in (".npz", ".json"):
        raise UserError(f"{path}: {wanted} come in a .npz or .json file")
    try:
        held: Any = (
            dict(np.load(path, allow_pickle=False)) if path.suffix == ".npz" else json.loads(path.read_text("utf-8"))
        )
        return [np.asarray(held[name]) for name in names]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        said = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path}: expected {wanted} ({said})") from error


def _roc(inside: NDArray[np.float64], outside: NDArray[np.float64], ctx: Context) -> EvidenceRef | None:
    """How well scores tell "in" from "out"."""
    from audit.stats import roc_curve_points

    if not len(inside) or not len(outside):
        return None
    fpr, tpr, _ = roc_curve_points(inside, outside)
    writer = ctx.evidence("canaries", "roc", title="Canaries told by their scores")
    writer.append([str(i) for i in range(len(fpr))], fpr=fpr, tpr=tpr)
    return writer.ref
