"""YAML 1.2 as plain values, with the line of everything in it."""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping
from typing import Any

from audit.scenario.problems import SCENARIO, FileKind, Location, Problem, ScenarioError, dotted

MAX_NODES = 100_000


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.allow_duplicate_keys = False
    return yaml


def load_yaml(
    text: str, origin: str, kind: FileKind = SCENARIO
) -> tuple[dict[str, Any], dict[Location, tuple[int, int]]]:
    """A mapping of plain values, and line and column of everything in it.

    Raises:
        ScenarioError: no YAML, no mapping, a key that stands twice, a tag, or too much of it.
    """
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        node = _yaml().load(text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        message = str(error.problem).split(" with value")[0].replace("found ", "")
        raise ScenarioError(
            origin, [Problem(f"{message}: a key may stand once", mark.line + 1, mark.column + 1)]
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise ScenarioError(origin, [Problem(f"is no valid YAML: {error.problem or error.context}", *place)]) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise ScenarioError(origin, [Problem(f"is no valid YAML: {str(error).splitlines()[0]}")]) from None
    if node is None:
        raise ScenarioError(origin, [Problem(f"is empty: {kind.start}")])
    if not isinstance(node, dict):
        raise ScenarioError(origin, [Problem(f"expected a mapping with {kind.holds}, got {_called(node)}")])
    marks: dict[Location, tuple[int, int]] = {}
    budget = [MAX_NODES]
    return _plain(node, (), marks, budget, origin, kind), marks


def _called(node: Any) -> str:
    return (
        "a list" if isinstance(node, list) else "text" if isinstance(node, str) else f"the {type(node).__name__} {node}"
    )


def _plain(
    node: Any,
    location: Location,
    marks: dict[Location, tuple[int, int]],
    budget: list[int],
    origin: str,
    kind: FileKind,
) -> Any:
    """ruamel's annotated nodes as plain Python values, their places noted; tags are refused."""
    budget[0] -= 1
    if budget[0] < 0:
        raise ScenarioError(origin, [Problem(f"unfolds to more than {MAX_NODES:,} values: this is no {kind.name}")])
    if isinstance(node, dict):
        _refuse_tag(node, location, marks, origin)
        out: dict[str, Any] = {}
        for key, value in node.items():
            here = (*location, str(key))
            lc: Any = getattr(node, "lc", None)
            if lc is not None and key in (lc.data or {}):
                line, column = lc.key(key)
                marks[here] = (line + 1, column + 1)
            out[str(key)] = _plain(value, here, marks, budget, origin, kind)
        return out
    if isinstance(node, list):
        _refuse_tag(node, location, marks, origin)
        items = []
        for i, value in enumerate(node):
            places: Any = getattr(node, "lc", None)
            if places is not None and i in (places.data or {}):
                line, column = places.item(i)
                marks[(*location, i)] = (line + 1, column + 1)
            items.append(_plain(value, (*location, i), marks, budget, origin, kind))
        return items
    if isinstance(node, bool) or node is None:
        return node
    for scalar in (int, float, str):
        if isinstance(node, scalar):
            return scalar(node)
    if isinstance(node, datetime.date):
        return node.date() if isinstance(node, datetime.datetime) else node
    _refuse_tag(node, location, marks, origin)
    return bool(node) if type(node).__name__ == "ScalarBoolean" else str(node)


_CORE_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
}


def _refuse_tag(node: Any, location: Location, marks: Mapping[Location, tuple[int, int]], origin: str) -> None:
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag and str(tag) not in _CORE_TAGS:
        line, column = marks.get(location, (None, None))
        raise ScenarioError(
            origin,
            [Problem(f"tag {tag} is not allowed: plain values only", line, column, dotted(location))],
        )


def dump_yaml(raw: Any) -> str:
    """Plain values as text."""
    out = io.StringIO()
    _yaml().dump(raw, out)
    return out.getvalue()
