"""What is wrong with a scenario, one line each: where, which field, what was expected, the nearest known name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from audit.names import nearest
from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.scenario import ScenarioFile

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class FileKind:
    """What messages call a file.

    Args:
        holds: what stands in one.
        start: how an empty one is begun.
    """

    name: str = "scenario"
    holds: str = "name, model, data and checks"
    start: str = "start with 'audit init --model REF --data SOURCE'"


SCENARIO = FileKind()


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a scenario, on one line."""

    message: str
    line: int | None = None
    column: int | None = None
    path: str = ""

    def __str__(self) -> str:
        where = f":{self.line}:{self.column}" if self.line is not None else ""
        field_path = f"{self.path}: " if self.path else ""
        return f"{where}: {field_path}{self.message}" if where else f": {field_path}{self.message}"


class ScenarioError(UserError):
    """A scenario that cannot be run; `problems` holds one line each."""

    def __init__(self, origin: str, problems: Sequence[Problem]) -> None:
        self.origin, self.problems = origin, tuple(problems)
        super().__init__("\n".join(f"{origin}{problem}" for problem in problems))


def dotted(location: Location) -> str:
    """``checks[0].robustness.evasion.eps``."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def describe(
    error: ValidationError,
    prefix: Location,
    source: ScenarioFile,
    model: type[BaseModel],
    relocate: Any = lambda location: location,
) -> list[Problem]:
    """Each mistake as one line: the field, what was expected, what was there, the nearest known name."""
    told: dict[tuple[Location, str], list[str]] = {}  # a value that fits none of several types is one mistake
    for item in error.errors():
        if item["type"] == "too_short" and item["input"]:
            continue  # pydantic counts entries that failed as missing; their own problems are listed
        location: Location = relocate((*prefix, *(part for part in item["loc"] if not _is_union_tag(part))))
        message, kind, got = item["msg"], item["type"], ""
        if kind == "extra_forbidden":
            name = str(item["loc"][-1])
            known = list(model.model_fields)
            guess = nearest(name, known)
            message = f"unknown field '{name}'" + (
                f"; did you mean '{guess}'?" if guess else f"; known: {', '.join(known) or 'none'}"
            )
        elif kind == "missing" and isinstance(item["loc"][-1], int):
            location, message = location[:-1], f"too few items, got {_short(item['input'])}"
        elif kind == "missing":
            message = f"'{item['loc'][-1]}' is missing"
        elif kind == "string_pattern_mismatch":
            message = f"{_short(item['input'])} is no name: use letters, digits, '.', '_' and '-', starting with a letter or digit"
        elif kind == "value_error":
            message = message.removeprefix("Value error, ")
        else:
            message, got = f"{message[0].lower()}{message[1:]}", f", got {_short(item['input'])}"
        said = told.setdefault((location, got), [])
        if message not in said:
            said.append(message.removeprefix("input should be ") if said else message)
    return [source.problem(location, ", or ".join(said) + got) for (location, got), said in told.items()]


def _is_union_tag(part: Any) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "dict", "float", "int"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
