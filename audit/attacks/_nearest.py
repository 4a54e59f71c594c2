"""The nearest adversarial example found for every input, and the last stretch back to the boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.attacks import Candidates, perturbation_size
from audit.attacks._tally import Tally
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

BEYOND = 0.05
"""How far beyond the estimated crossing the walk back aims, as a share of the lead that is left: on it, rounding would decide."""

CLEAR = 1e-5
"""Smallest lead of an example that is kept, as a share of the input's largest logit. The nearest examples lie where another batch size
rounds them back to the label; nothing is lost by it but as small a share of the distance."""


class Nearest(Tally):
    """As `Tally`, of attacks that seek the nearest example: with an eps an input is done once something within is found, with none never.

    Args:
        x: ``(N, *shape)`` clean inputs.
        y: ``(N,)`` labels.
        norm: what near means.
        eps: largest perturbation that counts; None for any.
        box: lowest and highest value.
        cap: most rows forward per example; None for no cap.
    """

    def __init__(
        self, x: Tensor, y: Tensor, norm: str, eps: float | None, box: tuple[float, float], cap: int | None
    ) -> None:
        import torch

        super().__init__(x, cap)
        self.clean, self.y, self.norm, self.eps, self.box = x, y, norm, eps, box
        self.size = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        self.rival = y.clone()
        self.lead = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        self.clear = torch.zeros_like(self.lead)

    def calibrate(self, example: Tensor, clean: Tensor) -> None:
        """Tell it the logits ``(R, C)`` of inputs, before anything is weighed against them."""
        self.clear[example] = CLEAR * clean.abs().amax(dim=1).to(self.clear)

    def weigh(self, example: Tensor, logits: Tensor, x: Tensor) -> Tensor:
        """Keep what is clearly misclassified and nearer than what is known; gives which rows ``(R,)`` are misclassified.

        Args:
            example: ``(R,)`` which input each row works on, in order.
            logits: ``(R, C)`` the model's answer.
            x: ``(R, *shape)`` the rows.
        """
        import torch

        top, rival = logits.max(dim=1)
        wrong: Tensor = rival != self.y[example]
        lead = top - logits.gather(1, self.y[example, None]).squeeze(1)
        at = (wrong & (lead > self.clear[example])).nonzero().flatten()
        if not len(at):
            return wrong
        size = perturbation_size(x[at].double() - self.clean[example[at]].double(), self.norm)
        # Neighbours that work on one input: the nearest of them, and of equals the first.
        order = size.argsort(stable=True)
        order = order[example[at][order].argsort(stable=True)]
        at, size = at[order], size[order]
        first = torch.ones_like(at, dtype=torch.bool)
        first[1:] = example[at][1:] != example[at][:-1]
        nearer = first & (size < self.size[example[at]])
        at, size = at[nearer], size[nearer]
        row = example[at]
        self.x[row], self.size[row], self.rival[row], self.lead[row] = x[at], size, rival[at], lead[at].to(self.lead)
        if self.eps is not None:
            self.fooled[row] = size <= self.eps
        return wrong

    def walk_back(self, model: AuditedModel, clean: Tensor, steps: int) -> None:
        """Go from every example found, unless it is within eps already, straight back towards its input, as far as it stays misclassified.

        Each step asks the model about the crossing as it would be if the logits were linear between the nearest point known to be
        right and the nearest known to be wrong.

        Args:
            clean: ``(N, C)`` logits of the inputs.
            steps: rows forward for each.

        Source: the final search of Croce & Hein 2020, arXiv:1907.02044, section 3.2.
        """
        import torch

        rows = (self.size.isfinite() & ~self.fooled).nonzero().flatten()
        inner, logits = self.clean[rows], clean[rows]
        for _ in range(steps):
            keep = self.affordable(rows) & ~self.fooled[rows]
            rows, inner, logits = rows[keep], inner[keep], logits[keep]
            if not len(rows):
                return
            behind = (logits.gather(1, self.y[rows, None]) - logits.gather(1, self.rival[rows, None])).squeeze(1)
            lead = self.lead[rows]
            aim = (BEYOND * lead).maximum(2 * self.clear[rows])
            share = (behind + aim) / (behind + lead).clamp_min(torch.finfo(lead.dtype).tiny)
            share = per_row(share.clamp(0.0, 1.0), inner)
            between = (inner + share * (self.x[rows] - inner)).clamp(*self.box)
            self.asked(rows)
            answer = logits_of(model, between)
            wrong = self.weigh(rows, answer, between)
            inner = torch.where(per_row(wrong, inner), inner, between)
            logits = torch.where(wrong[:, None], logits, answer)

    def candidates(self) -> Candidates:
        """What was found, within eps where there is one, and its price."""
        if self.eps is not None:
            self.x[~self.fooled] = self.clean[~self.fooled]
        return super().candidates()


def length(x: Tensor, norm: str) -> Tensor:
    """Norm of each row of ``(N, *shape)``, ``(N,)``, in the numbers' own precision: to steer by, not to judge by."""
    import torch

    size: Tensor = torch.linalg.vector_norm(x.flatten(1), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
    return size


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """``(N,)`` as ``(N, 1, …)``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def box_of(bounds: tuple[float, float] | None) -> tuple[float, float]:
    """Lowest and highest value; infinite where there are no bounds."""
    return bounds if bounds is not None else (-float("inf"), float("inf"))


def require_distance(attack: str, norms: frozenset[str], norm: str | None, eps: float | None) -> str:
    """The norm that a threat model measures distances in.

    Raises:
        UserError: a norm that the attack is not defined for, or an eps that is no distance.
    """
    if norm is None or norm not in norms:
        raise UserError(f"attack '{attack}' is defined for {', '.join(sorted(norms))}, not for norm {norm}")
    if eps is not None and not eps > 0:
        raise UserError(f"attack '{attack}' needs eps > 0, or none to find the nearest example, got {eps}")
    return norm


def logits_of(model: AuditedModel, x: Tensor) -> Tensor:
    """Logits ``(N, C)`` without gradients, in micro-batches.

    Raises:
        NonFiniteOutput: the model answers NaN or infinite.
    """
    import torch

    with torch.no_grad():
        parts = model.in_parts(x, model.logits)
    logits = torch.cat(parts) if parts else x.new_zeros((0, len(model.classes)))
    model.check_finite(logits)
    return logits
