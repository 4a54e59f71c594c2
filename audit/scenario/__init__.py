"""A scenario: which checks, on which model and data, and what they must show. YAML in, frozen `Scenario` out.

Reading names the line of everything it refuses. Nothing here knows which checks exist: that is `audit.plan`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from audit.finding import Severity
from audit.gate import Gate
from audit.names import nearest
from audit.parameters import Parameters, Real, UserError
from audit.scenario.marked_yaml import dump_yaml, load_yaml
from audit.scenario.problems import SCENARIO, FileKind, Location, Problem, ScenarioError, describe, dotted

MAX_BYTES = 1_000_000
RESERVED = ("id", "require", "severity", "matrix", "timeout", "optional")


def _gate(text: Any) -> Any:
    if isinstance(text, str):
        try:
            Gate.parse(text)
        except UserError as error:
            raise ValueError(str(error)) from error
    return text


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _model_ref(ref: str) -> str:
    if ":" in ref or "/" in ref:
        raise ValueError(
            f"'{ref}' is a file or a callable: a scenario names registered models only; register it once with "
            "'audit model add NAME FILE-OR-URI' and name it here"
        )
    return ref


Gates = Annotated[tuple[Annotated[str, AfterValidator(_gate)], ...], BeforeValidator(_one_or_more)]
ModelRef = Annotated[str, AfterValidator(_model_ref)]
_METRIC = re.compile(r"^([a-z][a-z0-9_]*)(?:\[([^\[\]]+)\])?$")


def parse_part(key: str) -> tuple[str, dict[str, str] | Literal["*"]]:
    """``robust_accuracy[attack=square]`` → (``robust_accuracy``, dims); ``[*]`` stands for every part.

    Raises:
        ValueError: the key is malformed.
    """
    match = _METRIC.match(key)
    if not match:
        raise ValueError(f"'{key}' is no metric: write 'metric', 'metric[key=value]' or 'metric[*]'")
    metric, inner = match[1], match[2]
    if inner is None:
        return metric, {}
    if inner.strip() == "*":
        return metric, "*"
    dims = {}
    for item in inner.split(","):
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ValueError(f"'{key}': write parts as 'key=value', such as '{metric}[attack=square]'")
        dims[name.strip()] = value.strip()
    return metric, dims


class CheckEntry(Parameters):
    """One entry below ``checks``: a check by name with its parameters, and what it must show."""

    check: str
    params: dict[str, Any] = {}
    id: str
    require: dict[str, Gates] = {}
    severity: Severity = Severity.HIGH
    matrix: dict[str, tuple[Any, ...]] = {}
    timeout: Annotated[Real, Field(gt=0)] | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _parts_are_well_formed(self) -> CheckEntry:
        for key in self.require:
            parse_part(key)
        for name, values in self.matrix.items():
            if not values:
                raise ValueError(f"matrix.{name} is empty: list at least one value")
        return self


class Waiver(Parameters):
    """A missed gate that somebody answers for until a date."""

    finding: str
    """Id of the finding, as reports show it: ``robustness.evasion/robust_accuracy[attack=pgd]``."""
    owner: Annotated[str, Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]
    expires: datetime.date
    """Last day on which it holds."""


class Scenario(Parameters):
    """What an audit does."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    model: Annotated[tuple[ModelRef, ...], BeforeValidator(_one_or_more)] = ()
    """Registered model under audit, ``name``, ``name@version`` or ``name@alias``; a list audits each."""
    models: dict[str, ModelRef] = {}
    """Further models that checks name (a surrogate, a reference)."""
    data: dict[str, Any]
    """``source`` and its parameters."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; recorded, for floats depend on it. Default: as torch is set, by OMP_NUM_THREADS or the cores."""
    correction: Literal["none", "holm"] = "none"
    """Correct the gates for being many."""
    baseline: str | None = None
    """A stored run that gates saying ``baseline`` compare with, in pairs."""
    checks: Annotated[tuple[CheckEntry, ...], Field(min_length=1)]
    waivers: tuple[Waiver, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        seen: set[str] = set()
        for entry in self.checks:
            if entry.id in seen:
                raise ValueError(f"two checks have the id '{entry.id}': give one of them another with 'id: …'")
            seen.add(entry.id)
            if self.baseline is None and any("baseline" in gate for gates in entry.require.values() for gate in gates):
                raise ValueError(
                    f"a gate of '{entry.id}' compares with a baseline, but the scenario names none: add 'baseline: RUN'"
                )
        return self


@dataclass(frozen=True)
class ScenarioFile:
    """A scenario's text with the line of everything in it."""

    origin: str
    text: str
    raw: dict[str, Any]
    marks: Mapping[Location, tuple[int, int]] = field(repr=False)
    base: Path = Path()
    """Folder that relative paths in the scenario start from."""

    def mark(self, location: Location) -> tuple[int | None, int | None]:
        """Line and column of the deepest known part of a location."""
        while location:
            if location in self.marks:
                return self.marks[location]
            location = location[:-1]
        return None, None

    def problem(self, location: Location, message: str) -> Problem:
        """A problem at a location."""
        line, column = self.mark(location)
        return Problem(message, line, column, dotted(location))

    @cached_property
    def scenario(self) -> Scenario:
        """The validated scenario; see `load_scenario`."""
        return _validate(self)


def read(path: Path | str, overrides: Sequence[str] = (), kind: FileKind = SCENARIO) -> ScenarioFile:
    """Read a scenario file, or another `kind` that is written in the same way.

    Args:
        overrides: ``ID.param=value`` (a check's), or ``key=value`` and ``data.key=value`` (the scenario's own).

    Raises:
        ScenarioError: the file cannot be read or is no YAML mapping.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ScenarioError(
                str(path), [Problem(f"is a folder: name a {kind.name.removesuffix(' file')} file (.yaml)")]
            )
        if path.stat().st_size > MAX_BYTES:
            raise ScenarioError(str(path), [Problem(f"is larger than {MAX_BYTES:,} bytes: this is no {kind.name}")])
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ScenarioError(str(path), [Problem("there is no such file")]) from None
    except UnicodeDecodeError:
        raise ScenarioError(str(path), [Problem("is not UTF-8 text")]) from None
    except OSError as error:
        raise ScenarioError(str(path), [Problem(f"cannot be read: {error.strerror}")]) from None
    return parse(text, str(path), path.resolve().parent, overrides, kind)


def parse(
    text: str, origin: str = "<scenario>", base: Path = Path(), overrides: Sequence[str] = (), kind: FileKind = SCENARIO
) -> ScenarioFile:
    """As `read`, from text."""
    raw, marks = load_yaml(text, origin, kind)
    if overrides:
        _override(raw, overrides, origin)
        text = dump_yaml(raw)
    return ScenarioFile(origin, text, raw, marks, base)


def load_scenario(path: Path | str, overrides: Sequence[str] = ()) -> Scenario:
    """Read and validate a scenario file.

    Raises:
        ScenarioError: with one line per problem: where, which field, what was expected, the nearest known name.
    """
    return read(path, overrides).scenario


def _override(raw: dict[str, Any], overrides: Sequence[str], origin: str) -> None:
    """Apply ``--set`` to the raw mapping, before anything is validated."""
    entries = {}
    for item in raw.get("checks") or []:
        if isinstance(item, str):
            continue
        name = next((key for key in item if "." in key), None) if isinstance(item, dict) else None
        if name:
            entries[str(item.get("id", name))] = (item, name)
    for text in overrides:
        target, equals, value_text = text.partition("=")
        target = target.strip()
        if not equals or not target:
            raise UserError(f"--set {text}: write ID.parameter=value, such as --set robustness.evasion.eps=0.05")
        value, _ = load_yaml(f"value: {value_text}", f"--set {text}")
        owner = max((i for i in entries if target.startswith(f"{i}.")), key=len, default=None)
        if owner is not None:
            item, name = entries[owner]
            keys = target[len(owner) + 1 :].split(".")
            if keys[0] in RESERVED:
                holder = item
            else:
                holder = item[name] = dict(item[name] or {})
        elif (head := target.split(".")[0]) in Scenario.model_fields and head not in ("checks", "waivers"):
            holder, keys = raw, target.split(".")
        else:
            known = [*entries, *Scenario.model_fields]
            guess = nearest(target.rsplit(".", 1)[0], known)
            raise UserError(
                f"--set {text}: no check has that id"
                + (f"; did you mean '{guess}'?" if guess else f"; ids: {', '.join(entries)}")
            )
        for key in keys[:-1]:
            holder = holder.setdefault(key, {})
            if not isinstance(holder, dict):
                raise UserError(f"--set {text}: '{key}' holds no further keys")
        holder[keys[-1]] = value["value"]


# --- validation --------------------------------------------------------------------------------------------------


def _validate(source: ScenarioFile) -> Scenario:
    raw, problems = dict(source.raw), []
    for key in ("trust", "allow", "packages"):
        if key in raw:
            problems.append(
                source.problem(
                    (key,),
                    "a scenario cannot grant trust: it is given on the command line only, with 'audit model trust DIGEST' or 'audit model allow PACKAGE'",
                )
            )
            raw.pop(key)
    entries, locations = [], []
    checks = raw.get("checks")
    if isinstance(checks, list):
        for i, item in enumerate(checks):
            try:
                entries.append(_entry(item))
                locations.append(i)
            except ValueError as error:
                problems.append(source.problem(("checks", i), str(error)))
        raw["checks"] = entries
    try:
        scenario = Scenario.model_validate(raw) if not (problems and not entries) else None
    except ValidationError as error:
        problems += describe(
            error, (), source, Scenario, lambda location: _entry_location(location, entries, locations)
        )
        scenario = None
    if problems or scenario is None:
        raise ScenarioError(source.origin, sorted(problems, key=lambda p: (p.line or 0, p.column or 0)))
    return scenario


def _entry(item: Any) -> dict[str, Any]:
    """One raw entry of ``checks`` as the fields of `CheckEntry`."""
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, dict):
        raise ValueError("expected a check by name with its parameters, such as '- robustness.evasion: {eps: 0.1}'")
    names = [key for key in item if "." in key]
    if len(names) != 1:
        got = ", ".join(names) or f"{', '.join(item) or 'nothing'}"
        raise ValueError(
            f"exactly one key of an entry names its check (it holds a dot, such as 'robustness.evasion'); got {got}"
        )
    name = names[0]
    for key in item:
        if key != name and key not in RESERVED:
            guess = nearest(key, list(RESERVED))
            raise ValueError(
                f"'{key}' stands beside the check's name: "
                + (
                    f"did you mean '{guess}'?"
                    if guess
                    else f"parameters go below '{name}:'; beside it may stand {', '.join(RESERVED)}"
                )
            )
    params = item[name]
    if params is not None and not isinstance(params, dict):
        raise ValueError(f"'{name}' needs a mapping of parameters, such as '{name}: {{samples: 100}}', got {params!r}")
    rest = {key: value for key, value in item.items() if key != name}
    return {"check": name, "params": params or {}, "id": name, **rest}


def _entry_location(location: Location, entries: list[dict[str, Any]], places: list[int]) -> Location:
    """Where in the file a field of a `CheckEntry` was written."""
    if len(location) < 2 or location[0] != "checks" or not isinstance(location[1], int):
        return location
    entry, place = entries[location[1]], places[location[1]]
    rest = location[2:]
    if rest[:1] == ("params",):
        rest = (entry["check"], *rest[1:])
    return ("checks", place, *rest)
