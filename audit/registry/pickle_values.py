"""The abstract values that a pickle would build, as far as a scan follows them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from audit.registry.byte_window import printable

OBJECTS = -1
"""The item size that stands for an array of Python objects."""

KEPT_ITEMS = 256
"""How many entries of a container or tuple are followed."""

_KEPT_TEXT = 4096
_KEPT_BITS = 1024
_CALLS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "BUILD"})
_NAME = re.compile(r"[^\s\x00-\x1f\x7f]+")


@dataclass(eq=False)
class Import:
    """A global that the pickle looks up, where, and the first call it would make with it."""

    module: str
    name: str
    position: int
    opcode: str
    call: str | None = None

    @property
    def pair(self) -> tuple[str, str]:
        return self.module, self.name


@dataclass(eq=False)
class Built:
    """What a call would return: the object that ``function(*args)`` makes, and the state it would be given."""

    function: Any
    args: Any
    state: Any = None


@dataclass(eq=False)
class Container:
    """A list, dict or set; ``items`` keeps the first entries only (of a dict: key, value pairs)."""

    kind: str
    items: list[Any] = field(default_factory=list)
    count: int = 0

    def extend(self, items: list[Any]) -> None:
        self.count += len(items)
        self.items.extend(items[: KEPT_ITEMS - len(self.items)])


@dataclass(frozen=True)
class Opaque:
    """A value that need not be followed: a long string, a buffer, a persistent object."""

    kind: str


@dataclass
class PickleStream:
    """What one pickle, from its first opcode to STOP, would do.

    ``broken`` says why an unpickler would not get to STOP either; ``lost``, why the scan could not follow it there.
    """

    imports: list[Import] = field(default_factory=list)
    persistent_ids: list[tuple[int, Any]] = field(default_factory=list)
    extensions: list[tuple[int, int]] = field(default_factory=list)
    opcodes: dict[str, int] = field(default_factory=dict)
    unresolved: list[tuple[int, str]] = field(default_factory=list)
    result: Any = None
    end: int = 0
    broken: str | None = None
    lost: str | None = None
    joblib: bool = False

    @property
    def looks_live(self) -> bool:
        """Whether an unpickler would import something, or call an extension, before the stream ends or breaks.

        Where it breaks, only names without blanks count: a row of random bytes must not read as an import.
        """
        if any(_NAME.fullmatch(imported.module) and _NAME.fullmatch(imported.name) for imported in self.imports):
            return True
        called = bool(self.extensions) and not _CALLS.isdisjoint(self.opcodes)
        return self.broken is None and (called or bool(self.imports or self.unresolved))


def render(value: Any, depth: int = 3) -> str:
    """An abstract value as a short line of Python, for a finding's text."""
    if depth == 0:
        return "…"
    if isinstance(value, Import):
        return printable(f"{value.module}.{value.name}")
    if isinstance(value, Built):
        return f"{render(value.function, depth - 1)}{render(value.args, depth - 1)}"
    if isinstance(value, tuple):
        inner = ", ".join(render(item, depth - 1) for item in value[:4])
        return f"({inner}{', …' if len(value) > 4 else ''})"
    if isinstance(value, Container):
        return "{…}" if value.kind == "dict" else f"{value.kind}(…)"
    if isinstance(value, Opaque):
        return f"<{value.kind}>"
    return printable(repr(value), 60)


def kept(constant: Any) -> Any:
    """What the machine keeps of a constant: long strings and integers are data, and would only fill the memory."""
    if isinstance(constant, str | bytes | bytearray) and len(constant) > _KEPT_TEXT:
        return Opaque(f"{type(constant).__name__} of {len(constant):,}")
    if isinstance(constant, int) and constant.bit_length() > _KEPT_BITS:
        return Opaque("long integer")
    return constant


def mapping_of(state: Any) -> dict[str, Any]:
    items = state.items if isinstance(state, Container) and state.kind == "dict" else []
    return {key: value for key, value in items if isinstance(key, str)}


def dtype_itemsize(dtype: Any) -> int | None:
    """Bytes per element of a pickled ``numpy.dtype``; ``OBJECTS``, or None where it cannot be told."""
    if not (
        isinstance(dtype, Built) and isinstance(dtype.function, Import) and dtype.function.pair == ("numpy", "dtype")
    ):
        return None
    code = dtype.args[0] if isinstance(dtype.args, tuple) and dtype.args else None
    if not isinstance(code, str) or not (match := re.fullmatch(r"([a-zA-Z])([0-9]{1,9})", code)):
        return None
    if match[1] == "V":  # a record; its state ends in numpy's flags, of which the lowest says that it holds objects
        flags = dtype.state[7] if isinstance(dtype.state, tuple) and len(dtype.state) > 7 else 0
        if not isinstance(flags, int):
            return None
        if flags & 1:
            return OBJECTS
    if match[1] == "O":
        return OBJECTS
    return int(match[2]) * (4 if match[1] == "U" else 1)
