"""What the benchmark of explainers runs: one piece of work, several contenders, each giving the same kind of map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

Run = Callable[[], Tensor]
"""Does the work; gives the maps ``(N, *shape)``. This alone is timed."""
Contender = Callable[[nn.Module], Run]
"""Makes ready for a network (ours, or the same one counting its rows), then runs."""

NOT_TIMED = "(not timed)"
"""Ends the name of a contender whose maps alone are looked at."""


@dataclass(frozen=True)
class Workload:
    """One piece of work for several contenders. A file ``_explain_*.py`` with a list WORKLOADS of these adds to the benchmark.

    Args:
        name: by which the command line calls it.
        title: what is done, in words.
        network: inputs → answers, in eval mode, parameters without gradients; made when it is needed.
        contenders: in the order they are printed.
        reference: the contender that the others' times are divided by.
        truth: the contender that the others' maps are held against; printed as largest and mean absolute difference.
        goals: contender → largest ratio of our time to its that counts as met.
        ours: the contender that the goals speak of.
    """

    name: str
    title: str
    network: Callable[[], nn.Module]
    contenders: Mapping[str, Contender]
    reference: str
    truth: str
    goals: Mapping[str, float] = field(default_factory=dict)
    ours: str = "ours"
