"""Where noise and sampling of a private training come from: the operating system, or, for tests alone, a seed.

Privacy rests on nobody knowing the noise. A generator's state is drawn anew from the operating system for every use and thrown away
after it, so no state that could be read later holds past noise, and a checkpoint holds none at all.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from audit.rng import generator


class Randomness:
    """Gaussian noise and Poisson samples, one draw after the other.

    Args:
        seed: for tests; None draws from the operating system. A seeded run repeats, and resumed at a step continues, bit for bit.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed

    @property
    def noise(self) -> Literal["entropy", "reproducible"]:
        """As the ledger calls it."""
        return "entropy" if self._seed is None else "reproducible"

    def _generator(self, *purpose: object) -> np.random.Generator:
        """Philox under a key of 128 bits. (torch's own generator keeps 32 bits of a seed: few enough to try them all.)"""
        if self._seed is not None:
            return generator(self._seed, *purpose)
        return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16), "little")))

    def gaussian(self, like: Tensor, deviation: float, step: int, place: int) -> Tensor:
        """Noise of the shape, type and device of `like`.

        The Gaussian is the sum of four, halved, as a defence against reading a noiseless sum out of the gaps between floating-point
        numbers. Source: Holohan & Braghin 2021, arXiv:2107.10138 (as Opacus's secure mode does).

        Args:
            step, place: number of the step and of the parameter; they key a seeded run.
        """
        if deviation == 0:
            return torch.zeros_like(like)
        drawn = self._generator("noise", step, place).standard_normal((4, *like.shape)).sum(axis=0) * (deviation / 2)
        return torch.from_numpy(np.asarray(drawn)).to(like)

    def poisson(self, n: int, rate: float, step: int) -> Tensor:
        """Positions of the examples that a step takes, each with chance `rate` by itself, ascending; there may be none."""
        return torch.from_numpy(np.flatnonzero(self._generator("sample", step).random(n) < rate))

    def permutation(self, n: int, epoch: int) -> Tensor:
        """An order of all examples, for shuffled batches."""
        return torch.from_numpy(self._generator("order", epoch).permutation(n))
