"""Auto-PGD on the targeted difference of logits ratio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from audit.attacks._apgd import AutoPgd, Goal, in_two

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks._tally import Tally
    from audit.model import AuditedModel


class ApgdT(AutoPgd):
    """Auto-PGD towards one target class after another, by the targeted difference of logits ratio.

    The targets are the classes with the largest logits at the input. The first is tried alone, the others then at once: an example
    leaves with all of them as soon as one succeeds, whatever class it then lands in. The ratio needs four classes; with fewer the
    targeted margin, the target's logit minus the label's, takes its place.

    Source: Croce & Hein 2020, arXiv:2003.01690; l1: Croce & Hein 2021, arXiv:2103.01208.
    """

    targets: int = Field(9, ge=1)
    """Classes to aim at, at most; all others where there are fewer."""

    def _goals(self, model: AuditedModel, tally: Tally, y: Tensor) -> Iterator[Goal]:
        import torch

        from audit.attacks._losses import targeted_dlr, targeted_margin

        classes = len(model.classes)
        rows = tally.left()
        rows = rows[tally.affordable(rows)]
        if not len(rows):
            return
        tally.asked(rows)
        logits = torch.cat(model.in_parts(tally.x[rows], model.logits))
        rivals = logits.scatter(1, y[rows, None], -torch.inf).topk(min(self.targets, classes - 1), dim=1).indices
        for targets in in_two(rivals):
            yield Goal(targeted_dlr if classes >= 4 else targeted_margin, targets)
