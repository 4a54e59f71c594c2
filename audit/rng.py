"""Randomness keyed by (seed, check, example, purpose): order, batch size, resumption and workers do not change it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def key(*parts: object) -> int:
    """128 bits from any parts."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*parts: object) -> np.random.Generator:
    """A NumPy generator (Philox) keyed by `parts`."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=key(*parts)))


class ExampleRng:
    """One random stream per example; every draw gives each example the numbers it would get alone.

    `take` follows an active set: the streams of the examples that stay.
    """

    def __init__(self, seed: int, check: str, ids: Sequence[str], purpose: str) -> None:
        self._origin = (seed, check, purpose)
        self._ids = tuple(ids)
        self._streams = [generator(seed, check, example, purpose) for example in ids]

    def __len__(self) -> int:
        return len(self._streams)

    def take(self, indices: Any) -> ExampleRng:
        """The streams at `indices` (integers or a mask), shared with this one, not copied."""
        import numpy as np

        indices = np.asarray(indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        taken = object.__new__(ExampleRng)
        taken._origin = self._origin
        taken._ids = tuple(self._ids[i] for i in indices)
        taken._streams = [self._streams[i] for i in indices]
        return taken

    def fork(self, purpose: str) -> ExampleRng:
        """Fresh streams for the same examples and another purpose."""
        seed, check, own = self._origin
        return ExampleRng(seed, check, self._ids, f"{own}/{purpose}")

    def common(self, *purpose: object) -> np.random.Generator:
        """A fresh stream that every example has in common, whichever of them are here."""
        return generator(*self._origin, *purpose)

    def uniform(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        """``(N, *shape)`` float32 in [low, high)."""
        return self._stack([s.random(shape, dtype="float32") for s in self._streams], shape) * (high - low) + low

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """``(N, *shape)`` float32 standard normal."""
        return self._stack([s.standard_normal(shape, dtype="float32") for s in self._streams], shape)

    def integers(self, high: int, shape: tuple[int, ...] = ()) -> Tensor:
        """``(N, *shape)`` int64 in [0, high)."""
        return self._stack([s.integers(0, high, shape) for s in self._streams], shape)

    def poisson(self, rate: Tensor) -> Tensor:
        """Counts with the rates ``(N, *shape)``, in their type and on their device."""
        rates = rate.double().cpu().numpy()
        drawn = [s.poisson(row) for s, row in zip(self._streams, rates, strict=True)]
        return self._stack(drawn, tuple(rate.shape[1:])).to(rate)

    def _stack(self, rows: list[Any], shape: tuple[int, ...]) -> Tensor:
        import numpy as np
        import torch

        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros((0, *shape))
