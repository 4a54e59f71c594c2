"""What the benchmark of privacy runs: one piece of work, several contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Run = Callable[[], Mapping[str, float | str]]
"""Does the work, which alone is timed; gives figures of what came out, by name, which are printed."""
Contender = Callable[[], Run]
"""Makes ready."""


@dataclass(frozen=True)
class Workload:
    """One piece of work for several contenders. A file ``_privacy_*.py`` with a list WORKLOADS of these adds to the benchmark.

    Args:
        name: by which the command line calls it.
        title: what is done, in words.
        contenders: in the order they are printed.
        reference: the contender that the others' times are divided by.
        goals: contender → largest ratio of our time to its that counts as met.
        ours: the contender that the goals speak of.
    """

    name: str
    title: str
    contenders: Mapping[str, Contender]
    reference: str
    goals: Mapping[str, float] = field(default_factory=dict)
    ours: str = "ours"
