"""The attacks of membership inference, each as scores of members and non-members; what several need is made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from audit.finding import ThreatModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.checks.privacy._membership_shadows import Challenge
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel
    from audit.privacy.membership import RateDifference
    from audit.privacy.shadow_models import Answers, ShadowModels
    from audit.recipe import Recipe

AttackName = Literal["loss", "class_threshold", "label_gap", "rmia", "lira", "lira_offline", "label_only"]
WITH_SHADOWS: frozenset[AttackName] = frozenset({"rmia", "lira", "lira_offline"})
FROM_LABELS: frozenset[AttackName] = frozenset({"label_gap", "label_only"})
PER_RECORD: tuple[AttackName, ...] = ("lira", "lira_offline", "rmia", "loss", "label_only")
"""Attacks that rank every record that they are asked about, the most telling first."""


class Settings(Protocol):
    """Parameters of the attacks, as `privacy.membership_inference` documents them."""

    @property
    def attacks(self) -> tuple[AttackName, ...]: ...
    @property
    def shadows(self) -> int: ...
    @property
    def references(self) -> int: ...
    @property
    def recipe(self) -> Recipe | None: ...
    @property
    def challenges(self) -> int: ...
    @property
    def gamma(self) -> float: ...
    @property
    def a(self) -> float: ...
    @property
    def queries(self) -> int: ...


@dataclass(frozen=True)
class Attacked:
    """What an attack says: higher scores for whom it takes for members.

    Args:
        members: ``(N,)`` scores of training rows.
        others: ``(M,)`` scores of rows that were not trained on.
        rows: ``(N,)`` which rows of the training data the members are.
    """

    members: NDArray[np.float64]
    others: NDArray[np.float64]
    rows: NDArray[np.intp]
    advantage: RateDifference
    threat: ThreatModel
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What the model under audit says of a batch.

    Args:
        confidence: ``(N,)`` logit of the probability of the true class; None of a model that gives labels only.
        right: ``(N,)`` bool.
    """

    batch: Batch
    confidence: NDArray[np.float64] | None
    right: NDArray[np.bool_]


class Adversary:
    """Everything that the attacks of one check share, made when the first of them asks.

    Args:
        settings: the check.
        train: the members.
    """

    def __init__(self, settings: Settings, model: AuditedModel, data: AuditData, train: Batch, ctx: Context) -> None:
        self._settings, self._model, self._data, self._ctx = settings, model, data, ctx
        self._inside, self._outside = _seen(model, train), _seen(model, data.test)

    def attack(self, name: AttackName) -> Attacked:
        """One attack by name."""
        by_name: dict[AttackName, Callable[[], Attacked]] = {
            "loss": self._loss,
            "class_threshold": self._class_threshold,
            "label_gap": self._label_gap,
            "label_only": self._label_only,
            "rmia": self._rmia,
            "lira": lambda: self._lira("lira"),
            "lira_offline": lambda: self._lira("lira_offline"),
        }
        return by_name[name]()

    # --- the model alone ---

    def _loss(self) -> Attacked:
        import numpy as np

        members, others = (-np.logaddexp(0.0, -_confidence(seen)) for seen in (self._inside, self._outside))
        return self._ranked("loss", members, others)

    def _class_threshold(self) -> Attacked:
        from audit.privacy.membership import class_threshold_attack

        found = class_threshold_attack(
            _confidence(self._inside), self._inside.batch.labels, _confidence(self._outside), self._outside.batch.labels,
            self._ctx.generator("class_threshold"),
        )  # fmt: skip
        return Attacked(
            found.member_scores, found.non_member_scores, found.member_rows, found.advantage, _threat("class_threshold")
        )

    def _label_gap(self) -> Attacked:
        import numpy as np

        from audit.privacy.membership import gap_attack

        members, others = self._inside.right, self._outside.right
        advantage = gap_attack(members, others, self._ctx.generator("label_gap"))
        return Attacked(
            members.astype(float), others.astype(float), np.arange(len(members)), advantage, _threat("label_gap")
        )

    def _label_only(self) -> Attacked:
        import numpy as np

        from audit.checks.privacy._membership_shadows import joined
        from audit.privacy.label_only import label_robustness

        drawn = self._challenge
        asked = joined(self._inside.batch.take(drawn.members), self._outside.batch.take(drawn.others))
        right = np.concatenate([self._inside.right[drawn.members], self._outside.right[drawn.others]])
        rng = self._ctx.rng(asked.ids, "label_only")
        found = label_robustness(self._model, asked, right, self._settings.queries, rng)
        return self._challenged("label_only", found.scores, _threat("label_only", found.queries))

    # --- with shadow models ---

    def _lira(self, name: Literal["lira", "lira_offline"]) -> Attacked:
        from audit.checks.privacy._membership_shadows import lira_scores

        scores = lira_scores(self._target, self._shadows, self._settings.shadows, online=name == "lira")
        return self._challenged(name, scores, _threat(name), self._likeness)

    def _rmia(self) -> Attacked:
        from audit.checks.privacy._membership_shadows import rmia_scores

        scores = rmia_scores(
            self._target, self._shadows, 2 * self._settings.references, self._population, gamma=self._settings.gamma,
            a=self._settings.a,
        )  # fmt: skip
        return self._challenged("rmia", scores, _threat("rmia"), self._likeness)

    @cached_property
    def _challenge(self) -> Challenge:
        from audit.checks.privacy._membership_shadows import draw_challenge

        rng = self._ctx.generator("challenge")
        with_population = "rmia" in self._settings.attacks
        return draw_challenge(self._data, self._settings.challenges, rng, with_population=with_population)

    @cached_property
    def _target(self) -> NDArray[np.float64]:
        """Confidence of the model under audit in the challenged rows."""
        import numpy as np

        drawn = self._challenge
        return np.concatenate([_confidence(self._inside)[drawn.members], _confidence(self._outside)[drawn.others]])

    @cached_property
    def _shadows(self) -> ShadowModels:
        """As many as the most demanding attack asks for."""
        from audit.privacy.shadow_models import halves, train_shadows

        settings, pool, ctx = self._settings, self._challenge.pool, self._ctx
        wanted = {"lira": settings.shadows, "lira_offline": settings.shadows, "rmia": 2 * settings.references}
        count = max(wanted[name] for name in settings.attacks if name in WITH_SHADOWS)
        return train_shadows(
            self._model, pool.x, pool.labels, halves(len(pool), count, ctx.generator("halves")), recipe=settings.recipe,
            reach=float(self._inside.right.mean()), seed=ctx.number("shadows"), cache=ctx.cache / "shadow-models",
            progress=ctx.progress,
        )  # fmt: skip

    @cached_property
    def _population(self) -> tuple[NDArray[np.float64], Answers]:
        """What the model under audit and every shadow say of rows that none was trained on."""
        rows = self._challenge.population
        return _confidence(_seen(self._model, rows)), self._shadows.answers(rows.x, rows.labels)

    @cached_property
    def _likeness(self) -> tuple[str, ...]:
        from audit.checks.privacy._membership_shadows import likeness

        train, test = float(self._inside.right.mean()), float(self._outside.right.mean())
        return likeness(self._model, self._shadows, train, test)

    # --- scores as an attack ---

    def _challenged(
        self, name: AttackName, scores: NDArray[np.float64], threat: ThreatModel, cautions: tuple[str, ...] = ()
    ) -> Attacked:
        """Scores of the challenged rows, members first."""
        n = self._challenge.n
        return self._ranked(name, scores[:n], scores[n:], self._challenge.members, threat, cautions)

    def _ranked(
        self, name: AttackName, members: NDArray[np.float64], others: NDArray[np.float64], rows: Any = None,
        threat: ThreatModel | None = None, cautions: tuple[str, ...] = (),
    ) -> Attacked:  # fmt: skip
        """Scores with the advantage of the threshold that is best on half of them."""
        import numpy as np

        from audit.privacy.membership import threshold_advantage

        advantage = threshold_advantage(members, others, self._ctx.generator(name))
        chosen = np.arange(len(members)) if rows is None else rows
        return Attacked(members, others, chosen, advantage, threat or _threat(name), cautions)


def _threat(name: AttackName, queries: int | None = None) -> ThreatModel:
    access: Literal["black_box_labels", "black_box_scores"] = (
        "black_box_labels" if name in FROM_LABELS else "black_box_scores"
    )
    told = "models of the same kind trained on rows of the same distribution" if name in WITH_SHADOWS else ""
    return ThreatModel(access=access, goal="membership", queries=queries, constraints=told)


def _seen(model: AuditedModel, batch: Batch) -> Seen:
    """The model's answers to a batch, computed once a run."""
    from audit.privacy.membership import confidence_scores

    scores = model.outputs(batch)
    model.check_finite(scores)
    right = model.labels_of(scores).numpy() == batch.labels
    if model.output == "label":
        return Seen(batch, None, right)
    by = "probabilities" if model.output == "probability" else "logits"
    return Seen(batch, confidence_scores(batch.labels, **{by: scores.double().numpy()}), right)


def _confidence(seen: Seen) -> NDArray[np.float64]:
    if seen.confidence is None:
        raise AssertionError("an attack by scores on a model of labels: its requirements say PROBABILITIES")
    return seen.confidence
