"""AutoAttack, the standard ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from audit.attacks import Attack, Candidates
from audit.attacks._folded import folded, wrong_for_both
from audit.attacks._gradients import require_ball
from audit.attacks.apgd_ce import ApgdCe
from audit.attacks.apgd_t import ApgdT
from audit.attacks.fab_t import FabT
from audit.attacks.square import Square
from audit.finding import Access, ThreatModel
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class Autoattack(Attack):
    """The standard ensemble, worst case per example: each attack takes on what those before it have left.

    APGD-CE, then APGD-T (targeted DLR, 9 targets), FAB-T (9 targets), both of 100 steps, and Square (5,000 queries), each from one
    random start; under l1, as the authors set it there, APGD-CE has 5 starts and APGD-T 5 targets. With two or three classes the
    targeted DLR is not defined: cross-entropy and, in place of APGD-T, the targeted margin towards every other class
    (``apgd_margin``); FAB-T and Square apply as they are. Square's patches shrink on a schedule stretched over its 5,000 queries;
    the authors' set-up follows the first half of one made for 10,000; at 500 queries that is weaker (see ``square``). There is
    nothing to set: another ensemble is not AutoAttack, and is a list of attacks.

    Source: Croce & Hein 2020, arXiv:2003.01690, "standard"; l1: Croce & Hein 2021, arXiv:2103.01208.
    """

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})

    def stages(self, classes: int) -> tuple[str, ...]:
        """See `Attack.stages`."""
        return ("apgd_ce", "apgd_t" if classes >= 4 else "apgd_margin", "fab_t", "square")

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the threat model has no eps, or a norm other than linf, l2 and l1.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        norm, _ = require_ball("autoattack", self.norms, threat.norm, threat.eps)
        found, stage = x.clone(), torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        queries, gradients, zeros = (torch.zeros_like(stage) for _ in range(3))
        with folded(model, x) as fast:
            for number, (name, attack) in enumerate(zip(self.stages(len(model.classes)), _parts(norm), strict=True)):
                reserve = 0 if fast is model else 1
                for rows, rest in _shares((stage < 0).nonzero().flatten(), queries + reserve, threat):
                    part = attack.run(fast, x[rows], y[rows], rest, rng.take(rows.cpu()).fork(name))
                    queries[rows] += part.queries
                    gradients[rows] += part.gradients
                    if part.zero_gradients is not None:
                        zeros[rows] += part.zero_gradients
                    moved = (part.x != x[rows]).flatten(1).any(dim=1)
                    moved, again = wrong_for_both(model, fast, part.x, y[rows], moved)
                    queries[rows[again]] += 1
                    found[rows[moved]], stage[rows[moved]] = part.x[moved], number
        return Candidates(found, queries, gradients, zeros, stage)


def _parts(norm: str) -> tuple[Attack, ...]:
    if norm == "l1":
        return ApgdCe(restarts=5), ApgdT(targets=5), FabT(), Square()
    return ApgdCe(), ApgdT(), FabT(), Square()


def _shares(left: Tensor, queries: Tensor, threat: ThreatModel) -> Iterator[tuple[Tensor, ThreatModel]]:
    """The rows that are left, by how many queries each may still make."""
    if threat.queries is None:
        if len(left):
            yield left, threat
        return
    for spent in sorted(set(queries[left].tolist())):
        if spent < threat.queries:
            yield left[queries[left] == spent], threat.model_copy(update={"queries": threat.queries - spent})
