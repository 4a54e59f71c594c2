"""What the checks of differential privacy start from: the ledger of a training, and what is claimed of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from audit.parameters import Parameters, Real, UserError

if TYPE_CHECKING:
    from audit.context import Context
    from audit.model import AuditedModel
    from audit.privacy.accounting import TrainingRecord


class ClaimedBudget(Parameters):
    """What is claimed."""

    epsilon: Annotated[Real, Field(ge=0)]
    """Claimed epsilon."""
    delta: Annotated[Real, Field(gt=0, lt=1)]
    """The delta it belongs to."""


def ledger_of(
    model: AuditedModel, ctx: Context, record: str | dict[str, Any] | None, claim: ClaimedBudget | None
) -> TrainingRecord | None:
    """The training record that a check speaks of, with the scenario's claim in place of its own where there is one.

    Args:
        record: path relative to the scenario, or the record itself; None takes the one that the registry keeps with the model.

    Returns:
        None where there is none.

    Raises:
        UserError: the record cannot be read, or holds something wrong.
    """
    from audit.privacy.accounting import Claim, parse_training_record, read_training_record

    if isinstance(record, str):
        found = read_training_record(ctx.base / record)
    elif record is not None:
        found = parse_training_record(record)
    elif model.ledger is not None:
        where = f"privacy ledger of model '{model.name}'"
        try:
            found = parse_training_record(json.loads(model.ledger), where)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: {error}") from error
    else:
        return None
    return found if claim is None else found.model_copy(update={"claim": Claim(**claim.model_dump())})
