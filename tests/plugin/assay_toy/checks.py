"""Checks whose every number a scenario sets, to see how the engine takes it."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from audit.checks import Check
from audit.finding import Bound, Exact, Mean, Measurement, Metric, Proportion
from audit.model import Capability
from audit.parameters import Real


class Coins(Check):
    """Counts that a scenario sets.

    Source: none. Blind spots: everything.
    """

    metrics: ClassVar = (
        Metric(name="heads", title="share of heads", better="higher", kinds=("proportion",)),
        Metric(name="mean", title="mean", better="higher", kinds=("mean",)),
        Metric(name="count", title="count", better="lower", kinds=("exact",)),
        Metric(name="bound", title="lower bound", better="lower", kinds=("bound",)),
    )
    remedy: ClassVar = "Toss again."

    k: int = 50
    """Heads."""
    n: int = 100
    """Tosses."""
    bias: Real = 0.0
    """Added to the mean."""
    parts: dict[str, int] = {}
    """Heads by side."""
    bound: tuple[Real, Real] | None = None
    """A lower bound and its ceiling."""
    then: Literal[
        "end", "raise", "nan", "undeclared", "twice", "wrong_kind", "hang", "kill", "interrupt", "user_error"
    ] = "end"
    """What happens after the first measurement."""
    needs_gradients: bool = False
    """Ask for gradients."""
    outcomes: tuple[int, ...] = ()
    """Stored outcomes per row."""

    def requirements(self) -> frozenset[Capability]:
        """Gradients where asked for."""
        return frozenset({Capability.GRADIENTS}) if self.needs_gradients else frozenset()

    def run(self, model: Any, data: Any, ctx: Any) -> Iterator[Measurement]:
        """Yield what was set."""
        evidence = ()
        if self.outcomes:
            writer = ctx.evidence("outcomes", "outcomes")
            writer.append(data.test.ids[: len(self.outcomes)], value=[float(v) for v in self.outcomes])
            evidence = (writer.ref,)
        yield Measurement(metric="heads", estimate=Proportion(k=self.k, n=self.n), evidence=evidence)
        self._then(ctx)
        noise = float(ctx.rng(data.test.ids[:1], "noise").normal(()).item())
        yield Measurement(metric="mean", estimate=Mean(value=noise + self.bias, se=0.1, n=self.n))
        for side, k in self.parts.items():
            yield Measurement(metric="heads", estimate=Proportion(k=k, n=self.n), dims={"side": side})
        yield Measurement(metric="count", estimate=Exact(value=self.k))
        if self.bound:
            yield Measurement(
                metric="bound",
                estimate=Bound(value=self.bound[0], side="lower", level=0.95, n=self.n, ceiling=self.bound[1]),
            )

    def _then(self, ctx: Any) -> None:
        if self.then == "raise":
            raise RuntimeError("the coin\nrolled away")
        if self.then == "user_error":
            from audit.parameters import UserError

            raise UserError("the coin has three sides: bring another")
        if self.then == "nan":
            Measurement(metric="mean", estimate=Mean(value=math.nan, se=0.1, n=3))
        if self.then == "hang":
            while True:
                time.sleep(0.01)
        if self.then == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.then == "interrupt":
            raise KeyboardInterrupt
        measurement = {
            "undeclared": Measurement(metric="tails", estimate=Exact(value=1)),
            "twice": Measurement(metric="heads", estimate=Proportion(k=1, n=2)),
            "wrong_kind": Measurement(metric="count", estimate=Proportion(k=1, n=2)),
        }.get(self.then)
        if measurement is not None:
            from audit.engine import _verify

            _verify(measurement, {m.name: m for m in self.metrics}, {"heads"})


class Control(Check):
    """A control that voids another check's number.

    Source: none. Blind spots: everything.
    """

    metrics: ClassVar = (Metric(name="alarm", title="alarm", better="lower", kinds=("exact",)),)

    voids: dict[str, str] = {}
    """Target to reason."""

    def run(self, model: Any, data: Any, ctx: Any) -> Iterator[Measurement]:
        """Void what was set."""
        yield Measurement(metric="alarm", estimate=Exact(value=len(self.voids)), voids=self.voids)
