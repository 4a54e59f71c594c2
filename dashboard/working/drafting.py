"""A scenario being edited: its text with some values changed, comments and layout kept, and what is wrong with it."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from audit.checks import Check
from audit.finding import Metric
from audit.names import available, resolve
from audit.parameters import UserError
from audit.plan import Plan, bind
from audit.scenario import CheckEntry, Scenario, parse
from audit.scenario.marked_yaml import load_yaml
from audit.scenario.problems import Location, Problem, dotted
from audit.schema import part_schema

REMOVED = object()
"""Stands for a value that is taken out."""
TOP = ("name", "description", "data", "seed", "correction", "baseline", "threads")
"""What a scenario says beside its model, checks and waivers."""
BESIDE = ("id", "severity", "timeout", "optional")
"""What an entry may say on one line beside its check's parameters, gates and matrix."""
COMPARISONS = (">=", ">", "<=", "<", "==")
LARGEST = 2**53 - 1
"""A browser counts no further in ones."""
ORIGIN = "scenario.yaml"
PATHLIKE = ("path",)
NAMED = {"attack": "attacks", "attacks": "attacks", "explainer": "explainers", "explainers": "explainers"}
"""Parameters that hold names of the house's own parts."""


@dataclass(frozen=True)
class Entry:
    """One check of a scenario as it is written.

    Args:
        place: in the list of checks.
        check: its name.
        known: whether this installation has the check; without it there is no form.
        written: the parameters given.
        beside: what else the entry says: id, require, severity, matrix …
    """

    place: int
    check: str
    known: bool
    written: Mapping[str, Any]
    beside: Mapping[str, Any]

    @property
    def id(self) -> str:
        """By which findings name it."""
        return str(self.beside.get("id", self.check))

    @property
    def at(self) -> Location:
        """Where it stands in the scenario."""
        return ("checks", self.place)

    @property
    def swept(self) -> Mapping[str, Any]:
        """Parameters of which several values are tried: what the matrix says of each."""
        found = self.beside.get("matrix")
        return found if isinstance(found, dict) else {}

    @property
    def gates(self) -> list[GateLine]:
        """Its gates, one comparison each."""
        found = self.beside.get("require")
        lines = []
        for key, said in (found if isinstance(found, dict) else {}).items():
            several = said if isinstance(said, list) else [said]
            lines += [GateLine.of(key, number, str(one)) for number, one in enumerate(several)]
        return lines


@dataclass(frozen=True)
class GateLine:
    """A comparison as a form shows it.

    Args:
        key: what is gated: ``recall``, ``recall[class=3]``, ``recall[*]``.
        number: its place among several on the same key.
        comparison: one of `COMPARISONS`; empty where it cannot be told.
        threshold: what stands behind it: ``0.9``, ``baseline - 0.01``.
    """

    key: str
    number: int
    comparison: str
    threshold: str

    @classmethod
    def of(cls, key: str, number: int, said: str) -> GateLine:
        """Read a comparison; what is none is all threshold."""
        sign = next((sign for sign in COMPARISONS if said.strip().startswith(sign)), "")
        return cls(key, number, sign, said.strip().removeprefix(sign).strip())

    @property
    def said(self) -> str:
        """As it is written."""
        return f"{self.comparison} {self.threshold}".strip()


@dataclass(frozen=True)
class FormField:
    """A parameter as a form shows it.

    Args:
        about: the text below the field in the code, and its range.
        default: None where there is none, or where it is null.
        options: of a choice; empty of anything else.
        open: whether something else than the options may stand there too, such as an attack with parameters.
        several: whether it is a list of the options.
        whole: whether it is a whole number, from `low` to `high`.
    """

    name: str
    about: str
    default: Any
    required: bool
    options: Sequence[str] = ()
    open: bool = False
    several: bool = False
    whole: bool = False
    low: int | None = None
    high: int | None = None


def entries(text: str) -> list[Entry]:
    """The checks that a scenario names, as far as they can be told.

    Raises:
        UserError: it is no YAML mapping.
    """
    raw, _ = load_yaml(text, ORIGIN)
    listed = raw.get("checks")
    found = []
    for place, item in enumerate(listed if isinstance(listed, list) else []):
        said = item if isinstance(item, dict) else {item: None}
        names = [str(key) for key in said if "." in str(key)]
        check = names[0] if len(names) == 1 else ", ".join(map(str, said))
        written = said.get(check)
        beside = {str(key): value for key, value in said.items() if key != check}
        found.append(
            Entry(place, check, check in available("checks"), written if isinstance(written, dict) else {}, beside)
        )
    return found


def general(text: str) -> Mapping[str, Any]:
    """What a scenario says beside its checks.

    Raises:
        UserError: it is no YAML mapping.
    """
    return load_yaml(text, ORIGIN)[0]


@cache
def fields(check: str) -> tuple[FormField, ...]:
    """The parameters of a check, in the order of its code."""
    return _fields(part_schema("checks", check))


@cache
def fields_beside() -> tuple[FormField, ...]:
    """What stands beside a check's parameters."""
    known = {one.name: one for one in _fields(CheckEntry.model_json_schema())}
    return tuple(replace(known[name], required=False) for name in BESIDE)  # the id is the check's name by default


@cache
def fields_of_scenario() -> tuple[FormField, ...]:
    """What a scenario says beside its model and checks."""
    known = {one.name: one for one in _fields(Scenario.model_json_schema())}
    return tuple(known[name] for name in TOP)


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
    whole = only.get("type") == "integer"
    low, high = only.get("minimum"), only.get("maximum")
    low = only["exclusiveMinimum"] + 1 if "exclusiveMinimum" in only and whole else low
    high = only["exclusiveMaximum"] - 1 if "exclusiveMaximum" in only and whole else high
    several = only.get("type") == "array"
    item = _resolved(only.get("items", {}), shared) if several else only
    options = ["true", "false"] if item.get("type") == "boolean" else [str(option) for option in item.get("enum", ())]
    named = not options and name in NAMED
    return FormField(
        name=name,
        about=" ".join(
            filter(None, (" ".join(str(body.get("description", "")).replace("``", "`").split()), _range(only)))
        ),
        default=body.get("default"),
        required=required,
        options=available(NAMED[name]) if named else options,  # type: ignore[arg-type]
        open=named,
        several=several and bool(options or named),
        whole=whole,
        low=low,
        high=high if high is None or high < LARGEST else None,
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
        elif not isinstance(child, dict | list):
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
    if isinstance(value, str) and value == value.strip() and understood(value) == value:
        return value
    out = io.StringIO()
    _yaml().dump({"v": _flow(value)}, out)
    return out.getvalue().removeprefix("v:").strip()


def understood(line: str) -> Any:
    """What a line of a form means; a line that is no YAML is its own text, for the check to refuse."""
    try:
        return load_yaml(f"value: {line}", "form")[0].get("value")
    except UserError:
        return line


def items(value: Any) -> list[str]:
    """A list as lines, one an item: ``pgd``, ``square: {queries: 300}``."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    return [_item(one) for one in several]


def _item(value: Any) -> str:
    line = written(value)
    return line[1:-1] if isinstance(value, dict) and len(value) == 1 and line.startswith("{") else line


def item(line: str) -> Any:
    """What one such line means."""
    found = understood(f"[{line}]")
    return found[0] if isinstance(found, list) and len(found) == 1 else line


def free_id(text: str, check: str) -> str:
    """An id for one more entry of a check, that no other entry has."""
    taken = {entry.id for entry in entries(text)}
    names = itertools.chain([check], (f"{check}-{n}" for n in itertools.count(2)))
    return next(name for name in names if name not in taken)


def with_check(text: str, check: str) -> str:
    """The scenario with one more check at its end."""
    name, place = free_id(text, check), len(entries(text))
    text = changed(text, {}, [check])
    return text if name == check else changed(text, {("checks", place, "id"): name})


def gates_edited(entry: Entry, line: GateLine, said: str | None) -> dict[Location, Any]:
    """The edit that puts another comparison in the place of one, or takes it out."""
    own = [one for one in entry.gates if one.key == line.key]
    lines = [said if one.number == line.number else one.said for one in own]
    left = [one for one in lines if one]
    if line.number >= len(own) and said:
        left.append(said)
    return {(*entry.at, "require", line.key): REMOVED if not left else left[0] if len(left) == 1 else left}


def sweeps_edited(entry: Entry, swept: Sequence[str]) -> dict[Location, Any]:
    """The edits after which several values of these parameters are tried, and one of every other."""
    edits: dict[Location, Any] = {}
    defaults = {field.name: field.default for field in fields(entry.check)}
    for name in swept:
        if name not in entry.swept:
            now = entry.written.get(name, defaults.get(name))
            edits[(*entry.at, entry.check, name)] = REMOVED
            edits[(*entry.at, "matrix", name)] = [] if now is None else [now]
    for name, values in entry.swept.items():
        if name not in swept:
            edits[(*entry.at, "matrix", name)] = REMOVED
            if isinstance(values, list) and values and name in defaults:
                edits[(*entry.at, entry.check, name)] = values[0]
    return edits


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


def problems_at(problems: Sequence[Problem], location: Location) -> list[Problem]:
    """Those of a field or of something in it."""
    field = re.compile(
        rf"{re.escape(dotted(location))}(\.|\[\d+\]|$)"
    )  # not recall[class=3], which is another gate than recall
    return [one for one in problems if field.match(one.path)]
