"""What floating point may do to a network and to its bounds.

Every bound holds for the numbers that the model itself computes in floating point, not for the real-valued network only. A sum of n
products, in whatever order, is off by at most ``γ(n) · Σ|products|`` with ``γ(n) = n u / (1 - n u)`` and u the unit roundoff; so an
affine layer computes ``W h + b + δ`` with ``|δ| <= γ · (|W| |h| + |b|)``, its slack. Intervals are widened by it, and a linear bound
with coefficients a pays ``|a| · slack`` where it passes the layer. The rounding of the bounds themselves, in float64, is of the same
form and is paid with it. Convolutions by Winograd's or the Fourier transform are not covered.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, §3.1.
"""

from __future__ import annotations

import torch

DTYPE = torch.float64
"""What bounds are computed in."""
UNIT = torch.finfo(DTYPE).eps / 2
"""Unit roundoff of `DTYPE`."""
UNDERFLOW = 1e-20
"""What every sum may be off by besides, where products underflow; far above that, and far below what matters."""
_FEW = 16
"""Roundings of one step besides its sum."""


def gamma(terms: int, unit: float) -> float:
    """``γ(n)`` for n roundings at unit roundoff u; infinite where they may add up to everything."""
    return terms * unit / (1 - terms * unit) if terms * unit < 1 else float("inf")


def own_rounding(terms: int) -> float:
    """``γ`` of the bounds' own arithmetic for sums of `terms` products."""
    return gamma(terms + _FEW, UNIT)
