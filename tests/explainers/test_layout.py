"""Channels last: the same model, its rows counted once, and nothing left behind."""

from __future__ import annotations

import threading

import torch
from torch import nn
from toys import audited, trained_cnn

from audit.explainers._layout import channels_last


def test_the_copy_answers_as_the_model_and_counts_for_it() -> None:
    model, x = audited(trained_cnn(), (1, 8, 8), 10), torch.rand(6, 1, 8, 8) * 16
    wanted, before = model.scores(x), model.rows_forward
    with channels_last(model) as fast:
        assert fast is not model
        layers = [part for part in fast.module.modules() if isinstance(part, nn.Conv2d)]  # type: ignore[union-attr]
        assert layers[1].weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(fast.scores(x), wanted, atol=1e-4)
    assert model.rows_forward == before + 6
    own = [part.weight for part in model.module.modules() if isinstance(part, nn.Conv2d)]  # type: ignore[union-attr]
    assert all(weight.is_contiguous() for weight in own)


def test_what_gains_nothing_or_cannot_be_copied_is_used_as_it_is() -> None:
    dense = audited(nn.Linear(4, 2), (4,))
    with channels_last(dense) as fast:
        assert fast is dense

    class Locked(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 2, 1)
            self.lock = threading.Lock()

    locked = audited(Locked(), (3, 2, 2))
    with channels_last(locked) as fast:
        assert fast is locked
