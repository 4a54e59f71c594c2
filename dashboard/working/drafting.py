"""A scenario being edited: its text with some values changed, comments and layout kept, and what is wrong with it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from audit.checks import Check
from audit.finding import Metric
from audit.names import available, resolve
from audit.parameters import UserError
from audit.plan import Plan, bind
from audit.scenario import CheckEntry, parse
from audit.scenario.marked_yaml import load_yaml
from audit.scenario.problems import Location
from audit.schema import part_schema

REMOVED = object()
"""Stands for a value that is taken out."""
BESIDE = ("severity", "matrix", "timeout", "optional")
"""What an entry may say beside its check's parameters and gates."""
ORIGIN = "scenario.yaml"
PATHLIKE = ("path",)


@dataclass(frozen=True)
class Entry:
    """One check of a scenario as it is written.

    Args:
        place: in the list of checks.
        check: its name.
        written: the parameters given.
        beside: what else the entry says: id, require, severity, matrix …
    """

    place: int
    check: str
    written: Mapping[str, Any]
    beside: Mapping[str, Any]

    @property
    def id(self) -> str:
        """By which findings name it."""
        return str(self.beside.get("id", self.check))


@dataclass(frozen=True)
class FormField:
    """A parameter as a form shows it.

    Args:
        about: the text below the field in the code, and its range.
        default: None where there is none, or where it is null.
        options: of a choice; empty of anything else.
        whole: whether it is a whole number, from `low` to `high`.
    """

    name: str
    about: str
    default: Any
    required: bool
    options: Sequence[str] = ()
    whole: bool = False
    low: int | None = None
    high: int | None = None


def entries(text: str) -> list[Entry]:
    """The checks that a scenario names, as far as they can be told.

    Raises:
        UserError: it is no YAML mapping.
    """
    raw, _ = load_yaml(text, ORIGIN)
    found = []
    for place, item in enumerate(raw.get("checks") or []):
        known = {item: None} if isinstance(item, str) else item if isinstance(item, dict) else {}
        names = [key for key in known if "." in key]
        if len(names) == 1 and names[0] in available("checks"):
            written = known[names[0]]
            beside = {key: value for key, value in known.items() if key != names[0]}
            found.append(Entry(place, names[0], written if isinstance(written, dict) else {}, beside))
    return found


@cache
def fields(check: str) -> tuple[FormField, ...]:
    """The parameters of a check, in the order of its code."""
    return _fields(part_schema("checks", check))


@cache
def fields_beside() -> tuple[FormField, ...]:
    """What stands beside a check's parameters."""
    return tuple(one for one in _fields(CheckEntry.model_json_schema()) if one.name in BESIDE)


def metrics(check: str) -> Sequence[Metric]:
    """What a check yields, and gates may name."""
    found: type[Check] = resolve("checks", check)
    return found.metrics


def _fields(schema: Mapping[str, Any]) -> tuple[FormField, ...]:
    shared, required = schema.get("$defs", {}), schema.get("required", ())
    return tuple(_field(name, body, shared, name in required) for name, body in schema.get("properties", {}).items())


def _field(name: str, body: Mapping[str, Any], shared: Mapping[str, Any], required: bool) -> FormField:
    kinds = [_resolved(one, shared) for one in body.get("anyOf", (body,))]
    kinds = [one for one in kinds if one.get("type") != "null"]
    only = kinds[0] if len(kinds) == 1 else {}
    low, high = only.get("minimum"), only.get("maximum")
    low = only["exclusiveMinimum"] + 1 if "exclusiveMinimum" in only and only.get("type") == "integer" else low
    high = only["exclusiveMaximum"] - 1 if "exclusiveMaximum" in only and only.get("type") == "integer" else high
    options = ["true", "false"] if only.get("type") == "boolean" else [str(option) for option in only.get("enum", ())]
    return FormField(
        name=name,
        about=" ".join(filter(None, (" ".join(str(body.get("description", "")).split()), _range(only)))),
        default=body.get("default"),
        required=required,
        options=options,
        whole=only.get("type") == "integer",
        low=low,
        high=high,
    )


def _resolved(body: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(body.get("$ref", "")).removeprefix("#/$defs/")
    return shared.get(name, body)  # type: ignore[no-any-return]


def _range(body: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "gt": ">", "maximum": "≤", "exclusiveMaximum": "<", "lt": "<"}
    return " ".join(f"{sign} {body[key]:g}" for key, sign in signs.items() if key in body)


# --- changing ----------------------------------------------------------------------------------------------------


def changed(text: str, edits: Mapping[Location, Any], added: Sequence[str] = ()) -> str:
    """The text with values set, or taken out where they are `REMOVED`; everything else stays as it is written.

    Args:
        edits: location → value; of a whole check, ``("checks", 2)``, `REMOVED` alone.
        added: names of checks that are appended.
    """
    if not edits and not added:
        return text
    yaml = _yaml()
    document = yaml.load(text)
    for location, value in sorted(edits.items(), key=lambda edit: len(edit[0]), reverse=True):
        if len(location) > 2 or value is not REMOVED:
            _set(document, location, value)
    gone = {location[1] for location, value in edits.items() if len(location) == 2 and value is REMOVED}
    for place in sorted((place for place in gone if isinstance(place, int)), reverse=True):
        del document["checks"][place]
    document.setdefault("checks", []).extend({name: _flow({})} for name in added)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _set(document: Any, location: Location, value: Any) -> None:
    holder = document
    for here, following in itertools.pairwise(location):
        child = holder[here] if not isinstance(holder, dict) else holder.get(here)
        if isinstance(child, str) and isinstance(following, str):  # a check that stands as its name alone
            child = holder[here] = _named(child, holder.ca.items.pop(here, None))
        elif child is None:
            if value is REMOVED:
                return
            child = holder[here] = _flow({})
        holder = child
    if value is REMOVED:
        holder.pop(location[-1], None)
        if not holder and location[-2:-1] in (("require",), ("matrix",)):
            _set(document, location[:-1], REMOVED)
    else:
        holder[location[-1]] = _flow(value)


def _named(check: str, comment: Any) -> Any:
    """A check that has no parameters yet, with the comment that follows it."""
    from ruamel.yaml.comments import CommentedMap

    found: Any = CommentedMap({check: _flow({})})
    if comment:
        found.ca.items[check] = [None, None, comment[0], None]
    return found


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.width, yaml.preserve_quotes = 4096, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _flow(value: Any) -> Any:
    """A value that is written on one line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        found: Any = CommentedMap({key: _flow(item) for key, item in value.items()})
    elif isinstance(value, list | tuple):
        found = CommentedSeq([_flow(item) for item in value])
    else:
        return value
    found.fa.set_flow_style()
    return found


def written(value: Any) -> str:
    """A value as a form's line shows it: ``[pgd, square]``; nothing where there is none."""
    if value is None:
        return ""
    out = io.StringIO()
    _yaml().dump({"v": _flow(value)}, out)
    return out.getvalue().removeprefix("v:").strip()


def understood(line: str) -> Any:
    """What a line of a form means; a line that is no YAML is its own text, for the check to refuse."""
    try:
        return load_yaml(f"value: {line}", "form")[0].get("value")
    except UserError:
        return line


def with_whole_paths(text: str, base: Path) -> str:
    """The scenario with the files that it names relative to its own folder named wherever it is stored."""
    raw, _ = load_yaml(text, ORIGIN)
    edits: dict[Location, Any] = {}

    def walk(value: Any, location: Location) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, (*location, key))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                walk(item, (*location, place))
        elif isinstance(value, str) and location and _names_a_file(value, str(location[-1]), base):
            edits[location] = str((base / value).resolve())

    walk({key: raw[key] for key in ("data", "checks") if key in raw}, ())
    return changed(text, edits)


def _names_a_file(value: str, key: str, base: Path) -> bool:
    shaped = key in PATHLIKE or "/" in value or bool(Path(value).suffix)
    try:
        return shaped and not Path(value).is_absolute() and len(value) < 4096 and (base / value).exists()
    except (OSError, ValueError):
        return False


# --- judging -----------------------------------------------------------------------------------------------------


def plan_of(text: str) -> Plan:
    """The scenario with every check built.

    Raises:
        ScenarioError: with one line per problem, as ``audit validate`` prints them.
    """
    return bind(parse(text, ORIGIN))
