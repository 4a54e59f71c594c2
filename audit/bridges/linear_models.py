"""Linear models of scikit-learn: Shapley values from their coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audit.bridges.native_models import NativeShapley, NoClosedForm, column_order, last_step, of_target, space_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.model import AuditedModel


def linear_shapley(
    model: AuditedModel, x: NDArray[Any], target: NDArray[np.int64], absent: NDArray[Any]
) -> NativeShapley:
    """Coefficient times distance from the mean of what stands for absent, after the steps that keep each column to itself.

    Args:
        x: ``(N, *shape)``.
        target: ``(N,)``; ignored for a regression.
        absent: ``(B, *shape)`` the same for all rows.

    Raises:
        NoClosedForm: `model.native` has no coefficients, mixes columns before them, or does more to its score.
    """
    import numpy as np
    import torch

    order = column_order(model)
    estimator, ready = last_step(model, x.reshape(len(x), -1)[:, order])
    _, others = last_step(model, absent.reshape(len(absent), -1)[:, order])
    weights, offset = _coefficients(model, estimator, len(order))
    rows, others = (np.asarray(part, dtype=np.float64) for part in (ready, others))
    raw = rows @ weights.T + offset
    raw = raw[:, 0] if raw.shape[1] == 1 else raw
    space = space_of(model, raw, model.scores(torch.as_tensor(x)).double().cpu().numpy())
    mean = others.mean(axis=0)
    values = np.zeros((len(rows), len(order), len(weights)))
    values[:, order] = (rows - mean)[:, :, None] * weights.T
    base = np.broadcast_to(weights @ mean + offset, (len(rows), len(weights)))
    if len(weights) == 1:
        values, base = values[:, :, 0], base[:, 0]
    return of_target(values, base, raw, target, space)


def _coefficients(model: AuditedModel, estimator: Any, columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(C, F)`` and ``(C,)`` of an estimator of scikit-learn; C is 1 for a regression or a margin."""
    import numpy as np

    weights = getattr(estimator, "coef_", None)
    if type(estimator).__module__.split(".")[0] != "sklearn" or not isinstance(weights, np.ndarray):
        what = (
            "it is no linear estimator of scikit-learn"
            if estimator is None
            else f"its {type(estimator).__name__} is not linear"
        )
        raise NoClosedForm(f"model '{model.name}': {what}")
    weights = weights.reshape(-1, weights.shape[-1]).astype(np.float64)
    if weights.shape[1] != columns:
        raise NoClosedForm(f"model '{model.name}': its {type(estimator).__name__} is not linear in its columns")
    return weights, np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64).reshape(-1), (len(weights),))
