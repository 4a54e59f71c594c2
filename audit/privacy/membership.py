"""Membership inference: how a score is made of a model's answer, and how well it tells members from non-members.

A higher score always says "member". Summaries are plain numbers with what their uncertainty needs; whatever is chosen by
looking at scores is chosen on one half of the examples and measured on the other, for a threshold that maximises the
advantage on the examples it is measured on shows one where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audit import stats
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

REPLICATES = 2000
FEWEST_PER_CLASS = 10
"""Policy: members and non-members of a class that its own threshold takes; with fewer it gets the common one."""

_TINY = float(np.finfo(np.float64).tiny)


# --- scores --------------------------------------------------------------------------------------------------------


def confidence_scores(
    labels: ArrayLike, *, logits: ArrayLike | None = None, probabilities: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Logit of the probability given to the true class, ``log(p / (1 - p))``, ``(N,)``.

    It ranks examples as the negative loss does, and spreads out what the loss squeezes towards 0, so that scores of
    different classes can be compared by their difference. ``1 - p`` is the sum of the other classes' probabilities, never a
    subtraction from 1, so that confident answers stay apart.

    Args:
        labels: ``(N,)`` class indices.
        logits: ``(N, C)`` scores whose softmax are the probabilities, or a margin ``(N,)`` / ``(N, 1)``, positive for class 1.
        probabilities: ``(N, C)``, rows need not sum to 1 exactly. Exactly one of the two is given.

    Raises:
        UserError: shapes do not fit, or an answer is NaN, infinite or negative.

    Source: Carlini et al. 2022, arXiv:2112.03570 (logit scaling).
    """
    if (logits is None) == (probabilities is None):
        raise ValueError("give either logits or probabilities")
    answers = np.asarray(logits if probabilities is None else probabilities, dtype=np.float64)
    truth = np.asarray(labels)
    if not np.isfinite(answers).all():
        raise UserError("membership scores need finite model answers, got NaN or infinity")
    if probabilities is None and (answers.ndim == 1 or answers.shape[1:] == (1,)):
        margin = answers.reshape(-1)
        answers = np.stack([np.zeros_like(margin), margin], axis=1)
    if answers.ndim != 2 or answers.shape[1] < 2 or truth.shape != answers.shape[:1]:
        raise UserError(f"membership scores need one label per row of answers, got {truth.shape} and {answers.shape}")
    if truth.size and (truth.min() < 0 or truth.max() >= answers.shape[1]):
        raise UserError(f"labels must be class indices 0 … {answers.shape[1] - 1}, got {truth.min()} … {truth.max()}")
    if probabilities is not None:
        if answers.size and answers.min() < 0:
            raise UserError(f"probabilities must not be negative, got {answers.min():g}")
        answers = np.log(np.maximum(answers, _TINY))
    rows = np.arange(len(truth))
    truth = truth.astype(np.intp)
    own = answers[rows, truth]
    others = answers.copy()
    others[rows, truth] = -np.inf
    return np.asarray(own - np.logaddexp.reduce(others, axis=1), dtype=np.float64)


def loss_scores(
    labels: ArrayLike, *, logits: ArrayLike | None = None, probabilities: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Negative cross-entropy loss, ``log p`` of the true class, ``(N,)``; arguments and errors as `confidence_scores`.

    Source: Yeom et al. 2018, arXiv:1709.01604.
    """
    confidence = confidence_scores(labels, logits=logits, probabilities=probabilities)
    return np.asarray(-np.logaddexp(0.0, -confidence), dtype=np.float64)


def correctness_scores(labels: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """1 where the predicted class is the true one, else 0: all that an adversary who sees labels only can rank by."""
    truth, answer = np.asarray(labels), np.asarray(predicted)
    if truth.shape != answer.shape or truth.ndim != 1:
        raise UserError(f"labels and predictions must be two lists of one length, got {truth.shape} and {answer.shape}")
    return np.asarray(truth == answer, dtype=np.float64)


# --- summaries -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Auc:
    """Chance that a member outscores a non-member, ties half."""

    value: float
    n_members: int
    n_non_members: int


@dataclass(frozen=True)
class RateDifference:
    """A rate among members minus the same rate among non-members: an attack's advantage, ``TPR - FPR``."""

    value: float
    k_members: int
    n_members: int
    k_non_members: int
    n_non_members: int
    replicates: tuple[float, ...]

    @property
    def n(self) -> int:
        """Members and non-members together."""
        return self.n_members + self.n_non_members


@dataclass(frozen=True)
class TprAtFpr:
    """Share of members found while at most `fpr` of the non-members are called members."""

    value: float
    fpr: float
    n_members: int
    n_non_members: int
    replicates: tuple[float, ...]
    unresolved: str | None
    """Why this number decides nothing: too few non-members to see so small an FPR. None where there are enough."""

    @property
    def n(self) -> int:
        """Members and non-members together."""
        return self.n_members + self.n_non_members


@dataclass(frozen=True)
class ClassThresholdAttack:
    """An attack with one threshold per class; every number is of the half that the thresholds were not chosen on."""

    member_scores: NDArray[np.float64]
    """Scores of the measured half minus their class's threshold."""
    non_member_scores: NDArray[np.float64]
    member_rows: NDArray[np.intp]
    """Which members were measured on."""
    non_member_rows: NDArray[np.intp]
    advantage: RateDifference
    thresholds: dict[int, float]
    pooled: tuple[int, ...]
    """Classes with too few examples for a threshold of their own."""


def auc(member_scores: ArrayLike, non_member_scores: ArrayLike) -> Auc:
    """Area under the attack's ROC curve; exactly 0.5 of a constant score."""
    members, others = _both(member_scores, non_member_scores)
    return Auc(stats.auc(members, others), members.size, others.size)


def tpr_at_fpr(
    member_scores: ArrayLike, non_member_scores: ArrayLike, fpr: float, rng: np.random.Generator
) -> TprAtFpr:
    """True positive rate at a false positive rate, with replicates over both kinds of example.

    Each replicate draws the non-members anew with replacement, which moves the threshold, and the members' rate from its
    Jeffreys posterior Beta(k + 1/2, n - k + 1/2) at that threshold; redrawing the members instead would show no
    uncertainty at all where none or all of them are found. A resample's threshold is one of its order statistics, whose
    rank in the original sample is drawn from its exact (Beta) distribution without making the resample.

    Policy: fewer than ``10 / fpr`` non-members leave the number unresolved.

    Raises:
        UserError: fpr outside (0, 1), or no scores.

    Source: Carlini et al. 2022, arXiv:2112.03570 (why low FPR); Hutson & Ernst 2000, JRSS B 62:89-94 (bootstrap of order
        statistics); Brown, Cai & DasGupta 2001, Statistical Science 16:101-133 (Jeffreys).
    """
    if not 0 < fpr < 1:
        raise UserError(f"fpr={fpr} must lie strictly between 0 and 1")
    members, others = (np.sort(scores) for scores in _both(member_scores, non_member_scores))
    allowed = int(np.floor(fpr * others.size + 1e-9))

    # allowed + 1 scores from the top: those tied with it are called non-members
    draws = rng.beta(others.size - allowed, allowed + 1, REPLICATES)
    thresholds = others[np.floor(others.size * draws).astype(np.intp)]
    hits = members.size - members.searchsorted(thresholds, "right")
    replicates = rng.beta(hits + 0.5, members.size - hits + 0.5)
    needed = int(np.ceil(10 / fpr - 1e-9))
    unresolved = None
    if others.size < needed:
        unresolved = f"an FPR of {fpr:g} takes {needed} non-members to see (10 / FPR), there are {others.size}"
    value = stats.tpr_at_fpr(members, others, fpr)
    return TprAtFpr(value, fpr, members.size, others.size, tuple(map(float, replicates)), unresolved)


def rate_difference(
    k_members: int, n_members: int, k_non_members: int, n_non_members: int, rng: np.random.Generator
) -> RateDifference:
    """Difference of two independent rates, with replicates from their Jeffreys posteriors.

    Raises:
        UserError: a group is empty.
    """
    if min(n_members, n_non_members) < 1:
        raise UserError(f"a membership attack needs both kinds, got {n_members} members, {n_non_members} non-members")
    value = k_members / n_members - k_non_members / n_non_members
    replicates = rng.beta(k_members + 0.5, n_members - k_members + 0.5, REPLICATES)
    replicates -= rng.beta(k_non_members + 0.5, n_non_members - k_non_members + 0.5, REPLICATES)
    return RateDifference(
        value, k_members, n_members, k_non_members, n_non_members, tuple(float(r) for r in replicates)
    )


def gap_attack(train_correct: ArrayLike, test_correct: ArrayLike, rng: np.random.Generator) -> RateDifference:
    """Call a member whatever the model gets right: the advantage is train accuracy minus test accuracy, exactly.

    It needs labels only and chooses nothing, so all examples are measured on.

    Args:
        train_correct: ``(N,)`` bool, which members the model gets right.
        test_correct: ``(M,)`` bool, which non-members.

    Raises:
        UserError: one of them is empty.

    Source: Yeom et al. 2018, arXiv:1709.01604, adversary 1.
    """
    train, test = np.asarray(train_correct, dtype=bool), np.asarray(test_correct, dtype=bool)
    return rate_difference(int(train.sum()), train.size, int(test.sum()), test.size, rng)


def threshold_advantage(
    member_scores: ArrayLike, non_member_scores: ArrayLike, rng: np.random.Generator
) -> RateDifference:
    """Advantage ``TPR - FPR`` of the threshold that is best on one random half, measured on the other.

    Raises:
        UserError: fewer than two members or non-members.

    Source: Yeom et al. 2018, arXiv:1709.01604, adversary 2.
    """
    members, others = _both(member_scores, non_member_scores)
    (choose_in, measure_in), (choose_out, measure_out) = _halves(members.size, rng), _halves(others.size, rng)
    threshold = _best_threshold(members[choose_in], others[choose_out])
    hits, alarms = int((members[measure_in] >= threshold).sum()), int((others[measure_out] >= threshold).sum())
    return rate_difference(hits, measure_in.size, alarms, measure_out.size, rng)


def class_threshold_attack(
    member_scores: ArrayLike,
    member_classes: ArrayLike,
    non_member_scores: ArrayLike,
    non_member_classes: ArrayLike,
    rng: np.random.Generator,
) -> ClassThresholdAttack:
    """Threshold attack with one threshold per true class, calibrated on one random half and measured on the other.

    A class's threshold maximises ``TPR - FPR`` among its own examples of the calibration half; a class with fewer than
    `FEWEST_PER_CLASS` members or non-members there gets the threshold of all classes together. The measured half's scores
    less their class's threshold form one ranking, whose AUC and TPR at an FPR are those of the attack. Give
    `confidence_scores`, whose differences mean the same in every class.

    Raises:
        UserError: lengths differ, or fewer than two members or non-members.

    Source: Song & Mittal 2021, arXiv:2003.10595 (class-dependent thresholds).
    """
    members, others = _both(member_scores, non_member_scores)
    classes_in, classes_out = np.asarray(member_classes), np.asarray(non_member_classes)
    if classes_in.shape != members.shape or classes_out.shape != others.shape:
        raise UserError("each score needs the class of its example")
    (choose_in, measure_in), (choose_out, measure_out) = _halves(members.size, rng), _halves(others.size, rng)
    common = _best_threshold(members[choose_in], others[choose_out])
    thresholds: dict[int, float] = {}
    pooled: list[int] = []
    for label in np.unique(np.concatenate([classes_in, classes_out])):
        own = members[choose_in][classes_in[choose_in] == label]
        foreign = others[choose_out][classes_out[choose_out] == label]
        if min(own.size, foreign.size) < FEWEST_PER_CLASS:
            pooled.append(int(label))
            thresholds[int(label)] = common
        else:
            thresholds[int(label)] = _best_threshold(own, foreign)

    def shifted(scores: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(scores - np.array([thresholds[int(label)] for label in classes]), dtype=np.float64)

    inside = shifted(members[measure_in], classes_in[measure_in])
    outside = shifted(others[measure_out], classes_out[measure_out])
    advantage = rate_difference(int((inside >= 0).sum()), inside.size, int((outside >= 0).sum()), outside.size, rng)
    return ClassThresholdAttack(inside, outside, measure_in, measure_out, advantage, thresholds, tuple(pooled))


def _both(member_scores: ArrayLike, non_member_scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    members, others = np.asarray(member_scores, dtype=np.float64), np.asarray(non_member_scores, dtype=np.float64)
    for name, scores in (("members", members), ("non-members", others)):
        if scores.ndim != 1 or scores.size == 0:
            raise UserError(f"a membership attack needs scores of {name}, got shape {scores.shape}")
        if np.isnan(scores).any():
            raise UserError(f"a membership score of the {name} is NaN")
    return members, others


def _halves(n: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Two disjoint random halves of ``0 … n-1``, the second the larger where n is odd."""
    if n < 2:
        raise UserError(f"choosing on one half and measuring on the other takes two examples of each kind, got {n}")
    order = rng.permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


def _best_threshold(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Score from which on "member" maximises ``TPR - FPR``: half-way to the next lower score, so that neither side touches."""
    fpr, tpr, scores = stats.roc_curve_points(members, others)
    best = 1 + int(np.argmax(tpr[1:] - fpr[1:]))  # the first point calls nobody a member
    if best + 1 == len(scores):
        return float(scores[best])
    middle = float(scores[best] + scores[best + 1]) / 2
    return middle if middle > scores[best + 1] else float(scores[best])
