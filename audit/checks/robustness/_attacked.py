"""One attack on the rows that a model gets right, as the engine's own re-evaluation sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from audit.attacks import Attack, Confirmed, confirm
from audit.finding import EvidenceRef, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.model import AuditedModel
    from audit.rng import ExampleRng


@dataclass(frozen=True)
class Rows:
    """Rows that the model gets right.

    Args:
        x: ``(N, *shape)``.
        y: ``(N,)`` int64.
        ids: row ids.
        threat: what an adversary may do to them.
    """

    model: AuditedModel
    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    threat: ThreatModel
    ctx: Context

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Tensor) -> Rows:
        """The rows at integer positions."""
        return replace(self, x=self.x[index], y=self.y[index], ids=tuple(self.ids[i] for i in index.tolist()))

    def within(self, **threat: Any) -> Rows:
        """The same rows under a changed threat model."""
        return replace(self, threat=self.threat.model_copy(update=threat))

    def rng(self, purpose: str) -> ExampleRng:
        """One stream per row."""
        return self.ctx.rng(self.ids, purpose)

    def confirm(self, candidates: Tensor) -> Confirmed:
        """`audit.attacks.confirm`, asked about changed rows only: the input itself is known to be right."""
        import torch

        moved = (candidates != self.x).flatten(1).any(dim=1)
        none = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
        whole = Confirmed(success=none, refused=none.clone(), size=none.double())
        if bool(moved.any()):
            found = confirm(self.model, self.x[moved], self.y[moved], candidates[moved], self.threat)
            whole.success[moved], whole.refused[moved], whole.size[moved] = found.success, found.refused, found.size
        return whole


@dataclass(frozen=True)
class Outcome:
    """What one attack came to.

    Args:
        success: ``(N,)`` bool: inside the bounds, within eps, misclassified when asked again.
        refused: ``(N,)`` bool: misclassified, and outside the bounds or beyond eps.
        size: ``(N,)`` float64 realised perturbation.
        queries: ``(N,)`` rows that went forward.
        stuck: ``(N,)`` bool: more than half of its gradients were zero in every element. None where the attack takes no gradients.
        examples: stored adversarial examples.
    """

    success: Tensor
    refused: Tensor
    size: Tensor
    queries: Tensor
    stuck: Tensor | None
    examples: tuple[EvidenceRef, ...]

    @property
    def realised(self) -> float | None:
        """Largest perturbation that counted."""
        return float(self.size[self.success].max()) if bool(self.success.any()) else None


def run_attack(rows: Rows, name: str, attack: Attack, keep: int, progress: Callable[[int], None]) -> Outcome:
    """Attack in chunks and ask the model again about what the attack proposes.

    Args:
        name: what the attack's numbers are called.
        keep: adversarial examples to store.
        progress: told how many rows are done.
    """
    import torch

    # An attack that takes few rows per call is called so, for progress to move and a time budget to end it.
    chunk = getattr(attack, "rows_per_call", rows.model.micro_batch)
    store = _Store(rows, name, keep)
    chunks: list[tuple[Confirmed, Tensor]] = []
    stuck: list[Tensor] = []
    for index in torch.arange(len(rows), device=rows.x.device).split(chunk):  # type: ignore[no-untyped-call]
        part = rows.take(index)
        found = attack.run(part.model, part.x, part.y, part.threat, part.rng(f"attack {name}"))
        confirmed = part.confirm(found.x)
        store.add(part, found.x, confirmed, found.queries)
        chunks.append((confirmed, found.queries))
        if found.zero_gradients is not None:
            stuck.append(2 * found.zero_gradients > found.gradients)
        progress(int(index[-1]) + 1 if len(index) else 0)
    return Outcome(
        success=torch.cat([confirmed.success for confirmed, _ in chunks]),
        refused=torch.cat([confirmed.refused for confirmed, _ in chunks]),
        size=torch.cat([confirmed.size for confirmed, _ in chunks]),
        queries=torch.cat([queries for _, queries in chunks]),
        stuck=torch.cat(stuck) if stuck else None,
        examples=store.refs,
    )


class _Store:
    """Adversarial examples as evidence, the first `keep` of an attack."""

    def __init__(self, rows: Rows, name: str, keep: int) -> None:
        self._rows, self._name, self._left = rows, name, keep
        self._writer: Any = None

    @property
    def refs(self) -> tuple[EvidenceRef, ...]:
        return (self._writer.ref,) if self._writer is not None else ()

    def add(self, part: Rows, candidates: Tensor, confirmed: Confirmed, queries: Tensor) -> None:
        at = confirmed.success.nonzero().flatten()[: self._left]
        if not len(at):
            return
        self._left -= len(at)
        self._writer = self._writer or self._rows.ctx.evidence(
            f"adversarial-{self._name}", "adversarial", attack=self._name, **self._meta()
        )
        kept = part.take(at)
        self._writer.append(
            kept.ids,
            x=kept.x,
            adversarial=candidates[at],
            label=kept.y,
            prediction=kept.y,
            adversarial_prediction=part.model.predict(candidates[at]),
            size=confirmed.size[at],
            queries=queries[at],
        )

    def _meta(self) -> Mapping[str, Any]:
        model, threat = self._rows.model, self._rows.threat
        return {
            "norm": threat.norm,
            "eps": threat.eps,
            "bounds": list(threat.bounds or ()),
            "units": threat.units,
            "classes": list(model.classes),
            "input_kind": model.spec.kind,
        }
