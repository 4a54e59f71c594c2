"""The model's kind, trained again on labels that have nothing to do with their rows."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from audit.parameters import NotApplicable, UserError
from audit.rng import generator, key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.context import Context
    from audit.data import Batch
    from audit.model import AuditedModel

LEARNT = 0.95
"""Share of the permuted labels that a trained copy knows by heart, or of their variance that it explains (Adebayo et al.)."""
_BATCH = 64
_RATE = 1e-3


def retrained(model: AuditedModel, members: Batch, ctx: Context, epochs: int) -> tuple[AuditedModel, float]:
    """A copy of the model trained on the members with their labels permuted, and how much of them it learnt, 0 to 1.

    A torch module starts from new weights and is trained with Adam until it has learnt `LEARNT`, or for `epochs`. A scikit-learn
    estimator or pipeline is cloned and fitted as it was, a booster grown again with its own objective, rounds and what parameters
    its file holds. The model itself stays as it is. One training serves every check of a run, while it fits in memory.

    Raises:
        NotApplicable: the model is neither, or gives no scores to train by.
        UserError: the members lack a class.

    Source: Adebayo et al. 2018, arXiv:1810.03292, section 5.
    """
    weights = model.module.parameters() if model.module is not None else ()
    size = sum(weight.numel() * weight.element_size() for weight in weights) or 1 << 20
    return model.remembered(
        f"trained on permuted labels of {members.digest} for {epochs} epochs, seed {ctx.seed}",
        size,
        partial(_on_permuted_labels, model, members, ctx, epochs),
    )


def _on_permuted_labels(model: AuditedModel, members: Batch, ctx: Context, epochs: int) -> tuple[AuditedModel, float]:
    from audit.bridges.global_generators import seeded

    labels = generator(ctx.seed, "permuted labels").permutation(members.labels)
    with seeded(_seed(ctx, "training on permuted labels")):
        if model.module is not None:
            other = _trained(model, model.tensor(members), labels, ctx, epochs)
        else:
            other = _with_native(model, _fitted(model, members.x, labels))
    return other, _learnt(other, model.tensor(members), labels)


def _seed(ctx: Context, purpose: str) -> int:
    """31 bits, the same for every check of a run."""
    return key(ctx.seed, purpose) % (2**31 - 1)


def _learnt(model: AuditedModel, x: Tensor, labels: NDArray[Any]) -> float:
    """Share of labels predicted, or of their variance explained."""
    import numpy as np

    answers = model.predict(x).double().cpu().numpy()
    if model.task == "classification":
        return float((answers == labels).mean())
    return max(0.0, 1 - float(((answers - labels) ** 2).mean() / max(float(np.var(labels)), 1e-300)))


# --- torch -------------------------------------------------------------------------------------------------------


def _trained(model: AuditedModel, x: Tensor, labels: NDArray[Any], ctx: Context, epochs: int) -> AuditedModel:
    import math

    import torch

    from audit.checks.explanation._randomised import layers_from_top, randomised

    if model.output == "label":
        raise NotApplicable(f"model '{model.name}' gives labels only: there is nothing to train it by")
    other = randomised(model, layers_from_top(model, x), x, _seed(ctx, "new weights"))
    module = other.module
    assert module is not None
    y = torch.as_tensor(labels, device=x.device)
    optimiser = torch.optim.Adam(module.requires_grad_(True).parameters(), lr=_RATE)
    orders = torch.Generator().manual_seed(_seed(ctx, "order of training"))
    try:
        for epoch in range(epochs):
            module.train()
            # Even parts: a last one of a single row would have no variance to normalise by.
            parts = torch.randperm(len(x), generator=orders).tensor_split(math.ceil(len(x) / _BATCH))
            for part in parts:
                loss = _loss(other, x[part], y[part], y)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            module.eval()
            ctx.progress(epoch + 1, epochs, "epochs on permuted labels")
            if _learnt(other, x, labels) > LEARNT:
                break
    finally:
        module.eval().requires_grad_(False)
    return other


def _loss(model: AuditedModel, x: Tensor, y: Tensor, every: Tensor) -> Tensor:
    import torch
    from torch.nn.functional import cross_entropy, mse_loss

    with torch.enable_grad():
        if model.task == "classification":
            loss = cross_entropy(model.logits(x), y)
        else:
            spread = every.double().var().clamp_min(1e-12).to(x.dtype)
            loss = mse_loss(model.target_score(x, torch.zeros_like(y)), y.to(x.dtype)) / spread
    if not loss.requires_grad:
        raise NotApplicable(f"model '{model.name}' computes without gradients: it cannot be trained again")
    return loss


# --- scikit-learn and boosters -----------------------------------------------------------------------------------


def _fitted(model: AuditedModel, x: NDArray[Any], labels: NDArray[Any]) -> Any:
    """The model's own object, fitted anew."""
    native = model.native
    if type(native).__name__ == "Booster":
        return _grown(model, x, labels)
    if not hasattr(native, "fit"):
        raise NotApplicable(
            f"model '{model.name}' is neither a torch module, a scikit-learn estimator nor a booster: it cannot be trained again"
        )
    import sklearn.base
    from sklearn.exceptions import ConvergenceWarning

    from audit.registry.loaders.skops import row_layout

    given = labels
    if model.task == "classification":
        import numpy as np

        if missing := sorted(set(range(len(model.classes))) - set(np.unique(labels).tolist())):
            raise UserError(
                f"the members lack class '{model.classes[missing[0]]}': a model fitted on them would not know it"
            )
        given = native.classes_[labels]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # how much it learnt is told in a caution
        return sklearn.base.clone(native).fit(row_layout(native, model.spec, model.name)(x), given)


def _grown(model: AuditedModel, x: NDArray[Any], labels: NDArray[Any]) -> Any:
    """A booster grown again on rows ``(N, *shape)``."""
    import numpy as np

    from audit.bridges.native_models import column_order

    booster = model.native
    rows = np.asarray(x.reshape(len(x), -1)[:, column_order(model)], dtype=np.float64)
    return (_grown_xgboost if type(booster).__module__.startswith("xgboost") else _grown_lightgbm)(
        booster, rows, labels
    )


def _grown_xgboost(booster: Any, rows: NDArray[np.float64], labels: NDArray[Any]) -> Any:
    """XGBoost keeps objective and rounds in its files, and no other parameter: those are its defaults."""
    import json

    import xgboost

    learner = json.loads(booster.save_config())["learner"]
    parameters = {"objective": learner["objective"]["name"], "nthread": 1, "seed": 0}
    if (classes := int(learner["learner_model_param"]["num_class"])) > 1:
        parameters["num_class"] = classes
    matrix = xgboost.DMatrix(
        rows, labels, feature_names=booster.feature_names, feature_types=booster.feature_types,
        enable_categorical="c" in (booster.feature_types or ()),
    )  # fmt: skip
    return xgboost.train(parameters, matrix, num_boost_round=booster.num_boosted_rounds())


def _grown_lightgbm(booster: Any, rows: NDArray[np.float64], labels: NDArray[Any]) -> Any:
    import lightgbm

    elsewhere = ("num_iterations", "categorical_feature")
    kept = {name: value for name, value in booster.params.items() if name not in elsewhere}
    text = booster.dump_model()
    own = {
        "objective": text["objective"].split()[0],
        "verbosity": -1,
        "num_threads": 1,
        "seed": 0,
        "deterministic": True,
    }
    parameters = {**kept, **own}
    if text["num_class"] > 1:
        parameters["num_class"] = text["num_class"]
    categorical = booster.params.get("categorical_feature") or "auto"
    data = lightgbm.Dataset(rows, labels, feature_name=booster.feature_name(), categorical_feature=categorical)
    return lightgbm.train(parameters, data, num_boost_round=booster.current_iteration())


def _with_native(model: AuditedModel, fitted: Any) -> AuditedModel:
    """The model with another object of its library in place of its own; whatever the model does around that stays.

    As with a torch module, the model's own object answers with the other one's state, for the time of a pass: what the model does
    around it holds on to the object.
    """
    from audit.model import AuditedModel

    own = model.native

    def forward(x: Tensor) -> Tensor:
        before = own.__dict__
        own.__dict__ = fitted.__dict__
        try:
            return model._forward(x)
        finally:
            own.__dict__ = before

    return model.variant(AuditedModel, native=fitted, _forward=forward)
