"""Auto-PGD on the cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from audit.attacks._apgd import AutoPgd, Goal, in_two

if TYPE_CHECKING:
    from torch import Tensor

    from audit.attacks._tally import Tally
    from audit.model import AuditedModel


class ApgdCe(AutoPgd):
    """Auto-PGD on the cross-entropy: no step size to choose.

    Confident logits do not blind it: its direction and the values that it compares are computed from the log-odds, which do not
    saturate. The reference implementation's cross-entropy is 0 in float32 once the label leads by some 100.

    Source: Croce & Hein 2020, arXiv:2003.01690; l1: Croce & Hein 2021, arXiv:2103.01208.
    """

    restarts: int = Field(1, ge=1)
    """Random starting points; those after the first are for what is still classified correctly, all at once."""

    def _goals(self, model: AuditedModel, tally: Tally, y: Tensor) -> Iterator[Goal]:
        from audit.attacks._losses import cross_entropy

        for targets in in_two(y[:, None].expand(-1, self.restarts)):
            yield Goal(cross_entropy, targets)
