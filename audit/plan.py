"""A scenario bound to the code it names: every check built and its gates matched to its metrics, before anything loads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from audit.checks import Check
from audit.datasets import Source
from audit.finding import Metric, part_name
from audit.names import nearest, resolve, resolve_member
from audit.parameters import Parameters, UserError, parse_real
from audit.scenario import CheckEntry, Scenario, ScenarioFile, parse_part
from audit.scenario.problems import Location, Problem, ScenarioError, describe


@dataclass(frozen=True)
class Step:
    """One check on one model in one cell of its matrix."""

    entry: CheckEntry
    check: Check
    model: str
    cell: Mapping[str, str]

    @property
    def name(self) -> str:
        """Check id, with the cell where there is one."""
        return part_name(self.entry.id, self.cell)

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics it may yield, by name."""
        return {metric.name: metric for metric in self.check.metrics}


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    file: ScenarioFile
    scenario: Scenario
    source: Source
    steps: tuple[Step, ...]

    @property
    def gated(self) -> bool:
        """Whether any gate stands in the scenario."""
        return any(entry.require for entry in self.scenario.checks)

    @property
    def gate_count(self) -> int:
        """How many gates are written, counted once per matrix cell."""
        return sum(len(gates) for step in self.steps for gates in step.entry.require.values())


def same_value(a: str, b: str) -> bool:
    """Whether two written values mean the same: ``8/255`` and ``0.0313725…`` do."""
    if a == b:
        return True
    try:
        x, y = float(parse_real(a)), float(parse_real(b))
    except ValueError:
        return False
    return abs(x - y) <= 1e-5 * max(abs(x), abs(y))


def bind(file: ScenarioFile) -> Plan:
    """Build every check and data source that a scenario names.

    Raises:
        ScenarioError: with one line per problem: an unknown check, parameter, metric or part.
    """
    scenario = file.scenario
    problems: list[Problem] = []
    source = bind_source(file, scenario.data, problems)
    steps: list[Step] = []
    for i, entry in enumerate(scenario.checks):
        steps += _bind_entry(file, scenario, entry, ("checks", i), problems)
    known = {f"{step.name}/{key}" for step in steps for key in step.entry.require}
    ids = {entry.id for entry in scenario.checks}
    for i, waiver in enumerate(scenario.waivers):
        head = waiver.finding.split("/")[0].split("[")[0]
        if head not in ids:
            guess = nearest(waiver.finding, sorted(known | ids))
            hint = f"; did you mean '{guess}'?" if guess else f"; ids: {', '.join(sorted(ids))}"
            problems.append(file.problem(("waivers", i, "finding"), f"no check has the id '{head}'{hint}"))
    if problems or source is None:
        raise ScenarioError(file.origin, sorted(problems, key=lambda p: (p.line or 0, p.column or 0)))
    return Plan(file, scenario, source, tuple(steps))


def bind_source(file: ScenarioFile, declared: Mapping[str, Any], problems: list[Problem]) -> Source | None:
    """The data source that a file's ``data`` names; None, and one more problem or several, where it names none."""
    data = dict(declared)
    name = data.pop("source", None)
    if not isinstance(name, str):
        problems.append(file.problem(("data",), "'source' is missing: name a data source, such as 'source: csv'"))
        return None
    built = _build("datasets", name, data, file, ("data",), ("data", "source"), problems)
    return built if isinstance(built, Source) else None


def _build(
    group: Any,
    name: str,
    params: Mapping[str, Any],
    file: ScenarioFile,
    at: Location,
    named_at: Location,
    problems: list[Problem],
) -> Parameters | None:
    try:
        found, member = resolve_member(group, name) if group == "datasets" else (resolve(group, name), {})
    except UserError as error:
        problems.append(file.problem(named_at, str(error)))
        return None
    try:
        return found(**member, **params)  # type: ignore[no-any-return]
    except ValidationError as error:
        problems += describe(error, at, file, found)
    except UserError as error:
        problems.append(file.problem(at, str(error)))
    except TypeError as error:
        problems.append(file.problem(at, f"a parameter is given twice: {error}"))
    return None


def _bind_entry(
    file: ScenarioFile, scenario: Scenario, entry: CheckEntry, at: Location, problems: list[Problem]
) -> Iterator[Step]:
    before = len(problems)
    checks: dict[str, Check] = {}
    cells = list(_cells(entry, scenario))
    for cell, values, model in cells:
        params = {**entry.params, **values}
        if overlap := set(entry.params) & set(values):
            problems.append(
                file.problem((*at, "matrix"), f"'{sorted(overlap)[0]}' is set both below the check and in its matrix")
            )
            return
        key = repr(sorted(values.items(), key=lambda item: item[0]))
        if key not in checks:
            built = _build("checks", entry.check, params, file, (*at, entry.check), (*at, entry.check), problems)
            if not isinstance(built, Check):
                if len(problems) == before:
                    problems.append(file.problem(at, f"'{entry.check}' is no check"))
                return
            checks[key] = built
        yield Step(entry, checks[key], model, cell)
    check = next(iter(checks.values()))
    _match_gates(file, entry, check, [cell for cell, _, _ in cells], at, problems)


def _cells(entry: CheckEntry, scenario: Scenario) -> Iterator[tuple[dict[str, str], dict[str, Any], str]]:
    """Every combination of an entry's matrix: its dims as text, its parameter values, the model."""
    axes = dict(entry.matrix)
    sweep_models = "model" in axes or len(scenario.model) > 1
    models = tuple(str(m) for m in axes.pop("model", scenario.model or ("",)))
    for model, *values in itertools.product(models, *axes.values()):
        named = dict(zip(axes, values, strict=True))
        cell = {name: _text(value) for name, value in named.items()}
        if sweep_models:
            cell["model"] = model
        yield cell, named, model


def _text(value: Any) -> str:
    try:
        number = parse_real(value)
    except ValueError:
        number = value
    return f"{number:.6g}" if isinstance(number, (int, float)) and not isinstance(number, bool) else str(value)


def _match_gates(
    file: ScenarioFile,
    entry: CheckEntry,
    check: Check,
    cells: list[dict[str, str]],
    at: Location,
    problems: list[Problem],
) -> None:
    known = [metric.name for metric in check.metrics]
    for key in entry.require:
        metric, dims = parse_part(key)
        if metric not in known:
            guess = nearest(metric, known)
            hint = f"; did you mean '{guess}'?" if guess else f"; it yields: {', '.join(known)}"
            problems.append(file.problem((*at, "require", key), f"'{entry.check}' yields no metric '{metric}'{hint}"))
        elif isinstance(dims, dict):
            fixed = {
                name: value for name, value in dims.items() if name in entry.matrix or (cells and name in cells[0])
            }
            if fixed and not any(all(same_value(cell[n], v) for n, v in fixed.items()) for cell in cells):
                problems.append(
                    file.problem(
                        (*at, "require", key),
                        f"no cell of the matrix has {', '.join(f'{n}={v}' for n, v in fixed.items())}",
                    )
                )
