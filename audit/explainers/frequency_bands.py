"""Shapley values of the frequency bands of a series."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from audit.explainers import Attribution
from audit.explainers._baselines import Baseline, default_baseline
from audit.explainers._game import Game, RemovalExplainer, Round
from audit.explainers._passes import library_seed
from audit.explainers.exact_shap import LARGEST, every_coalition
from audit.parameters import NotApplicable, Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, InputSpec
    from audit.rng import ExampleRng


class FrequencyBands(RemovalExplainer):
    """What each band of frequencies adds to the score: exact Shapley values of a game whose players are bands of the real Fourier
    transform. An absent band of a series is replaced by that band of the baseline, in all channels at once.

    The values are in `parts`, one for each band. A band is everywhere at once: `values` spread each band's value over time and
    channels in proportion to the energy of what it changes there (the band of the input less that of the baseline), so that they add
    up to the same; they show when a band is strong, not when the model listens. Mixtures of bands can leave the bounds of
    the input. `error` is 0.

    Source: attributions of frequencies: Vielhaben et al. 2024, arXiv:2303.06365; bands that are left out: Brüsch et al. 2024,
    arXiv:2411.05841.
    """

    bands: int = Field(default=8, ge=1, le=LARGEST)
    """Bands of equally many frequencies, from the mean (0) up to half the sampling rate; 2^bands coalitions are asked."""
    edges: tuple[Real, ...] = ()
    """Where one band ends and the next begins, in place of `bands`: ascending, in Hz where `rate` is given, else in cycles per window.
    ``(4, 8, 13, 30)`` makes five bands."""
    rate: Real | None = Field(default=None, gt=0)
    """Sampling rate in Hz; bands are then named in Hz."""

    @model_validator(mode="after")
    def _edges_ascend(self) -> FrequencyBands:
        if any(low >= high for low, high in pairwise((0.0, *self.edges))):
            raise ValueError(f"edges must ascend from above 0, got {', '.join(f'{edge:g}' for edge in self.edges)}")
        if len(self.edges) >= LARGEST:
            raise ValueError(f"at most {LARGEST} bands, so at most {LARGEST - 1} edges; got {len(self.edges)}")
        return self

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64.

        Raises:
            NotApplicable: the input is no series.
            UserError: a band holds no frequency.
            NonFiniteOutput: the model answers NaN or infinite for some coalition.
        """
        import torch

        from audit.bridges.global_generators import seeded

        if model.spec.kind != "series" or model.spec.tabular:
            raise NotApplicable(
                f"frequency_bands explains series, the input of model '{model.name}' is {model.spec.a_kind}"
            )
        band, names = self._layout(x.shape[-1])
        x = x.detach()
        with torch.no_grad(), seeded(library_seed(rng)):
            game = _BandGame(model, x, target, self.absent_rows(model, x, background), band.to(x.device))
            score, base = game.score(), game.nobody()
            every = torch.arange(len(x), device=x.device)
            parts = every_coalition(Round(game, every, len(names), score, base, "band")).values
            values = (parts[(...,) + (None,) * (x.ndim - 1)] * game.shares()).sum(dim=1)
        method = f"all coalitions of {len(names)} bands, {self.shown(model.spec, game.absent.shape[1])}"
        return Attribution(
            values, target, model.output, base_value=base, score=score, error=torch.zeros_like(score), method=method,
            parts=parts, part_names=names,
        )  # fmt: skip

    def absence(self, spec: InputSpec) -> Literal["background"] | Baseline:
        """The mean of the background rows unless told otherwise."""
        return default_baseline(spec) if self.absent == "auto" else self.absent

    def _layout(self, length: int) -> tuple[Tensor, tuple[str, ...]]:
        """Band of each coefficient of the real transform ``(L // 2 + 1,)`` int64, and the bands' names."""
        import torch

        unit = "Hz" if self.rate is not None else "cycles per window"
        frequency = torch.arange(length // 2 + 1, dtype=torch.float64) * (self.rate or length) / length
        if not self.edges:
            parts = torch.tensor_split(frequency, min(self.bands, len(frequency)))
            band = torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])
            return band, tuple(f"{float(part[0]):.4g}-{float(part[-1]):.4g} {unit}" for part in parts)
        band = torch.bucketize(frequency, torch.tensor(self.edges, dtype=torch.float64), right=True)
        ends = (0.0, *self.edges, float(frequency[-1]))
        names = tuple(f"{low:.4g}-{high:.4g} {unit}" for low, high in pairwise(ends))
        empty = [name for number, name in enumerate(names) if not bool((band == number).any())]
        if empty:
            step = float(frequency[1]) if length > 1 else 0.0
            raise UserError(
                f"frequency_bands: no frequency of a series of {length} lies in {empty[0]}: they are {step:.4g} {unit} apart, "
                f"up to {float(frequency[-1]):.4g}"
            )
        return band, names


class _BandGame(Game):
    """A game of bands.

    Args:
        band: ``(L // 2 + 1,)`` int64 player of each coefficient.
    """

    def __init__(self, model: AuditedModel, x: Tensor, target: Tensor, absent: Tensor, band: Tensor) -> None:
        import torch

        bands = int(band.max()) + 1
        super().__init__(model, x, target, absent, torch.full((len(x),), bands, device=x.device))
        self._band = band
        self._own = torch.fft.rfft(x.double())
        shared = absent[:1] if absent.stride(0) == 0 else absent  # background rows are the same for all
        self._absent = torch.fft.rfft(shared.double()).expand(len(x), *absent.shape[1:-1], len(band))

    def mixed(self, row: Tensor, other: Tensor, present: Tensor) -> Tensor:
        """See `Game.mixed`."""
        import torch

        there = present[:, self._band].reshape(len(row), *[1] * (self.x.ndim - 2), -1)
        spectrum = torch.where(there, self._own[row], self._absent[row, other])
        mixed: Tensor = torch.fft.irfft(spectrum, n=self.x.shape[-1]).to(self.x)
        return mixed

    def shares(self) -> Tensor:
        """Each band's energy over time and channels, adding up to 1, ``(N, bands, *shape)``; evenly where it has none."""
        import torch

        change = self._own - self._absent.mean(dim=1)
        bands = torch.arange(self.most, device=self.x.device)
        only = (self._band == bands[:, None]).reshape(self.most, *[1] * (change.ndim - 2), -1)
        signal = torch.fft.irfft(torch.where(only, change[:, None], 0), n=self.x.shape[-1])
        energy = signal.square()
        total = energy.flatten(2).sum(dim=2).reshape(*energy.shape[:2], *[1] * (energy.ndim - 2))
        return torch.where(total > 0, energy / total.clamp_min(torch.finfo(energy.dtype).tiny), 1 / self.x[0].numel())
