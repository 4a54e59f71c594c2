"""Noise and samples have the distribution that the accounting takes them to have."""

from __future__ import annotations

import torch
from scipy.stats import binomtest, kstest

from audit.train.randomness import Randomness


def test_noise_is_gaussian_with_the_deviation_asked_for() -> None:
    noise = Randomness(3).gaussian(torch.zeros(20000), 2.5, step=1, place=0)
    assert kstest(noise.numpy() / 2.5, "norm").pvalue > 1e-3
    assert not Randomness(3).gaussian(torch.zeros(5), 0.0, 1, 0).any()


def test_samples_are_poisson() -> None:
    source = Randomness(4)
    draws = [source.poisson(1000, 0.05, step) for step in range(200)]
    assert binomtest(sum(map(len, draws)), 200_000, 0.05).pvalue > 1e-3
    assert len({len(draw) for draw in draws}) > 10, "batch sizes vary"
    assert all((draw.diff() > 0).all() for draw in draws)
    assert len(source.poisson(10, 1e-9, 0)) == 0


def test_a_seed_repeats_and_entropy_does_not() -> None:
    like = torch.zeros(8)
    assert torch.equal(Randomness(1).gaussian(like, 1.0, 5, 2), Randomness(1).gaussian(like, 1.0, 5, 2))
    assert not torch.equal(Randomness(1).gaussian(like, 1.0, 5, 2), Randomness(1).gaussian(like, 1.0, 6, 2))
    assert not torch.equal(Randomness(1).gaussian(like, 1.0, 5, 2), Randomness(1).gaussian(like, 1.0, 5, 3))
    assert not torch.equal(Randomness().gaussian(like, 1.0, 5, 2), Randomness().gaussian(like, 1.0, 5, 2))
    assert (Randomness(1).noise, Randomness().noise) == ("reproducible", "entropy")
    assert torch.equal(Randomness(2).permutation(9, 1).sort().values, torch.arange(9))


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    Randomness().poisson(5, 0.5, 0)
    Randomness().gaussian(torch.zeros(3), 1.0, 0, 0)
    assert torch.equal(before, torch.get_rng_state())
