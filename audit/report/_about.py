"""What the installed code says of a check: a report explains with it, and does without where the check is not installed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError

from audit.language import gettext as _
from audit.names import available, resolve
from audit.parameters import UserError

_SECTION = re.compile(r"(?:^|\s)(Source|Blind spots):\s*(.*?)(?=\s(?:Source|Blind spots):|\n\s*\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class About:
    """A check's own description."""

    summary: str = ""
    source: str = ""
    blind_spots: str = ""
    remedy: str = ""
    controls: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    """Of its metrics."""
    needs: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


@cache
def about(check: str) -> About:
    """What a check says of itself; an empty description where this installation cannot tell."""
    try:
        found = resolve("checks", check)
    except (UserError, ImportError, AttributeError):
        return About()
    text = (inspect.getdoc(found) or "").replace("`", "")
    sections = {name: " ".join(body.split()) for name, body in _SECTION.findall(text)}
    return About(
        summary=" ".join(text.split("\n\n")[0].split()) if text else "",
        source=sections.get("Source", ""),
        blind_spots=sections.get("Blind spots", ""),
        remedy=str(getattr(found, "remedy", "")),
        controls=tuple(map(str, getattr(found, "controls", ()))),
        titles={metric.name: metric.title for metric in getattr(found, "metrics", ())},
        needs=_needs(found),
        tasks=tuple(sorted(map(str, getattr(found, "tasks", ())))),
    )


def title_of(check: str, metric: str) -> str:
    """A metric for a reader; its name where this installation does not know the check."""
    return _(about(check).titles.get(metric) or metric.replace("_", " "))


def _needs(found: type[Any]) -> tuple[str, ...]:
    """What the check needs with its default parameters; what it needs in any case where some have no default."""
    try:
        needs = found().requirements()
    except ValidationError:
        needs = found.needs
    return tuple(sorted(map(str, needs)))


def known_checks() -> list[str]:
    """Every check of this installation."""
    return available("checks")
