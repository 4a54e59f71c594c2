"""What every configurable part shares: a frozen, strict set of parameters, and the error a user can mend."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

_FRACTION = re.compile(r"^\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*/\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*$")


class UserError(ValueError):
    """Something the user can mend. The message is one line: what was wrong, where, what to do."""


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


class Parameters(BaseModel):
    """Base of checks, attacks, explainers, data sources and loaders: their fields ARE the parameters a scenario may set.

    The string below a field is its documentation; ``audit checks NAME`` and the JSON Schema show it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
