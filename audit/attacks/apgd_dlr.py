"""Auto-PGD on the difference of logits ratio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from audit.attacks._apgd import AutoPgd, Goal, in_two

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks._tally import Tally
    from audit.model import AuditedModel


class ApgdDlr(AutoPgd):
    """Auto-PGD on the difference of logits ratio, which neither a shift nor a factor on the logits changes.

    The ratio needs three classes; with two it is the constant -1, and the margin, best other logit minus the label's, takes its place.

    Source: Croce & Hein 2020, arXiv:2003.01690; l1: Croce & Hein 2021, arXiv:2103.01208.
    """

    restarts: int = Field(1, ge=1)
    """Random starting points; those after the first are for what is still classified correctly, all at once."""

    def _goals(self, model: AuditedModel, tally: Tally, y: Tensor) -> Iterator[Goal]:
        from audit.attacks._losses import dlr, margin

        for targets in in_two(y[:, None].expand(-1, self.restarts)):
            yield Goal(dlr if len(model.classes) >= 3 else margin, targets)
