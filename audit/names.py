"""Names in a scenario and the code they stand for: name = path, or an installed package's entry point.

``robustness.evasion`` is ``audit/checks/robustness/evasion.py`` and its class ``Evasion``. A name resolves only below
its own folder or to an entry point of the same group, so a scenario can never import anything else.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from audit.parameters import UserError

Group = Literal["checks", "attacks", "explainers", "datasets", "loaders", "reports"]

_ROOTS: dict[str, tuple[str, int]] = {  # group -> (package below audit, how many parts a name has)
    "checks": ("checks", 2),
    "attacks": ("attacks", 1),
    "explainers": ("explainers", 1),
    "datasets": ("datasets", 1),
    "loaders": ("registry.loaders", 1),
    "reports": ("report", 1),
}
_NAME = re.compile(r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$")


def class_name(name: str) -> str:
    """``integrated_gradients`` → ``IntegratedGradients``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


@cache
def _installed(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"audit.{group}")}


def offered(group: str) -> list[str]:
    """Names that installed packages offer as entry points of ``audit.GROUP``, sorted."""
    return sorted(_installed(group))


def installed(group: str, name: str) -> Any:
    """What an installed package offers under an entry point of ``audit.GROUP``; None where none does."""
    entry = _installed(group).get(name)
    return None if entry is None else entry.load()


def _folder(group: str) -> Path:
    return Path(__file__).parent.joinpath(*_ROOTS[group][0].split("."))


def available(group: Group) -> list[str]:
    """Every name of a group, sorted, without importing any of them."""
    folder, depth = _folder(group), _ROOTS[group][1]
    own = {
        ".".join(path.relative_to(folder).with_suffix("").parts)
        for path in folder.glob("/".join(["*"] * depth) + ".py")
        if not any(part.startswith("_") for part in path.relative_to(folder).parts)
    }
    return sorted(own | set(_installed(group)))


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that a mistyped one most likely meant."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if matches:
        return matches[0]
    tails = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    return tails[0] if tails else None


def unknown(kind: str, name: str, known: list[str]) -> UserError:
    """The one line for a name that nothing answers to."""
    guess = nearest(name, known)
    meant = f"; did you mean '{guess}'?" if guess else f"; known: {', '.join(known) or 'none'}"
    return UserError(f"there is no {kind} '{name}'{meant}")


def resolve(group: Group, name: str) -> type[Any]:
    """The class a name stands for.

    Raises:
        UserError: the name is malformed, or neither a file of its folder nor an entry point answers to it.
    """
    kind = group.rstrip("s")
    if not _NAME.match(name):
        raise UserError(
            f"'{name}' is no {kind} name: names are lower-case words joined by dots, such as 'robustness.evasion'"
        )
    root, depth = _ROOTS[group]
    parts = name.split(".")
    if len(parts) == depth and _folder(group).joinpath(*parts).with_suffix(".py").is_file():
        module = importlib.import_module(f"audit.{root}.{name}")
        return getattr(module, class_name(parts[-1]))  # type: ignore[no-any-return]
    if entry := _installed(group).get(name):
        return entry.load()  # type: ignore[no-any-return]
    raise unknown(kind, name, available(group))


def resolve_member(group: Group, name: str) -> tuple[type[Any], dict[str, str]]:
    """As `resolve`, where ``art.square_attack`` is the file ``art`` told ``member="square_attack"``."""
    head, _, member = name.partition(".")
    if member and name not in _installed(group) and head in available(group) and _NAME.match(name):
        found = resolve(group, head)
        if "member" in found.model_fields:
            return found, {"member": member}
    return resolve(group, name), {}


def build_named(group: Group, spec: str | Mapping[str, Any]) -> tuple[str, Any]:
    """A configured part from a scenario: a name, or ``{name: {parameter: value}}``. Gives the name and the built part.

    Raises:
        UserError: no such name, or more than one in the mapping.
        pydantic.ValidationError: a parameter is wrong.
    """
    parameters: Mapping[str, Any] | None = None
    if isinstance(spec, str):
        name = spec
    elif len(spec) == 1:
        name, parameters = next(iter(spec.items()))
    else:
        raise UserError(
            f"expected a name, or one name with its parameters, got {', '.join(map(str, spec)) or 'nothing'}"
        )
    found, member = resolve_member(group, name)
    return name, found(**member, **(parameters or {}))
