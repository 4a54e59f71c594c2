"""Attacks: tensors in, tensors out. An attack proposes; `confirm` alone decides what counts. One file per attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.names import build_named
from audit.parameters import Parameters, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel
    from audit.rng import ExampleRng


@dataclass(frozen=True)
class Candidates:
    """What an attack proposes.

    Args:
        x: ``(N, *shape)``, one candidate per input; the input itself where nothing was found.
        queries: ``(N,)`` int64 rows that went forward for each example.
        gradients: ``(N,)`` int64 rows that went backward for each example.
        zero_gradients: ``(N,)`` int64 how many of those came back zero in every element; None where none was asked for.
        stage: ``(N,)`` int64 which of the attack's `stages` found the candidate, -1 where none did; None where it has no stages.
    """

    x: Tensor
    queries: Tensor
    gradients: Tensor
    zero_gradients: Tensor | None = None
    stage: Tensor | None = None


class Attack(Parameters, ABC):
    """Base of every attack; its fields are its parameters."""

    access: ClassVar[Access]
    """What the adversary sees."""
    norms: ClassVar[frozenset[str]]
    """Norms it is defined for; empty where `constraints` bind it instead of a norm."""
    needs: ClassVar[frozenset[Capability]]
    counted: ClassVar[str] = "elements of the input"
    """Without a norm, what the size of a change counts."""
    minimal: ClassVar[bool] = False
    """Whether it seeks the nearest adversarial example: with no eps in the threat model it gives the nearest it can find; with one,
    only what lies within."""

    def stages(self, classes: int) -> tuple[str, ...]:
        """Names of the attacks it runs one after the other, each on what the former left; empty for a single attack.

        Args:
            classes: how many the model tells apart.
        """
        return ()

    def constraints(self) -> str:
        """What binds the adversary besides norm and bounds, in words."""
        return ""

    def fit(self, model: AuditedModel, data: AuditData, ctx: Context) -> Attack:
        """The attack as it is for this model and data (ranges of the training rows, a surrogate); called once, before `run`."""
        return self

    def change(self, x: Tensor, candidates: Tensor) -> Tensor:
        """Without a norm, how many of what is `counted` each candidate differs in, ``(N,)`` float64."""
        missing = candidates.isnan() & x.isnan()
        return perturbation_size((candidates.double() - x.double()).masked_fill(missing, 0.0), None)

    def permits(self, model: AuditedModel, x: Tensor, candidates: Tensor) -> Tensor:
        """Which candidates keep to `constraints`, ``(N,)`` bool; asked when a candidate is confirmed, from the declaration alone."""
        import torch

        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    @abstractmethod
    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """Attack rows that the model gets right.

        Args:
            x: ``(N, *shape)`` inputs in the user's units.
            y: ``(N,)`` int64 labels.
            threat: norm, eps and bounds to stay within; `queries` is a cap on rows forward per example, never exceeded.
            rng: one stream per row.
        """


@dataclass(frozen=True)
class Confirmed:
    """The engine's own re-evaluation of candidates.

    Args:
        success: ``(N,)`` bool: inside the box, within eps, and misclassified when asked again.
        refused: ``(N,)`` bool: misclassified, but outside the box or beyond eps (an attack that misreports itself).
        size: ``(N,)`` float64 realised perturbation in the threat model's norm.
    """

    success: Tensor
    refused: Tensor
    size: Tensor


def perturbation_size(delta: Tensor, norm: str | None) -> Tensor:
    """Norm of each row of ``(N, *shape)`` in float64, ``(N,)``; with no norm, how many elements were changed."""
    flat = delta.double().flatten(1)
    if norm is None:
        return (flat != 0).sum(dim=1).double()
    if norm == "linf":
        return flat.abs().amax(dim=1) if flat.shape[1] else flat.sum(dim=1)
    if norm in ("l2", "l1"):
        size: Tensor = flat.norm(p=2 if norm == "l2" else 1, dim=1)
        return size
    raise UserError(f"'{norm}' is no norm: choose linf, l2 or l1")


def confirm(
    model: AuditedModel, x: Tensor, y: Tensor, candidates: Tensor, threat: ThreatModel, attack: Attack | None = None
) -> Confirmed:
    """Re-evaluate candidates, whoever made them: in the box, within eps (one float32 rounding allowed), within the attack's
    constraints, really misclassified. A value that is missing (NaN) stays missing."""
    import torch

    missing = candidates.isnan() & x.isnan()
    if attack is not None and threat.norm is None:
        size = attack.change(x, candidates)
    else:
        size = perturbation_size((candidates.double() - x.double()).masked_fill(missing, 0.0), threat.norm)
    finite = (candidates.isfinite() | missing).flatten(1).all(dim=1)
    scale = (
        float(max(abs(b) for b in threat.bounds))
        if threat.bounds
        else max(float(x.nan_to_num().abs().max()), 1.0)
        if x.numel()
        else 1.0
    )
    # A float32 sum x + delta rounds by at most half a unit in the last place of the largest value; l2 and l1 add those up.
    dimensions = x[0].numel() if len(x) else 1
    growth = {"linf": 1.0, "l2": dimensions**0.5, "l1": float(dimensions)}[threat.norm or "linf"]
    slack = torch.finfo(torch.float32).eps * scale * growth
    inside = finite & (size <= (threat.eps + slack if threat.eps is not None else torch.inf))
    if threat.bounds is not None:
        low, high = threat.bounds
        inside &= (((candidates >= low) & (candidates <= high)) | missing).flatten(1).all(dim=1)
    if attack is not None:
        inside &= attack.permits(model, x, candidates)
    wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if bool(finite.any()):
        wrong[finite] = model.predict(candidates[finite]) != y[finite]
    return Confirmed(success=wrong & inside, refused=wrong & ~inside, size=size)


def build(spec: str | dict[str, Any]) -> tuple[str, Attack]:
    """An attack from a scenario: a name (``pgd``, ``art.square_attack``) or ``{name: {parameter: value}}``.

    Raises:
        UserError: no such attack, or a parameter is wrong.
    """
    return build_named("attacks", spec)
