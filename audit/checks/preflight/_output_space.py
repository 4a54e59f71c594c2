"""What a model's scores look like, against what they are declared to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import AuditedModel

SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from adding up to 1: half-precision heads and rounded outputs stay within."""
ENOUGH = 20
"""Scores needed before "all of them lie in 0..1" says anything."""
ZEROS = 0.02
"""Share of scores that are exactly 0, with none below, from which on they are taken for the output of a ReLU."""


@dataclass(frozen=True)
class Observed:
    """What the scores look like.

    Args:
        space: in words: ``logits``, ``probabilities``, ``a sigmoid per class``, ``the output of a ReLU`` …
        fault: why they are not what is declared; empty where they fit.
        labels_hold: whether the predicted classes are right all the same.
        note: worth knowing, no fault.
    """

    space: str
    fault: str = ""
    labels_hold: bool = True
    note: str = ""


def observe_space(model: AuditedModel, scores: Tensor) -> Observed | None:
    """Compare scores ``(N, …)`` with the model's declared output space; None where no row is finite or the space is tokens."""
    if model.output == "tokens":
        return None
    wrong = _shape_fault(model, scores)
    if wrong:
        return Observed(f"shape {tuple(scores.shape)}", wrong, labels_hold=False)
    rows = scores.reshape(len(scores), -1).double()
    rows = rows[rows.isfinite().all(dim=1)]
    if not len(rows):
        return None
    if model.output == "logit":
        return _logits(rows)
    if model.output == "margin":
        return _margins(rows)
    if model.output == "probability":
        return _probabilities(rows)
    if model.output == "label":
        return _labels(rows, len(model.classes))
    return Observed("values")


def shape_fits(model: AuditedModel, scores: Tensor) -> bool:
    """Whether the scores have the shape of their declared space, so that labels can be read from them."""
    return not _shape_fault(model, scores)


def _shape_fault(model: AuditedModel, scores: Tensor) -> str:
    n, shape = len(scores), tuple(scores.shape)
    if model.output in ("logit", "probability"):
        if shape != (n, len(model.classes)):
            return f"{n} rows give scores of shape {shape}, {len(model.classes)} classes are declared: shape ({n}, {len(model.classes)}) is needed"
    elif shape not in ((n,), (n, 1)):
        return f"{n} rows give scores of shape {shape}; a {model.output} is one number per row"
    elif model.output == "margin" and len(model.classes) != 2:
        return f"a margin tells two classes apart, {len(model.classes)} are declared"
    return ""


def _within_unit(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and bool((rows <= 1).all())


def _sums_to_one(rows: Tensor) -> bool:
    return bool(((rows.sum(dim=1) - 1).abs() <= SUM_TOLERANCE).all())


def _rectified(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and float((rows == 0).double().mean()) >= ZEROS and bool((rows > 0).any())


def _logits(rows: Tensor) -> Observed:
    if _within_unit(rows) and _sums_to_one(rows):
        return Observed(
            "probabilities",
            "the scores are probabilities (0..1, adding up to 1), declared as logits: a second softmax flattens them, and the gradients of every attack with them; declare 'probability', or give the scores before the softmax",
        )
    if bool((rows <= 0).all()) and bool((rows.logsumexp(dim=1).abs() <= SUM_TOLERANCE).all()):
        return Observed("log-probabilities", note="the scores are log-probabilities, which are valid logits")
    # A class whose logit is the constant 0 (the other half of a margin) says nothing about a squashed head.
    telling = rows[:, rows.amax(dim=0) != rows.amin(dim=0)]
    if telling.numel() >= ENOUGH and _within_unit(telling):
        return Observed(
            "a sigmoid per class",
            "every score lies in 0..1 without adding up to 1: neither logits nor probabilities, but a sigmoid per class or another squashed head, where gradients fade; give the scores before it",
        )
    if telling.numel() >= ENOUGH and _rectified(telling):
        share = float((telling == 0).double().mean())
        return Observed(
            "the output of a ReLU",
            f"no score is below 0 and {share:.0%} are exactly 0: neither logits nor probabilities, but the output of a ReLU, where gradients vanish; give the scores before it",
        )
    return Observed("logits")


def _margins(rows: Tensor) -> Observed:
    if rows.numel() >= ENOUGH and _within_unit(rows):
        return Observed(
            "the probability of class 1",
            "every margin lies in 0..1: it seems to be the probability of class 1, and a margin is positive for class 1, so that every row counts as class 1; declare 'probability' with two columns, or give log-odds",
            labels_hold=False,
        )
    if rows.numel() >= ENOUGH and _rectified(rows):
        return Observed(
            "the output of a ReLU", "no margin is below 0 and some are exactly 0: the output of a ReLU, not a margin"
        )
    return Observed("margins")


def _probabilities(rows: Tensor) -> Observed:
    if not _within_unit(rows):
        low, high = float(rows.min()), float(rows.max())
        return Observed(
            "raw scores", f"the scores span {low:.4g} to {high:.4g}, declared as probabilities: declare 'logit'"
        )
    if not _sums_to_one(rows):
        sums = rows.sum(dim=1)
        return Observed(
            "a sigmoid per class",
            f"the scores of a row add up to between {float(sums.min()):.4g} and {float(sums.max()):.4g}, not to 1: a sigmoid per class, not probabilities",
        )
    return Observed("probabilities")


def _labels(rows: Tensor, n_classes: int) -> Observed:
    whole = (rows % 1 == 0) & (rows >= 0) & (rows < n_classes)
    if not bool(whole.all()):
        wrong = float(rows[~whole][0])
        return Observed(
            "other numbers", f"the model answers {wrong:g}, no index of its {n_classes} classes", labels_hold=False
        )
    return Observed("labels")
