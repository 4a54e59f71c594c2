"""One attack on the rows that a model gets right, as the engine's own re-evaluation sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
        eps: ``(N,)`` float64 each row's own eps, where they differ; None where the threat model's holds for all.
        draws: answers of a randomised model that make up one of the model's here.
    """

    model: AuditedModel
    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    threat: ThreatModel
    ctx: Context
    eps: Tensor | None = None
    draws: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Tensor) -> Rows:
        """The rows at integer positions."""
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            ids=tuple(self.ids[i] for i in index.tolist()),
            eps=None if self.eps is None else self.eps[index],
        )

    def within(self, **threat: Any) -> Rows:
        """The same rows under a changed threat model."""
        return replace(self, threat=self.threat.model_copy(update=threat))

    def alike(self, chunk: int | None = None) -> Iterator[tuple[Tensor, Rows]]:
        """Positions and rows that share one eps, at most `chunk` at a time (a micro-batch of the model).

        A row that may not be changed at all is in none.
        """
        import torch

        everything = torch.arange(len(self), device=self.x.device)
        if self.eps is None:
            groups = [(self, everything)]
        else:
            sizes = sorted(set(self.eps.tolist()))
            same = replace(self, eps=None)
            groups = [(same.within(eps=eps), (self.eps == eps).nonzero().flatten()) for eps in sizes if eps > 0]
        for rows, positions in groups:
            for index in positions.split(chunk or self.model.micro_batch) if len(positions) else ():  # type: ignore[no-untyped-call]
                yield index, rows.take(index)

    def rng(self, purpose: str) -> ExampleRng:
        """One stream per row."""
        return self.ctx.rng(self.ids, purpose)

    def confirm(self, candidates: Tensor, attack: Attack | None = None) -> Confirmed:
        """`audit.attacks.confirm`, asked about changed rows only: the input itself is known to be right."""
        import torch

        none = torch.zeros(len(self), dtype=torch.bool, device=self.x.device)
        whole = Confirmed(success=none, refused=none.clone(), size=none.double())
        for index, rows in self.alike():
            moved = ~_same(candidates[index], rows.x)
            if bool(moved.any()):
                found = confirm(rows.model, rows.x[moved], rows.y[moved], candidates[index][moved], rows.threat, attack)
                at = index[moved]
                whole.success[at], whole.refused[at], whole.size[at] = found.success, found.refused, found.size
        return whole


def _same(candidates: Tensor, x: Tensor) -> Tensor:
    """Which rows are equal, a missing value (NaN) to itself."""
    same: Tensor = ((candidates == x) | (candidates.isnan() & x.isnan())).flatten(1).all(dim=1)
    return same


@dataclass(frozen=True)
class Outcome:
    """What one attack came to.

    Args:
        success: ``(N,)`` bool: inside the bounds, within eps, misclassified when asked again, within the cap on queries.
        refused: ``(N,)`` bool: misclassified, and outside the bounds, beyond eps or against the attack's constraints.
        overran: ``(N,)`` bool: misclassified, with more queries than the threat model allows.
        size: ``(N,)`` float64 realised perturbation.
        queries: ``(N,)`` rows that went forward.
        attacked: ``(N,)`` bool: rows that the attack asked about.
        stuck: ``(N,)`` bool: more than half of its gradients were zero in every element. None where the attack takes no gradients.
        stage: ``(N,)`` int64 which of the attack's stages found it. None where it has none.
        examples: stored adversarial examples.
    """

    success: Tensor
    refused: Tensor
    overran: Tensor
    size: Tensor
    queries: Tensor
    attacked: Tensor
    stuck: Tensor | None
    stage: Tensor | None
    examples: tuple[EvidenceRef, ...]

    @property
    def realised(self) -> float | None:
        """Largest perturbation that counted."""
        return float(self.size[self.success].max()) if bool(self.success.any()) else None

    def spread(self, index: Tensor, n: int) -> Outcome:
        """The same of `n` rows, of which those at `index` were attacked."""

        def place(values: Tensor) -> Tensor:
            whole = values.new_zeros(n)
            whole[index] = values
            return whole

        return Outcome(
            success=place(self.success),
            refused=place(self.refused),
            overran=place(self.overran),
            size=place(self.size),
            queries=place(self.queries),
            attacked=place(self.attacked),
            stuck=None if self.stuck is None else place(self.stuck),
            stage=None if self.stage is None else place(self.stage),
            examples=self.examples,
        )


def run_attack(
    rows: Rows,
    name: str,
    attack: Attack,
    keep: int,
    progress: Callable[[int], None],
    proposed: Callable[[Tensor, Tensor], None] | None = None,
) -> Outcome:
    """Attack in chunks and ask the model again about what the attack proposes.

    Args:
        name: what the attack's numbers are called.
        keep: adversarial examples to store.
        progress: told how many rows are done.
        proposed: given each chunk's positions ``(K,)`` and candidates ``(K, *shape)``, whether they count or not.
    """
    import torch

    # An attack that takes few rows per call is called so, for progress to move and a time budget to end it.
    chunk = getattr(attack, "rows_per_call", rows.model.micro_batch)
    store = _Store(rows, name, keep)
    n, device = len(rows), rows.x.device
    success, refused, overran, stuck = (torch.zeros(n, dtype=torch.bool, device=device) for _ in range(4))
    size = torch.zeros(n, dtype=torch.float64, device=device)
    queries = torch.zeros(n, dtype=torch.int64, device=device)
    stage = torch.full((n,), -1, dtype=torch.int64, device=device)
    followed = staged = False
    done = 0
    for at, part in rows.alike(chunk):
        found = attack.run(part.model, part.x, part.y, _told(part), part.rng(f"attack {name}"))
        spent = found.queries * rows.draws
        confirmed = part.confirm(found.x, attack)
        late = spent > (part.threat.queries or torch.iinfo(torch.int64).max)
        kept = replace(confirmed, success=confirmed.success & ~late)
        store.add(part, found.x, kept, spent)
        if proposed is not None:
            proposed(at, found.x)
        success[at], refused[at], overran[at] = kept.success, confirmed.refused, confirmed.success & late
        size[at], queries[at] = confirmed.size, spent
        if found.zero_gradients is not None:
            followed = True
            stuck[at] = 2 * found.zero_gradients > found.gradients
        if found.stage is not None:
            staged = True
            stage[at] = found.stage
        done += len(at)
        progress(done)
    return Outcome(
        success=success,
        refused=refused,
        overran=overran,
        size=size,
        queries=queries,
        attacked=queries > 0,
        stuck=stuck if followed else None,
        stage=stage if staged else None,
        examples=store.refs,
    )


def _told(rows: Rows) -> ThreatModel:
    """The threat model as an attack is told it: a cap on single answers allows fewer where several make up one."""
    if rows.threat.queries is None or rows.draws == 1:
        return rows.threat
    return rows.threat.model_copy(update={"queries": rows.threat.queries // rows.draws})


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
        kept, model = part.take(at), part.model
        scores = model.scores(candidates[at])
        answers = {"confidence": model.scores(kept.x), "adversarial_confidence": scores}
        sure = {name: model.confidence_of(given) for name, given in answers.items()}
        self._writer.append(
            kept.ids,
            x=kept.x,
            adversarial=candidates[at],
            label=kept.y,
            prediction=kept.y,
            adversarial_prediction=model.labels_of(scores),
            **{name: values for name, values in sure.items() if values is not None},
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
