"""A LightGBM text model, read and checked before LightGBM may open it: its C++ follows indices without looking.

Source: LightGBM 4, ``src/io/tree.cpp`` and ``src/boosting/gbdt_model_text.cpp``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders._tree_indices import check_range, check_tree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_FEATURES = 1 << 24
_MAX_CLASSES = 1 << 16
_CATEGORICAL = 1


@dataclass(frozen=True)
class LightgbmFile:
    """What a checked file says of the model."""

    objective: str
    """Its name, without its parameters; empty for a custom one."""
    sigmoid: float
    """Factor of the raw score in the logistic function; 1 makes the raw score a log-odds."""
    names: tuple[str, ...]
    groups: int
    """Answers per row: 1, or one per class."""
    categorical: frozenset[int]
    """Features that were trained on as categories."""
    categories: tuple[tuple[str, ...], ...] | None
    """Category values of the categorical columns of the DataFrame it was trained on, in their order; None where unknown."""


def read_lightgbm(content: bytes, ref: str) -> LightgbmFile:
    """Parse a text model and check every index in it.

    Raises:
        UserError: it is damaged, or a kind of model that is not opened here.
    """
    try:
        return _checked(content.decode("utf-8"), ref)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise UserError(f"{ref}: the LightGBM file is damaged: {one_line(error)}") from error


def _checked(text: str, ref: str) -> LightgbmFile:
    header_text, _, rest = text.partition("\n\n")
    header = _entries(header_text.removeprefix("tree\n"), ref)
    features, classes = int(header["max_feature_idx"]) + 1, int(header["num_class"])
    groups = int(header["num_tree_per_iteration"])
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    if not 0 < features < _MAX_FEATURES or len(names) != features or len(infos) != features:
        raise UserError(f"{ref}: the file claims {features} features and names {len(names)}: it is damaged")
    if not 0 < classes < _MAX_CLASSES or groups != classes:
        raise UserError(f"{ref}: the file claims {classes} classes and {groups} trees a round: it is damaged")
    objective, sigmoid = _objective(header.get("objective"), classes, ref)
    if "monotone_constraints" in header and len(header["monotone_constraints"].split(" ")) != features:
        raise UserError(f"{ref}: the file's constraints do not fit its {features} features: it is damaged")
    blocks = _blocks(rest, [int(size) for size in header["tree_sizes"].split()], ref)
    if len(blocks) % groups:
        raise UserError(f"{ref}: the file holds {len(blocks)} trees, no multiple of {groups}: it is damaged")
    for number, block in enumerate(blocks):
        _check_tree(_entries(block, f"{ref}: tree {number}"), features, f"{ref}: tree {number}")
    categorical = frozenset(i for i, info in enumerate(infos) if info != "none" and not info.startswith("["))
    return LightgbmFile(
        objective, sigmoid, tuple(names), groups, categorical, _pandas_categories(text, len(categorical))
    )


def _objective(line: str | None, classes: int, ref: str) -> tuple[str, float]:
    """The objective's name and sigmoid; it must count the classes as the model does, for it writes one answer per class."""
    if line is None:
        return "", 1.0
    name, *parts = line.split(" ")
    settings = dict(part.partition(":")[::2] for part in parts)
    several = name in ("multiclass", "multiclassova")
    if not name or int(settings.get("num_class", 1)) != (classes if several else 1) or (classes > 1 and not several):
        raise UserError(f"{ref}: the objective counts other classes than the model: the file is damaged")
    return name, float(settings.get("sigmoid", 1))


def _entries(text: str, where: str) -> dict[str, str]:
    """The ``key=value`` lines of a block."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        key, _, value = line.partition("=")
        if key and key in found:
            raise UserError(f"{where} gives '{key[:40]}' twice: the file is damaged")
        found[key] = value
    return found


def _blocks(rest: str, sizes: list[int], ref: str) -> list[str]:
    """The trees' texts, each where ``tree_sizes`` says: LightGBM jumps there."""
    encoded, position, blocks = rest.encode("utf-8"), 0, []
    for number, size in enumerate(sizes):
        block = encoded[position : position + size].decode("utf-8")
        start = f"Tree={number}\n"
        if (
            size < len(start)
            or not block.startswith(start)
            or not block.endswith("\n\n")
            or "\n\n" in block.rstrip("\n")
        ):
            raise UserError(f"{ref}: tree {number} is not where the file says: it is damaged")
        blocks.append(block.removeprefix(start).rstrip("\n"))
        position += size
    if not encoded[position:].startswith(b"end of trees\n"):
        raise UserError(
            f"{ref}: the file does not end its {len(sizes)} trees where it says: it is cut short or damaged"
        )
    return blocks


def _check_tree(tree: Mapping[str, str], features: int, where: str) -> None:
    import numpy as np

    leaves, sets = int(tree["num_leaves"]), int(tree["num_cat"])
    inner = leaves - 1
    if leaves < 1 or sets < 0:
        raise UserError(f"{where} claims {leaves} leaves and {sets} category sets: the file is damaged")
    _lengths(tree, {"leaf_value": leaves, "leaf_weight": leaves, "leaf_count": leaves}, where, needed=("leaf_value",))
    if tree.get("is_linear", "0") not in ("0", "1"):
        raise UserError(f"{where} is neither linear nor not: the file is damaged")
    if tree.get("is_linear") == "1":
        _check_linear(tree, leaves, features, where)
    if inner == 0:
        return
    per_node = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
    kept = ("split_gain", "internal_value", "internal_weight", "internal_count")
    _lengths(tree, dict.fromkeys((*per_node, *kept), inner), where, needed=per_node)
    left, right = _integers(tree["left_child"]), _integers(tree["right_child"])
    children = np.concatenate([left, right])
    check_range(children, -leaves, inner, "child", where)
    if not np.array_equal(np.sort(~children[children < 0]), np.arange(leaves)):
        raise UserError(f"{where} does not reach each of its {leaves} leaves once: the file is damaged")
    # leaf k is written as -k-1; node numbers behind the inner nodes stand for the leaves here
    numbered = [np.where(side < 0, inner + ~side, side) for side in (left, right)]
    padded = [np.concatenate([side, np.full(leaves, -1)]) for side in numbered]
    check_tree(padded[0], padded[1], np.arange(inner + leaves) >= inner, where)
    check_range(_integers(tree["split_feature"]), 0, features, "feature", where)
    _check_categories(tree, sets, where)


def _check_categories(tree: Mapping[str, str], sets: int, where: str) -> None:
    import numpy as np

    decisions = _integers(tree["decision_type"])
    check_range(decisions, 0, 16, "kind of decision", where)
    by_category = decisions & _CATEGORICAL == 1
    chosen = np.asarray([float(v) for v in tree["threshold"].split()])[by_category]
    if not bool(((chosen == np.floor(chosen)) & (chosen >= 0) & (chosen < sets)).all()):
        raise UserError(f"{where} points outside its {sets} category sets: the file is damaged")
    if sets:
        ends, words = _integers(tree["cat_boundaries"]), _integers(tree["cat_threshold"])
        check_range(words, 0, 1 << 32, "category word", where)
        if len(ends) != sets + 1 or ends[0] != 0 or ends[-1] != len(words) or bool((ends[1:] < ends[:-1]).any()):
            raise UserError(f"{where} has category sets that do not add up: the file is damaged")


def _check_linear(tree: Mapping[str, str], leaves: int, features: int, where: str) -> None:
    """Linear models in the leaves: as many coefficients and features as each leaf says."""
    counts = _integers(tree["num_features"])
    check_range(counts, 0, features + 1, "number of features in a leaf", where)
    total = int(counts.sum())
    _lengths(
        tree,
        {"num_features": leaves, "leaf_const": leaves, "leaf_features": total, "leaf_coeff": total},
        where,
        needed=("leaf_const", "leaf_features", "leaf_coeff"),
    )
    check_range(_integers(tree["leaf_features"]), 0, features, "feature of a leaf", where)


def _lengths(tree: Mapping[str, str], expected: Mapping[str, int], where: str, *, needed: tuple[str, ...]) -> None:
    for key, count in expected.items():
        values = tree.get(key, "").split()
        if len(values) != count and (values or key in needed):
            raise UserError(f"{where} has {len(values)} of {count} {key}: the file is damaged")
        for value in values:
            float(value)


def _integers(text: str) -> NDArray[np.int64]:
    import numpy as np

    return np.array([int(value) for value in text.split()], dtype=np.int64)


def _pandas_categories(text: str, expected: int) -> tuple[tuple[str, ...], ...] | None:
    last = text.rstrip("\n").rpartition("\n")[2]
    label, _, value = last.partition(":")
    if label != "pandas_categorical":
        return None
    found: Any = json.loads(value)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(column, list) for column in found):
        raise ValueError("pandas_categorical is no list of columns")
    return tuple(tuple(str(v) for v in column) for column in found) if len(found) == expected else None
