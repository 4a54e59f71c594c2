"""Columns of a table as numbers that can be compared: categories become one column per value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import InputSpec


@dataclass(frozen=True)
class EncodedColumn:
    """One column after encoding.

    Args:
        name: of the column that it comes from.
        category: the value it is 1 for; None of a number.
    """

    name: str
    category: str | None = None


def encode(x: Tensor, spec: InputSpec) -> tuple[Tensor, list[EncodedColumn]]:
    """Rows ``(N, F)`` with one column per value of each category, ``(N, E)`` float64, and what the columns are.

    Missing numbers stay NaN; a missing category is 0 in all of its columns.
    """
    parts, columns = [], []
    for j, field in enumerate(spec.fields):
        values = x[:, j].double().cpu()
        if field.kind == "category":
            parts.append((values[:, None] == torch.arange(len(field.categories))).double())
            columns += [EncodedColumn(field.name, category) for category in field.categories]
        else:
            parts.append(values[:, None])
            columns.append(EncodedColumn(field.name))
    return torch.cat(parts, dim=1), columns


def standardise(rows: Tensor, like: Tensor) -> Tensor:
    """Encoded rows with the mean and standard deviation of `like` taken off; missing values become the mean, 0.

    A column that is constant in `like` is left centred.
    """
    mean = like.nanmean(dim=0).nan_to_num()
    deviation = ((like - mean) ** 2).nanmean(dim=0).nan_to_num().sqrt()
    return ((rows - mean) / torch.where(deviation > 0, deviation, 1.0)).nan_to_num(nan=0.0)
