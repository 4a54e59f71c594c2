"""An XGBoost model file, read and checked before XGBoost may open it: its C++ follows indices without looking."""

from __future__ import annotations

import itertools
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

_NO_PARENT = 2**31 - 1
_MAX_CATEGORY = 1 << 24


@dataclass(frozen=True)
class XgboostFile:
    """What a checked file says of the model."""

    objective: str
    features: int
    groups: int
    """Answers per row before the objective is applied: 1, or one per class."""
    names: tuple[str, ...]
    types: tuple[str, ...]
    categories: Mapping[int, tuple[str, ...]]
    """Feature → names of its categories, where it was trained on a DataFrame with categories of text."""


def read_xgboost(content: bytes, ref: str) -> XgboostFile:
    """Parse a JSON or UBJSON model and check every index in it.

    Raises:
        UserError: it is damaged, or a kind of model that is not opened here.
    """
    from audit.registry.loaders._ubjson import parse_ubjson

    try:
        document = json.loads(content) if content[1:2] in (b'"', b" ", b"\n", b"\r", b"\t") else parse_ubjson(content)
        return _checked(document["learner"], ref)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{ref}: the XGBoost file is damaged: {one_line(error)}") from error


def _checked(learner: Mapping[str, Any], ref: str) -> XgboostFile:
    param, booster = learner["learner_model_param"], learner["gradient_booster"]
    features, classes = int(param["num_feature"]), int(param["num_class"])
    if int(param.get("num_target", 1)) != 1:
        raise UserError(f"{ref}: an XGBoost model with {param['num_target']} targets at once cannot be audited")
    groups = max(1, classes)
    objective = str(learner["objective"]["name"])
    if objective.startswith("multi:") and int(learner["objective"]["softmax_multiclass_param"]["num_class"]) != classes:
        raise UserError(f"{ref}: the objective counts other classes than the model: the file is damaged")
    if not 0 < features < 2**31 or not 0 < groups < 2**20:
        raise UserError(f"{ref}: the file claims {features} features and {groups} classes: it is damaged")
    kind = booster["name"]
    if kind == "gblinear":
        if len(booster["model"]["weights"]) != (features + 1) * groups:
            raise UserError(f"{ref}: the file holds other weights than {features} features need: it is damaged")
    elif kind in ("gbtree", "dart"):
        model = booster["gbtree"]["model"] if kind == "dart" else booster["model"]
        _check_forest(model, features, groups, ref)
        if kind == "dart" and len(booster["weight_drop"]) != len(model["trees"]):
            raise UserError(
                f"{ref}: the file holds {len(booster['weight_drop'])} weights for {len(model['trees'])} trees"
            )
    else:
        raise UserError(f"{ref}: XGBoost booster '{str(kind)[:40]}' is not opened here; gbtree, dart and gblinear are")
    names, types = ([str(v) for v in learner.get(key, ())] for key in ("feature_names", "feature_types"))
    if any(part and len(part) != features for part in (names, types)):
        raise UserError(f"{ref}: the file names another number of features than {features}: it is damaged")
    container = {} if kind == "gblinear" else model.get("cats", {})
    return XgboostFile(
        objective, features, groups, tuple(names), tuple(types), _category_names(container, features, ref)
    )


def _check_forest(model: Mapping[str, Any], features: int, groups: int, ref: str) -> None:
    trees, group_of = model["trees"], _integers(model["tree_info"])
    if int(model["gbtree_model_param"]["num_trees"]) != len(trees) or len(group_of) != len(trees):
        raise UserError(f"{ref}: the file holds {len(trees)} trees and claims another number: it is damaged")
    check_range(group_of, 0, groups, "class of a tree", f"{ref}: the file")
    if (starts := model.get("iteration_indptr")) is not None:
        ends = _integers(starts)
        if not len(ends) or ends[0] != 0 or ends[-1] != len(trees) or bool((ends[1:] < ends[:-1]).any()):
            raise UserError(f"{ref}: the file's rounds do not add up to its {len(trees)} trees: it is damaged")
    for number, tree in enumerate(trees):
        _check_tree(tree, number, features, f"{ref}: tree {number}")


def _check_tree(tree: Mapping[str, Any], number: int, features: int, where: str) -> None:
    import numpy as np

    param = tree["tree_param"]
    n = int(param["num_nodes"])
    if int(param.get("size_leaf_vector", 1)) not in (0, 1):
        raise UserError(f"{where} has leaves of more than one value, which are not opened here")
    if (
        int(tree["id"]) != number
        or int(param["num_feature"]) != features
        or not 0 <= int(param.get("num_deleted", 0)) < n
    ):
        raise UserError(f"{where} was made for another model: the file is damaged")
    per_node = ["left_children", "right_children", "parents", "split_indices", "split_conditions", "split_type"]
    for key in [*per_node, "default_left", "base_weights", "loss_changes", "sum_hessian"]:
        if len(tree[key]) != n:
            raise UserError(f"{where} has {n} nodes and {len(tree[key])} {key}: the file is damaged")
    left, right, parents, features_of = (_integers(tree[key]) for key in per_node[:4])
    leaf = left == -1
    if bool((right[leaf] != -1).any()):
        raise UserError(f"{where} has a node with one child: the file is damaged")
    check_tree(left, right, leaf, where)
    inner = np.flatnonzero(~leaf)
    if parents[0] != _NO_PARENT or bool(
        (parents[left[inner]] != inner).any() or (parents[right[inner]] != inner).any()
    ):
        raise UserError(f"{where} has parents that do not fit its children: the file is damaged")
    check_range(features_of[inner], 0, features, "feature", where)
    _check_categories(tree, n, where)


def _check_categories(tree: Mapping[str, Any], n: int, where: str) -> None:
    """Splits by category: the nodes that make them, and the slices of one array that they compare with."""
    import numpy as np

    nodes, starts, sizes, held = (
        _integers(tree[f"categories{part}"]) for part in ("_nodes", "_segments", "_sizes", "")
    )
    if not len(nodes) == len(starts) == len(sizes):
        raise UserError(f"{where} has {len(nodes)} category splits and {len(starts)} sets: the file is damaged")
    if not np.array_equal(nodes, np.flatnonzero(_integers(tree["split_type"]) == 1)):
        raise UserError(f"{where} has category splits at other nodes than it says: the file is damaged")
    check_range(nodes, 0, n, "node", where)
    check_range(held, 0, _MAX_CATEGORY, "category", where)
    check_range(starts, 0, len(held) + 1, "category set", where)
    check_range(sizes, 1, len(held) + 1, "category set's size", where)
    check_range(starts + sizes, 0, len(held) + 1, "category set", where)


def _category_names(container: Mapping[str, Any], features: int, ref: str) -> dict[int, tuple[str, ...]]:
    """The container of category names: checked, and turned into text where it holds text."""
    encoded = container.get("enc", ())
    if not len(encoded):
        return {}
    ends = _integers(container["feature_segments"])
    order = _integers(container["sorted_idx"])
    if len(encoded) != features or len(ends) != features + 1 or ends[0] != 0 or bool((ends[1:] < ends[:-1]).any()):
        raise UserError(f"{ref}: the file names categories of another number of features: it is damaged")
    if ends[-1] != len(order):
        raise UserError(f"{ref}: the file names {len(order)} categories and orders {ends[-1]}: it is damaged")
    found = {}
    for feature, entry in enumerate(encoded):
        count = int(ends[feature + 1] - ends[feature])
        check_range(order[ends[feature] : ends[feature + 1]], 0, count, "category", f"{ref}: feature {feature}")
        if "offsets" not in entry:  # categories that are numbers
            if len(entry["values"]) != count:
                raise UserError(
                    f"{ref}: feature {feature} has another number of categories than it says: the file is damaged"
                )
            continue
        offsets, text = _integers(entry["offsets"]), _integers(entry["values"])
        if len(offsets) != (count + 1 if count else 0):
            raise UserError(
                f"{ref}: feature {feature} has another number of categories than it says: the file is damaged"
            )
        if count:
            if offsets[0] != 0 or offsets[-1] != len(text) or bool((offsets[1:] < offsets[:-1]).any()):
                raise UserError(f"{ref}: feature {feature} has category names that overlap: the file is damaged")
            raw = bytes(int(v) & 0xFF for v in text)
            found[feature] = tuple(raw[a:b].decode("utf-8") for a, b in itertools.pairwise(offsets))
    return found


def _integers(values: Any) -> NDArray[np.int64]:
    """Whole numbers as int64.

    Raises:
        ValueError: some are not whole.
    """
    import numpy as np

    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError("an array of whole numbers is expected")
    return array.astype(np.int64)
