"""Which test rows are attacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.rng import ExampleRng

if TYPE_CHECKING:
    from audit.context import Context
    from audit.data import Batch


def sample(test: Batch, samples: int | None, ctx: Context) -> Batch:
    """At most `samples` rows, in their order. Which ones depends on the seed and the rows alone; more contain the fewer.

    Every check takes the same rows, so that an attack and a certificate speak of the same.
    """
    if samples is None or samples >= len(test):
        return test
    drawn = ExampleRng(ctx.seed, "", test.ids, "samples").uniform(())
    return test.take(drawn.argsort(stable=True)[:samples].sort().values.numpy())
