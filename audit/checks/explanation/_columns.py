"""Columns of a table by name, alone or in named groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from audit.model import AuditedModel


def column_names(model: AuditedModel, what: str) -> list[str]:
    """Names of the columns that the model is fed; of a plain row of numbers their places.

    Raises:
        NotApplicable: the input has no columns; `what` says what needs them.
    """
    spec = model.spec
    if spec.tabular:
        return [field.name for field in spec.fields]
    if spec.kind == "number" and len(spec.shape) == 1:
        return [str(place) for place in range(spec.shape[0])]
    raise NotApplicable(f"{what} needs the columns of a table, the input of model '{model.name}' is {spec.a_kind}")


def column_places(wanted: Sequence[str], names: Sequence[str], model: AuditedModel) -> list[int]:
    """Places of named columns.

    Raises:
        UserError: there is no such column.
    """
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(
            f"model '{model.name}' has no column {', '.join(map(repr, unknown[:5]))}; it has: {', '.join(names[:20])}"
        )
    return [names.index(name) for name in wanted]


def with_groups(groups: Mapping[str, Sequence[str]], names: Sequence[str], model: AuditedModel) -> dict[str, list[int]]:
    """Features and their columns: each group, and each column in none.

    Raises:
        UserError: a group is empty, has a column's name, or columns that are unknown or in another group.
    """
    features: dict[str, list[int]] = {}
    taken: dict[str, str] = {}
    for group, members in groups.items():
        if not members or group in set(names) - set(members):
            raise UserError(f"group '{group}' " + ("has no columns" if not members else "has the name of a column"))
        for name in members:
            if name in taken:
                raise UserError(f"column '{name}' stands twice in groups: in '{taken[name]}' and '{group}'")
            taken[name] = group
        features[group] = column_places(members, names, model)
    return features | {name: [place] for place, name in enumerate(names) if name not in taken}
