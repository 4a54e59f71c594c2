"""What every configurable part shares: a frozen, strict set of parameters, and the error a user can mend."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_FRACTION = re.compile(r"^\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*/\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*$")


class UserError(ValueError):
    """Something the user can mend. The message is one line: what was wrong, where, what to do."""


class NotApplicable(UserError):
    """The model or data is of a kind that this part cannot speak of, found only on looking inside: not applicable, no error."""


def parse_real(value: Any) -> Any:
    """Turn ``"8/255"`` into a float; leave everything else to the validator that follows."""
    if isinstance(value, str) and (match := _FRACTION.match(value)):
        numerator, denominator = float(match[1]), float(match[2])
        if denominator == 0:
            raise ValueError(f"{value!r} divides by zero")
        return numerator / denominator
    return value


Real = Annotated[float, BeforeValidator(parse_real)]
"""A finite float that may be written as a fraction: ``8/255``."""


class Documented(BaseModel):
    """A model whose fields are documented by the string below each; the JSON Schema carries it.

    pydantic's own ``use_attribute_docstrings`` parses the source of every class at import; here it is read when it is asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """Field → the text below it."""
        return {name: text for name, text in _attribute_texts(cls).items() if name in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        for name, text in cls.documentation().items():
            if name in resolved.get("properties", {}):
                resolved["properties"][name].setdefault("description", text)
        return schema


@cache
def _attribute_texts(cls: type) -> dict[str, str]:
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not (issubclass(base, Documented) and base is not Documented):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        if isinstance(body, ast.ClassDef):
            for field, below in itertools.pairwise(body.body):
                if (
                    (
                        isinstance(field, ast.AnnAssign)
                        and isinstance(field.target, ast.Name)
                        and isinstance(below, ast.Expr)
                    )
                    and isinstance(below.value, ast.Constant)
                    and isinstance(below.value.value, str)
                ):
                    texts[field.target.id] = inspect.cleandoc(below.value.value)
    return texts


class Parameters(Documented):
    """Base of checks, attacks, explainers, data sources and loaders: their fields ARE the parameters a scenario may set.

    The string below a field is its documentation; ``audit checks NAME`` and the JSON Schema show it.
    """
