"""A scenario's list of attacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from audit.attacks import Attack, build
from audit.finding import Access
from audit.model import Capability
from audit.parameters import UserError

AttackSpec = str | dict[str, dict[str, Any] | None]
"""A name, or a name with its parameters: ``pgd`` or ``{pgd: {loss: margin}}``."""

STRONGEST: tuple[Access, ...] = ("white_box", "black_box_scores", "black_box_labels")


def built(specs: Iterable[AttackSpec]) -> dict[str, Attack]:
    """The attacks, by the names that their numbers carry: the second of one name is ``NAME#2``.

    Raises:
        UserError: no such attack, or a parameter is wrong.
    """
    found: dict[str, Attack] = {}
    for spec in specs:
        name, attack = _build(spec)
        same = sum(key.split("#")[0] == name for key in found)
        found[f"{name}#{same + 1}" if same else name] = attack
    return found


def _build(spec: AttackSpec) -> tuple[str, Attack]:
    """`audit.attacks.build`, with what is wrong in one line."""
    try:
        return build(spec)
    except ValidationError as error:
        first = error.errors()[0]
        name = spec if isinstance(spec, str) else next(iter(spec))
        if first["type"] == "value_error":
            raise UserError(str(first["ctx"]["error"])) from error
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"attack '{name}': {where}: {first['msg'].lower()}") from error


def require_norm(attacks: Mapping[str, Attack], norm: str) -> None:
    """Refuse attacks that are not defined for a norm.

    Raises:
        UserError: names the first.
    """
    for name, attack in attacks.items():
        if not attack.norms:
            raise UserError(f"attack '{name}' is bound by {attack.constraints() or 'constraints'}, not by a norm")
        if norm not in attack.norms:
            raise UserError(f"attack '{name}' is defined for {' and '.join(sorted(attack.norms))}, not for {norm}")


def strongest_access(attacks: Mapping[str, Attack]) -> Access:
    """What the best informed of the attacks sees."""
    return next(access for access in STRONGEST if any(attack.access == access for attack in attacks.values()))


def capabilities(attacks: Mapping[str, Attack]) -> frozenset[Capability]:
    """What the attacks need of a model."""
    return frozenset().union(*(attack.needs for attack in attacks.values()))
