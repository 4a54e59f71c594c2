"""The evasion attacks of the Adversarial Robustness Toolbox, by name: ``art.square_attack``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field, model_validator

from audit.attacks import Attack, Candidates
from audit.attacks._gradients import frozen_parameters
from audit.bridges import art as bridge
from audit.bridges import art_catalogue as catalogue
from audit.finding import Access, ThreatModel
from audit.model import Capability
from audit.parameters import parse_real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel
    from audit.rng import ExampleRng


class _OfMember:
    """What the base class holds per attack, told per member: the class answers for all of them, an instance for its own."""

    def __init__(self, overall: Any, of_member: Callable[[str], Any]) -> None:
        self._overall, self._of_member = overall, of_member

    def __get__(self, attack: Art | None, owner: type[Art]) -> Any:
        return self._overall if attack is None else self._of_member(attack.member)


class Art(Attack):
    """One of ART's evasion attacks, untargeted. Its own parameters stand beside it: ``art.square_attack: {max_iter: 500}``.

    Norm, eps and bounds come from the threat model. `eps_step` is in the user's units and a quarter of eps unless given; every
    other length among ART's parameters (a learning rate, SimBA's `epsilon`, `theta`) is in units of the input box, which ART sees
    as 0..1. An attack that seeks the nearest adversarial example counts where that is within eps.

    Source: Nicolae et al. 2018, arXiv:1807.01069; each attack's own paper is named in ART's documentation of its class.
    """

    model_config = ConfigDict(extra="allow")

    access: ClassVar[Access] = _OfMember("white_box", catalogue.access)  # type: ignore[assignment]
    norms: ClassVar[frozenset[str]] = _OfMember(frozenset({"linf", "l2", "l1"}), catalogue.norms)  # type: ignore[assignment]
    needs: ClassVar[frozenset[Capability]] = _OfMember(frozenset({Capability.LABELS}), catalogue.needs)  # type: ignore[assignment]

    member: str
    """The attack: ART's class name in lower case with underscores, without ``art.``."""
    rows_per_call: int = Field(1, ge=1)
    """Rows given to ART at once. At 1 an example's randomness and its query count are its own; more is faster for attacks
    that work on batches, and makes both depend on the batch: queries are then the batch's mean, rounded up."""

    @model_validator(mode="after")
    def _known_to_art(self) -> Art:
        catalogue.check(self.member, self.model_extra or {})
        return self

    @classmethod
    def members(cls) -> list[str]:
        """Every attack that is offered."""
        return catalogue.available()

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        """See `Attack.run`.

        Raises:
            UserError: ART refuses a parameter's value, or the input has no bounds.
        """
        import torch

        parameters = {name: parse_real(value) for name, value in (self.model_extra or {}).items()}
        found = x.detach().clone()
        spent = torch.zeros((3, len(x)), dtype=torch.int64, device=x.device)
        seeds = rng.integers(2**31)
        parts = torch.arange(len(x)).split(self.rows_per_call) if len(x) else ()  # type: ignore[no-untyped-call]
        with frozen_parameters(model):
            for rows in parts:
                seed = int(seeds[rows].sum()) % 2**31
                result = bridge.run(self.member, parameters, model, x[rows].detach(), y[rows], threat, seed)
                found[rows] = result.x
                totals = (result.queries, result.gradients, result.zero_gradients)
                for count, total in zip(spent, totals, strict=True):
                    count[rows] = -(-total // len(rows))
        queries, gradients, zeros = spent
        return Candidates(found, queries, gradients, zeros if self.access == "white_box" else None)
