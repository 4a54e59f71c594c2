"""Models that are already in memory, as they would be loaded from a file."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any

from audit.model import AuditedModel, OutputSpace
from audit.parameters import UserError
from audit.registry.card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.data import AuditData


def from_model(model: Any, data: AuditData, *, name: str = "model", output: OutputSpace | None = None) -> AuditedModel:
    """A torch module or a fitted scikit-learn estimator (any with its conventions) as a model to audit.

    A module is copied, and the copy frozen in evaluation mode; it is fed rows of `data` as float tensors, texts as int64 code points.

    Args:
        data: rows that it is for: they say what it is fed and which classes there are.
        output: what it answers in; by default logits of a module, and probabilities of an estimator that has them.

    Raises:
        UserError: neither of the two, or it does not fit the data.
    """
    import torch

    if isinstance(model, torch.nn.Module):
        return _module(model, data, name, output)
    if callable(getattr(model, "predict", None)):
        return _estimator(model, data, name, output)
    raise UserError(
        f"model '{name}' is a {type(model).__name__}, neither a torch module nor an estimator with predict(): wrap it in an "
        "audit.AuditedModel, or register its file by `audit model add`"
    )


def _module(model: nn.Module, data: AuditData, name: str, output: OutputSpace | None) -> AuditedModel:
    from audit.registry.loaders._shared import as_fed, audited, differentiable, one_tensor
    from audit.registry.loaders.state_dict import input_dtype

    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    weights = hashlib.sha256(repr(frozen).encode())
    for key, value in frozen.state_dict().items():
        weights.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    card = _card(name, data, data.classes, output or ("logit" if data.classes else "value"), weights.hexdigest())
    dtype = input_dtype(frozen)

    def forward(x: Tensor) -> Tensor:
        return one_tensor(frozen(as_fed(x, dtype, card.spec)), name)

    return _named(audited(card, differentiable(card.output, layers=True), forward, module=frozen), name)


def _estimator(model: Any, data: AuditData, name: str, output: OutputSpace | None) -> AuditedModel:
    import joblib

    from audit.registry.loaders.skops import of_estimator

    known = getattr(model, "classes_", None)
    classes = () if known is None or isinstance(known, list) else tuple(str(c) for c in known)
    own: OutputSpace = "value" if known is None else "probability" if hasattr(model, "predict_proba") else "label"
    return _named(of_estimator(model, _card(name, data, classes, output or own, joblib.hash(model))), name)


def _card(name: str, data: AuditData, classes: tuple[str, ...], output: OutputSpace, digest: str) -> ModelCard:
    return ModelCard(
        name="model", version=1, loader="in_memory", task="classification" if classes else "regression", classes=classes,
        spec=data.spec, output=output, capabilities=(), digest=digest,
    )  # fmt: skip


def _named(model: AuditedModel, name: str) -> AuditedModel:
    model.name = name
    return model
