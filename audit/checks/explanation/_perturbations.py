"""Ways to change explained rows so that a map must foretell how the score moves: noise, noisy baselines, removals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audit.parameters import NotApplicable

if TYPE_CHECKING:
    from torch import Tensor

    from audit.explainers._features import Features
    from audit.model import InputSpec
    from audit.rng import ExampleRng

Perturbation = Literal["gaussian", "noisy_baseline", "removal"]

_ELEMENTS = 1 << 24
"""Most input elements changed at once: 111 inputs of 3x224x224."""


@dataclass(frozen=True)
class Changed:
    """Some draws of a perturbation.

    Args:
        x: ``(N, D, *shape)`` changed rows, x − I in the paper's terms.
        weight: ``(N, D, *shape)`` what a map's values are multiplied by to foretell the drop in score.
    """

    x: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Perturbing:
    """How rows are changed.

    Args:
        kind: ``gaussian``: noise is added; ``noisy_baseline``: the baseline plus noise takes the input's place; ``removal``: the
            baseline takes the place of a square of an image, a window of a series, random features of anything else.
        noise: ``(*shape)`` or what broadcasts to it: standard deviation of each element; 0 for what never gets noise.
        size: side of the square as a share of the image's shorter one, length of the window, share of the features.
        contributions: whether a map's values are contributions, slope times (x − baseline), or slopes.
    """

    kind: Perturbation
    spec: InputSpec
    noise: Tensor
    size: float
    contributions: bool

    def draws(self, x: Tensor, baseline: Tensor, features: Features, count: int, rng: ExampleRng) -> Iterator[Changed]:
        """`count` draws for each row, as many at a time as memory holds.

        Args:
            x, baseline: ``(N, *shape)``.
            features: what leaves together in a removal from rows that are no images or series.
        """
        block = max(1, _ELEMENTS // max(1, x.numel()))
        for first in range(0, count, block):
            n = min(block, count - first)
            yield (
                self._removed(x, baseline, self._gone(x, features, n, rng))
                if self.kind == "removal"
                else self._noisy(x, baseline, rng.normal((n, *x.shape[1:])).to(x))
            )

    def _noisy(self, x: Tensor, baseline: Tensor, noise: Tensor) -> Changed:
        """A contribution is slope times (x − baseline), so it foretells by I / (x − baseline), and says nothing of elements that are
        at their baseline: those are left alone."""
        import torch

        from audit.checks.explanation._ranges import inside

        x, baseline = x[:, None], baseline[:, None]
        still = (self.noise == 0).to(x.device).expand(x.shape[2:]) | x.isnan()
        if self.contributions:
            still = still | (x == baseline)
        centre = x if self.kind == "gaussian" else baseline
        moved = torch.where(still, x, inside(centre + self.noise.to(x) * noise, self.spec))
        difference = torch.where(still, 0.0, (x - moved).double())
        if self.contributions:
            difference = difference / torch.where(still, 1.0, (x - baseline).double())
        return Changed(moved, difference)

    def _removed(self, x: Tensor, baseline: Tensor, gone: Tensor) -> Changed:
        """What is gone takes the whole of its contribution with it."""
        import torch

        weight = gone.double()
        if not self.contributions:
            weight = weight * (x - baseline).double().nan_to_num()[:, None]
        return Changed(torch.where(gone, baseline[:, None], x[:, None]), weight.expand(-1, -1, *x.shape[1:]))

    def _gone(self, x: Tensor, features: Features, count: int, rng: ExampleRng) -> Tensor:
        """``(N, count, *shape)`` bool, or what broadcasts to it."""
        if self.spec.kind == "image" and len(self.spec.shape) > 1:
            height, width = self.spec.shape[-2:]
            side = max(1, round(self.size * min(height, width)))
            start = rng.uniform((count, 2)).to(x.device)
            down, across = (_window(length, side, start[:, :, i]) for i, length in enumerate((height, width)))
            square = down[:, :, :, None] & across[:, :, None, :]
            return square.reshape(len(x), count, *[1] * (x.ndim - 3), height, width)
        if self.spec.kind == "series" and not self.spec.tabular:
            length = self.spec.shape[-1]
            window = _window(length, max(1, round(self.size * length)), rng.uniform((count,)).to(x.device))
            return window.reshape(len(x), count, *[1] * (x.ndim - 2), length)
        return self._random_features(x, features, count, rng)

    def _random_features(self, x: Tensor, features: Features, count: int, rng: ExampleRng) -> Tensor:
        import torch

        most = features.most
        order = rng.uniform((count, most)).to(x.device).masked_fill(~features.known()[:, None], 2.0)
        leaving = (self.size * features.count).round().clamp_min(1)[:, None, None]
        gone = order.argsort(dim=2).argsort(dim=2) < leaving
        row = torch.arange(len(x), device=x.device).repeat_interleave(count)
        present = features.elements(~gone.reshape(-1, most), row)
        return ~present.reshape(len(x), count, *x.shape[1:])


def _window(length: int, size: int, start: Tensor) -> Tensor:
    """``(N, D, length)`` bool: a stretch of `size`, wholly inside, at a random place from `start` in 0..1 ``(N, D)``."""
    import torch

    first = (start * (length - size + 1)).long().clamp_max(length - size)[:, :, None]
    place = torch.arange(length, device=start.device)
    return (place >= first) & (place < first + size)


def refuse_slopes_of_codes(spec: InputSpec) -> None:
    """Refuse slopes for inputs that are codes.

    Raises:
        NotApplicable: the input is a text or tokens.
    """
    if spec.kind in ("text", "tokens", "id"):
        raise NotApplicable(f"slopes mean nothing for the codes of {spec.a_kind} input: set contributions to true")
