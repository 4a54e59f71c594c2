"""Integrated gradients of texts, over the embeddings of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from audit.explainers import Attribution, Explainer
from audit.explainers._passes import library_seed
from audit.explainers._quadrature import Method, quadrature, until_complete
from audit.explainers._tokens import over_characters, rows_of, rows_per_pass, score_at, token_model
from audit.model import Capability

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel, TokenModel, Tokens
    from audit.rng import ExampleRng


class LayerIntegratedGradients(Explainer):
    """What each token of a text adds to the score: gradient averaged along the straight line from a neutral embedding to the token's
    own, times their difference, added up over the embedding.

    The characters of a token share its value evenly. Tokens that the tokenizer adds (start, separator, padding) stay what they are
    along the way and get none, so values are all of score − base value. Completeness is measured for every row: rows that miss it
    by more than 1 % are done again with twice the steps, up to `max_steps`; `error` is the gap that is left.

    Between two embeddings lies nothing that anybody wrote, and a mask token may say more to one model than to another: compare
    baselines before leaning on single tokens. The gradient is never averaged over noise on token ids, which are no numbers to add
    noise to.

    Source: Sundararajan et al. 2017, arXiv:1703.01365, section 6.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.EMBEDDINGS})
    complete: ClassVar[bool] = True

    steps: int = Field(default=32, ge=1)
    """Points on the line at first."""
    max_steps: int = Field(default=1024, ge=1)
    """Points on the line at most."""
    method: Method = "gausslegendre"
    """Quadrature along the line."""
    baseline: Literal["neutral", "zero"] = "neutral"
    """Where the line starts: neutral, the embedding of the mask token, else of unknown, else of padding; or zero."""
    internal_batch: int | None = Field(default=None, ge=1)
    """Points per pass; by default what memory allows (16 of 128 tokens), at most the model's micro-batch."""

    @model_validator(mode="after")
    def _steps_in_order(self) -> LayerIntegratedGradients:
        if self.max_steps < self.steps:
            raise ValueError(f"max_steps={self.max_steps} is less than steps={self.steps}")
        return self

    def run(self, model: AuditedModel, x: Tensor, target: Tensor, background: Tensor, rng: ExampleRng) -> Attribution:
        """See `Explainer.run`. Values are float64; the background is not used.

        Raises:
            NotApplicable: the model shows no token embeddings.
            NonFiniteOutput: the model answers NaN or infinite for a text or its baseline.
        """
        import torch

        from audit.bridges.global_generators import seeded

        inside = token_model(model, "layer_integrated_gradients")
        tokens = inside.tokens(x)
        with torch.no_grad():
            end = inside.embed(tokens.ids)
            start = self._start(inside, tokens, end)
        rows = self.internal_batch or rows_per_pass(model, tokens)
        with seeded(library_seed(rng)):
            score, base = (_scores(model, points, tokens, target, rows) for points in (end, start))

            def integrate(active: Tensor, steps: int) -> Tensor:
                some = rows_of(tokens, active)
                longest = some.ids.shape[1]
                values = torch.zeros((len(active), tokens.ids.shape[1]), dtype=torch.float64, device=x.device)
                values[:, :longest] = self._integrate(
                    model, start[active, :longest], end[active, :longest], some, target[active], steps, rows
                )
                return values

            values, gap, largest = until_complete(integrate, score, base, self.steps, self.max_steps)
        spread, features = over_characters(values, tokens, x.shape[1])
        method = f"{self.method} over token embeddings from {self.baseline}, {self.steps} to {largest} steps"
        return Attribution(
            spread, target, model.output, base_value=base, score=score, error=gap, method=method, features=features
        )

    def _start(self, inside: TokenModel, tokens: Tokens, end: Tensor) -> Tensor:
        """Embeddings ``(N, T, E)`` where the line begins: those of the tokenizer's own tokens are where it ends."""
        import torch

        neutral = (
            torch.zeros_like(end)
            if self.baseline == "zero"
            else inside.embed(torch.full_like(tokens.ids, inside.neutral))
        )
        return torch.where((tokens.special | ~tokens.mask)[..., None], end, neutral)

    def _integrate(
        self, model: AuditedModel, start: Tensor, end: Tensor, tokens: Tokens, target: Tensor, steps: int, rows: int
    ) -> Tensor:
        """Values of tokens ``(N, T)`` float64: quadrature over every (row, point), packed into passes whatever rows they are of."""
        import torch

        points, weights = (torch.from_numpy(part).to(end.device) for part in quadrature(self.method, steps))
        total = torch.zeros(tokens.ids.shape, dtype=torch.float64, device=end.device)
        for first in range(0, len(end) * steps, rows):
            pair = torch.arange(first, min(first + rows, len(end) * steps), device=end.device)
            row, step = pair // steps, pair % steps
            some = rows_of(tokens, row)
            longest = some.ids.shape[1]
            origin, way = start[row, :longest], (end - start)[row, :longest]
            along = (origin + points[step, None, None].to(way) * way).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(score_at(model, along, some, target[row]).sum(), along)
            part = (slope * way).double().sum(dim=2) * weights[step, None]
            total[:, :longest].index_add_(0, row, part)
        return total


def _scores(model: AuditedModel, embeddings: Tensor, tokens: Tokens, target: Tensor, rows: int) -> Tensor:
    """Scores ``(N,)`` float64, without gradients.

    Raises:
        NonFiniteOutput: one is NaN or infinite.
    """
    import torch

    scores = embeddings.new_zeros(len(embeddings), dtype=torch.float64)
    with torch.no_grad():
        for row in torch.split(torch.arange(len(embeddings), device=embeddings.device), rows):
            some = rows_of(tokens, row)
            scores[row] = score_at(model, embeddings[row, : some.ids.shape[1]], some, target[row]).double()
    model.check_finite(scores)
    return scores
