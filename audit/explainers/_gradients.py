"""What a gradient with respect to an input can mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.model import AuditedModel


def refuse_codes(model: AuditedModel, explainer: str) -> None:
    """Refuse inputs that are codes of something: between two codes there is nothing to move through.

    Raises:
        UserError: a field is a category, text, tokens or an id.
    """
    codes = [field.name for field in model.spec.fields if field.kind in ("category", "text", "tokens", "id")]
    if codes:
        raise UserError(
            f"{explainer}: a gradient means nothing for the codes in {', '.join(codes[:5])} of model '{model.name}': use shap_values"
        )
