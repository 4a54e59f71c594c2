"""What an attack has found for every example, and what that took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.attacks import Candidates

if TYPE_CHECKING:
    from torch import Tensor


class Tally:
    """Counts per example; several rows may work on one example, neighbours in the batch.

    Args:
        x: ``(N, *shape)`` clean inputs.
        cap: most rows forward per example; None for no cap.
    """

    def __init__(self, x: Tensor, cap: int | None = None) -> None:
        import torch

        self.x, self.cap = x.clone(), cap
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.queries, self.gradients, self.zeros = (
            torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(3)
        )

    def left(self) -> Tensor:
        """Positions of the examples that nothing was found for."""
        return (~self.fooled).nonzero().flatten()

    def affordable(self, example: Tensor, each: int = 1) -> Tensor:
        """Which rows ``(R,)`` may be asked about without taking their example over the cap.

        Args:
            example: ``(R,)`` which example each row works on.
            each: rows forward that every one of them may take.
        """
        import torch

        if self.cap is None:
            return torch.ones(len(example), dtype=torch.bool, device=example.device)
        after = self.queries + each * torch.bincount(example, minlength=len(self.queries))
        return (after <= self.cap)[example]

    def asked(self, example: Tensor) -> None:
        """One row forward for each."""
        self.queries += example.bincount(minlength=len(self.queries))

    def followed(self, example: Tensor, gradient: Tensor) -> Tensor:
        """One row forward and back for each; gives which gradients are zero in every element, ``(R,)`` bool."""
        counts = example.bincount(minlength=len(self.queries))
        self.queries += counts
        self.gradients += counts
        flat = (gradient == 0).flatten(1).all(dim=1)
        if bool(flat.any()):
            self.zeros += example[flat].bincount(minlength=len(self.queries))
        return flat

    def record(self, example: Tensor, wrong: Tensor, x: Tensor) -> None:
        """Keep the rows ``(R, *shape)`` that are misclassified; of neighbours that work on one example, the first."""
        import torch

        if not bool(wrong.any()):
            return
        at, found = example[wrong], x[wrong]
        first = torch.ones_like(at, dtype=torch.bool)
        first[1:] = at[1:] != at[:-1]
        self.x[at[first]] = found[first]
        self.fooled[at] = True

    def candidates(self) -> Candidates:
        """What was found, and its price."""
        return Candidates(self.x, self.queries, self.gradients, self.zeros)
