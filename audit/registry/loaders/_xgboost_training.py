"""How an XGBoost model was trained, as far as its file can tell.

XGBoost's files keep trees and objective, not the parameters of the training. Two of them are in the trees: with gradients G and
hessians H of a node, its weight is ``w = −G / (H + lambda)``, and a leaf's value is ``eta · w``. Gradients of children add up to
their parent's, so that every split gives one linear equation in lambda, ``1 / eta`` and their product.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit.parameters import NotApplicable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUITS = 1e-3
"""Largest share of the equations' size that may be left over: the numbers in a file have seven digits."""
_UNKNOWN = "subsampling of rows and columns is unknown and left out"


def training_parameters(content: bytes, ref: str) -> tuple[dict[str, Any], str]:
    """Parameters for ``xgboost.train``, and what had to be left at the library's own default.

    Args:
        content: of a file that was checked (`read_xgboost`).

    Raises:
        NotApplicable: a booster of another kind than trees that all count alike.

    Source: Chen & Guestrin 2016, arXiv:1603.02754, equation 5 (weights of leaves).
    """
    from audit.registry.loaders._ubjson import parse_ubjson

    learner = (json.loads(content) if content[1:2] in (b'"', b" ", b"\n", b"\r", b"\t") else parse_ubjson(content))[
        "learner"
    ]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise NotApplicable(f"{ref}: the file of an XGBoost {booster['name']} does not say how it was trained")
    model = booster["model"]
    trees = [_Tree(tree) for tree in model["trees"]]
    objective = learner["objective"]
    found: dict[str, Any] = {
        "objective": objective["name"],
        "max_depth": max((tree.depth for tree in trees), default=0) or 6,
        "num_parallel_tree": int(model["gbtree_model_param"].get("num_parallel_tree", 1)),
        "min_child_weight": min([1.0, *(float(tree.lightest) for tree in trees)]),
    }
    if (classes := int(learner["learner_model_param"]["num_class"])) > 1:
        found["num_class"] = classes
    if (weight := objective.get("reg_loss_param", {}).get("scale_pos_weight")) is not None:
        found["scale_pos_weight"] = float(weight)
    solved = _shrinkage(trees)
    if solved is None:
        return found, f"trained as XGBoost does by default, to the depth of the file's trees; {_UNKNOWN}"
    solved["eta"] = min(solved["eta"] * found["num_parallel_tree"], 1.0)  # a round's trees share it
    return {**found, **solved}, f"eta, lambda and depth read from the file's trees; {_UNKNOWN}"


class _Tree:
    """Nodes of a tree as arrays."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        import numpy as np

        self.left, self.right = (np.asarray(tree[f"{side}_children"], dtype=np.int64) for side in ("left", "right"))
        self.leaf = self.left < 0
        self.weight = np.asarray(tree["base_weights"], dtype=np.float64)
        self.value = np.asarray(tree["split_conditions"], dtype=np.float64)
        """Of a leaf."""
        self.hessian = np.asarray(tree["sum_hessian"], dtype=np.float64)
        self.depth = self._depth()

    def _depth(self) -> int:
        import numpy as np

        level, depth = np.array([0]), -1
        while len(level):
            depth += 1
            inner = level[~self.leaf[level]]
            level = np.concatenate([self.left[inner], self.right[inner]])
        return depth

    @property
    def lightest(self) -> float:
        """Smallest hessian of a node below the root; infinite where there is none."""
        return float(self.hessian[1:].min()) if len(self.hessian) > 1 else float("inf")

    def equations(self) -> NDArray[np.float64]:
        """``(splits, 4)``: factors of lambda, 1 / eta and lambda / eta, and what they add up to."""
        import numpy as np

        parent = np.flatnonzero(~self.leaf)
        children = np.stack([self.left[parent], self.right[parent]])
        ends = self.leaf[children]
        inner, value = np.where(ends, 0.0, self.weight[children]), np.where(ends, self.value[children], 0.0)
        hessian = self.hessian[children]
        return np.stack(
            [
                self.weight[parent] - inner.sum(axis=0),
                -(value * hessian).sum(axis=0),
                -value.sum(axis=0),
                (inner * hessian).sum(axis=0) - self.weight[parent] * self.hessian[parent],
            ],
            axis=1,
        )  # fmt: skip


def _shrinkage(trees: list[_Tree]) -> dict[str, float] | None:
    """eta and lambda; lambda as by default where so few splits fix eta alone.

    None where the trees do not follow from any (alpha, a bound on the weights, another updater).
    """
    import numpy as np

    rows = np.concatenate([tree.equations() for tree in trees]) if trees else np.zeros((0, 4))
    if not len(rows):
        return None
    factors, total = rows[:, :3], rows[:, 3]
    penalty, inverse, product = (float(v) for v in np.linalg.lstsq(factors, total)[0])
    if (
        inverse > 0
        and abs(product - penalty * inverse) <= 0.05 * (abs(product) + inverse)
        and _solves(factors, np.array([penalty, inverse, product]), total)
    ):
        return {"eta": 1 / inverse, "lambda": max(penalty, 0.0)}
    both, rest = factors[:, 1] + factors[:, 2], total - factors[:, 0]  # of lambda = 1
    inverse = float(both @ rest / (both @ both))
    if inverse > 0 and _solves(factors, np.array([1.0, inverse, inverse]), total):
        return {"eta": 1 / inverse, "lambda": 1.0}
    return None


def _solves(factors: NDArray[np.float64], solution: NDArray[np.float64], total: NDArray[np.float64]) -> bool:
    import numpy as np

    return bool(np.linalg.norm(factors @ solution - total) <= _SUITS * np.linalg.norm(total))
