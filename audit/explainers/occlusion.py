"""Occlusion: how far the score falls when a part of the input is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from audit.explainers import Attribution
from audit.explainers._baselines import Baseline, default_baseline
from audit.explainers._features import Features, features_of
from audit.explainers._game import FeatureGame, RemovalExplainer
from audit.explainers._passes import library_seed
from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng


class Occlusion(RemovalExplainer):
    """How far the score falls when a window is hidden; where windows overlap, the mean over those that cover the place.

    A square slides over an image, in all channels at once; a stretch over a series; a run of words over a text. Columns of a table are
    hidden one by one, and so are superpixels. What a place is worth depends on the window: two places that stand in for each
    other both get nothing unless one window hides both. Values do not add up to the score. One pass per window and row.

    Source: Zeiler & Fergus 2014, arXiv:1311.2901.
    """

    complete: ClassVar[bool] = False

    window: int | None = Field(default=None, ge=1)
    """Side of the square in pixels, length of the stretch in steps, number of words; by default an eighth of an image's longer side,
    a sixteenth of a series, one word."""
    stride: int | None = Field(default=None, ge=1)
    """From one window to the next; by default half a window. The last one ends where the input ends."""
    segments: int | None = Field(default=None, ge=1)
    """Of images: hide superpixels in place of windows, one at a time, at most as many."""

    @model_validator(mode="after")
    def _windows_or_segments(self) -> Occlusion:
        if self.segments is not None and (self.window is not None or self.stride is not None):
            raise ValueError("either windows slide, or segments are hidden: leave out window and stride, or segments")
        return self

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            UserError: windows do not suit the input or leave gaps, or there are no background rows where they are needed.
            NonFiniteOutput: the model answers NaN or infinite.
        """
        import torch

        from audit.bridges.global_generators import seeded

        x = x.detach()
        cells = self._cells(x, model.spec)
        with torch.no_grad(), seeded(library_seed(rng)):
            absent = self.absent_rows(model, x, background)
            game = FeatureGame(model, x, target, absent, cells, dummies=True)
            score = game.score()
            values = score.new_zeros((len(x), cells.most))
            for count in torch.unique(cells.count[cells.count > 0]).tolist():
                rows = (cells.count == count).nonzero().squeeze(1)
                hidden = self._windows(model.spec, count).to(x.device)
                values[rows, :count] = _falls(game, rows, score[rows], hidden)
        features = None if cells.unit in ("value", "column") else cells
        what = cells.unit if self.segments is not None or model.spec.tabular else "sliding windows"
        method = f"{what}, {self.shown(model.spec, absent.shape[1])}"
        return Attribution(cells.spread(values), target, model.output, method=method, features=features)

    def absence(self, spec: InputSpec) -> Literal["background"] | Baseline:
        """One baseline unless told otherwise: black, the mean, blanks."""
        return default_baseline(spec) if self.absent == "auto" else self.absent

    def _cells(self, x: Tensor, spec: InputSpec) -> Features:
        """The smallest things that windows are made of."""
        if self.segments is not None:
            return features_of(x, spec, "segment", self.segments)
        if spec.tabular and (self.window is not None or self.stride is not None):
            raise UserError("occlusion hides columns of a table one by one: leave out window and stride")
        if spec.kind == "series" and not spec.tabular:
            return features_of(x, spec, "window", 1)
        return features_of(x, spec)

    def _windows(self, spec: InputSpec, count: int) -> Tensor:
        """Which of `count` cells each window hides, ``(K, count)`` bool."""
        import torch

        if self.segments is not None or spec.tabular:
            return torch.eye(count, dtype=torch.bool)
        if spec.kind == "image" and len(spec.shape) > 1:
            height, width = spec.shape[-2:]
            window = self.window or -(-max(height, width) // 8)
            down, across = (_slid(side, window, self.stride) for side in (height, width))
            return (down[:, None, :, None] & across[None, :, None, :]).reshape(-1, count)
        return _slid(count, self.window or (1 if spec.kind == "text" else -(-count // 16)), self.stride)


def _slid(length: int, window: int, stride: int | None) -> Tensor:
    """Stretches ``(K, length)`` bool that start a stride apart; the last is cut off where the line ends.

    Raises:
        UserError: places between windows would never be hidden.
    """
    import torch

    step = stride or max(1, window // 2)
    if step > window < length:
        raise UserError(
            f"occlusion: a stride of {step} leaves places that no window of {window} hides: choose at most {window}"
        )
    starts = torch.arange(-(-max(length - window, 0) // step) + 1) * step
    place = torch.arange(length)
    return (place >= starts[:, None]) & (place < starts[:, None] + window)


def _falls(game: FeatureGame, rows: Tensor, score: Tensor, hidden: Tensor) -> Tensor:
    """Mean fall of the score over the windows that hide a cell, ``(R, cells)``."""
    worth = game.worth(rows, len(hidden), lambda _, window: ~hidden[window])
    by_window = hidden.to(worth)
    return (score[:, None] - worth) @ by_window / by_window.sum(dim=0)
