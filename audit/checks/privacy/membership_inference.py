"""Can an outsider tell who was trained on?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from audit.checks import Check
from audit.checks.privacy._blind import BLIND_AUC, blind_measurement, inputs_of
from audit.checks.privacy._membership_attacks import FROM_LABELS, PER_RECORD, WITH_SHADOWS, Adversary, AttackName
from audit.finding import EvidenceRef, Measurement, Metric, Proportion, RankAuc, Resampled
from audit.model import Capability, Task
from audit.parameters import Real
from audit.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.checks.privacy._membership_attacks import Attacked
    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel


class MembershipInference(Check):
    """How well members of the training set are told from rows the model never saw, by its answers alone.

    Attacks that ask the model and nothing else: ``loss`` ranks by the negative cross-entropy (Yeom et al. 2018);
    ``class_threshold`` sets one threshold per class on one half of the rows and is measured on the other (Song & Mittal 2021);
    ``label_gap`` calls a member whatever is classified right, and needs labels only (its advantage is train accuracy minus test
    accuracy); ``label_only`` counts changes of a row (shifts, rotations, noise) that leave its label right (Choquette-Choo et al.
    2021). Attacks that train models like this one, each on half of a pool of members and non-members: ``lira`` compares the
    model's confidence with that of shadows with and without the row (Carlini et al. 2022), ``lira_offline`` with those without
    only, ``rmia`` with those without and with how other rows fare (Zarifzadeh et al. 2024). The undivided numbers are those of
    the first attack listed. Trained models are kept, and a second run trains nothing.

    ``exposed_records`` is the share of members that the best of the attacks ranks above every non-member; the records most
    exposed are listed by row number, never by content.

    The blind control comes with it: a classifier that sees inputs alone, never the model. Where its AUC interval excludes 0.5,
    members and non-members were not drawn alike, and every other number here is void.

    Source: Yeom et al. 2018, arXiv:1709.01604; Song & Mittal 2021, arXiv:2003.10595; Choquette-Choo et al. 2021, arXiv:2007.14321;
    Carlini et al. 2022, arXiv:2112.03570 (and why to judge at a low false positive rate); Zarifzadeh, Liu & Shokri 2024,
    arXiv:2312.03262; Meeus et al. 2024, arXiv:2406.17975 (blind baselines).
    Blind spots: attacks without shadow models are weak: a low number does not bound what ``lira`` or ``rmia`` find. Shadow models
    that learn unlike this model (another recipe, fewer rows, no differential privacy) find less than there is; a caution says so.
    TPR at an FPR needs at least 10/FPR non-members and is inconclusive below that. Intervals are over rows, not over trainings.
    """

    controls: ClassVar = ("MITRE ATLAS AML.T0024.000", "OWASP ML04:2023", "NIST AI RMF MEASURE 2.10")
    metrics: ClassVar = (
        Metric(name="auc", title="membership AUC", better="lower", kinds=("rank_auc",)),
        Metric(name="tpr_at_fpr", title="members found at a false positive rate", better="lower", kinds=("resampled",)),
        Metric(name="advantage", title="membership advantage (TPR − FPR)", better="lower", kinds=("resampled",)),
        Metric(
            name="exposed_records", title="members ranked above every non-member", better="lower", kinds=("proportion",)
        ),
        BLIND_AUC,
    )
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar = (
        "The model answers differently for rows it was trained on: regularise, stop earlier, or train with DP-SGD; "
        "then audit again on the same split."
    )

    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1)] = ("loss", "class_threshold", "label_gap")
    """Attacks to run; the first one gives the undivided numbers."""
    shadows: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    """Shadow models of ``lira`` and ``lira_offline``; half of them see a row. Below 64 all rows share one variance."""
    references: Annotated[int, Field(ge=1, le=8)] = 4
    """Reference models of ``rmia`` that have not seen a row; as many again have, and shadow models serve where there are some."""
    recipe: Recipe | None = None
    """How shadow models of a torch module are trained; without it as the registry says that the model was, else until they get as
    many of their rows right as the model does of its own."""
    challenges: Annotated[int, Field(ge=1)] = 5000
    """Members, and as many non-members, at most that ``label_only`` and attacks with shadow models are asked about; shadows are trained
    on halves of twice as many rows."""
    gamma: Annotated[Real, Field(ge=1)] = 2.0
    """Of ``rmia``: by how much a row must beat another in likelihood ratio."""
    a: Annotated[Real, Field(ge=0, le=1)] = 0.3
    """Of ``rmia``: how far models with and without a row agree, from 0.3 (strong overfitting) to 1 (none)."""
    queries: Annotated[int, Field(ge=2)] = 32
    """Of ``label_only``: labels at most to ask for, of each row."""
    fprs: Annotated[tuple[Annotated[Real, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.01, 0.001)
    """False positive rates at which to state the share of members found."""
    exposed: Annotated[int, Field(ge=0)] = 20
    """Most exposed records to list."""
    blind_rows: Annotated[int, Field(ge=40)] = 4000
    """Members and non-members at most that the blind control is trained on."""

    def requirements(self) -> frozenset[Capability]:
        """Members; scores unless labels are enough for every attack; a model to train anew where shadows are asked."""
        chosen = set(self.attacks)
        needed = {Capability.TRAIN_DATA, Capability.PROBABILITIES if chosen - FROM_LABELS else Capability.LABELS}
        return frozenset(needed | ({Capability.RETRAIN} if chosen & WITH_SHADOWS else set()))

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield the control first, then each attack, then the most exposed records."""
        from audit.parameters import UserError

        if data.train is None:
            raise UserError(
                "membership inference needs the rows that the model was trained on: give the data a 'split'"
            )
        total = len(self.attacks) + 1
        ctx.progress(0, total, "blind control")
        yield self._blind(data.train, data.test, ctx)
        adversary = Adversary(self, model, data, data.train, ctx)
        ranked: dict[str, Attacked] = {}
        for i, name in enumerate(self.attacks):
            ctx.progress(i + 1, total, name)
            attacked = ranked[name] = adversary.attack(name)
            measured = list(self._measured(name, attacked, ctx))
            if i == 0:
                yield from (
                    m.model_copy(update={"dims": {k: v for k, v in m.dims.items() if k != "attack"}}) for m in measured
                )
            yield from measured
        if per_record := [name for name in PER_RECORD if name in ranked]:
            yield self._exposed(per_record[0], ranked[per_record[0]], data.train, ctx)

    def _blind(self, members: Batch, others: Batch, ctx: Context) -> Measurement:
        """What inputs alone tell; where that is something, every other number is void."""
        from audit.privacy.blind_control import blind_auc

        blind = blind_auc(inputs_of(members), inputs_of(others), ctx.generator("blind"), max_rows=self.blind_rows)
        rest = [metric.name for metric in self.metrics if metric is not BLIND_AUC]
        return blind_measurement(blind, rest, "non-members")

    def _measured(self, name: AttackName, attacked: Attacked, ctx: Context) -> Iterator[Measurement]:
        """AUC, advantage, and members found at each false positive rate."""
        from audit.privacy import membership

        members, others = attacked.members, attacked.others
        area, advantage = membership.auc(members, others), attacked.advantage
        roc = _store_roc(members, others, name, ctx)
        shared: dict[str, Any] = {"threat_model": attacked.threat, "cautions": attacked.cautions}
        yield Measurement(
            metric="auc",
            estimate=RankAuc(value=area.value, n_pos=area.n_members, n_neg=area.n_non_members),
            dims={"attack": name}, evidence=(roc,), **shared,
        )  # fmt: skip
        yield Measurement(
            metric="advantage",
            estimate=Resampled(value=advantage.value, replicates=advantage.replicates, n=advantage.n),
            dims={"attack": name}, **shared,
        )  # fmt: skip
        if name == "label_gap":
            return  # a score of two values has no low false positive rate
        rng = ctx.generator(f"{name} at low rates")
        for fpr in self.fprs:
            found = membership.tpr_at_fpr(members, others, fpr, rng)
            yield Measurement(
                metric="tpr_at_fpr",
                estimate=Resampled(value=found.value, replicates=found.replicates, n=found.n),
                dims={"attack": name, "fpr": f"{fpr:g}"}, evidence=(roc,), unresolved=found.unresolved, **shared,
            )  # fmt: skip

    def _exposed(self, name: str, attacked: Attacked, train: Batch, ctx: Context) -> Measurement:
        """The share of members above every non-member, and the records that rank highest."""
        import numpy as np

        members, others, n = attacked.members, attacked.others, len(attacked.others)
        above = int((members > others.max()).sum())
        top = np.argsort(-members, kind="stable")[: self.exposed]
        evidence: tuple[EvidenceRef, ...] = ()
        if len(top):
            rows, scores = attacked.rows[top], members[top]
            writer = ctx.evidence("exposed", "table", title=f"training records most exposed, by {name}")
            writer.append(
                [train.ids[row] for row in rows],
                rank=np.arange(1, len(top) + 1), row=rows, score=scores,
                non_members_above=n - np.searchsorted(np.sort(others), scores, side="left"),
            )  # fmt: skip
            evidence = (writer.ref,)
        by_chance = len(members) / (n + 1)
        return Measurement(
            metric="exposed_records",
            estimate=Proportion(k=above, n=len(members)),
            threat_model=attacked.threat,
            evidence=evidence,
            cautions=(
                f"by the attack {name}, against these {n:,} non-members; a model that leaks nothing would show about {by_chance:.2g} of "
                f"{len(members):,}",
                *attacked.cautions,
            ),
        )


def _store_roc(members: NDArray[np.float64], others: NDArray[np.float64], attack: str, ctx: Context) -> EvidenceRef:
    import numpy as np

    from audit.stats import roc_curve_points

    fpr, tpr, _ = roc_curve_points(members, others)
    # A thousand points, dense where the false positive rate is small, draw the same curve as a hundred thousand.
    if len(fpr) > 1000:
        wanted = np.concatenate([np.geomspace(max(1 / len(others), 1e-6), 1, 700), np.linspace(0, 1, 300)])
        keep = np.unique(np.clip(np.searchsorted(fpr, np.sort(wanted)), 0, len(fpr) - 1))
        fpr, tpr = fpr[keep], tpr[keep]
    writer = ctx.evidence(f"roc-{attack}", "roc", title=f"Membership inference: {attack}")
    writer.append([str(i) for i in range(len(fpr))], fpr=np.asarray(fpr), tpr=np.asarray(tpr))
    return writer.ref
