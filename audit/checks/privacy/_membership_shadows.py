"""Membership attacks that ask models trained with and without a row: who is challenged, what the shadows say, how alike they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.data import AuditData, Batch
    from audit.model import AuditedModel
    from audit.privacy.shadow_models import Answers, ShadowModels

POPULATION = 2500
"""Policy: population rows that RMIA compares with, at most; more change little (the paper's own finding)."""
UNLIKE = 0.05
"""Policy: difference in accuracy from which on shadows are called unlike the model under audit."""


@dataclass(frozen=True)
class Challenge:
    """Rows that an adversary is asked about, members and non-members in equal number, and what it knows besides.

    Args:
        members: which rows of the training data, in order.
        others: which rows of the test data, in order.
        pool: the challenged members, the challenged non-members, then further members: shadows are trained on halves of it.
        population: rows that neither the model nor a shadow was trained on; empty where no attack needs them.
    """

    members: NDArray[np.intp]
    others: NDArray[np.intp]
    pool: Batch
    population: Batch

    @property
    def n(self) -> int:
        """Members challenged, and non-members."""
        return len(self.members)


def draw_challenge(data: AuditData, most: int, rng: np.random.Generator, *, with_population: bool) -> Challenge:
    """Draw the rows to challenge.

    The pool is filled up to twice `most` with members that are not challenged: where non-members are few, shadows would else learn
    from far fewer rows than the model did.

    Args:
        most: members, and non-members, at most.
        with_population: set rows aside for RMIA: those of the data's population, else a quarter of the non-members.

    Raises:
        UserError: no member or non-member is left to challenge.
    """
    import numpy as np

    assert data.train is not None
    members, others = rng.permutation(len(data.train)), rng.permutation(len(data.test))
    population = data.test.take(np.zeros(0, dtype=np.intp))
    if with_population and data.population is not None:
        population = data.population.take(np.sort(rng.permutation(len(data.population))[:POPULATION]))
    elif with_population:
        aside = min(POPULATION, len(others) // 4)
        population, others = data.test.take(np.sort(others[:aside])), others[aside:]
    n = min(most, len(members), len(others))
    if n < 1 or (with_population and not len(population)):
        raise UserError(
            f"{len(members)} members and {len(data.test)} non-members are too few to challenge some and compare them with others"
        )
    filled = min(len(members) - n, 2 * (most - n))
    inside, outside, more = np.sort(members[:n]), np.sort(others[:n]), np.sort(members[n : n + filled])
    pool = joined(data.train.take(inside), data.test.take(outside), data.train.take(more))
    return Challenge(inside, outside, pool, population)


def joined(*parts: Batch) -> Batch:
    """Rows of several batches in one; an id that is there already gets the part's number behind it."""
    import numpy as np

    from audit.data import Batch

    ids: list[str] = []
    seen: set[str] = set()
    for number, part in enumerate(parts):
        own = [f"{name}+{number}" if name in seen else name for name in part.ids]
        ids += own
        seen.update(own)
    return Batch(np.concatenate([p.x for p in parts]), np.concatenate([p.labels for p in parts]), tuple(ids))


def lira_scores(target: NDArray[np.float64], shadows: ShadowModels, count: int, *, online: bool) -> NDArray[np.float64]:
    """Of the challenged rows, which stand first in the shadows' pool: ``(2n,)``.

    Args:
        target: ``(2n,)`` confidence of the model under audit.
        count: shadows to ask.
    """
    from audit.privacy.reference_attacks import lira_offline, lira_online, within_resolution

    rows = slice(0, len(target))
    own, others = within_resolution(target, shadows.pool.confidence[:count, rows])
    return (lira_online if online else lira_offline)(own, others, shadows.inside[:count, rows])


def rmia_scores(
    target: NDArray[np.float64],
    shadows: ShadowModels,
    count: int,
    population: tuple[NDArray[np.float64], Answers],
    *,
    gamma: float,
    a: float,
) -> NDArray[np.float64]:
    """Of the challenged rows, which stand first in the shadows' pool: ``(2n,)``.

    Args:
        target: ``(2n,)`` confidence of the model under audit.
        count: reference models to ask, each row unseen by half of them.
        population: confidence of the model under audit, ``(Z,)``, and what every shadow answers.
    """
    from scipy.special import expit

    from audit.privacy.reference_attacks import rmia_offline

    rows = slice(0, len(target))
    return rmia_offline(
        expit(target), expit(shadows.pool.confidence[:count, rows]), shadows.inside[:count, rows],
        expit(population[0]), expit(population[1].confidence[:count]), gamma=gamma, a=a,
    )  # fmt: skip


def likeness(model: AuditedModel, shadows: ShadowModels, train: float, test: float) -> tuple[str, ...]:
    """What must be known of the shadows to read what attacks with them found.

    Args:
        train, test: accuracy of the model under audit on its members and on non-members.
    """
    import numpy as np

    size = round(float(shadows.inside.sum(axis=1).mean()))
    told = [f"{len(shadows)} shadow models of {size:,} rows each; {shadows.note}"]
    own, rest = float(np.mean(shadows.accuracy_inside)), float(np.mean(shadows.accuracy_outside))
    if max(abs(own - train), abs(rest - test)) > UNLIKE:
        told.append(
            f"the shadow models are unlike this model: {own:.1%} of their own rows right and {rest:.1%} of others, this model "
            f"{train:.1%} and {test:.1%}; attacks with them may find less than there is: give the 'recipe' it was trained by"
        )
    if _with_noise(model):
        told.append(
            "this model was trained with differential privacy, the shadow models without: attacks with them may find less than there is"
        )
    return tuple(told)


def _with_noise(model: AuditedModel) -> bool:
    """Whether the model's ledger speaks of noise."""
    if model.ledger is None:
        return False
    from audit.privacy.accounting import parse_training_record

    record = parse_training_record(json.loads(model.ledger), f"privacy ledger of model '{model.name}'")
    return any(stretch.sigma > 0 for stretch in record.stretches)
