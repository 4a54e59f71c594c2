"""Names of callables (``package.module:function``) turned into code, from packages that the user allowed and no other."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.registry.trust import Trust

_TARGET = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")


def is_target(text: str) -> bool:
    """Whether `text` is written as ``package.module:function``."""
    return bool(_TARGET.match(text))


def check_target(text: str) -> str:
    """`text` itself, for a pydantic validator.

    Raises:
        ValueError: it is not ``package.module:function``.
    """
    if not is_target(text):
        raise ValueError(f"'{text}' names no callable: write 'package.module:function'")
    return text


def import_callable(target: str, trust: Trust) -> Callable[..., Any]:
    """The callable that `target` names.

    Both the module it is named in and the module it was defined in must belong to allowed packages, so that an allowed
    module that happens to import ``os.system`` lends it to nobody.

    Raises:
        UserError: its package is not allowed, cannot be imported, or holds no such callable.
    """
    check_target(target)
    module_name, _, name = target.partition(":")
    _require_allowed(module_name, target, trust)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"cannot import '{error.name}' for '{target}': install its package, or put its folder on PYTHONPATH"
        ) from error
    except Exception as error:
        raise UserError(f"importing '{module_name}' failed: {one_line(error)}") from error
    found = getattr(module, name, None)
    if found is None:
        raise UserError(f"module '{module_name}' has no '{name}'")
    if not callable(found):
        raise UserError(f"'{target}' is a {type(found).__name__}, not a callable")
    origin = defined_in(found)
    if origin != module_name:
        _require_allowed(origin, target, trust)
    return found  # type: ignore[no-any-return]


def _require_allowed(module_name: str, target: str, trust: Trust) -> None:
    if not trust.is_allowed_package(module_name):
        package = module_name.partition(".")[0]
        where = "" if target.startswith(f"{module_name}:") else f" (defined in '{module_name}')"
        raise UserError(
            f"'{target}'{where} is not from an allowed package: opening this model would run its code; if you trust "
            f"package '{package}', run `audit model allow {package}`"
        )


def defined_in(found: Any) -> str:
    """The module whose code a callable runs: a function's or class's own, an object's class's."""
    named = found if inspect.isroutine(found) or inspect.isclass(found) else type(found)
    return str(getattr(named, "__module__", None) or type(found).__module__)


def source_digest(found: Callable[..., Any]) -> str | None:
    """SHA-256 of the file that a callable is defined in; None where it has no file of its own."""
    path = getattr(sys.modules.get(defined_in(found)), "__file__", None)
    if path is None:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def check_source(found: Callable[..., Any], expected: str | None, target: str, ref: str) -> None:
    """Refuse a callable whose source file is not the one that was registered.

    Raises:
        UserError: the file changed.
    """
    if expected is not None and source_digest(found) != expected:
        raise UserError(
            f"the source of '{target}' changed since {ref} was registered: register the model again, so that the audit "
            "names what it audits"
        )


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error of someone else's on one line: its kind and the first line that says anything."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    clean = "".join(c if c.isprintable() else " " for c in text)
    shown = clean if len(clean) <= limit else clean[: limit - 1] + "…"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
