"""What an explainer asks a model, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from audit.checks.explanation._explaining import explain
from audit.model import AuditedModel

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject
    from audit.context import Context
    from audit.explainers import Attribution, Explainer


@dataclass(frozen=True)
class Asked:
    """What was asked to explain some rows.

    Args:
        x: ``(Q, *shape)`` inputs the model was asked about, a random few of each row's.
        row: ``(Q,)`` int64 row of the subject that each was asked for.
        found: the attribution of each row.
    """

    x: Tensor
    row: Tensor
    found: tuple[Attribution, ...]


class _Recorder:
    """Keeps a random few of the inputs that a model is asked about, in constant memory."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.rng: np.random.Generator | None = None
        self.x: Tensor | None = None
        self._keys: Tensor | None = None

    def start(self, rng: np.random.Generator) -> None:
        """Forget what was asked before."""
        self.rng, self.x, self._keys = rng, None, None

    def note(self, x: Tensor) -> None:
        """Keep those inputs whose random numbers are the largest so far."""
        import torch

        if self.rng is None or not len(x):
            return
        keys, rows = torch.from_numpy(self.rng.random(len(x))), x.detach()
        chosen = keys.topk(min(self.keep, len(keys))).indices
        keys, rows = keys[chosen], rows[chosen.to(rows.device)]
        if self.x is not None and self._keys is not None:
            keys, rows = torch.cat([self._keys, keys]), torch.cat([self.x, rows])
            chosen = keys.topk(min(self.keep, len(keys))).indices
            keys, rows = keys[chosen], rows[chosen.to(rows.device)]
        self.x, self._keys = rows.clone(), keys


def recorded(
    explainer: Explainer,
    model: AuditedModel,
    subject: Subject,
    backgrounds: Sequence[Tensor],
    ctx: Context,
    *,
    keep: int,
) -> Asked:
    """Explain the subject's rows one at a time, and record what the model is asked.

    Args:
        backgrounds: of each row.
        keep: most inputs kept of a row.
    """
    import torch

    recorder = _Recorder(keep)
    observed = object.__new__(AuditedModel)
    observed.__dict__.update(model.__dict__, _outputs={}, _remembered={})

    def forward(x: Tensor) -> Tensor:
        recorder.note(x)
        return model._forward(x)

    observed._forward = forward
    asked, row, found = [], [], []
    for i, name in enumerate(subject.batch.ids):
        recorder.start(ctx.generator(f"recorded {name}"))
        alone = replace(
            subject,
            batch=subject.batch.take([i]),
            x=subject.x[i : i + 1],
            prediction=subject.prediction[i : i + 1],
            target=subject.target[i : i + 1],
            background=backgrounds[i],
            confidence=None if subject.confidence is None else subject.confidence[i : i + 1],
        )
        found += [part for _, part in explain(explainer, observed, alone, ctx)]
        if recorder.x is not None:
            asked.append(recorder.x)
            row.append(torch.full((len(recorder.x),), i))
        ctx.progress(i + 1, len(subject.batch), "rows explained")
    model.rows_forward, model.rows_backward = observed.rows_forward, observed.rows_backward
    if not asked:
        return Asked(subject.x[:0], torch.zeros(0, dtype=torch.int64), tuple(found))
    return Asked(torch.cat(asked), torch.cat(row), tuple(found))
