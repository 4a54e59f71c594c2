"""What checks of whole tables begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.names import unknown
from audit.parameters import NotApplicable, UserError

if TYPE_CHECKING:
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel


def require_table(model: AuditedModel, check: str) -> None:
    """Raise `NotApplicable` where the input is no table."""
    if not model.spec.tabular:
        raise NotApplicable(
            f"explanation.{check} speaks of the columns of a table; the input of model '{model.name}' is {model.spec.a_kind}"
        )


def column(model: AuditedModel, name: str) -> int:
    """Where a column stands in the model's input.

    Raises:
        UserError: there is none of this name.
    """
    names = [field.name for field in model.spec.fields]
    if name not in names:
        raise unknown("column", name, names)
    return names.index(name)


def class_index(model: AuditedModel, name: str | None, parameter: str) -> int:
    """The class that a check follows: the one named, or the second of two; 0 of a regression.

    Raises:
        UserError: no such class, none named of more than two, or one named of a regression.
    """
    if model.task == "regression":
        if name is not None:
            raise UserError(f"model '{model.name}' gives values, not classes: leave {parameter} out")
        return 0
    if name is None:
        if len(model.classes) > 2:
            raise UserError(
                f"model '{model.name}' has {len(model.classes)} classes: say with {parameter} which one is followed"
            )
        return 1
    if name not in model.classes:
        raise unknown("class", name, list(model.classes))
    return model.classes.index(name)


def known_rows(data: AuditData) -> Batch | None:
    """Rows to learn from that are not tested on: the members, else the population; None where there are neither."""
    return next((part for part in (data.train, data.population) if part is not None and len(part)), None)
