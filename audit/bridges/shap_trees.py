"""shap: exact Shapley values of tree ensembles (scikit-learn, XGBoost, LightGBM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from audit.bridges import shap as bridge
from audit.bridges.leaf_games import Leaves, leaf_shapley, leaves
from audit.bridges.native_models import NativeShapley, NoClosedForm, column_order, last_step, of_target, space_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.model import AuditedModel

Perturbation = Literal["interventional", "path_dependent"]

_FORESTS = frozenset(
    f"{kind}{task}"
    for kind in ("DecisionTree", "ExtraTree", "RandomForest", "ExtraTrees", "GradientBoosting", "HistGradientBoosting")
    for task in ("Classifier", "Regressor")
)


def tree_shap(
    model: AuditedModel,
    x: NDArray[Any],
    target: NDArray[np.int64],
    background: NDArray[Any],
    perturbation: Perturbation = "interventional",
) -> NativeShapley:
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
        NoClosedForm: `model.native` is none, mixes columns before its trees, or does not add up to the model's own answers.

    Source: Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9.
    """
    import numpy as np
    import torch

    order = column_order(model)
    trees, ready = _trees(model, x.reshape(len(x), -1)[:, order])
    raw = _raw(trees, ready)
    space = space_of(model, raw, model.scores(torch.as_tensor(x)).double().cpu().numpy())
    inputs = _fed(trees, ready)
    errors = bridge.library().utils._exceptions
    try:
        if perturbation == "interventional":
            _, others = _trees(model, background.reshape(len(background), -1)[:, order])
            by_tree = _interventional(model, trees, inputs, _fed(trees, others))
        else:
            by_tree = _by_path(trees, inputs)
    except (NotImplementedError, errors.InvalidModelError, errors.ExplainerError) as error:
        why = " ".join(str(error).split())
        raise NoClosedForm(f"model '{model.name}': Tree SHAP does not cover it: {why}") from error
    values = np.zeros_like(by_tree[0])
    values[:, order] = by_tree[0]
    base = np.broadcast_to(by_tree[1], (len(x), *values.shape[2:]))
    return of_target(values, base, raw, target, space)


def _fed(trees: Any, rows: Any) -> NDArray[np.float64]:
    """Rows as the trees see them: XGBoost rounds to float32."""
    import numpy as np

    given = np.asarray(rows, dtype=np.float64)
    return given.astype(np.float32).astype(np.float64) if type(trees).__module__.startswith("xgboost") else given


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
    """Interventional values ``(N, F[, C])`` and base values ``([C])``.

    shap reads the trees; the values are our own. shap's narrow thresholds to float32 and send inputs close to one down the wrong
    branch (shap#5116), walk every tree for every pair of a row and a background row, and add up the classes of a LightGBM booster.
    """
    import numpy as np

    # Once for all chunks of rows; not counted, for the leaves are about as large as the model.
    ensembles = model.remembered(f"leaves of {id(trees)}", 0, lambda: [_read(model, part) for part in _by_class(trees)])
    found = [
        leaf_shapley(leaves, *(part.astype(dtype).astype(np.float64) for part in (x, background)))
        for leaves, _, dtype in ensembles
    ]
    values = np.concatenate([part for part, _ in found], axis=2)
    base = np.concatenate([part + offset for (_, part), (_, offset, _) in zip(found, ensembles, strict=True)])
    return (values[:, :, 0], base[0]) if values.shape[2] == 1 else (values, base)


def _by_class(trees: Any) -> list[Any]:
    """The ensemble as shap reads it; of a LightGBM booster of several classes, the trees of each."""
    if type(trees).__module__.startswith("lightgbm") and type(trees).__name__ == "Booster":
        classes = trees.num_model_per_iteration()
        if classes > 1:
            from shap.explainers._tree import SingleTree

            grown = [SingleTree(tree) for tree in trees.dump_model()["tree_info"]]
            return [grown[c::classes] for c in range(classes)]
    return [trees]


def _read(model: AuditedModel, trees: Any) -> tuple[Leaves, NDArray[np.float64], Any]:
    """Leaves, what is added to them ``(C,)``, and the type that inputs are compared in."""
    import numpy as np

    ensemble = bridge.library().TreeExplainer(trees, feature_perturbation="tree_path_dependent").model
    if ensemble.trees is None:
        raise NoClosedForm(f"model '{model.name}': Tree SHAP does not cover its splits: shap cannot read them")
    by_category = ensemble.threshold_types[ensemble.children_left >= 0] != 0
    if by_category.any() or ensemble.cat_feature_indices is not None:
        raise NoClosedForm(f"model '{model.name}': splits on categories need the perturbation 'path_dependent'")
    whole = [
        np.asarray(part, dtype=np.int64)
        for part in (ensemble.children_left, ensemble.children_right, ensemble.children_default, ensemble.features)
    ]
    real = [np.asarray(part, dtype=np.float64) for part in (ensemble.thresholds, ensemble.values)]
    try:
        found = leaves(whole[0], whole[1], whole[2], whole[3], real[0], real[1])
    except OverflowError as error:
        raise NoClosedForm(f"model '{model.name}': Tree SHAP does not cover {error}") from error
    offset = np.broadcast_to(np.asarray(ensemble.base_offset, dtype=np.float64), (found.value.shape[1],))
    return found, offset, ensemble.input_dtype


def _trees(model: AuditedModel, x: NDArray[Any]) -> tuple[Any, Any]:
    """The tree ensemble, and rows ``(N, F)`` as it is fed them; the columns are in the order it was fitted on."""
    native, rows = last_step(model, x)
    library, kind = type(native).__module__.split(".")[0], type(native).__name__
    if library in ("xgboost", "lightgbm") or (library == "sklearn" and kind in _FORESTS):
        return native, rows
    what = (
        f"its {kind} is no tree ensemble that Tree SHAP covers"
        if native is not None
        else "its own object is not known: a closed form reads a model of scikit-learn, XGBoost or LightGBM"
    )
    raise NoClosedForm(f"model '{model.name}': {what}")


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
