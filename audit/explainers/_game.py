"""Rows of a model as coalition games: what is the score worth when only some features are there?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.explainers import Attribution, Explainer
from audit.explainers._baselines import Baseline, baseline_rows
from audit.explainers._features import Features, Unit, features_of
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng

Absent = Literal["auto", "background"] | Baseline
"""What absent features take: ``background``, the values of background rows, one row after the other; or those of a baseline.
``auto``: blanks in a text, else background rows."""

_TOGETHER = 1 << 18
"""Elements of the mixtures that are made at once, where a pass takes fewer."""
_LARGE = 256
"""Elements of an input from which on mixtures are made run by run."""

Present = Callable[["Tensor", "Tensor"], "Tensor"]
"""(place of the row among those asked about, number of the coalition), ``(P,)`` each → which players are there, ``(P, M)`` bool."""


class Game(ABC):
    """The model's scores of a batch of rows, each row a game.

    A coalition is worth the mean score of the row with everybody else's part taken from what stands for absent.

    Args:
        x: ``(N, *shape)``.
        target: ``(N,)`` int64.
        absent: ``(N, B, *shape)`` what absent players take, one row of it after the other.
        count: ``(N,)`` int64 players of each row.
    """

    def __init__(self, model: AuditedModel, x: Tensor, target: Tensor, absent: Tensor, count: Tensor) -> None:
        self.model, self.x, self.target, self.absent, self.count = model, x, target, absent, count
        self.most = int(count.max()) if len(count) else 0

    @abstractmethod
    def mixed(self, row: Tensor, other: Tensor, present: Tensor) -> Tensor:
        """Inputs ``(P, *shape)`` in which some players are there, the others' part from absent rows.

        Args:
            row, other: ``(P,)`` int64.
            present: ``(P, most)`` bool.
        """

    def worth(self, rows: Tensor, coalitions: int, present: Present) -> Tensor:
        """What coalitions are worth to rows that have equally many players.

        Every (row, coalition, absent row) is one input; passes are filled whatever rows they belong to.

        Args:
            rows: ``(R,)`` int64.
            coalitions: K, asked of each row.

        Returns:
            ``(R, K)`` float64.

        Raises:
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch
        from torch.nn.functional import pad

        others = self.absent.shape[1]
        asked = len(rows) * coalitions
        found = torch.zeros(asked, dtype=torch.float64, device=self.x.device)
        step = rows_per_pass(self.model, gradients=False)
        block = step * max(
            1, _TOGETHER // (step * self.x[0].numel())
        )  # mixed at once, for passes of a few numbers each
        for first in range(0, asked * others, block):
            index = torch.arange(first, min(first + block, asked * others), device=self.x.device)
            place, other, coalition = index // (others * coalitions), index // coalitions % others, index % coalitions
            there, row = present(place, coalition), rows[place]
            there = pad(there, (0, self.most - there.shape[1]))
            passes = zip(
                torch.split(self.mixed(row, other, there), step), torch.split(self.target[row], step), strict=True
            )
            scores = torch.cat([self.model.target_score(part, target) for part, target in passes])
            self.model.check_finite(scores)
            found.index_add_(0, place * coalitions + coalition, scores.to(found))
        return (found / others).reshape(len(rows), coalitions)

    def score(self) -> Tensor:
        """Score of the rows themselves, ``(N,)`` float64: everybody is there."""
        import torch

        step = rows_per_pass(self.model, gradients=False)
        parts = [
            self.model.target_score(x, target).double()
            for x, target in zip(torch.split(self.x, step), torch.split(self.target, step), strict=True)
            if len(x)
        ]
        found = torch.cat(parts) if parts else self.x.new_zeros(0, dtype=torch.float64)
        self.model.check_finite(found)
        return found

    def nobody(self) -> Tensor:
        """Score when nobody is there, ``(N,)`` float64."""
        import torch

        every = torch.arange(len(self.x), device=self.x.device)
        return self.worth(every, 1, lambda place, _: place.new_zeros((len(place), 1), dtype=torch.bool))[:, 0]


class FeatureGame(Game):
    """A game of features: an absent one takes its values from an absent row.

    Features whose values are those of every such row never change anything: they are dummies, worth 0, and not asked about.

    Args:
        features: what a player is.
        dummies: let them play all the same, so that players keep the features' numbers.
    """

    def __init__(
        self,
        model: AuditedModel,
        x: Tensor,
        target: Tensor,
        absent: Tensor,
        features: Features,
        *,
        dummies: bool = False,
    ) -> None:
        self.features = features
        self.players = features if dummies else _varying(features, x, absent)
        super().__init__(model, x, target, absent, self.players.count)
        self._planes = _one_channel(self.players)
        self._room = x.new_empty((0, *x.shape[1:]))

    def mixed(self, row: Tensor, other: Tensor, present: Tensor) -> Tensor:
        """See `Game.mixed`."""
        import torch

        if self.x[0].numel() < _LARGE:
            return torch.where(self._planes.elements(present, row), self.x[row], self.absent[row, other])
        return self._mixed_in_runs(row, other, present)

    def _mixed_in_runs(self, row: Tensor, other: Tensor, present: Tensor) -> Tensor:
        """The same of large inputs, without a copy of each row for each coalition: they would cost more than a small net.

        Coalitions of one row with one absent row lie side by side. Where the mask's bits are ones the input is
        absent ^ (own ^ absent) = own, else absent; into room that is used again.
        """
        import torch
        from torch.nn.functional import pad

        if len(self._room) < len(row):
            self._room = self.x.new_empty((len(row), *self.x.shape[1:]))
        mixed = self._room[: len(row)]
        bits = getattr(torch, f"int{8 * self.x.element_size()}")
        own, absent, into = self.x.view(bits), self.absent.view(bits), mixed.view(bits)
        there = -pad(present, (1, 0), value=True).to(bits)
        number = self._planes.number
        runs, lengths = torch.unique_consecutive(row * self.absent.shape[1] + other, return_counts=True)
        start = 0
        for run, length in zip(runs.tolist(), lengths.tolist(), strict=True):
            at, by = divmod(run, self.absent.shape[1])
            part = slice(start, start + length)
            place = number[at].flatten().add(1).expand(length, -1)
            mask = there[part].gather(1, place).reshape(length, *number.shape[1:])
            torch.bitwise_and(mask, own[at] ^ absent[at, by], out=into[part])
            into[part] ^= absent[at, by]
            start += length
        return mixed


@dataclass(frozen=True)
class Round:
    """Rows of a game that have equally many players, two or more.

    Args:
        rows: ``(R,)`` int64.
        players: M.
        score, base_value: ``(R,)`` float64 worth of everybody and of nobody.
        unit: what a player is, for the reader.
    """

    game: Game
    rows: Tensor
    players: int
    score: Tensor
    base_value: Tensor
    unit: str

    def worth(self, coalitions: int, present: Present) -> Tensor:
        """``(R, K)`` float64; see `Game.worth`."""
        return self.game.worth(self.rows, coalitions, present)

    def worth_of(self, coalitions: Tensor) -> Tensor:
        """``(R, K)`` float64 worth of the same coalitions ``(K, M)`` to every row."""
        return self.worth(len(coalitions), lambda _, coalition: coalitions[coalition])


@dataclass(frozen=True)
class Solution:
    """Values of the players of a `Round`.

    Args:
        values: ``(R, M)`` float64.
        error: ``(R,)`` largest standard error among a row's players; 0 where values are exact.
        method: how they were found.
    """

    values: Tensor
    error: Tensor
    method: str


class RemovalExplainer(Explainer):
    """Base of the explainers that take features away: what the absent ones take."""

    needs: ClassVar[frozenset[Capability]] = frozenset()
    complete: ClassVar[bool] = True

    absent: Absent = "auto"
    """What absent features take: ``background`` (the values of background rows, *interventional*: features are changed one without the
    other, also where they go together in the data) or a baseline; by default blanks in a text, else background rows."""
    background: int = Field(default=32, ge=1)
    """Background rows used, the first ones given; each coalition costs one model row for each of them."""

    def absent_rows(self, model: AuditedModel, x: Tensor, background: Tensor) -> Tensor:
        """``(N, B, *shape)`` what absent features take.

        Raises:
            UserError: background rows are needed and there are none.
        """
        absent = self.absence(model.spec)
        background = background[: self.background]
        if absent != "background":
            return baseline_rows(absent, x, background, model.spec)[:, None]
        if not len(background):
            raise UserError("absent features take the values of background rows, and the data gave none: set 'absent'")
        return background.to(x).expand(len(x), *background.shape)

    def absence(self, spec: InputSpec) -> Literal["background"] | Baseline:
        """What absent features take, ``auto`` decided."""
        if self.absent != "auto":
            return self.absent
        return "blank" if spec.kind == "text" else "background"

    def shown(self, spec: InputSpec, rows: int) -> str:
        """What absent features take, for the reader."""
        absent = self.absence(spec)
        if absent == "background":
            return f"interventional, {rows} background rows"
        return f"absent is {absent if isinstance(absent, str) else f'{absent:g}'}"


class GameExplainer(RemovalExplainer):
    """Base of the explainers that play coalition games: what the players are."""

    most: ClassVar[int] = 64
    """Most features that an image or series is cut into unless told otherwise."""

    unit: Unit = "auto"
    """What counts as one feature; by default patches of an image, words of a text, windows of a series longer than 64 steps,
    else single values. A feature's value is spread evenly over its elements."""
    size: int | None = Field(default=None, ge=1)
    """Side of a patch in pixels, length of a window in steps, most segments of an image; by default what makes at most 64."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            UserError: background rows are needed and there are none, or the unit does not fit the input.
            NonFiniteOutput: the model answers NaN or infinite for some coalition.
        """
        import torch

        from audit.bridges.global_generators import seeded

        with torch.no_grad(), seeded(library_seed(rng)):
            return self.play(self.game(model, x.detach(), target, background), rng)

    def game(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor) -> FeatureGame:
        """The rows as games, as the parameters say."""
        features = players_of(x, model.spec, self.unit, self.size, self.most)
        return FeatureGame(model, x, target, self.absent_rows(model, x, background), features)

    def play(self, game: FeatureGame, rng: ExampleRng) -> Attribution:
        """Solve the games of equally many players together."""
        import torch

        score, base = game.score(), game.nobody()
        count = game.count
        values = score.new_zeros((len(score), game.most))
        error = torch.zeros_like(score)
        values[count == 1, :1] = (score - base)[count == 1, None]  # a lone player takes all
        methods = set() if bool((count > 1).any()) else {"all coalitions"}
        for players in torch.unique(count[count > 1]).tolist():
            rows = (count == players).nonzero().squeeze(1)
            played = Round(game, rows, players, score[rows], base[rows], game.features.unit)
            found = self.solve(played, rng.take(rows.cpu().numpy()))
            values[rows, :players] = found.values
            error[rows] = found.error
            methods.add(found.method)
        shown = self.shown(game.model.spec, game.absent.shape[1])
        single = game.features.unit in ("value", "column")
        return Attribution(
            game.players.spread(values), game.target, game.model.output, base_value=base, score=score, error=error,
            method=f"{' or '.join(sorted(methods))}, {shown}", features=None if single else game.features,
        )  # fmt: skip

    @abstractmethod
    def solve(self, played: Round, rng: ExampleRng) -> Solution:
        """Values of rows that have equally many players, two or more.

        Args:
            rng: one stream per row of the round.
        """


def players_of(x: Tensor, spec: InputSpec, unit: Unit, size: int | None, most: int) -> Features:
    """The features of rows, with a size that makes at most `most` of those that have one."""
    steps = spec.shape[-1]
    if unit == "auto" and spec.kind == "image" and len(spec.shape) > 1:
        unit = "patch"
    if unit == "auto" and spec.kind == "series" and not spec.tabular:
        unit = "window" if steps > most else "element"
    if size is None and unit == "segment":
        size = most
    elif size is None and unit == "window":
        size = -(-steps // most)
    elif size is None and unit == "patch" and len(spec.shape) > 1:
        height, width = spec.shape[-2:]
        size = next(p for p in range(1, max(height, width) + 1) if -(-height // p) * -(-width // p) <= most)
    return features_of(x, spec, unit, size)


def _varying(features: Features, x: Tensor, absent: Tensor) -> Features:
    """The features that some absent row would change, numbered anew."""
    import torch
    from torch.nn.functional import pad

    differs = torch.zeros_like(x, dtype=torch.bool)
    for other in absent.unbind(dim=1):
        differs |= (other != x) & ~(other.isnan() & x.isnan())
    plays = features.total(differs) > 0
    number = torch.where(plays, plays.cumsum(dim=1) - 1, -1)
    flat = pad(number, (1, 0), value=-1).gather(1, features.number.flatten(1) + 1)
    return Features(flat.reshape(features.number.shape), plays.sum(dim=1), features.unit)


def _one_channel(features: Features) -> Features:
    """The same features on a single channel where every channel is cut alike: a mask that broadcasts."""
    number = features.number
    if number.ndim == 4 and bool((number == number[:, :1]).all()):
        return Features(number[:, :1].contiguous(), features.count, features.unit)
    return features
