"""A check run on a model of digits, and its measurements by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from toys import audited, context, data, digits, trained_cnn

from audit.checks import Check
from audit.data import AuditData
from audit.finding import Measurement, Proportion, part_name
from audit.model import AuditedModel

DIGITS = (0.0, 16.0)


def measured(
    check: Check, model: AuditedModel, rows: AuditData, tmp_path: Path, seed: int = 0
) -> dict[str, Measurement]:
    """Every measurement, by ``metric`` or ``metric[key=value]``: each once, and of a kind that the check declares."""
    found = list(check.run(model, rows, context(tmp_path, seed=seed)))
    by_name = {part_name(m.metric, m.dims): m for m in found}
    assert len(by_name) == len(found)
    declared = {metric.name: metric.kinds for metric in check.metrics}
    assert all(m.estimate.kind in declared[m.metric] for m in found)
    return by_name


def value(measurement: Measurement) -> tuple[int, int]:
    """``(k, n)`` of a share."""
    assert isinstance(measurement.estimate, Proportion)
    return measurement.estimate.k, measurement.estimate.n


def some_digits(n: int = 150) -> AuditData:
    """The first test rows of the digits, without members."""
    return data(digits().test.take(np.arange(n)), n_classes=10, bounds=DIGITS)


def digit_model(forward: Callable[[Tensor], Tensor] | nn.Module | None = None, **kw: Any) -> AuditedModel:
    """The trained net, or any other function of digits."""
    return audited(forward or trained_cnn(), (1, 8, 8), 10, bounds=DIGITS, **kw)
