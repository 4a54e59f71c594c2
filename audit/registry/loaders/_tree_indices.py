"""Trees as arrays of child indices, which native code follows without looking: checked before it may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_tree(left: NDArray[np.int64], right: NDArray[np.int64], leaf: NDArray[np.bool_], where: str) -> int:
    """Check that what is reached from node 0 is a tree.

    Every child of an inner node lies in ``1 … n-1`` and no node is the child of two: then no path from the root returns or
    leaves the array.

    Args:
        left, right: child indices ``(n,)``; those of leaves are not looked at.
        leaf: which nodes are leaves ``(n,)``.

    Returns:
        The depth: edges from the root to the deepest leaf.

    Raises:
        UserError: a child is out of range, or is reached twice.
    """
    import numpy as np

    n = len(left)
    if not n:
        raise UserError(f"{where} has no nodes")
    inner = np.flatnonzero(~leaf)
    children = np.concatenate([left[inner], right[inner]])
    if children.size and (children.min() < 1 or children.max() >= n):
        raise UserError(f"{where} points outside its {n} nodes: the file is damaged or was made to crash its library")
    if children.size and np.bincount(children).max() > 1:
        raise UserError(f"{where} reaches a node twice: the file is damaged or was made to hang its library")
    depth, level = 0, inner[inner == 0]
    while level.size:
        depth += 1
        below = np.concatenate([left[level], right[level]])
        level = below[~leaf[below]]
    return depth


def check_range(values: NDArray[np.int64], low: int, high: int, what: str, where: str) -> None:
    """Check that ``low <= values < high``.

    Raises:
        UserError: one is not.
    """
    if values.size and (values.min() < low or values.max() >= high):
        raise UserError(
            f"{where} has a {what} outside {low} … {high - 1}: the file is damaged or was made to crash its library"
        )
