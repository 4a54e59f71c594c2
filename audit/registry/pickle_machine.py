"""Reads a pickle without running it: an abstract machine that follows the stack and the memo through every opcode.

The machine holds what each opcode *would* build, so the module and name of an import are known exactly even where they
come out of the memo, and a finding can say with which arguments a function would be called. It imports nothing.

Source: Python's ``pickle`` and ``pickletools`` (the opcodes), joblib's ``NumpyArrayWrapper`` (raw arrays in the stream).
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Callable
from typing import Any

from audit.registry.byte_window import Malformed, Scratch, WindowReader, printable
from audit.registry.pickle_values import (
    KEPT_ITEMS,
    OBJECTS,
    Built,
    Container,
    Import,
    Opaque,
    PickleStream,
    dtype_itemsize,
    kept,
    mapping_of,
    render,
)


class _Broken(ValueError):
    """The stream breaks the rules here; an unpickler would raise."""


class _Lost(ValueError):
    """The stream may be well-formed, but what follows cannot be told apart from raw data."""


class _Machine:
    """The stack, the marks and the memo of an unpickler, over abstract values."""

    def __init__(self, stream: PickleStream, reader: WindowReader, scratch: Scratch) -> None:
        self.stream = stream
        self.reader = reader
        self.scratch = scratch
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack:
            raise _Broken("takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise _Broken("needs a value on an empty stack")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise _Broken("needs a mark and there is none")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def found(self, module: str, name: str, position: int, opcode: str) -> Import:
        imported = Import(module, name, position, opcode)
        self.stream.imports.append(imported)
        return imported

    def call(self, function: Any, args: Any) -> Built:
        if isinstance(function, Import) and function.call is None:
            function.call = render(args) if isinstance(args, tuple) else f"({render(args)})"
        return Built(function, args)

    def step(self, opcode: str, arg: Any, position: int) -> None:
        if action := _ACTIONS.get(opcode):
            action(self, arg, position)
        elif opcode in _PUSH_CONSTANT:
            self.stack.append(kept(arg))
        else:
            raise _Broken(f"uses {opcode}, which is not known here")

    def import_pair(self, arg: str, position: int, opcode: str) -> Import:
        module, _, name = arg.partition(" ")
        # pickletools undoes backslash escapes that an unpickler leaves in: the lengths tell whether it did
        raw_length = self.reader.tell() - position
        if " " in name or raw_length != len(module) + len(name) + 3:
            self.stream.unresolved.append((position, f"{opcode} of {printable(arg)!r}"))
        return self.found(module, name, position, opcode)

    def stack_global(self, _arg: Any, position: int) -> None:
        name, module = self.pop(), self.pop()
        if isinstance(name, str) and isinstance(module, str):
            self.stack.append(self.found(module, name, position, "STACK_GLOBAL"))
        else:
            self.stream.unresolved.append((position, f"STACK_GLOBAL of {render(module)} and {render(name)}"))
            self.stack.append(Opaque("global"))

    def instantiate(self, arg: Any, position: int) -> None:
        # Python's own unpickler imports before it looks for the mark, so a missing mark does not undo an INST
        function = None if arg is None else self.import_pair(arg, position, "INST")
        items = self.pop_mark()
        if function is None:  # OBJ: the class lies under its arguments
            if not items:
                raise _Broken("has no class to instantiate")
            function, items = items[0], items[1:]
        self.stack.append(self.call(function, tuple(items)))

    def new_with_keywords(self, _arg: Any, _position: int) -> None:
        keywords, args, function = self.pop(), self.pop(), self.pop()
        self.stack.append(self.call(function, (args, keywords)))

    def reduce(self, _arg: Any, _position: int) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self.call(function, args))

    def build(self, _arg: Any, _position: int) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Built):
            target.state = state
            if isinstance(target.function, Import) and target.function.pair == (
                "joblib.numpy_pickle",
                "NumpyArrayWrapper",
            ):
                self.stream.joblib = True
                self.raw_array(target)

    def raw_array(self, wrapper: Built) -> None:
        """Step over the array that joblib writes into the stream after its wrapper."""
        fields = mapping_of(wrapper.state)
        itemsize = dtype_itemsize(fields.get("dtype"))
        shape = fields.get("shape")
        if itemsize == OBJECTS:
            self.nested_pickle()
            return
        if itemsize is None or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise _Lost("holds a raw array of unknown size")
        here = self.reader.tell()
        size = math.prod(shape) * itemsize
        if fields.get("numpy_array_alignment_bytes") is not None:
            padding = self.reader.read(1)
            size += 1 + (padding[0] if padding else 0)
        if here + size > self.reader.size:
            raise _Broken("ends inside a raw array")
        self.reader.seek(here + size)

    def nested_pickle(self) -> None:
        """Follow the pickle that joblib writes in place of an array of objects."""
        inner = read_pickle(self.reader, self.scratch)
        self.stream.imports += inner.imports
        self.stream.persistent_ids += inner.persistent_ids
        self.stream.extensions += inner.extensions
        self.stream.unresolved += inner.unresolved
        self.stream.opcodes = inner.opcodes | self.stream.opcodes
        if inner.lost is not None:
            raise _Lost(f"holds an array of objects that {inner.lost}")
        if inner.broken is not None:
            raise _Broken(f"holds an array of objects that {inner.broken}")

    def get(self, arg: int, _position: int) -> None:
        if arg not in self.memo:
            raise _Broken(f"recalls memo entry {arg}, which was never stored")
        self.stack.append(self.memo[arg])

    def put(self, arg: int, _position: int) -> None:
        self.memo[arg] = self.top()

    def memoize(self, _arg: Any, _position: int) -> None:
        self.memo[len(self.memo)] = self.top()

    def mark(self, _arg: Any, _position: int) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def drop(self, _arg: Any, _position: int) -> None:
        # POP on a mark takes the mark away, as the unpickler in C does
        if not self.stack and self.marks:
            self.stack = self.marks.pop()
        else:
            self.pop()

    def tuple_of(self, count: int | None) -> None:
        items = self.pop_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items[:KEPT_ITEMS]))

    def container(self, kind: str, items: list[Any]) -> None:
        made = Container(kind)
        made.extend(items)
        self.stack.append(made)

    def add(self, items: list[Any], pairs: bool) -> None:
        if pairs:
            if len(items) % 2:
                raise _Broken("sets a key without a value")
            items = list(zip(items[::2], items[1::2], strict=True))
        target = self.top()
        if isinstance(target, Container):
            target.extend(items)

    def extension(self, arg: int, position: int) -> None:
        self.stream.extensions.append((position, arg))
        self.stack.append(Opaque("extension"))

    def persistent(self, identifier: Any, position: int) -> None:
        self.stream.persistent_ids.append((position, identifier))
        self.stack.append(Opaque("persistent object"))

    def stop(self, _arg: Any, _position: int) -> None:
        self.stream.result = self.pop()


_Action = Callable[[_Machine, Any, int], object]


def _setitem(machine: _Machine, _arg: Any, _position: int) -> None:
    value, key = machine.pop(), machine.pop()
    machine.add([key, value], pairs=True)


def _append(machine: _Machine, _arg: Any, _position: int) -> None:
    item = machine.pop()
    machine.add([item], pairs=False)


def _dict_of(machine: _Machine, _arg: Any, _position: int) -> None:
    items = machine.pop_mark()
    machine.container("dict", [])
    machine.add(items, pairs=True)


def _protocol(_machine: _Machine, arg: int, _position: int) -> None:
    if arg not in range(pickle.HIGHEST_PROTOCOL + 1):
        raise _Broken(f"declares protocol {arg}, which does not exist")


_ACTIONS: dict[str, _Action] = {
    "PROTO": _protocol,
    "FRAME": lambda m, a, p: None,
    "STOP": _Machine.stop,
    "NONE": lambda m, a, p: m.stack.append(None),
    "NEWTRUE": lambda m, a, p: m.stack.append(True),
    "NEWFALSE": lambda m, a, p: m.stack.append(False),
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": lambda m, a, p: m.pop_mark(),
    "DUP": lambda m, a, p: m.stack.append(m.top()),
    "EMPTY_LIST": lambda m, a, p: m.container("list", []),
    "EMPTY_DICT": lambda m, a, p: m.container("dict", []),
    "EMPTY_SET": lambda m, a, p: m.container("set", []),
    "LIST": lambda m, a, p: m.container("list", m.pop_mark()),
    "FROZENSET": lambda m, a, p: m.container("frozenset", m.pop_mark()),
    "DICT": _dict_of,
    "APPEND": _append,
    "APPENDS": lambda m, a, p: m.add(m.pop_mark(), pairs=False),
    "ADDITEMS": lambda m, a, p: m.add(m.pop_mark(), pairs=False),
    "SETITEM": _setitem,
    "SETITEMS": lambda m, a, p: m.add(m.pop_mark(), pairs=True),
    "EMPTY_TUPLE": lambda m, a, p: m.tuple_of(0),
    "TUPLE1": lambda m, a, p: m.tuple_of(1),
    "TUPLE2": lambda m, a, p: m.tuple_of(2),
    "TUPLE3": lambda m, a, p: m.tuple_of(3),
    "TUPLE": lambda m, a, p: m.tuple_of(None),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": lambda m, a, p: m.stack.append(m.import_pair(a, p, "GLOBAL")),
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.instantiate,
    "OBJ": _Machine.instantiate,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda m, a, p: m.persistent(m.pop(), p),
    "NEXT_BUFFER": lambda m, a, p: m.stack.append(Opaque("buffer")),
    "READONLY_BUFFER": lambda m, a, p: m.top(),
}

_CONSTANTS = re.compile(
    r"INT|BININT[12]?|LONG[14]?|FLOAT|BINFLOAT|STRING|(SHORT_)?BINSTRING|UNICODE|(SHORT_)?BINUNICODE|BINUNICODE8"
    r"|(SHORT_)?BINBYTES|BINBYTES8|BYTEARRAY8"
)
_PUSH_CONSTANT = frozenset(opcode.name for opcode in pickletools.opcodes if _CONSTANTS.fullmatch(opcode.name))


def read_pickle(reader: WindowReader, scratch: Scratch) -> PickleStream:
    """Follow one pickle from the reader's place to its STOP, or to where it breaks.

    Args:
        reader: Stands at the first opcode; afterwards it stands behind STOP. Positions are counted from its window.
        scratch: Bounds the opcodes that one scan follows.

    Returns:
        What the pickle would do. An unpickler acts opcode by opcode, so what comes before a break counts as well.
    """
    stream = PickleStream()
    machine = _Machine(stream, reader, scratch)
    position = reader.tell()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pickletools, on odd backslashes in a hostile string
            for opcode, arg, found_at in pickletools.genops(reader):
                position = found_at or 0
                scratch.count_opcode(position)
                stream.opcodes.setdefault(opcode.name, position)
                machine.step(opcode.name, arg, position)
    except _Lost as error:
        stream.lost = f"{error}, at byte {position}"
    except _Broken as error:
        stream.broken = f"{error}, at byte {position}"
    except Malformed:
        raise
    except (ValueError, struct.error, OverflowError, MemoryError, RecursionError) as error:
        stream.broken = f"cannot be read after byte {position} ({printable(str(error), 80)})"
    stream.end = reader.tell()
    return stream
