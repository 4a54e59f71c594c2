"""How small a perturbation breaks each row: what several attacks found, brought together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from audit.attacks import Attack
from audit.checks.robustness._attacked import Outcome, Rows, run_attack
from audit.checks.robustness._controls import SIGNIFICANCE, Controls
from audit.finding import EvidenceRef

if TYPE_CHECKING:
    from torch import Tensor


class Distances:
    """The smallest confirmed perturbation of every row that the model gets right, as the attacks bring it down.

    Args:
        rows: what is attacked, under a threat model without an eps.
        keep: adversarial examples to store, per attack and eps.
    """

    def __init__(self, rows: Rows, attacks: Mapping[str, Attack], keep: int) -> None:
        import torch

        self.rows, self.attacks, self.keep = rows, attacks, keep
        self.minimal = {name: attack for name, attack in attacks.items() if attack.minimal}
        self.distance = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.x.device)
        self.queries = torch.zeros(len(rows), dtype=torch.int64, device=rows.x.device)
        self.by = [""] * len(rows)
        """The attack that found the smallest."""
        self.outcomes: dict[str, Outcome] = {}
        """Of each attack; of one that ran at several eps, all of them together."""
        self.examples: list[EvidenceRef] = []

    def without_eps(self) -> None:
        """Every attack that seeks the nearest example, on every row."""
        for number, (name, attack) in enumerate(self.minimal.items()):
            self._run(self._everything(), name, name, attack, None, number, len(self.attacks))

    def at_each(self, grid: Sequence[float]) -> None:
        """Every other attack at each eps, on the rows that nothing within it is known for."""
        others = [(name, attack) for name, attack in self.attacks.items() if name not in self.minimal]
        runs, before = len(grid) * len(others), len(self.minimal)
        for number, (eps, (name, attack)) in enumerate((e, a) for e in grid for a in others):
            left = (self.distance > eps).nonzero().flatten()
            self._run(left, name, f"{name} eps={eps:g}", attack, eps, before + number, before + runs)

    def _everything(self) -> Tensor:
        import torch

        return torch.arange(len(self.rows), device=self.rows.x.device)

    def _run(
        self, left: Tensor, name: str, called: str, attack: Attack, eps: float | None, number: int, runs: int
    ) -> None:
        import torch

        if not len(left):
            return
        n, ctx = len(self.rows), self.rows.ctx
        rows = self.rows.take(left).within(access=attack.access, eps=eps)

        def progress(done: int) -> None:
            ctx.progress(number * n + done, runs * n, called)

        found = run_attack(rows, called, attack, self.keep, progress).spread(left, n)
        # What is confirmed at an eps counts there, though its size may lie a rounding beyond.
        size = found.size.clamp_max(eps if eps is not None else torch.inf).masked_fill(~found.success, torch.inf)
        for at in (size < self.distance).nonzero().flatten().tolist():
            self.by[at] = name
        self.distance = self.distance.minimum(size)
        self.queries += found.queries
        self.examples += found.examples
        found = replace(found, size=size)
        self.outcomes[name] = _joined(self.outcomes[name], found) if name in self.outcomes else found

    def judged(self, scores: Tensor, varied: bool, largest: float, limit: float) -> tuple[str, tuple[str, ...]]:
        """Why the numbers mean nothing, if they do not, and what else to know. A row that a control breaks counts as broken there.

        Args:
            scores: the model's answers to the rows, in output space.
            varied: whether the model predicts more than one class.
            largest: end of the grid.
            limit: how far the attacks looked.
        """
        import torch

        if not len(self.rows):
            return "", ("no row is classified correctly: there was nothing to attack",)
        eps = self._middle(largest)
        outcomes = {name: replace(o, success=o.success & (o.size <= eps)) for name, o in self.outcomes.items()}
        without_cap = self.rows.threat.queries is None
        free = [name for name, attack in self.minimal.items() if attack.access == "white_box" and without_cap]
        # What an attack without an eps left is known of every row: the control on a few of them would add nothing.
        controls = Controls(self.rows.within(eps=eps), scores, varied and not free)
        found = controls.judge(outcomes, self.attacks)
        if free and varied:
            self._full_range(controls, limit)
        self.distance = torch.where(found, self.distance.clamp_max(eps), self.distance)
        refused = [name for name, outcome in self.outcomes.items() if bool(outcome.refused.any())]
        said = [
            f"{name} proposed misclassified inputs outside the bounds or beyond eps; they do not count"
            for name in refused
        ]
        if any(bool(outcome.overran.any()) for outcome in self.outcomes.values()):
            said.append("an attack broke the cap on queries on some rows; what it found there does not count")
        return "; ".join(controls.voids), (*said, *controls.cautions)

    def _middle(self, largest: float) -> float:
        """An eps at which some rows are broken and some are not, where there is one: there a comparison shows most."""
        middle = float(self.distance.clamp_max(largest).quantile(0.5, interpolation="lower"))
        return middle if 0 < middle < largest else largest

    def _full_range(self, controls: Controls, limit: float) -> None:
        """With any perturbation allowed, any row may become one of another class, so every row must fall."""
        from audit.stats import mcnemar_exact

        left = int((self.distance > limit).sum())
        said = f"full range: {left} of {len(self.rows)} rows were never broken, where any input may become any other"
        if left and mcnemar_exact(left, 0, "greater") <= SIGNIFICANCE:
            controls.voids.append(f"{said}: the attacks do not find what there is to find")
        elif left:
            controls.cautions.append(said)


def _joined(first: Outcome, second: Outcome) -> Outcome:
    """What an attack came to at two eps."""
    import torch

    stuck = (
        second.stuck
        if first.stuck is None or second.stuck is None
        else torch.where(second.attacked, second.stuck, first.stuck)
    )
    return Outcome(
        success=first.success | second.success,
        refused=first.refused | second.refused,
        overran=first.overran | second.overran,
        size=first.size.minimum(second.size),
        queries=first.queries + second.queries,
        attacked=first.attacked | second.attacked,
        stuck=stuck,
        stage=None,
        examples=(*first.examples, *second.examples),
    )
