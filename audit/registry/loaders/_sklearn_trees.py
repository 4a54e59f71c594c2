"""scikit-learn's trees, held to what its compiled code takes for granted."""

from __future__ import annotations

from typing import Any

from audit.parameters import UserError
from audit.registry.loaders._tree_indices import check_range, check_tree

_LEAF = -1
_BITSET = 256
"""Categories that histogram boosting's bitsets hold."""


def check_decision_tree(tree: Any, where: str) -> None:
    """A `sklearn.tree._tree.Tree`: children, features, depth."""
    import numpy as np

    if (
        not 0 < tree.node_count <= tree.capacity
    ):  # the arrays below are views of node_count rows, whatever was allocated
        raise UserError(f"{where} claims {tree.node_count} nodes and holds {tree.capacity}: the file is damaged")
    left, right = np.asarray(tree.children_left), np.asarray(tree.children_right)
    leaf = left == _LEAF
    depth = check_tree(left, right, leaf, where)
    check_range(np.asarray(tree.feature)[~leaf], 0, tree.n_features, "feature", where)
    if depth > tree.max_depth:  # decision_path allocates by it
        raise UserError(f"{where} is {depth} deep and claims {tree.max_depth}: the file is damaged")


def check_width(tree_estimator: Any, holder: Any, where: str) -> None:
    """Trees are handed rows that only the holder has checked: it must expect as many columns as they index into."""
    tree = getattr(tree_estimator, "tree_", None)
    if tree is not None and tree.n_features != getattr(holder, "n_features_in_", None):
        raise UserError(
            f"{where} takes {getattr(holder, 'n_features_in_', 'no')} features and a tree of it {tree.n_features}: the file is damaged"
        )


def check_stages(boosting: Any, where: str) -> None:
    """Gradient boosting walks its trees' memory itself and writes one column of the result per tree of a stage."""
    import numpy as np
    from sklearn.tree._tree import Tree

    stages = getattr(boosting, "estimators_", None)
    if stages is None:
        return
    for estimator in stages.flat:
        if not isinstance(getattr(estimator, "tree_", None), Tree):
            raise UserError(f"{where} holds a stage that is no tree: the file is damaged")
        check_width(estimator, boosting, where)
        if estimator.tree_.n_outputs != 1 or estimator.tree_.max_n_classes != 1:
            raise UserError(f"{where} holds a tree with more than one output: the file is damaged")
    start = boosting._raw_predict_init(np.zeros((1, int(boosting.n_features_in_)), dtype=np.float32))
    if stages.ndim != 2 or start.shape != (1, stages.shape[1]):
        raise UserError(f"{where} has stages of another width than its start: the file is damaged")


def check_predictor(predictor: Any, where: str) -> None:
    """A `TreePredictor` of histogram boosting: children and category sets; its features are its holder's to check."""
    import numpy as np
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE

    nodes = predictor.nodes
    if not isinstance(nodes, np.ndarray) or nodes.ndim != 1 or nodes.dtype != PREDICTOR_RECORD_DTYPE:
        raise UserError(f"{where} has nodes of another layout than this scikit-learn's")
    leaf = nodes["is_leaf"] != 0
    check_tree(nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), leaf, where)
    by_category = nodes[~leaf & (nodes["is_categorical"] != 0)]
    for bitsets in (predictor.raw_left_cat_bitsets, predictor.binned_left_cat_bitsets):
        if not isinstance(bitsets, np.ndarray) or bitsets.ndim != 2 or bitsets.shape[1] != _BITSET // 32:
            raise UserError(f"{where} has category bitsets of another layout than this scikit-learn's")
        check_range(by_category["bitset_idx"].astype(np.int64), 0, len(bitsets), "category set", where)


def check_histogram_boosting(boosting: Any, where: str) -> None:
    """Features of every node, and the categories that scikit-learn sets bits for without looking."""
    import numpy as np

    rows = getattr(boosting, "_predictors", None)
    if rows is None:
        return
    mapper = boosting._bin_mapper
    categorical = np.asarray(mapper.is_categorical_).astype(bool)
    n = int(boosting._n_features) if hasattr(boosting, "_n_features") else len(categorical)
    if categorical.shape != (n,) or len(mapper.bin_thresholds_) != n:
        raise UserError(f"{where} does not fit its own binning of {len(categorical)} features: the file is damaged")
    for feature in np.flatnonzero(categorical):
        known = np.asarray(mapper.bin_thresholds_[feature], dtype=np.float64)
        if not np.all((known >= 0) & (known < _BITSET)):
            raise UserError(f"{where} has a category outside 0 … {_BITSET - 1}: the file is damaged")
    for predictor in (predictor for row in rows for predictor in row):
        check_predictor(predictor, where)
        inner = predictor.nodes[predictor.nodes["is_leaf"] == 0]
        features = inner["feature_idx"].astype(np.int64)
        check_range(features, 0, n, "feature", where)
        if np.any((inner["is_categorical"] != 0) & ~categorical[features]):
            raise UserError(f"{where} splits a number by categories: the file is damaged")
