"""What a scikit-learn model holds, checked where its compiled code would follow it without looking.

skops vouches for the *types* in a file, not for what they hold. Checked here: decision trees, the stages of gradient boosting, histogram
trees, support vectors, sparse matrices.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from typing import Any

from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders._sklearn_support_vectors import check_support_vectors
from audit.registry.loaders._sklearn_trees import (
    check_decision_tree,
    check_histogram_boosting,
    check_predictor,
    check_stages,
    check_width,
)


def check_contents(estimator: Any, ref: str) -> None:
    """Check everything that an estimator holds, at any depth; nothing predicts before.

    Raises:
        UserError: indices are out of range, a tree is none, or parts do not fit each other.
    """
    import scipy.sparse
    from sklearn.ensemble._gb import BaseGradientBoosting
    from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.svm._base import BaseLibSVM
    from sklearn.tree._tree import Tree

    boosted = []
    for held in _everything(estimator):
        where = f"{ref}: a {type(held).__name__}"
        if isinstance(held, Tree):
            check_decision_tree(held, where)
        elif isinstance(held, BaseHistGradientBoosting):
            check_histogram_boosting(held, where)
        elif isinstance(held, TreePredictor):
            check_predictor(held, where)
        elif isinstance(held, BaseGradientBoosting):
            boosted.append((held, where))
        elif isinstance(held, BaseLibSVM):
            check_support_vectors(held, where)
        elif isinstance(getattr(held, "tree_", None), Tree):
            check_width(held, held, where)
        elif scipy.sparse.issparse(held):
            _check_sparse(held, where)
    for held, where in boosted:  # last, for it asks the models inside
        check_stages(held, where)


def _everything(root: Any) -> Iterator[Any]:
    """Every object that an estimator refers to, each once."""
    import numpy as np

    seen, open_objects = {id(root)}, [root]
    while open_objects:
        held = open_objects.pop()
        yield held
        # the garbage collector does not see into object arrays
        inner = list(held.flat) if isinstance(held, np.ndarray) and held.dtype == object else gc.get_referents(held)
        for part in inner:
            if id(part) not in seen and not isinstance(
                part, type | types.ModuleType | types.FunctionType | types.CodeType
            ):
                seen.add(id(part))
                open_objects.append(part)


def _check_sparse(matrix: Any, where: str) -> None:
    """Indices of a sparse matrix: scipy looks at them only when told to."""
    try:
        compressed = matrix if matrix.format in ("csr", "csc") else matrix.tocsr()
        compressed.check_format(full_check=True)
    except (ValueError, IndexError) as error:
        raise UserError(f"{where} points outside itself: the file is damaged ({one_line(error)})") from error
