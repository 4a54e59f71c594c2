"""Fast gradient sign method."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from audit.attacks import Attack, Candidates
from audit.attacks._ball import Ball
from audit.attacks._gradients import frozen_parameters, label_and_gradient, require_ball
from audit.attacks._tally import Tally
from audit.finding import Access, ThreatModel
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class Fgsm(Attack):
    """One gradient at the input, and the point of the ball within the box where the loss would be largest if it were linear.

    Under linf that is eps times the gradient's sign; under l2 and l1 what the box has no room for goes to the other elements, so that
    the whole of eps is used where it can be. It judges the iterative attacks, which must be no weaker, more than the model.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2", "l1"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS, Capability.LOGITS})

    loss: Literal["ce", "margin"] = "ce"
    """``ce``: cross-entropy; ``margin``: best other logit minus the label's."""

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: the threat model has no eps, or a norm other than linf, l2 and l1.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        norm, eps = require_ball("fgsm", self.norms, threat.norm, threat.eps)
        x, y = x.detach(), y.to(x.device)
        tally = Tally(x, threat.queries)
        rows = tally.left()
        rows = rows[tally.affordable(rows, each=2)]
        if len(rows):
            with frozen_parameters(model):
                _, gradient = label_and_gradient(model, x[rows], y[rows], self.loss)
            tally.followed(rows, gradient)
            moved = Ball.around(x[rows], norm, eps, threat.bounds).furthest(gradient)
            tally.asked(rows)
            tally.record(rows, model.predict(moved) != y[rows], moved)
        return tally.candidates()
