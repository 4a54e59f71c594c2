"""Membership scores that know what models trained with and without an example say of it: LiRA and RMIA.

Every model answers with the confidence in the true class; a higher score says "member". Which reference or shadow model saw which
example is a mask, so that the same models serve online and offline attacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

POOLED_BELOW = 64
"""Shadow models below which a variance of each example by itself is worse than one of all together (the paper's own finding)."""
CERTAIN = 600.0
"""Confidence from which on a probability of exactly 0 or 1 stands behind it: no number says how sure the model was."""
_SPREAD = 1e-30
"""Added to standard deviations: shadows that all say the same are no reason to divide by 0."""


def within_resolution(target: ArrayLike, shadow: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Confidences with those of certainty drawn in to 1 beyond the largest other one.

    A forest of 100 trees answers 0, .01, … 1: the logit of a certain answer is infinite by rights and some hundred as a number, and a
    single one would decide every mean and variance that LiRA takes.

    Args:
        target: ``(N,)`` confidences of the model under audit.
        shadow: ``(S, N)`` of the shadow models.
    """
    own, others = np.asarray(target, dtype=np.float64), np.asarray(shadow, dtype=np.float64)
    sizes = np.abs(np.concatenate([own, others.reshape(-1)]))
    limit = 1 + sizes[sizes < CERTAIN].max(initial=0.0)
    return own.clip(-limit, limit), others.clip(-limit, limit)


def lira_online(
    target: ArrayLike, shadow: ArrayLike, inside: ArrayLike, *, pooled: bool | None = None
) -> NDArray[np.float64]:
    """Log-likelihood ratio of the target model's confidence among shadows that saw the example and shadows that did not, ``(N,)``.

    Args:
        target: ``(N,)`` logit-scaled confidence of the model under audit, as `audit.privacy.membership.confidence_scores` gives it.
        shadow: ``(S, N)`` the same of every shadow model.
        inside: ``(S, N)`` bool: which shadow was trained on which example.
        pooled: one variance for all examples instead of one each; by default below `POOLED_BELOW` shadows.

    Raises:
        UserError: shapes do not fit, an answer is not finite, or an example was in every shadow or in none.

    Source: Carlini et al. 2022, arXiv:2112.03570, algorithm 1.
    """
    own, others, seen = _fit(target, shadow, inside)
    if (seen.sum(axis=0) < 1).any() or (~seen).sum(axis=0).min() < 1:
        raise UserError(
            "online LiRA needs, for every example, shadows that were trained on it and shadows that were not"
        )
    together = len(others) < POOLED_BELOW if pooled is None else pooled
    with_it, without = _normal(others, seen, together), _normal(others, ~seen, together)
    return _log_density(own, *with_it) - _log_density(own, *without)


def lira_offline(
    target: ArrayLike, shadow: ArrayLike, inside: ArrayLike, *, pooled: bool | None = None
) -> NDArray[np.float64]:
    """How unusually confident the target model is beside shadows that never saw the example, in standard deviations, ``(N,)``.

    Ranks as the paper's one-sided test does, ``1 − P(Z > score)``, without running out of digits. Arguments as `lira_online`;
    examples need shadows without them only.

    Source: Carlini et al. 2022, arXiv:2112.03570, section VI-C.
    """
    own, others, seen = _fit(target, shadow, inside)
    if (~seen).sum(axis=0).min() < 1:
        raise UserError("offline LiRA needs, for every example, a shadow that was not trained on it")
    together = len(others) < POOLED_BELOW if pooled is None else pooled
    mean, deviation = _normal(others, ~seen, together)
    return (own - mean) / deviation


def rmia_offline(
    target: ArrayLike,
    reference: ArrayLike,
    inside: ArrayLike,
    population_target: ArrayLike,
    population_reference: ArrayLike,
    *,
    gamma: float = 2.0,
    a: float = 0.3,
) -> NDArray[np.float64]:
    """Share of population examples that the example beats in likelihood ratio by `gamma` or more, ``(N,)``.

    ``p(x | target) / p(x)`` stands for how much the target model favours x; p(x) is what models without x say, moved towards what
    those with it would: ``((1 + a) · mean + (1 − a)) / 2``.

    Args:
        target: ``(N,)`` probability that the model under audit gives to the true class.
        reference: ``(R, N)`` the same of every reference model.
        inside: ``(R, N)`` bool: which reference model was trained on which example; those are left out of its mean.
        population_target, population_reference: ``(Z,)`` and ``(R, Z)`` the same of population examples, that none was trained on.
        gamma: 1 or more.
        a: between 0 and 1; 1 where models with and without an example say the same, 0.3 for strong overfitting (the paper's choice).

    Raises:
        UserError: shapes do not fit, a probability outside [0, 1], no population, or a parameter out of range.

    Source: Zarifzadeh, Liu & Shokri 2024, arXiv:2312.03262, equations 5, 7 and 10.
    """
    own, others, seen = _fit(target, reference, inside)
    z, z_others = np.asarray(population_target, dtype=np.float64), np.asarray(population_reference, dtype=np.float64)
    if z.ndim != 1 or not len(z) or z_others.shape != (len(others), len(z)):
        raise UserError(f"RMIA needs population examples under every model, got {z.shape} and {z_others.shape}")
    for part in (own, others, z, z_others):
        if part.size and (part.min() < 0 or part.max() > 1):
            raise UserError("RMIA takes probabilities between 0 and 1")
    if not gamma >= 1 or not 0 <= a <= 1:
        raise UserError(f"RMIA needs gamma of 1 or more and a in 0 … 1, got {gamma:g} and {a:g}")
    if (~seen).sum(axis=0).min() < 1:
        raise UserError("offline RMIA needs, for every example, a reference model that was not trained on it")
    without = np.where(seen, 0.0, others).sum(axis=0) / (~seen).sum(axis=0)
    ratio = own / _marginal(without, a)
    bar = np.sort(z / _marginal(z_others.mean(axis=0), a))
    return np.searchsorted(bar, ratio / gamma, side="right") / len(bar)


def _marginal(without: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    return np.maximum(((1 + a) * without + (1 - a)) / 2, np.finfo(np.float64).tiny)


def _normal(
    answers: NDArray[np.float64], chosen: NDArray[np.bool_], pooled: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each example over the chosen models, ``(N,)`` each."""
    count = chosen.sum(axis=0)
    mean = np.where(chosen, answers, 0.0).sum(axis=0) / count
    squares = np.where(chosen, (answers - mean) ** 2, 0.0)
    if pooled:
        # Each example's own mean costs a degree of freedom.
        free = max(1, int(chosen.sum()) - answers.shape[1])
        return mean, np.full(answers.shape[1], np.sqrt(squares.sum() / free) + _SPREAD)
    return mean, np.sqrt(squares.sum(axis=0) / np.maximum(count - 1, 1)) + _SPREAD


def _log_density(
    value: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(-(((value - mean) / deviation) ** 2) / 2 - np.log(deviation), dtype=np.float64)


def _fit(
    target: ArrayLike, shadow: ArrayLike, inside: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    own, others = np.asarray(target, dtype=np.float64), np.asarray(shadow, dtype=np.float64)
    seen = np.asarray(inside, dtype=bool)
    if own.ndim != 1 or others.ndim != 2 or others.shape[1] != len(own) or seen.shape != others.shape:
        raise UserError(
            f"expected (N,) answers of the target, (S, N) of the shadows and (S, N) of who saw what, got {own.shape}, {others.shape}, {seen.shape}"
        )
    if not np.isfinite(own).all() or not np.isfinite(others).all():
        raise UserError("membership scores need finite model answers, got NaN or infinity")
    return own, others, seen
