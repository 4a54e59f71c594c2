"""Formats that hold data only: each is read to its end by its own rules, so a truncated or padded file is refused.

None of these can carry code. What a loader does with the numbers (tree indices, say) is the loader's to check.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

from audit.parameters import UserError
from audit.registry.byte_window import Malformed, Window, printable
from audit.registry.scan_report import Inspection

MAX_HEADER = 100_000_000
"""Bytes of a safetensors header: the limit of the safetensors library."""
MAX_JSON = 128 << 20
"""Bytes: parsed, a hostile document takes twenty times as many."""
MAX_TEXT = 1 << 30
NPY_MAGIC = b"\x93NUMPY"
LIGHTGBM_START = b"tree\n"

_SAFETENSORS_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


def parse_json(content: bytes, where: str) -> Any:
    """Parse JSON whose every key counts once, so that no two parsers read it differently.

    Raises:
        Malformed: Where it is no JSON in UTF-8, doubles a key, or is nested too deep.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise Malformed(where, f"is no well-formed JSON ({printable(str(error), 80)})") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return made


def check_companion(path: Path, name: str) -> None:
    """Hold a file that stands beside a model's weights to what its name says: JSON, or else text.

    Raises:
        UserError: it is empty, too large, or neither.
    """
    size = path.stat().st_size
    try:
        if not 0 < size <= MAX_JSON:
            raise Malformed(
                "", "is empty" if not size else f"holds {size:,} bytes, more than the {MAX_JSON:,} that are read"
            )
        content = path.read_bytes()
        if name.endswith(".json"):
            parse_json(content, "")
        elif b"\x00" in content:
            raise Malformed("", "is no text: it holds a zero byte")
        else:
            content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name} is refused: it is no text in UTF-8") from None
    except Malformed as error:
        raise UserError(f"{name} is refused: it {error.what}") from None


def looks_like_safetensors(window: Window) -> bool:
    """Whether a header length and a JSON object begin the window."""
    head = window.read_at(0, 9)
    return len(head) == 9 and head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MAX_HEADER


def check_safetensors(window: Window) -> None:
    """Hold a safetensors file to its rules: known dtypes, and tensors that fill the file without gap or overlap.

    Source: https://github.com/huggingface/safetensors, "Format".
    """
    length = int.from_bytes(window.read_at(0, 8), "little")
    if 8 + length > window.size:
        raise Malformed("header", f"is cut short: a header of {length:,} bytes in a file of {window.size:,}")
    header = parse_json(window.read_at(8, length), "header")
    if not isinstance(header, dict):
        raise Malformed("header", "is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Malformed("header, __metadata__", "holds something other than text")
    spans = sorted(_tensor_span(name, entry) for name, entry in header.items())
    position = 0
    for begin, end in spans:
        if begin != position:
            raise Malformed("header", f"leaves a gap or an overlap at byte {position:,} of the tensors")
        position = end
    held = window.size - 8 - length
    if position != held:
        raise Malformed("end of the file", f"holds {held:,} bytes of tensors where the header declares {position:,}")


def _tensor_span(name: str, entry: Any) -> tuple[int, int]:
    where = f"header, tensor {printable(name)!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Malformed(where, "does not give exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS_BITS:
        raise Malformed(where, f"has the unknown dtype {printable(str(dtype), 40)!r}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise Malformed(where, "has a shape or offsets that are no list of counts")
    if len(offsets) != 2 or (offsets[1] - offsets[0]) * 8 != math.prod(shape) * _SAFETENSORS_BITS[dtype]:
        raise Malformed(where, "has offsets that do not fit its shape and dtype")
    return offsets[0], offsets[1]


def check_npy(window: Window, where: str) -> tuple[bool, int]:
    """Read an array's header.

    Returns:
        Whether the array holds Python objects, which numpy keeps as a pickle, and the offset of its data.
    """
    import numpy as np

    reader = window.reader()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns where it has to repair a header; here that is damage
            version = np.lib.format.read_magic(reader)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version[0]}.{version[1]}")
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(reader)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, OverflowError, Warning) as error:
        raise Malformed(where, f"has a damaged array header ({printable(str(error), 80)})") from None
    if any(type(n) is not int or n < 0 for n in shape):
        raise Malformed(where, "has an array header whose shape is no list of counts")
    data = reader.tell()
    if not dtype.hasobject and (declared := math.prod(shape) * dtype.itemsize) != window.size - data:
        raise Malformed(where, f"holds {window.size - data:,} bytes of numbers where its header declares {declared:,}")
    return bool(dtype.hasobject), data


def check_xgboost_json(window: Window, inspection: Inspection) -> None:
    """Parse JSON, and accept it as a model that XGBoost saved; any other JSON is no model."""
    document = parse_json(window.read_all(MAX_JSON, "", "a JSON file"), "")
    learner = document.get("learner") if isinstance(document, dict) else None
    if not isinstance(learner, dict) or "version" not in document:
        raise Malformed("", "is JSON, but no XGBoost model: it holds no learner and version")
    inspection.format = "xgboost_json"
    if not {"gradient_booster", "learner_model_param", "objective"} <= set(learner):
        raise Malformed("learner", "lacks a gradient_booster, learner_model_param or objective")


def check_lightgbm(window: Window) -> None:
    """Hold a LightGBM text model to the sizes of trees that it declares, by which LightGBM finds them."""
    text = window.read_all(MAX_TEXT, "", "a text file")
    if b"\x00" in text:
        raise Malformed("", "holds a zero byte, which LightGBM text does not")
    header, found, _ = text.partition(b"\n\n")
    fields = dict(line.partition(b"=")[::2] for line in header.split(b"\n")[1:])
    missing = {b"version", b"num_class", b"max_feature_idx", b"feature_names", b"tree_sizes"} - set(fields)
    if not found or missing:
        named = ", ".join(sorted(name.decode() for name in missing)) or "the trees"
        raise Malformed("header", f"is cut short: it lacks {named}")
    position = len(header) + 2
    sizes = fields[b"tree_sizes"].split()
    for index, size in enumerate(sizes):
        if not size.isdigit() or len(size) > 12 or not text.startswith(b"Tree=%d\n" % index, position):
            raise Malformed(f"tree {index}", "is not where tree_sizes says")
        position += int(size)
    if not text.startswith(b"end of trees\n", position):
        raise Malformed(f"tree {len(sizes)}", "is cut short: the trees do not end where tree_sizes says")
    if text.count(b"\nparameters:\n") != text.count(b"\nend of parameters\n"):
        raise Malformed("parameters", "are cut short")
