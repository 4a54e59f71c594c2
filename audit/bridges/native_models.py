"""Models of scikit-learn, XGBoost and LightGBM from inside: their last step, what it is fed, and what its scores mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit.parameters import NotApplicable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.model import AuditedModel, OutputSpace

_COLUMN_WISE = frozenset(
    {
        "MaxAbsScaler", "MinMaxScaler", "PowerTransformer", "QuantileTransformer", "RobustScaler", "SimpleImputer",
        "StandardScaler",
    }
)  # fmt: skip


class NoClosedForm(NotApplicable):
    """The model is none whose Shapley values follow from its parameters; the message says why."""


@dataclass(frozen=True)
class NativeShapley:
    """Shapley values of the target's score.

    Args:
        values: ``(N, F)``.
        base_value: ``(N,)`` expected score.
        score: ``(N,)`` score by the model's own library.
        space: what the model adds up: probability, margin (signed to speak for the target), logit or value.
    """

    values: NDArray[np.float64]
    base_value: NDArray[np.float64]
    score: NDArray[np.float64]
    space: OutputSpace


def column_order(model: AuditedModel) -> list[int]:
    """Column of the input spec that stands at each place of what the native model was fitted on."""
    spec, native = model.spec, model.native
    names = getattr(native, "feature_names_in_", None)
    if names is None and type(native).__name__ == "Booster":
        names = native.feature_name() if hasattr(native, "feature_name") else native.feature_names
    own = [field.name for field in spec.fields]
    fitted_on = [str(name) for name in names] if names is not None else []
    if spec.tabular and sorted(fitted_on) == sorted(own):
        return [own.index(name) for name in fitted_on]
    return list(range(math.prod(spec.shape)))


def last_step(model: AuditedModel, x: NDArray[Any]) -> tuple[Any, Any]:
    """The model itself, or the last step of a pipeline that keeps each column to itself before; and rows ``(N, F)`` as it is fed them.

    Args:
        x: the columns are in the order the model was fitted on.

    Raises:
        NoClosedForm: a step mixes columns.
    """
    native = model.native
    rows: Any = x
    names = [str(name) for name in getattr(native, "feature_names_in_", ())]
    if sorted(names) == sorted(field.name for field in model.spec.fields):
        import pandas

        rows = pandas.DataFrame(x, columns=names)
    if type(native).__name__ == "Pipeline":
        if any(field.kind == "category" for field in model.spec.fields):
            raise NoClosedForm(f"model '{model.name}': its pipeline is fed categories, not their codes")
        for name, step in native.steps[:-1]:
            rows = _through(model, name, step, rows, x.shape)
        native = native.steps[-1][1]
    return native, rows


def _through(model: AuditedModel, name: str, step: Any, rows: Any, shape: tuple[int, ...]) -> Any:
    """Rows after one step of a pipeline that keeps every column to itself."""
    kind = type(step).__name__
    if step is None or isinstance(step, str):  # "passthrough", the only string a pipeline takes
        return rows
    library = type(step).__module__.split(".")[0]
    plain = (
        _passes(step)
        or kind in _COLUMN_WISE
        or (kind == "ColumnTransformer" and all(_passes(part) for _, part, _ in step.transformers_))
    )
    if library == "sklearn" and plain:
        after = step.transform(rows)
        in_place = kind != "ColumnTransformer" or _equal(after, rows)
        if getattr(after, "shape", None) == shape and in_place:
            return after
    raise NoClosedForm(
        f"model '{model.name}': step '{name}' ({kind}) before its last step does not keep each column to itself"
    )


def _passes(step: Any) -> bool:
    """Whether a step hands on what it is given."""
    return step == "passthrough" or (type(step).__name__ == "FunctionTransformer" and step.func is None)


def _equal(a: Any, b: Any) -> bool:
    import numpy as np

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return first.shape == second.shape and bool(np.array_equal(first, second, equal_nan=True))


def space_of(model: AuditedModel, raw: NDArray[np.float64], answers: NDArray[np.float64]) -> OutputSpace:
    """The space of the raw scores, found by the link under which they are the audited model's own answers.

    Raises:
        NoClosedForm: under none: the model does more to its input or output than its parameters know.
    """
    import numpy as np
    import torch

    def same(found: NDArray[np.float64]) -> bool:
        return found.shape == answers.shape and bool(np.allclose(found, answers, rtol=1e-4, atol=1e-5))

    scores = torch.from_numpy(raw)
    binary = raw.ndim == 1
    if model.task == "regression":
        if same(raw):
            return "value"
    elif model.output == "label":
        labels = raw > 0 if binary else raw.argmax(axis=1)
        if np.array_equal(labels.astype(np.int64), answers.reshape(len(raw)).astype(np.int64)):
            shares = not binary and bool(np.allclose(raw.sum(axis=1), 1) and (raw >= 0).all())
            return "margin" if binary else "probability" if shares else "logit"
    elif binary:
        p = scores.sigmoid().numpy()
        difference = (
            answers[:, 1] - answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 2 else answers.reshape(-1)
        )
        matches = {
            "probability": same(np.stack([1 - p, p], axis=1)),
            "margin": np.allclose(raw, difference, rtol=1e-4, atol=1e-5),
            "logit": np.allclose(raw, difference, rtol=1e-4, atol=1e-5),
        }
        if matches.get(model.output):
            return "margin"
    elif same(raw):
        return "probability" if model.output == "probability" else "logit"
    elif model.output == "probability" and same(scores.softmax(dim=1).numpy()):
        return "logit"
    raise NoClosedForm(f"model '{model.name}': its answers are not what its parameters add up to")


def of_target(
    values: NDArray[np.float64],
    base: NDArray[np.float64],
    raw: NDArray[np.float64],
    target: NDArray[np.int64],
    space: OutputSpace,
) -> NativeShapley:
    """The target's part of values ``(N, F[, C])`` and of base and raw scores ``(N[, C])``."""
    import numpy as np

    every = np.arange(len(values))
    if space == "value":
        return NativeShapley(values, base, raw, space)
    if values.ndim == 3:
        return NativeShapley(values[every, :, target], base[every, target], raw[every, target], space)
    sign = np.where(target == 1, 1.0, -1.0)
    return NativeShapley(values * sign[:, None], base * sign, raw * sign, space)
