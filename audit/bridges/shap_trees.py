"""shap: exact Shapley values of tree ensembles (scikit-learn, XGBoost, LightGBM)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audit.bridges import shap as bridge
from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.model import AuditedModel, OutputSpace

Perturbation = Literal["interventional", "path_dependent"]


class NoTreeModel(UserError):
    """The model is no tree ensemble that Tree SHAP explains; the message says why."""


@dataclass(frozen=True)
class TreeShapley:
    """Tree SHAP of the target's score.

    Args:
        values: ``(N, F)``.
        base_value: ``(N,)`` expected score.
        score: ``(N,)`` score by the library's own prediction, not by shap.
        space: what the trees add up to: probability, margin (signed to speak for the target), logit or value.
    """

    values: NDArray[np.float64]
    base_value: NDArray[np.float64]
    score: NDArray[np.float64]
    space: OutputSpace


_FORESTS = frozenset(
    f"{kind}{task}"
    for kind in ("DecisionTree", "ExtraTree", "RandomForest", "ExtraTrees", "GradientBoosting", "HistGradientBoosting")
    for task in ("Classifier", "Regressor")
)
_COLUMN_WISE = frozenset(
    {
        "MaxAbsScaler", "MinMaxScaler", "PowerTransformer", "QuantileTransformer", "RobustScaler", "SimpleImputer",
        "StandardScaler",
    }
)  # fmt: skip


def tree_shap(
    model: AuditedModel,
    x: NDArray[Any],
    target: NDArray[np.int64],
    background: NDArray[Any],
    perturbation: Perturbation = "interventional",
) -> TreeShapley:
    """Exact Shapley values of a tree ensemble (scikit-learn, XGBoost, LightGBM).

    *Interventional*: absent features take the values of background rows, the game that the other methods estimate.
    *Path-dependent*: they follow the training rows' shares down the trees; the background is not used.

    A scikit-learn pipeline is explained through its last step where the steps before it keep each column to itself: then a
    coalition of inputs is the same coalition of transformed inputs, and the values are those of the whole pipeline.

    Args:
        x: ``(N, *shape)`` float64 inputs; category codes, NaN for missing. Trees see them flat, as F features.
        target: ``(N,)``; ignored for a regression.
        background: ``(M, *shape)``; all rows are used.

    Raises:
        NoTreeModel: `model.native` is none, mixes columns before its trees, or does not add up to the model's own answers.

    Source: Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9.
    """
    import numpy as np
    import torch

    order = _order(model)
    trees, ready = _last_step(model, x.reshape(len(x), -1)[:, order])
    _, base_rows = _last_step(model, background.reshape(len(background), -1)[:, order])
    raw = _raw(trees, ready)
    space = _space(model, raw, model.scores(torch.as_tensor(x)).double().cpu().numpy())
    inputs, rows = (np.asarray(part, dtype=np.float64) for part in (ready, base_rows))
    if type(trees).__module__.startswith("xgboost"):  # it rounds what it is fed
        inputs, rows = (part.astype(np.float32).astype(np.float64) for part in (inputs, rows))
    errors = bridge.library().utils._exceptions
    try:
        by_tree = (
            _interventional(model, trees, inputs, rows) if perturbation == "interventional" else _by_path(trees, inputs)
        )
    except (NotImplementedError, errors.InvalidModelError, errors.ExplainerError) as error:
        why = " ".join(str(error).split())
        raise NoTreeModel(f"model '{model.name}': Tree SHAP does not cover it: {why}") from error
    values = np.zeros_like(by_tree[0])
    values[:, order] = by_tree[0]
    base = np.broadcast_to(by_tree[1], (len(x), *values.shape[2:]))
    return _of_target(values, base, raw, target, space)


def _order(model: AuditedModel) -> list[int]:
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


def _by_path(trees: Any, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Path-dependent values ``(N, F[, C])`` and base values ``(N[, C])``."""
    import numpy as np

    if type(trees).__module__.startswith("xgboost") and type(trees).__name__ == "Booster":
        # shap asks XGBoost too, but without the columns' types.
        found = np.asarray(trees.predict(_matrix(trees, x), pred_contribs=True), dtype=np.float64)
        return np.moveaxis(found[..., :-1], 1, -1) if found.ndim == 3 else found[:, :-1], found[..., -1]
    explained = bridge.library().TreeExplainer(trees, feature_perturbation="tree_path_dependent")(
        x, check_additivity=False
    )
    return np.asarray(explained.values, dtype=np.float64), np.asarray(explained.base_values, dtype=np.float64)


def _matrix(booster: Any, x: Any) -> Any:
    """Rows as an XGBoost booster was fed them."""
    import numpy as np
    import xgboost

    types = booster.feature_types
    return xgboost.DMatrix(
        np.asarray(x, dtype=np.float64), feature_names=booster.feature_names, feature_types=types,
        enable_categorical="c" in (types or ()),
    )  # fmt: skip


def _interventional(
    model: AuditedModel, trees: Any, x: NDArray[np.float64], background: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interventional values ``(N, F[, C])`` and base values ``([C])``."""
    import numpy as np

    if type(trees).__module__.startswith("lightgbm") and type(trees).__name__ == "Booster":
        classes = trees.num_model_per_iteration()
        if classes > 1:  # shap would add them up
            from shap.explainers._tree import SingleTree

            grown = [SingleTree(tree) for tree in trees.dump_model()["tree_info"]]
            each = [_ensemble(model, grown[c::classes], x, background) for c in range(classes)]
            return np.stack([values for values, _ in each], axis=2), np.stack([base for _, base in each])
    return _ensemble(model, trees, x, background)


def _ensemble(
    model: AuditedModel, trees: Any, x: NDArray[np.float64], background: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """shap's interventional values, with every split decided as the trees decide it.

    shap narrows thresholds to float32 here and sends inputs close to one down the wrong branch (shap#5116). Numbering each
    feature's thresholds, and giving each input the count of thresholds below it, keeps every decision and is exact in float32.
    """
    import numpy as np

    shap = bridge.library()
    masker = shap.maskers.Independent(background, max_samples=len(background))
    explainer = shap.TreeExplainer(trees, masker, feature_perturbation="interventional")
    ensemble = explainer.model
    splits = ensemble.children_left >= 0
    if (ensemble.threshold_types[splits] != 0).any():
        raise NoTreeModel(f"model '{model.name}': splits on categories need the perturbation 'path_dependent'")
    coded = [part.astype(ensemble.input_dtype).astype(np.float64) for part in (x, background)]
    numbers = np.zeros_like(ensemble.thresholds)
    for feature in range(x.shape[1]):
        here = splits & (ensemble.features == feature)
        known = np.unique(ensemble.thresholds[here])
        numbers[here] = np.searchsorted(known, ensemble.thresholds[here])
        for part in coded:
            present = ~np.isnan(part[:, feature])
            part[present, feature] = np.searchsorted(known, part[present, feature], side="left")
    ensemble.thresholds = numbers.astype(ensemble.thresholds.dtype)
    explainer.data = coded[1].astype(ensemble.input_dtype)
    values = explainer.shap_values(coded[0], check_additivity=False)
    return np.asarray(values, dtype=np.float64), np.asarray(explainer.expected_value, dtype=np.float64)


def _of_target(
    values: NDArray[np.float64],
    base: NDArray[np.float64],
    raw: NDArray[np.float64],
    target: NDArray[np.int64],
    space: OutputSpace,
) -> TreeShapley:
    """The target's part of values ``(N, F[, C])`` and of base and raw scores ``(N[, C])``."""
    import numpy as np

    every = np.arange(len(values))
    if space == "value":
        return TreeShapley(values, base, raw, space)
    if values.ndim == 3:
        return TreeShapley(values[every, :, target], base[every, target], raw[every, target], space)
    sign = np.where(target == 1, 1.0, -1.0)
    return TreeShapley(values * sign[:, None], base * sign, raw * sign, space)


def _last_step(model: AuditedModel, x: NDArray[Any]) -> tuple[Any, Any]:
    """The tree ensemble, and rows ``(N, F)`` as it is fed them; the columns are in the order it was fitted on."""
    native = model.native
    rows: Any = x
    names = [str(name) for name in getattr(native, "feature_names_in_", ())]
    if sorted(names) == sorted(field.name for field in model.spec.fields):
        import pandas

        rows = pandas.DataFrame(x, columns=names)
    if type(native).__name__ == "Pipeline":
        if any(field.kind == "category" for field in model.spec.fields):
            raise NoTreeModel(f"model '{model.name}': its pipeline is fed categories, not their codes")
        for name, step in native.steps[:-1]:
            rows = _through(model, name, step, rows, x.shape)
        native = native.steps[-1][1]
    library, kind = type(native).__module__.split(".")[0], type(native).__name__
    if library in ("xgboost", "lightgbm") or (library == "sklearn" and kind in _FORESTS):
        return native, rows
    what = (
        f"its {kind} is no tree ensemble that Tree SHAP covers" if native is not None else "its own object is not known"
    )
    raise NoTreeModel(f"model '{model.name}': {what}")


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
    raise NoTreeModel(
        f"model '{model.name}': step '{name}' ({kind}) before its trees does not keep each column to itself"
    )


def _passes(step: Any) -> bool:
    """Whether a step hands on what it is given."""
    return step == "passthrough" or (type(step).__name__ == "FunctionTransformer" and step.func is None)


def _equal(a: Any, b: Any) -> bool:
    import numpy as np

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return first.shape == second.shape and bool(np.array_equal(first, second, equal_nan=True))


def _raw(trees: Any, rows: Any) -> NDArray[np.float64]:
    """What the trees add up to, ``(N,)`` or ``(N, C)``, by the library's own prediction."""
    import numpy as np

    library, kind = type(trees).__module__.split(".")[0], type(trees).__name__
    if library == "xgboost" and kind == "Booster":
        raw = trees.predict(_matrix(trees, rows), output_margin=True)
    elif library == "xgboost":
        raw = trees.predict(rows, output_margin=True)
    elif library == "lightgbm":
        raw = trees.predict(rows, raw_score=True)
    elif kind.endswith("Regressor"):
        raw = trees.predict(rows)
    elif "Boosting" in kind:
        raw = trees.decision_function(rows)
    else:
        raw = trees.predict_proba(rows)
    raw = np.asarray(raw, dtype=np.float64)
    return raw.reshape(len(raw)) if raw.ndim == 2 and raw.shape[1] == 1 else raw


def _space(model: AuditedModel, raw: NDArray[np.float64], answers: NDArray[np.float64]) -> OutputSpace:
    """The space of the raw scores, found by the link under which they are the audited model's own answers.

    Raises:
        NoTreeModel: under none: the model does more to its input or output than the trees know.
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
    raise NoTreeModel(f"model '{model.name}': its answers are not what its trees add up to")
