"""Opacus's accountants: numerical (PRV) epsilon with its certified error, the reference RDP, and the search for a noise level."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from audit.parameters import UserError

Stretch = tuple[float, float, int]
"""Sampling rate q, noise multiplier sigma, steps."""

Accountant = Literal["prv", "rdp", "gdp"]

LARGEST_DOMAIN = 2**23
"""Mesh points beyond which PRV is not tried: Opacus holds about ten arrays of that length (0.7 GB)."""

_ULP = 2.0**-52

# what Opacus's PRV code raises where its arithmetic breaks down
_ARITHMETIC = (ValueError, RuntimeError, ArithmeticError, IndexError, MemoryError)


@dataclass(frozen=True)
class PrvEpsilon:
    """What numerical composition says of a training's epsilon, or why it could not."""

    epsilon: float
    """The upper end, which holds whatever the discretisation did; the RDP epsilon where PRV fell back."""
    accountant: Literal["prv", "rdp"]
    """Which accountant `epsilon` comes from."""
    eps_error: float
    delta_error: float
    """What was really allowed for; more than asked where rounding in the convolutions needs it."""
    lower: float = 0.0
    """No smaller epsilon is true of the mechanism as recorded; 0 where PRV fell back."""
    estimate: float | None = None
    fallback: str | None = None
    """Why PRV gave nothing; None where it did."""


@dataclass(frozen=True)
class NoiseMultiplier:
    """The noise level that a privacy budget asks for."""

    sigma: float
    accountant: Accountant
    fallback: str | None = None
    """Why the accountant asked for was not used; None where it was."""


@contextmanager
def _own_arithmetic() -> Iterator[None]:
    """Silence what is expected inside Opacus, and turn an integral that did not converge into an error."""
    import numpy as np
    from scipy.integrate import IntegrationWarning

    with warnings.catch_warnings(), np.errstate(all="ignore"):  # log(0) at q = 1 is part of the formula
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        warnings.filterwarnings("ignore", message="GDP accounting is experimental")
        warnings.simplefilter("error", IntegrationWarning)
        try:
            yield
        except IntegrationWarning as error:
            raise ArithmeticError(" ".join(str(error).split())) from error


def rdp_reference(stretches: Sequence[Stretch], delta: float, orders: Sequence[float] | None = None) -> float:
    """Epsilon by Opacus's own RDP accountant, over its default orders unless told.

    Raises:
        UserError: a stretch or delta out of range.
    """
    from opacus.accountants import RDPAccountant

    _check(stretches, delta)
    if any(sigma == 0 for q, sigma, steps in stretches if q and steps):
        return math.inf
    accountant = RDPAccountant()
    accountant.history = _history(stretches)
    if not accountant.history:
        return 0.0
    with _own_arithmetic():
        return max(0.0, float(accountant.get_epsilon(delta, alphas=None if orders is None else list(orders))))


def prv_epsilon(
    stretches: Sequence[Stretch], delta: float, *, eps_error: float = 0.01, delta_error: float | None = None
) -> PrvEpsilon:
    """Epsilon of Poisson-subsampled Gaussian training by numerical composition of privacy loss random variables.

    The same computation as ``PRVAccountant.get_epsilon``, which keeps only the upper end. Falls back to RDP, and says so,
    where Opacus's arithmetic fails, gives no finite number, would need more than `LARGEST_DOMAIN` points, or where delta
    is so small that rounding would decide it.

    It follows the direction in which an example is removed, as Opacus and Gopi et al. do; for the sampled Gaussian that is
    the larger one at every order of RDP and in every case tried, but no proof covers (epsilon, delta) under composition
    (Lebeda et al. 2024, arXiv:2405.20769).

    Args:
        eps_error: half-width that the discretisation may add to epsilon.
        delta_error: the same for delta; a thousandth of delta by default.

    Raises:
        UserError: a stretch, delta or an error out of range.

    Source: Gopi, Lee & Wutschitz 2021, arXiv:2106.02848.
    """
    _check(stretches, delta)
    if not 0 < eps_error < 1:
        raise UserError(f"eps_error={eps_error} must lie strictly between 0 and 1")
    if delta_error is None:
        delta_error = delta / 1000
    if not 0 < delta_error < delta:
        raise UserError(f"delta_error={delta_error} must be positive and less than delta={delta}")
    history = _history(stretches)
    if not history:
        return PrvEpsilon(0.0, "prv", eps_error, delta_error, 0.0, 0.0)
    if any(sigma == 0 for sigma, _, _ in history):
        return PrvEpsilon(math.inf, "prv", eps_error, delta_error, math.inf, math.inf)
    try:
        with _own_arithmetic():
            delta_error, (lower, estimate, upper) = _compose(history, delta, eps_error, delta_error)
        if not (math.isfinite(lower) and math.isfinite(estimate) and math.isfinite(upper)):
            raise ArithmeticError(f"no finite epsilon ({lower}, {estimate}, {upper})")
    except _ARITHMETIC as error:
        return PrvEpsilon(rdp_reference(stretches, delta), "rdp", eps_error, delta_error, fallback=_because(error))
    return PrvEpsilon(max(0.0, upper), "prv", eps_error, delta_error, max(0.0, lower), max(0.0, estimate))


def prv_curve(q: float, sigma: float, counts: Sequence[int], delta: float, *, eps_error: float = 0.01) -> list[float]:
    """Epsilon after each of several numbers of steps, as `prv_epsilon` of the largest discretises them: a second for all together.

    Args:
        counts: of steps, 0 or more.

    Returns:
        Upper ends; of RDP where PRV fails.

    Raises:
        UserError: q, sigma, a count or delta out of range.
    """
    from opacus.accountants.analysis.prv import compose_heterogeneous

    _check([(q, sigma, steps) for steps in counts], delta)
    if sigma == 0 or not any(counts):
        return [math.inf if steps and sigma == 0 else 0.0 for steps in counts]
    try:
        with _own_arithmetic():
            delta_error, losses = _discretised([(sigma, q, max(counts))], delta, eps_error, delta / 1000)
            found = [
                max(
                    0.0,
                    float(
                        compose_heterogeneous(losses, [steps]).compute_epsilon(delta, delta_error, eps_error)[2].real
                    ),
                )
                if steps
                else 0.0
                for steps in counts
            ]
        if not all(map(math.isfinite, found)):
            raise ArithmeticError("no finite epsilon")
        return found
    except _ARITHMETIC:
        return [rdp_reference([(q, sigma, steps)], delta) for steps in counts]


def noise_multiplier(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    accountant: Accountant = "prv",
) -> NoiseMultiplier:
    """The smallest noise multiplier, to Opacus's tolerance, whose training stays within (epsilon, delta).

    Args:
        steps: optimiser steps; or `epochs`, of ``1 / sampling_rate`` steps each. Exactly one of the two.
        accountant: ``gdp`` is an approximation that can grant too little noise; PRV falls back to RDP where it fails.

    Raises:
        UserError: a budget out of range, or one that no noise level meets.
    """
    from opacus.accountants.utils import get_noise_multiplier

    if not (0 < epsilon < math.inf and 0 < delta < 1 and 0 < sampling_rate <= 1):
        raise UserError(
            f"a noise level needs epsilon > 0, delta in (0, 1) and a sampling rate in (0, 1], got {epsilon=}, {delta=}, {sampling_rate=}"
        )
    if (steps is None) == (epochs is None) or any(count is not None and count < 1 for count in (steps, epochs)):
        raise UserError(f"say either steps or epochs, 1 or more, got {steps=}, {epochs=}")
    budget: dict[str, Any] = {
        "target_epsilon": epsilon, "target_delta": delta, "sample_rate": sampling_rate, "steps": steps, "epochs": epochs
    }  # fmt: skip
    with _own_arithmetic():
        try:
            sigma = float(get_noise_multiplier(**budget, accountant="gdp" if accountant == "gdp" else "rdp"))
        except ValueError as error:
            raise UserError(
                f"Opacus finds no noise level for {epsilon=} at {delta=} by {accountant} accounting: {error}"
            ) from error
        if accountant != "prv":
            return NoiseMultiplier(sigma, accountant)
        try:
            total = steps or math.ceil((epochs or 0) / sampling_rate)
            if sampling_rate < 1 and -math.expm1(total * math.log1p(-sampling_rate)) <= 2 * delta:
                raise ArithmeticError("an example is hardly ever drawn, so that the search would end without noise")
            # the search halves sigma until the budget breaks: see first that its lowest probe fits into memory
            _mesh([(0.4 * sigma, sampling_rate, total)], 0.01, delta / 1000)
            return NoiseMultiplier(float(get_noise_multiplier(**budget, accountant="prv")), "prv")
        except _ARITHMETIC as error:
            return NoiseMultiplier(sigma, "rdp", _because(error))


def _because(error: Exception) -> str:
    return f"PRV accounting failed ({str(error) or type(error).__name__}); the RDP accountant stands in"


def _mesh(history: list[tuple[float, float, int]], eps_error: float, delta_error: float) -> tuple[float, float, float]:
    """Half-width of the domain, distance of its points and their number, as ``PRVAccountant`` chooses them.

    Raises:
        ArithmeticError: more than `LARGEST_DOMAIN` points.
    """
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV, compute_safe_domain_size

    repeats = [steps for _, _, steps in history]
    half_width = compute_safe_domain_size(
        prvs=[PoissonSubsampledGaussianPRV(q, sigma) for sigma, q, _ in history],
        max_self_compositions=repeats,
        eps_error=eps_error,
        delta_error=delta_error,
    )
    distance = eps_error / math.sqrt(sum(repeats) * math.log(12 / delta_error) / 2)
    points = 2 * half_width / distance
    if not points <= LARGEST_DOMAIN:
        raise ArithmeticError(f"it would need {points:.2g} mesh points, more than {LARGEST_DOMAIN}")
    return half_width, distance, points


def _compose(
    history: list[tuple[float, float, int]], delta: float, eps_error: float, delta_error: float
) -> tuple[float, tuple[float, float, float]]:
    """``PRVAccountant._get_dprv`` with the mesh looked at before it is filled; (delta_error used, (lower, estimate, upper))."""
    import numpy as np
    from opacus.accountants.analysis.prv import compose_heterogeneous

    delta_error, losses = _discretised(history, delta, eps_error, delta_error)
    composed = compose_heterogeneous(dprvs=losses, num_self_compositions=[steps for _, _, steps in history])
    lower, estimate, upper = (float(np.real(e)) for e in composed.compute_epsilon(delta, delta_error, eps_error))
    return delta_error, (lower, estimate, upper)


def _discretised(
    history: list[tuple[float, float, int]], delta: float, eps_error: float, delta_error: float
) -> tuple[float, list[Any]]:
    """One step's privacy loss of each stretch on a mesh that serves so many; with the delta_error used."""
    from opacus.accountants.analysis.prv import (
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        discretize,
    )

    half_width, distance, points = _mesh(history, eps_error, delta_error)
    delta_error = max(delta_error, points * _ULP)  # what rounding may add to the summed tail
    if delta_error > delta / 10:
        raise ArithmeticError(f"delta={delta:g} is too small for double precision on {points:.2g} mesh points")
    domain = Domain.create_aligned(-half_width, half_width, distance)
    losses = [
        TruncatedPrivacyRandomVariable(PoissonSubsampledGaussianPRV(q, sigma), domain.t_min, domain.t_max)
        for sigma, q, _ in history
    ]
    return delta_error, [discretize(loss, domain) for loss in losses]


def _history(stretches: Sequence[Stretch]) -> list[tuple[float, float, int]]:
    """As Opacus keeps it: (sigma, q, steps), equal stretches merged, without those that released nothing."""
    merged: dict[tuple[float, float], int] = {}
    for q, sigma, steps in stretches:
        if q and steps:
            merged[float(sigma), float(q)] = merged.get((float(sigma), float(q)), 0) + int(steps)
    return [(sigma, q, steps) for (sigma, q), steps in merged.items()]


def _check(stretches: Sequence[Stretch], delta: float) -> None:
    if not 0 < delta < 1:
        raise UserError(f"delta={delta} must lie strictly between 0 and 1")
    for q, sigma, steps in stretches:
        if not (0 <= q <= 1 and 0 <= sigma < math.inf and steps >= 0):
            raise UserError(f"a stretch needs q in [0, 1], sigma and steps 0 or more, got {q=}, {sigma=}, {steps=}")
