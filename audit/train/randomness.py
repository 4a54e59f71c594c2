"""Where noise and sampling of a private training come from: the operating system, or, for tests alone, a seed.

Privacy rests on nobody knowing the noise. A generator's state is drawn anew from the operating system for every use and thrown away
after it, so no state that could be read later holds past noise, and a checkpoint holds none at all.
"""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from audit.rng import key


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

    def _generator(self, *purpose: object) -> torch.Generator:
        bits = int.from_bytes(os.urandom(8), "little") if self._seed is None else key(self._seed, *purpose)
        return torch.Generator().manual_seed(bits % (1 << 63))

    def gaussian(self, like: Tensor, deviation: float, step: int, place: int) -> Tensor:
        """Noise of the shape, type and device of `like`.

        The Gaussian is the sum of four, halved, as a defence against reading a noiseless sum out of the gaps between floating-point
        numbers. Source: Holohan & Braghin 2021, arXiv:2107.10138 (as Opacus's secure mode does).

        Args:
            step, place: number of the step and of the parameter; they key a seeded run.
        """
        if deviation == 0:
            return torch.zeros_like(like)
        generator = self._generator("noise", step, place)
        drawn = torch.zeros(like.shape, dtype=like.dtype)
        for _ in range(4):
            drawn += torch.randn(like.shape, generator=generator, dtype=like.dtype)
        return (drawn * (deviation / 2)).to(like.device)

    def poisson(self, n: int, rate: float, step: int) -> Tensor:
        """Positions of the examples that a step takes, each with chance `rate` by itself, ascending; there may be none."""
        drawn = torch.rand(n, generator=self._generator("sample", step), dtype=torch.float64)
        return (drawn < rate).nonzero().flatten()

    def permutation(self, n: int, epoch: int) -> Tensor:
        """An order of all examples, for shuffled batches."""
        return torch.randperm(n, generator=self._generator("order", epoch))
