"""Expectation over transformation: a randomised model attacked, and judged, through the mean of several answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.model import AuditedModel

if TYPE_CHECKING:
    from torch import Tensor


class Averaged(AuditedModel):
    """A model whose answer is the mean of `draws` answers of another: of its scores, or of its votes where it gives labels.

    The gradient of the mean is the mean gradient, which is what an attack on a randomised defence has to follow.

    Source: Athalye et al. 2018, arXiv:1707.07397 and arXiv:1802.00420.
    """

    one: AuditedModel
    draws: int

    @classmethod
    def of(cls, model: AuditedModel, draws: int) -> Averaged:
        """The mean of so many answers of a model."""
        return model.variant(cls, one=model, draws=draws, micro_batch=max(1, model.micro_batch // draws))

    def _call(self, x: Tensor) -> Tensor:
        import torch

        answers = [self.one._call(x) for _ in range(self.draws)]
        self.rows_forward += self.draws * len(x)
        if self.output != "label":
            return torch.stack(answers).mean(dim=0)
        votes = torch.stack([answer.reshape(-1).long() for answer in answers])
        return torch.nn.functional.one_hot(votes, len(self.classes)).sum(dim=0).argmax(dim=1)
