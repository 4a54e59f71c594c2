"""An attack that breaks its own threat model."""

from __future__ import annotations

from typing import Any, ClassVar

from audit.attacks import Attack, Candidates


class LyingAttack(Attack):
    """Leaves the ball by far and claims success."""

    access: ClassVar = "white_box"
    norms: ClassVar = frozenset({"linf", "l2"})
    needs: ClassVar = frozenset()

    def run(self, model: Any, x: Any, y: Any, threat: Any, rng: Any) -> Candidates:
        """Noise over the whole box, whatever eps is."""
        import torch

        low, high = threat.bounds
        counts = torch.ones(len(x), dtype=torch.int64)
        return Candidates(x=rng.uniform(tuple(x.shape[1:]), low, high), queries=counts, gradients=counts * 0)
