"""Canaries: what is put into a private training, or left out of it, by a fair coin each, so that the training itself can be audited.

Their scores go into the ledger, and ``privacy.dp_audit`` turns them into a lower bound on epsilon.
Source: Steinke, Nasr & Jagielski 2023, arXiv:2305.08846 (many canaries in one training); Nasr et al. 2023, arXiv:2302.07956.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audit.parameters import UserError
from audit.privacy.accounting import Canaries
from audit.train.clipping import Clipping
from audit.train.gradients import Loss
from audit.train.randomness import Randomness

FAR = 100.0
"""Policy: norm of a gradient canary before clipping, over the clipping norm; a training that does not clip adds so much more."""
_COINS, _PLACES, _LABELS, _SAMPLES = -1, -2, -3, -4
"""Draws that belong to no step; steps of canaries follow below, so that none repeats a draw of the training's own."""
_ROWS = 512


class GradientCanaries:
    """Gradients along one coordinate each ("Dirac canaries"), added to the clipped sums that are about to be released.

    Each starts with norm ``FAR · C`` and goes through the training's own clipping. Those that a coin put in take part in a step with
    the chance that any example has. A score is what the released gradients hold along the canary's coordinate, without the sum
    of the true examples there: differential privacy is promised against an adversary who knows all other examples and which of
    them were drawn, so a score may use that, and tells more for it.

    They cost accuracy: the expected canary mass of a step is ``√(count · rate / 2) · C``, on `count` coordinates of the model's.

    Args:
        sizes: elements of each trained parameter.
        layers: layer of each, as `GradientMode.layers`.
        coordinates: ``(count,)`` int64, all different, into the parameters laid end to end.
        included: ``(count,)`` bool.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        layers: Sequence[int],
        coordinates: Tensor,
        included: Tensor,
        clipping: Clipping,
        randomness: Randomness,
    ) -> None:
        ends = torch.tensor(sizes).cumsum(0)
        owner = torch.searchsorted(ends, coordinates, right=True)
        local = coordinates - (ends - torch.tensor(sizes))[owner]
        self.coordinates, self.included, self.clipping = coordinates, included, clipping
        self.scores = torch.zeros(len(coordinates), dtype=torch.float64)
        self._places = [(p, torch.nonzero(owner == p)[:, 0]) for p in sorted(set(owner.tolist()))]
        self._local, self._layer, self._n_layers = local, torch.tensor(layers)[owner], max(layers) + 1
        self._randomness = randomness
        self._steps = 0
        self._known: Tensor | None = None

    @classmethod
    def of(
        cls,
        parameters: Sequence[Tensor],
        layers: Sequence[int],
        count: int,
        clipping: Clipping,
        randomness: Randomness,
    ) -> GradientCanaries:
        """Canaries on coordinates drawn at random, each in by a fair coin.

        Args:
            parameters: those that are trained.
            layers: layer of each, as `GradientMode.layers`.

        Raises:
            UserError: fewer coordinates than canaries, or no canary.
        """
        sizes = [parameter.numel() for parameter in parameters]
        if not 1 <= count <= sum(sizes):
            raise UserError(
                f"{count} gradient canaries do not fit: each needs one of the model's {sum(sizes)} trained weights to itself"
            )
        coordinates = randomness.permutation(sum(sizes), _PLACES)[:count]
        included = torch.zeros(count, dtype=torch.bool)
        included[randomness.poisson(count, 0.5, _COINS)] = True
        return cls(sizes, layers, coordinates, included, clipping, randomness)

    def clipped_norms(self) -> Tensor:
        """Norm of each canary after the training's own clipping, ``(count,)``: C, or less where layers share it."""
        count = len(self.coordinates)
        squares = torch.zeros(self._n_layers, count, dtype=torch.float64)
        squares[self._layer, torch.arange(count)] = (FAR * self.clipping.norm) ** 2
        factors = self.clipping.factors(squares).expand_as(squares)
        return FAR * self.clipping.norm * factors[self._layer, torch.arange(count)]

    def add(self, sums: Sequence[Tensor], rate: float) -> None:
        """Add, in place, the canaries that a step's Poisson sampling takes; once a step, before noise.

        Args:
            sums: of the clipped gradients, one tensor per trained parameter, not divided by anything.
            rate: chance of one example to be in the step.
        """
        self._known = self._along(sums)
        drawn = torch.zeros(len(self.coordinates), dtype=torch.float64)
        self._steps += 1
        drawn[self._randomness.poisson(len(drawn), rate, _SAMPLES - self._steps)] = 1
        amounts = drawn * self.included * self.clipped_norms()
        for place, mine in self._places:
            whole = sums[place]
            whole.put_(self._local[mine].to(whole.device), amounts[mine].to(whole), accumulate=True)

    def seen(self, noisy: Sequence[Tensor]) -> None:
        """Score the canaries by what a step released: the sums that `add` was given, with their noise.

        Raises:
            RuntimeError: no `add` came before.
        """
        if self._known is None:
            raise RuntimeError("canaries are seen after they were added to the step's sums")
        self.scores += self._along(noisy) - self._known
        self._known = None

    def record(self) -> Canaries:
        """For the ledger."""
        return Canaries(kind="gradient", included=tuple(self.included.tolist()), scores=tuple(self.scores.tolist()))

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: without it the coins are lost."""
        return {
            "coordinates": self.coordinates, "included": self.included, "scores": self.scores.clone(), "steps": self._steps
        }  # fmt: skip

    @classmethod
    def restored(
        cls,
        state: Mapping[str, Any],
        parameters: Sequence[Tensor],
        layers: Sequence[int],
        clipping: Clipping,
        randomness: Randomness,
    ) -> GradientCanaries:
        """Go on from a checkpoint; releases after it stay unscored, which only weakens the audit."""
        sizes = [parameter.numel() for parameter in parameters]
        found = cls(sizes, layers, state["coordinates"], state["included"], clipping, randomness)
        found.scores, found._steps = state["scores"].clone(), int(state["steps"])
        return found

    def _along(self, gradients: Sequence[Tensor]) -> Tensor:
        """What gradients hold along each canary, ``(count,)``."""
        found = torch.zeros(len(self.coordinates), dtype=torch.float64)
        for place, mine in self._places:
            whole = gradients[place].detach()
            found[mine] = whole.take(self._local[mine].to(whole.device)).to(found)
        return found


@dataclass(frozen=True)
class InputCanaries:
    """Examples that nothing else in the training is like; scored by the trained model's loss (black box).

    Args:
        rows: ``(count,)`` int64, their places in the pool that they were taken from.
        x, y: ``(count, …)`` and ``(count,)``: as they are trained on and scored.
        included: ``(count,)`` bool, by a fair coin each; the others are drawn like them, with no gradient.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    included: Tensor

    @classmethod
    def of(
        cls, x: Tensor, y: Tensor, count: int, randomness: Randomness, *, classes: int, kind: str = "mislabelled"
    ) -> InputCanaries:
        """Canaries out of a pool of rows that the training does not hold otherwise.

        Args:
            kind: ``mislabelled`` gives each another label than its own, which only a model that remembers it says; ``genuine``
                leaves them as they are.

        Raises:
            UserError: fewer rows than canaries, or no other class to call them.
        """
        if len(x) < count:
            raise UserError(
                f"{count} input canaries need as many rows that are neither trained nor tested on, and there are {len(x)}: give the "
                "data a population ('split: {test: 0.3, population: 0.1}', or 'members')"
            )
        if kind == "mislabelled" and classes < 2:
            raise UserError(f"mislabelled canaries need another class to call them, and there are {classes}")
        rows = randomness.permutation(len(x), _PLACES)[:count]
        labels = y[rows]
        if kind == "mislabelled":
            labels = (labels + 1 + (randomness.permutation(count, _LABELS) % (classes - 1)).to(labels)) % classes
        included = torch.zeros(count, dtype=torch.bool)
        included[randomness.poisson(count, 0.5, _COINS)] = True
        return cls(rows, x[rows], labels, included)

    def record(self, module: nn.Module, loss: Loss) -> Canaries:
        """For the ledger: the trained module's negative losses, in evaluation mode."""
        before = module.training
        module.eval()
        with torch.no_grad():
            starts = range(0, len(self.x), _ROWS)
            parts = [-loss(module(self.x[i : i + _ROWS]), self.y[i : i + _ROWS]) for i in starts]
        scores = torch.cat(parts)
        module.train(before)
        return Canaries(
            kind="input", included=tuple(self.included.tolist()), scores=tuple(scores.double().cpu().tolist())
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: without it the coins are lost."""
        return {"rows": self.rows, "labels": self.y, "included": self.included}

    @classmethod
    def restored(cls, state: Mapping[str, Any], x: Tensor) -> InputCanaries:
        """Go on from a checkpoint, with the same pool of rows."""
        return cls(state["rows"], x[state["rows"]], state["labels"], state["included"])
