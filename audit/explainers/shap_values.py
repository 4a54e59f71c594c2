"""Shapley values: trees exactly, any other model by asking it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from audit.explainers import Attribution, Explainer
from audit.explainers._completeness import TOLERANCE, completeness_gap, relative_gap
from audit.explainers._passes import library_seed, rows_per_pass
from audit.model import Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng

_PATCHES = 64
"""Most patches an image is cut into by default."""
_COALITIONS = 4096
"""About as many coalitions are asked at once."""


class ShapValues(Explainer):
    """What each feature adds to the score on average over all orders in which features join, absent ones taking the values of
    background rows (*interventional*: features are changed one without the other, also where they go together in the data).

    By ``auto``: Tree SHAP where the model is a tree ensemble and its values add up; else every coalition where that costs no
    more than sampling; else random orders. `error` is the gap in completeness for trees, 0 for all coalitions, and for random
    orders the largest standard error among the row's features.

    Source: Lundberg & Lee 2017, arXiv:1705.07874; Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset()
    complete: ClassVar[bool] = True

    method: Literal["auto", "tree", "permutation", "kernel"] = "auto"
    """How; ``kernel`` is a weighted regression over coalitions, all of them where `permutations` allow for it."""
    permutations: int = Field(default=10, ge=2)
    """Random orders per row, each walked both ways: about 2 M coalitions of M features, and one model row per coalition and
    background row. ``kernel`` asks as many coalitions."""
    background: int = Field(default=32, ge=1)
    """Background rows used, the first ones given."""
    perturbation: Literal["interventional", "path_dependent"] = "interventional"
    """Of trees: absent features take background values, or follow the training rows' shares down the trees."""
    patch: int | None = Field(default=None, ge=1)
    """Of images: side of the square, in pixels and across channels, that counts as one feature; its value is spread evenly over
    it. By default the smallest that makes at most 64."""

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            UserError: no background rows, an input of text, or ``method: tree`` for a model without trees.
            NonFiniteOutput: the model answers NaN or infinite for some coalition.
        """
        from audit.bridges.shap_trees import NoTreeModel

        if model.spec.kind in ("text", "tokens", "id"):
            raise UserError(f"shap_values explains images, series and tables, not {model.spec.kind} inputs")
        if not len(background):
            raise UserError("shap_values needs background rows, and the data gave none")
        background = background[: self.background]
        if self.method in ("auto", "tree"):
            try:
                found = self._by_trees(model, x, target, background)
            except NoTreeModel:
                if self.method == "tree":
                    raise
            else:
                if self.method == "tree" or bool((_relative_error(found) <= TOLERANCE).all()):
                    return found
        return self._by_asking(model, x.detach(), target, background, rng)

    def _by_trees(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor) -> Attribution:
        import torch

        from audit.bridges.shap_trees import tree_shap

        rows, aims, others = (part.detach().cpu().numpy() for part in (x, target, background))
        found = tree_shap(model, rows, aims, others, self.perturbation)
        values, base, score = (
            torch.tensor(part, dtype=torch.float64) for part in (found.values, found.base_value, found.score)
        )
        gap = completeness_gap(values, score, base)
        return Attribution(
            values.reshape(x.shape), target, found.space, base_value=base, score=score, error=gap,
            method=f"Tree SHAP, {self.perturbation}",
        )  # fmt: skip

    def _by_asking(
        self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng
    ) -> Attribution:
        import torch

        from audit.bridges.global_generators import seeded

        player = _players(model.spec, self.patch)
        values = torch.zeros(x.shape, dtype=torch.float64)
        base, score, error = (torch.zeros(len(x), dtype=torch.float64) for _ in range(3))
        methods: set[str] = set()
        for i in range(len(x)):
            seed = library_seed(rng.take([i]))
            with seeded(seed):
                game = _Game(model, x[i], target[i : i + 1], background, player)
                found, error[i], method = self._shapley(game, rng.take([i]), seed)
            base[i], score[i] = game.none, game.all
            values[i] = game.spread(found)
            methods.add(method)
        return Attribution(
            values, target, model.output, base_value=base, score=score,
            error=None if bool(error.isnan().any()) else error,
            method=f"{' or '.join(sorted(methods))}, interventional, {len(background)} background rows",
        )  # fmt: skip

    def _shapley(self, game: _Game, rng: ExampleRng, seed: int) -> tuple[NDArray[np.float64], float, str]:
        """Values of the players that vary, their error (NaN where a regression on some coalitions knows none), and how."""
        import numpy as np

        from audit.bridges.shap import kernel_shapley

        players = game.players
        if players == 0:
            return np.zeros(0), 0.0, "all coalitions"
        budget = self.permutations * 2 * players
        every = players < 60 and 2**players - 2 <= budget
        if self.method == "permutation" or (self.method != "kernel" and not every):
            orders = rng.uniform((self.permutations, players))[0].argsort(dim=1).numpy()
            values, error = _by_orders(game, orders)
            return values, error, f"{self.permutations} random orders both ways"
        values = kernel_shapley(game, players, coalitions=budget, seed=seed)
        return values, 0.0 if every else math.nan, "all coalitions" if every else "regression on some coalitions"


def _by_orders(game: _Game, orders: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Mean over orders ``(P, M)``, each walked forward and backward, of what players add as they join; largest standard error.

    Adds up to worth(all) − worth(none) whatever the orders; exact where players act in pairs at most. shap's own
    PermutationExplainer walks the same way, but compiles for seconds in every process and knows no error.

    Source: Castro et al. 2009, doi 10.1016/j.cor.2008.04.004; both ways: Mitchell et al. 2022, arXiv:2104.12199.
    """
    import numpy as np

    count, players = orders.shape
    joined = np.arange(1, players)[:, None]
    drawn = np.empty((count, players))
    together = max(1, _COALITIONS // (2 * players))
    for first in range(0, count, together):
        some = orders[first : first + together]
        place = some.argsort(axis=1)[:, None]
        coalitions = np.stack([place < joined, place >= players - joined], axis=1)
        worth = game(coalitions.reshape(-1, players)).reshape(len(some), 2, players - 1)
        steps = np.diff(
            np.pad(worth, ((0, 0), (0, 0), (1, 1)), constant_values=((0, 0), (0, 0), (game.none, game.all)))
        )
        at, added = np.arange(len(some))[:, None], drawn[first : first + together]
        added[at, some] = steps[:, 0]
        added[at, some[:, ::-1]] += steps[:, 1]
    drawn /= 2
    return drawn.mean(axis=0), float((drawn.std(axis=0, ddof=1) / math.sqrt(count)).max())


class _Game:
    """The model's score of one row as a game: a coalition is worth the mean score with the others' values from the background.

    Players whose values are those of every background row never change anything and are left out.
    """

    def __init__(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, player: Tensor) -> None:
        import numpy as np
        import torch

        self._model, self._target = model, target
        self._x, self._background = x, background.to(x)
        same = (self._background == x) | (self._background.isnan() & x.isnan())
        element_varies = ~same.all(dim=0).flatten().cpu()
        varying = torch.unique(player[element_varies])
        number = torch.full((int(player.max()) + 1,), len(varying))
        number[varying] = torch.arange(len(varying))
        self._player = number[player]  # the last number: present in every coalition
        self.players = len(varying)
        ends = self(np.array([[False] * self.players, [True] * self.players]))
        self.none, self.all = float(ends[0]), float(ends[1])

    def __call__(self, coalitions: NDArray[Any]) -> NDArray[np.float64]:
        import torch

        model, others = self._model, len(self._background)
        present = torch.from_numpy(coalitions).bool()
        present = torch.cat([present, torch.ones(len(present), 1, dtype=torch.bool)], dim=1)
        scores = torch.empty(len(present) * others, dtype=torch.float64)
        rows = rows_per_pass(model, gradients=False)
        with torch.no_grad():
            for first in range(0, len(scores), rows):
                pair = torch.arange(first, min(first + rows, len(scores)))
                kept = present[pair // others][:, self._player].reshape(-1, *self._x.shape).to(self._x.device)
                mixed = torch.where(kept, self._x, self._background[pair % others])
                scores[pair] = model.target_score(mixed, self._target.expand(len(mixed))).double().cpu()
        model.check_finite(scores)
        return scores.reshape(-1, others).mean(dim=1).numpy()

    def spread(self, values: NDArray[np.float64]) -> Tensor:
        """The players' values over the input's elements, a player's evenly over its own."""
        import torch

        sizes = torch.bincount(self._player, minlength=self.players + 1)
        each = torch.cat([torch.from_numpy(values), torch.zeros(1, dtype=torch.float64)]) / sizes.clamp_min(1)
        return each[self._player].reshape(self._x.shape)


def _players(spec: InputSpec, patch: int | None) -> Tensor:
    """The player each element of a flattened input belongs to."""
    import torch

    if spec.kind != "image" or len(spec.shape) < 2:
        return torch.arange(math.prod(spec.shape))
    height, width = spec.shape[-2:]
    if patch is None:
        patch = next(p for p in range(1, max(height, width) + 1) if -(-height // p) * -(-width // p) <= _PATCHES)
    across = -(-width // patch)
    plane = (torch.arange(height) // patch)[:, None] * across + (torch.arange(width) // patch)
    return plane.expand(spec.shape).flatten()


def _relative_error(found: Attribution) -> Tensor:
    if found.error is None or found.score is None or found.base_value is None:
        raise ValueError("an attribution without a gap has no relative error")
    return relative_gap(found.error, found.score, found.base_value)
