"""The archives that torch writes: weights, exported programs, TorchScript.

Only weights whose pickle ``torch.load(weights_only=True)`` permits are clean. TorchScript is code, and an exported
program makes ``torch.export.load`` run code in three ways at least: it unpickles the sample inputs (falling back to
``weights_only=False``), it unpickles every weight that the weights' configuration marks ``use_pickle``, and it hands
each symbolic expression to ``sympy.sympify``, which evaluates it as Python.

Source: torch 2.13, ``torch/serialization.py``, ``torch/export/pt2_archive/_package.py``, ``torch/_export/serde``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from audit.registry.byte_window import Malformed, Window, printable
from audit.registry.nested_scan import inspect_content
from audit.registry.pickle_scan import MAX_LISTED, judge_weights_only
from audit.registry.plain_formats import MAX_JSON, parse_json
from audit.registry.scan_report import RUNS, Format, Inspection

_STORAGE = re.compile(r"data/([^/]+)")
_WEIGHTS_RECORDS = frozenset(
    {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id", ".data/version"}
)
_MAX_EXPRESSION = 10_000
_PLAIN_EXPRESSION = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Call,
    ast.Name,
    ast.Constant,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.keyword,
    ast.Load,
)
_SYMBOLIC_FUNCTIONS = frozenset(
    {"FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv"}
    | {"LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt"}
    | {"IsNonOverlappingAndDenseIndicator", "RoundToInt", "RoundDecimal", "ToFloat", "Identity"}
    | {"Add", "Mul", "Pow", "Min", "Max", "Abs", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise"}
    | {"floor", "ceiling", "sqrt", "log", "exp", "Integer", "Float", "Rational", "Symbol"}
)


def torch_format(names: list[str]) -> Format | None:
    """Which torch archive has members of these names; None where it is none of them."""
    inner = [name.partition("/")[2] or name for name in names]
    if any(
        name == "archive_format"
        or name.startswith(("data/aotinductor/", "data/sample_inputs/"))
        or name.endswith("serialized_exported_program.json")
        for name in inner
    ):
        return "torch_export"
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        return "torchscript"
    return "torch_zip" if any(name.partition("/")[2] == "data.pkl" for name in names) else None


def judge_torch(kind: Format, members: Mapping[str, Window], inspection: Inspection) -> None:
    """Judge a torch archive by the rules of its kind.

    Args:
        members: Name → unpacked content.
    """
    if kind == "torch_export":
        _note_export(members, inspection)
    elif kind == "torchscript":
        _note_torchscript(members, inspection)
    else:
        _judge_weights(members, inspection)


def _judge_weights(members: Mapping[str, Window], inspection: Inspection) -> None:
    roots = {name.split("/")[0] for name in members}
    if len(roots) != 1:
        raise Malformed("", f"is a torch archive with {len(roots)} top folders in place of one")
    (root,) = roots
    storages: dict[str, int] = {}
    for name, content in members.items():
        inner = name[len(root) + 1 :]
        if match := _STORAGE.fullmatch(inner):
            storages[match[1]] = content.size
        elif inner not in _WEIGHTS_RECORDS | {"data.pkl"}:
            inspect_content(content, name, inspection, 1)
            raise Malformed(printable(name), "does not belong into a torch archive of weights")
        if inner != "data.pkl":
            inspect_content(content, name, inspection, 1)
    judge_weights_only(members[f"{root}/data.pkl"], f"{root}/data.pkl", storages, inspection)


def _note_torchscript(members: Mapping[str, Window], inspection: Inspection) -> None:
    scripts = [name for name in members if name.partition("/")[2].startswith("code/") and name.endswith(".py")]
    inspection.code(printable(scripts[0]) if scripts else "", "TorchScript, which torch.jit.load compiles and runs")
    for name, content in members.items():
        inspect_content(content, name, inspection, 1)


def _note_export(members: Mapping[str, Window], inspection: Inspection) -> None:
    inspection.code("", "an exported program, whose loader can be made to run code")
    for name, content in members.items():
        inspect_content(content, name, inspection, 1)
        if name.endswith((".so", ".o", ".cubin", ".dll", ".dylib")) or content.read_at(0, 4) == b"\x7fELF":
            inspection.code(name, "native code", rank=RUNS)
        if name.endswith(".json"):
            _note_export_json(name, content, inspection)


def _note_export_json(name: str, content: Window, inspection: Inspection) -> None:
    document = parse_json(content.read_all(MAX_JSON, name, "a JSON member"), printable(name))
    listed = 0
    for key, value in _entries(document):
        if key == "use_pickle" and value is not False:
            inspection.code(name, "use_pickle, which makes the loader unpickle a weight", rank=RUNS)
        elif key == "path_name" and isinstance(value, str) and value.startswith(("custom_obj", "opaque_obj")):
            inspection.code(name, f"constant {printable(value)!r}, which the loader unpickles", rank=RUNS)
        elif key == "expr_str" and not is_plain_expression(value) and listed < MAX_LISTED:
            listed += 1
            shown = printable(str(value), 100)
            inspection.code(name, f"symbolic expression {shown!r}, which the loader evaluates as Python", rank=RUNS)


def _entries(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of a JSON document, at any depth."""
    open_values = [document]
    while open_values:
        value = open_values.pop()
        if isinstance(value, dict):
            yield from value.items()
            open_values.extend(value.values())
        elif isinstance(value, list):
            open_values.extend(value)


def is_plain_expression(text: Any) -> bool:
    """Whether a symbolic expression is arithmetic on names and numbers, calling nothing but torch's own functions."""
    if not isinstance(text, str) or len(text) > _MAX_EXPRESSION:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    symbols: set[int] = set()  # the texts that name a Symbol, the only ones allowed
    for node in ast.walk(tree):  # a call is met before its arguments
        if not isinstance(node, _PLAIN_EXPRESSION):
            return False
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float) and id(node) not in symbols:
            return False
        if isinstance(node, ast.Name) and node.id.startswith("_"):
            return False
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in _SYMBOLIC_FUNCTIONS:
                return False
            if node.func.id == "Symbol" and _names_symbol(node):
                symbols.add(id(node.args[0]))
            elif node.keywords:
                return False
    return True


def _names_symbol(call: ast.Call) -> bool:
    """Whether a call reads ``Symbol('s0', integer=True, …)``, which is how torch writes a dimension."""
    if len(call.args) != 1 or not isinstance(name := call.args[0], ast.Constant) or not isinstance(name.value, str):
        return False
    return name.value.isidentifier() and all(
        isinstance(word.value, ast.Constant) and isinstance(word.value.value, bool) for word in call.keywords
    )
