"""Which test rows are attacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from audit.rng import ExampleRng

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.context import Context
    from audit.data import Batch


def sample(test: Batch, samples: int | None, ctx: Context) -> Batch:
    """At most `samples` rows, in their order. Which ones depends on the seed and the rows alone; more contain the fewer.

    Every check takes the same rows, so that an attack and a certificate speak of the same.
    """
    return test if samples is None or samples >= len(test) else test.take(drawn(test.ids, samples, ctx.seed))


def drawn(ids: Sequence[str], samples: int, seed: int) -> NDArray[np.int64]:
    """The positions that `sample` takes of rows with these ids, in ascending order."""
    order = ExampleRng(seed, "", ids, "samples").uniform(()).argsort(stable=True)
    places: NDArray[np.int64] = order[:samples].sort().values.numpy()
    return places
