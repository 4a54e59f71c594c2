"""Which rows a check takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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
    import numpy as np

    return np.sort(shuffled(ids, seed)[:samples])


def shuffled(ids: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Every position once, in the order in which rows are drawn: any number of the first ones is a fair sample."""
    return _shuffled(tuple(ids), seed)


@lru_cache(maxsize=8)  # a stream per row costs seconds of 100,000 rows, and every check of a run asks for the same
def _shuffled(ids: tuple[str, ...], seed: int) -> NDArray[np.int64]:
    order: NDArray[np.int64] = ExampleRng(seed, "", ids, "samples").uniform(()).argsort(stable=True).numpy()
    order.setflags(write=False)
    return order
