"""Asking a model a few questions before it is registered: does it answer as it was declared to?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from audit.model import AuditedModel, Capability, InputSpec, NonFiniteOutput
from audit.parameters import UserError
from audit.registry.importing import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_ROWS = 8
_TOTAL = 1e-3
"""How far probabilities may add up to something other than 1: room for float16."""


def example_inputs(spec: InputSpec, n: int) -> NDArray[Any]:
    """Random valid inputs ``(n, *spec.shape)``: uniform within the bounds, standard normal columns without, any category or id."""
    import numpy as np

    rng = np.random.default_rng(0)
    if not spec.tabular:
        field = spec.fields[0]
        if field.kind == "text":
            return _example_texts(rng, n, field.shape[0])
        low, high = field.bounds or (0.0, 1.0)
        values = rng.uniform(low, high, (n, *spec.shape))
        return np.floor(values) if field.kind == "tokens" else values
    columns = []
    for field in spec.fields:
        if field.kind == "category":
            columns.append(rng.integers(0, max(1, len(field.categories)), n).astype(np.float64))
        elif field.kind == "id":
            low, high = field.bounds or (0.0, 1.0)
            columns.append(rng.integers(int(low), int(high), n, endpoint=True).astype(np.float64))
        elif field.bounds is not None:
            columns.append(rng.uniform(*field.bounds, n))
        else:
            columns.append(rng.normal(size=n))
    return np.stack(columns, axis=1)


def _example_texts(rng: np.random.Generator, n: int, length: int) -> NDArray[Any]:
    """Rows ``(n, length)`` of words of random letters, of any length down to none."""
    import numpy as np

    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", dtype=np.uint8)
    rows = letters[rng.integers(0, len(letters), (n, length))].astype(np.int32)
    ends = rng.integers(0, length, n, endpoint=True)
    rows[np.arange(length) >= ends[:, None]] = 0
    return rows


def probe(model: AuditedModel, *, fixed_mode: bool = False) -> None:
    """Feed random valid inputs and compare the answers with what was declared.

    Args:
        fixed_mode: the format cannot be put into evaluation mode: look whether its answers repeat, alone and among others.

    Raises:
        UserError: shape, number of classes or output space are not as declared, an answer is NaN or infinite, no gradient
            reaches the input of a differentiable model, or a fixed mode is training.
    """
    import torch

    x = torch.from_numpy(example_inputs(model.spec, _ROWS)).to(model.input_dtype)
    scores = _ask(model, x)
    _check_shape(model, scores)
    try:
        model.check_finite(scores)
    except NonFiniteOutput as error:
        raise UserError(f"{error}: look for NaN among its weights") from error
    _check_space(model, scores)
    alone = _ask(model, x[:1])
    if alone.shape[1:] != scores.shape[1:]:
        raise UserError(
            f"model '{model.name}' answers {tuple(alone.shape)} to one row and {tuple(scores.shape)} to {len(x)}: it must keep "
            "the batch dimension first"
        )
    if fixed_mode:
        _check_evaluation(model, scores, _ask(model, x), alone)
    if Capability.GRADIENTS in model.capabilities:
        _check_gradient(model, x)


def _ask(model: AuditedModel, x: Tensor) -> Tensor:
    try:
        return model.scores(x)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"model '{model.name}' cannot answer {len(x)} inputs of shape {tuple(x.shape[1:])}: {one_line(error)}"
        ) from error


def _check_shape(model: AuditedModel, scores: Tensor) -> None:
    shape, n, c = tuple(scores.shape), len(scores), len(model.classes)
    if model.output in ("logit", "probability"):
        if shape == (n, c):
            return
        hint = ""
        if math.prod(shape[1:]) == 1:
            hint = (
                "; a single score for two classes is output 'margin'"
                if c == 2
                else "; a single number is output 'value'"
            )
        elif len(shape) == 2:
            hint = f"; did you mean {shape[1]} classes?"
        raise UserError(f"model '{model.name}' answers shape {shape} to {n} rows; {c} classes need {(n, c)}{hint}")
    if model.output == "margin" and c != 2:
        raise UserError(f"model '{model.name}': a margin tells two classes apart, {c} were declared")
    if model.output in ("margin", "label", "value") and shape not in ((n,), (n, 1)):
        raise UserError(f"model '{model.name}' answers shape {shape} to {n} rows; output '{model.output}' needs {(n,)}")


def _check_space(model: AuditedModel, scores: Tensor) -> None:
    if model.output == "probability":
        total = scores.double().sum(dim=1)
        if (
            bool((scores < -_TOTAL).any())
            or bool((scores > 1 + _TOTAL).any())
            or bool(((total - 1).abs() > _TOTAL).any())
        ):
            raise UserError(
                f"model '{model.name}' does not answer probabilities: they lie in {float(scores.min()):.4g} … "
                f"{float(scores.max()):.4g} and add up to {float(total.min()):.4g} … {float(total.max()):.4g}; "
                "scores before the softmax are output 'logit'"
            )
    elif model.output == "logit":
        total = scores.double().sum(dim=1)
        if bool((scores >= 0).all()) and bool(((total - 1).abs() < 1e-4).all()):
            raise UserError(
                f"model '{model.name}' answers probabilities (all positive, adding up to 1), not logits: declare output "
                "'probability', or take the softmax off the model for attacks that need logits"
            )
    elif model.output == "label":
        labels = scores.reshape(-1).double()
        if (
            bool((labels != labels.round()).any())
            or bool((labels < 0).any())
            or bool((labels >= len(model.classes)).any())
        ):
            raise UserError(
                f"model '{model.name}' answers labels {float(labels.min()):g} … {float(labels.max()):g}; "
                f"{len(model.classes)} classes are the whole numbers 0 … {len(model.classes) - 1}"
            )


def _check_evaluation(model: AuditedModel, first: Tensor, second: Tensor, alone: Tensor) -> None:
    spread = float((first - first.mean()).abs().max()) or 1.0
    again, among = float((first - second).abs().max()), float((first[:1] - alone).abs().max())
    if again > 1e-6 * spread:
        raise UserError(
            f"model '{model.name}' answers the same input differently (by {again:.2g}): it seems to be in training mode (dropout); "
            "call eval() on the module and export it again"
        )
    if among > 1e-3 * spread:
        raise UserError(
            f"model '{model.name}' answers a row differently among others than alone (by {among:.2g}): it seems to be in training "
            "mode (batch norm); call eval() on the module and export it again"
        )


def _check_gradient(model: AuditedModel, x: Tensor) -> None:
    import torch

    x = x.clone().requires_grad_()
    with torch.enable_grad():
        score = model.target_score(x, torch.zeros(len(x), dtype=torch.int64)).sum()
        reached = score.requires_grad and torch.autograd.grad(score, x, allow_unused=True)[0] is not None
    if not reached:
        raise UserError(
            f"model '{model.name}': no gradient reaches its input (no_grad, NumPy or whole numbers on the way); register it as a "
            "Python callable for a black-box audit"
        )
