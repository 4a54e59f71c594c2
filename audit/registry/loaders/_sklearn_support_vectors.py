"""Support vector machines of scikit-learn, held to the sizes that libsvm takes for granted."""

from __future__ import annotations

from typing import Any

from audit.parameters import UserError
from audit.registry.loaders._tree_indices import check_range


def check_support_vectors(svm: Any, where: str) -> None:
    """Check that support vectors, their coefficients and counts fit each other.

    Source: scikit-learn, ``svm/src/libsvm/libsvm_helper.c`` (``set_model``).

    Raises:
        UserError: they do not, or the machine claims to be one of another kind.
    """
    import numpy as np

    if not hasattr(svm, "support_vectors_"):
        return
    if svm._impl != type(svm)._impl:
        raise UserError(f"{where} claims to be another kind of machine: the file is damaged")
    counts, support, vectors = np.asarray(svm._n_support), np.asarray(svm.support_), svm.support_vectors_
    n, k = len(support), len(counts)
    pairs = k * (k - 1) // 2
    classes = getattr(svm, "classes_", None)
    if k != (len(classes) if classes is not None else 2) or k < 2:
        raise UserError(f"{where} counts support vectors of {k} classes: the file is damaged")
    if classes is not None and (bool((counts < 0).any()) or int(counts.sum()) != n):
        raise UserError(f"{where} counts {int(counts.sum())} support vectors and holds {n}: the file is damaged")
    dual = svm._dual_coef_.data if svm._sparse else svm._dual_coef_
    if dual.shape != (((k - 1) * n,) if svm._sparse else (k - 1, n)):
        raise UserError(f"{where} has coefficients of another shape than its {n} support vectors: the file is damaged")
    if svm._intercept_.shape != (pairs,):
        raise UserError(f"{where} has {svm._intercept_.shape} intercepts for {k} classes: the file is damaged")
    if svm._probA.shape != svm._probB.shape or svm._probA.shape not in ((0,), (pairs,)):
        raise UserError(f"{where} has probability scales for another number of classes: the file is damaged")
    check_range(support.astype(np.int64), 0, int(svm.shape_fit_[0]), "support index", where)
    by_kernel = svm.kernel == "precomputed" or callable(svm.kernel)
    if not by_kernel and vectors.shape != (n, svm.n_features_in_):
        raise UserError(f"{where} has support vectors of shape {vectors.shape}, {n} are counted: the file is damaged")
