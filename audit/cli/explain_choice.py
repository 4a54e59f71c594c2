"""Explainers as the command line names them: names, mappings as in a scenario, and parameters set one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.explainers import Explainer


def chosen_explainers(specs: Sequence[str], assignments: Sequence[str]) -> list[tuple[str, str, Explainer]]:
    """The explainers with their parameters, as (label, name, explainer); the label tells it from the others.

    Raises:
        UserError: there is no such explainer, or a parameter is wrong or of none of them.
    """
    from audit.checks.explanation._explaining import build_explainer
    from audit.names import nearest, resolve_member

    parsed = [_spec(text) for text in specs]
    fields = [resolve_member("explainers", name)[0].model_fields for name, _ in parsed]
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        owner, _, field = key.rpartition(".")
        if not equals or not field:
            raise UserError(f"--set '{assignment}': write KEY=VALUE, or EXPLAINER.KEY=VALUE")
        if owner and owner not in [name for name, _ in parsed]:
            raise UserError(f"--set '{assignment}': no explainer '{owner}' is named with --explainer")
        takers = [i for i, (name, _) in enumerate(parsed) if owner in ("", name) and field in fields[i]]
        if not takers:
            known = sorted({name for i, (one, _) in enumerate(parsed) if owner in ("", one) for name in fields[i]})
            guess = nearest(field, known)
            hint = f"did you mean '{guess}'?" if guess else f"parameters: {', '.join(known) or 'none'}"
            raise UserError(
                f"--set '{assignment}': {', '.join(name for name, _ in parsed)} has no parameter '{field}'; {hint}"
            )
        for i in takers:
            parsed[i][1][field] = _value(value)
    built = [build_explainer({name: given} if given else name) for name, given in parsed]
    found: list[tuple[str, str, Explainer]] = []
    for i, (name, one) in enumerate(built):
        twins = [k for k, (other, _) in enumerate(built) if other == name]
        told = ", ".join(f"{key} {value}" for key, value in parsed[i][1].items())
        label = name if len(twins) == 1 else f"{name} {told or 'by default'}"
        if label in [known for known, _, _ in found]:
            raise UserError(f"explainer '{label}' is named twice")
        found.append((label, name, one))
    return found


def _spec(text: str) -> tuple[str, dict[str, Any]]:
    """An explainer and its parameters as a scenario writes them."""
    if not text.lstrip().startswith("{"):
        return text, {}
    found = _value(text)
    if not isinstance(found, dict) or len(found) != 1:
        raise UserError(f"--explainer '{text}': write a name, or {{NAME: {{KEY: VALUE}}}}")
    ((name, given),) = found.items()
    if given is not None and not isinstance(given, dict):
        raise UserError(f"--explainer '{text}': write a name, or {{NAME: {{KEY: VALUE}}}}")
    return str(name), dict(given or {})


def _value(text: str) -> Any:
    """A value as a scenario writes it: numbers, words, lists, mappings."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return text
