"""Global generators are seeded inside and given back outside."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from audit.bridges.global_generators import seeded


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def state() -> tuple[object, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_the_seed_decides_and_the_state_returns() -> None:
    before = state()
    with seeded(1):
        first = draw()
    with seeded(1):
        again = draw()
    with seeded(2):
        other = draw()
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert state() == before


def test_the_state_returns_after_an_exception() -> None:
    before = state()

    def broken() -> None:
        with seeded(1):
            draw()
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="broken on purpose"):
        broken()
    assert state() == before
