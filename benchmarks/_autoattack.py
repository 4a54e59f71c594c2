"""AutoAttack, the standard ensemble, and its parts, against torchattacks set to the standard's budgets.

As it comes, torchattacks' own `AutoAttack` gives APGD and FAB 10 steps where the standard has 100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from _compare import Contender, Workload
from _pgd import ours
from _subjects import Subject, subject

from audit.attacks.apgd_ce import ApgdCe
from audit.attacks.apgd_dlr import ApgdDlr
from audit.attacks.apgd_t import ApgdT
from audit.attacks.autoattack import Autoattack
from audit.attacks.fab_t import FabT

STEPS = 100
QUERIES = 5000


def apgd(loss: str) -> Callable[..., Any]:
    import torchattacks

    return partial(torchattacks.APGD, steps=STEPS, loss=loss, n_restarts=1)


def apgd_t() -> Callable[..., Any]:
    import torchattacks

    return partial(torchattacks.APGDT, steps=STEPS, n_classes=10, n_restarts=1)


def fab_t() -> Callable[..., Any]:
    import torchattacks

    return partial(torchattacks.FAB, steps=STEPS, multi_targeted=True, n_classes=10, n_restarts=1)


def square() -> Callable[..., Any]:
    import torchattacks

    return partial(torchattacks.Square, n_queries=QUERIES, n_restarts=1, resc_schedule=False)


def theirs(makers: Sequence[Callable[[], Callable[..., Any]]], norm: str = "Linf") -> Contender:
    """Attacks of torchattacks one after the other, each on what is left, as its `MultiAttack` does it."""

    def run(subject: Subject, eps: float, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        unit, x, y = subject.unit(), subject.x / subject.high, subject.y
        moved = x.clone()
        left = torch.from_numpy(subject.right_after(subject.x)).nonzero().flatten()
        for make in makers:
            if not len(left):
                break
            attack = make()(unit, norm=norm, eps=eps / subject.high, seed=seed)
            moved[left] = attack(x[left], y[left]).detach()
            left = torch.from_numpy(subject.right_after(moved * subject.high)).nonzero().flatten()
        stays = subject.right_after(moved * subject.high)
        if norm == "Linf":  # what lies outside does not count, by the same measure for all
            stays |= ((moved - x).abs() > eps / subject.high + 1e-6).flatten(1).any(1).numpy()
        return stays

    return run


ENSEMBLE = (partial(apgd, "ce"), apgd_t, fab_t, square)
CONTENDERS = {"audit": ours(Autoattack()), "torchattacks at the standard's budgets": theirs(ENSEMBLE)}
ROWS = 300


def _workload(name: str, title: str, eps: float) -> Workload:
    attacked = partial(subject, "digits", "standard", ROWS)
    return Workload(
        name, f"AutoAttack, {title}", attacked, (eps,), CONTENDERS, "torchattacks at the standard's budgets"
    )


WORKLOADS = (
    _workload("autoattack", "a third robust", 1.95),
    _workload("autoattack_broken", "nothing robust", 4.0),
)
STRENGTH = {
    "apgd_ce": (ours(ApgdCe()), theirs([partial(apgd, "ce")])),
    "apgd_dlr": (ours(ApgdDlr()), theirs([partial(apgd, "dlr")])),
    "apgd_t": (ours(ApgdT()), theirs([apgd_t])),
    "fab_t": (ours(FabT()), theirs([fab_t])),
    "autoattack": (ours(Autoattack()), theirs(ENSEMBLE)),
}
