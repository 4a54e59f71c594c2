"""The control of every comparison of members with rows that were held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.finding import Measurement, Metric, RankAuc

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from audit.context import Context
    from audit.data import Batch
    from audit.model import AuditedModel
    from audit.privacy.blind_control import BlindAuc

BLIND_AUC = Metric(name="blind_auc", title="AUC of inputs alone (control)", better="neither", kinds=("rank_auc",))


def blind_control(
    model: AuditedModel, members: Batch, held_out: Batch, ctx: Context, metrics: tuple[str, ...]
) -> Measurement:
    """How well inputs alone tell members from held-out rows; where they do, the `metrics` mean nothing.

    It is keyed by the seed and the rows alone, so that every check of a run is given the same, computed once.

    Raises:
        UserError: fewer than 20 of a kind.
    """
    from audit.privacy.blind_control import blind_auc
    from audit.rng import generator

    key = f"{ctx.seed} {members.digest} {held_out.digest}"
    found = model.remembered(
        f"blind control {key}",
        1,
        lambda: blind_auc(inputs_of(members), inputs_of(held_out), generator("blind control", key)),
    )
    return blind_measurement(found, metrics, "held-out rows")


def blind_measurement(found: BlindAuc, metrics: Iterable[str], others: str) -> Measurement:
    """A blind control as measured; where its interval excludes 0.5 it voids the `metrics`.

    Args:
        others: what the rows are called that are no members.
    """
    low, high = found.interval()
    why = (
        f"inputs alone tell members from {others} (blind AUC {found.value:.3f}, 95 % interval {low:.3f} to {high:.3f})"
    )
    seen = f"a shift that inputs alone tell with an AUC below {found.detectable:.3f} would go unseen with so few rows"
    return Measurement(
        metric="blind_auc",
        estimate=RankAuc(value=found.value, n_pos=found.n_members, n_neg=found.n_non_members),
        voids=dict.fromkeys(metrics, why) if not low <= 0.5 <= high else {},
        cautions=(seen,),
    )


def inputs_of(batch: Batch) -> NDArray[np.float64]:
    """Rows as flat numbers, ``(N, D)``."""
    return batch.x.reshape(len(batch), -1).astype(float)
