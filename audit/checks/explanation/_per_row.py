"""A number of each row as a measurement: its mean with an interval over rows, and the rows behind it as evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from audit.finding import EvidenceRef, Mean, Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context


def outcomes(
    ctx: Context, metric: str, values: Tensor, ids: Sequence[str], dims: Mapping[str, str] | None = None
) -> EvidenceRef:
    """Store one number per row, ``(N,)``."""
    writer = ctx.evidence("-".join([metric, *(dims or {}).values()]), "outcomes", title=metric)
    writer.append(ids, value=values.double())
    return writer.ref


def row_mean(
    ctx: Context,
    metric: str,
    values: Tensor,
    ids: Sequence[str],
    *,
    dims: Mapping[str, str] | None = None,
    cautions: tuple[str, ...] = (),
    shown: tuple[EvidenceRef, ...] = (),
) -> Measurement:
    """The mean over rows.

    Args:
        values: ``(N,)``.
        shown: evidence beside the rows themselves.
    """
    from audit.stats import mean_and_se

    value, se, n = mean_and_se(values.double().cpu().numpy())
    return Measurement(
        metric=metric,
        estimate=Mean(value=value, se=se, n=n),
        dims=dict(dims or {}),
        evidence=(outcomes(ctx, metric, values, ids, dims), *shown),
        cautions=cautions,
    )


def kept_rows(keep: Tensor, ids: Sequence[str], why: str) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Positions and ids of the rows that a number can be given for, and a caution where some are left out.

    Args:
        keep: ``(N,)`` bool.
        why: what is the matter with the others: ``hold no word``.

    Raises:
        ArithmeticError: no row is left.
    """
    places = keep.nonzero().flatten().cpu()
    if not len(places):
        raise ArithmeticError(f"all {len(ids)} rows {why}: there is nothing to measure")
    left_out = len(ids) - len(places)
    cautions = (f"{left_out} of {len(ids)} rows {why} and are left out",) if left_out else ()
    return places, tuple(ids[i] for i in places.tolist()), cautions
