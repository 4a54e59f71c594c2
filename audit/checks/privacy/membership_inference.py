"""Can an outsider tell who was trained on?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from audit.checks import Check
from audit.finding import EvidenceRef, Measurement, Metric, RankAuc, Resampled, ThreatModel
from audit.model import Capability, Task
from audit.parameters import Real

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

AttackName = Literal["loss", "class_threshold", "label_gap"]


class MembershipInference(Check):
    """How well members of the training set are told from rows the model never saw, by its answers alone.

    Attacks: ``loss`` ranks by the negative cross-entropy (Yeom et al. 2018); ``class_threshold`` sets one threshold per class on
    one half of the rows and is measured on the other (Song & Mittal 2021); ``label_gap`` calls a member whatever is classified
    right, and needs labels only (its advantage is train accuracy minus test accuracy). The undivided numbers are those of the
    first attack listed.

    The blind control comes with it: a classifier that sees inputs alone, never the model. Where its AUC interval excludes 0.5,
    members and non-members were not drawn alike, and every other number here is void.

    Source: Yeom et al. 2018, arXiv:1709.01604; Carlini et al. 2022, arXiv:2112.03570 (judge at a low false positive rate);
    Meeus et al. 2024, arXiv:2406.17975 (blind baselines).
    Blind spots: threshold attacks are the weakest there are: a low number here does not bound what attacks with reference models
    find. TPR at an FPR needs at least 10/FPR non-members and is inconclusive below that.
    """

    metrics: ClassVar = (
        Metric(name="auc", title="membership AUC", better="lower", kinds=("rank_auc",)),
        Metric(name="tpr_at_fpr", title="members found at a false positive rate", better="lower", kinds=("resampled",)),
        Metric(name="advantage", title="membership advantage (TPR − FPR)", better="lower", kinds=("resampled",)),
        Metric(name="blind_auc", title="AUC of inputs alone (control)", better="neither", kinds=("rank_auc",)),
    )
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar = (
        "The model answers differently for rows it was trained on: regularise, stop earlier, or train with DP-SGD; "
        "then audit again on the same split."
    )

    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1)] = ("loss", "class_threshold", "label_gap")
    """Attacks to run; the first one gives the undivided numbers."""
    fprs: Annotated[tuple[Annotated[Real, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.01, 0.001)
    """False positive rates at which to state the share of members found."""
    blind_rows: Annotated[int, Field(ge=40)] = 4000
    """Members and non-members at most that the blind control is trained on."""

    def requirements(self) -> frozenset[Capability]:
        """Members, and scores unless labels are enough for every attack."""
        scores = set(self.attacks) - {"label_gap"}
        return frozenset({Capability.TRAIN_DATA, Capability.PROBABILITIES if scores else Capability.LABELS})

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield the control first, then each attack."""
        from audit.parameters import UserError
        from audit.privacy.blind_control import blind_auc

        members, others = data.train, data.test
        if members is None:
            raise UserError(
                "membership inference needs the rows that the model was trained on: give the data a 'split'"
            )
        total = len(self.attacks) + 1
        ctx.progress(0, total, "blind control")
        blind = blind_auc(_inputs(members), _inputs(others), ctx.generator("blind"), max_rows=self.blind_rows)
        low, high = blind.interval()
        why = f"inputs alone tell members from non-members (blind AUC {blind.value:.3f}, 95 % interval {low:.3f} to {high:.3f})"
        voids = dict.fromkeys(("auc", "tpr_at_fpr", "advantage"), why) if not low <= 0.5 <= high else {}
        yield Measurement(
            metric="blind_auc",
            estimate=RankAuc(value=blind.value, n_pos=blind.n_members, n_neg=blind.n_non_members),
            voids=voids,
            cautions=(
                f"a shift that inputs alone tell with an AUC below {blind.detectable:.3f} would go unseen with so few rows",
            ),
        )
        inside, outside = self._answers(model, members), self._answers(model, others)
        for i, attack in enumerate(self.attacks):
            ctx.progress(i + 1, total, attack)
            measured = list(self._attack(attack, inside, outside, ctx))
            if i == 0:
                yield from (
                    m.model_copy(update={"dims": {k: v for k, v in m.dims.items() if k != "attack"}}) for m in measured
                )
            yield from measured

    def _answers(self, model: AuditedModel, batch: Batch) -> dict[str, NDArray[Any]]:
        """What the attacks see of a batch: labels, predictions, and scores where the model gives them."""
        scores = model.outputs(batch)
        model.check_finite(scores)
        seen = {"labels": batch.labels, "predicted": model.labels_of(scores).numpy()}
        if model.output in ("logit", "margin"):
            seen["logits"] = scores.double().numpy()
        elif model.output == "probability":
            seen["probabilities"] = scores.double().numpy()
        return seen

    def _attack(
        self, name: AttackName, inside: dict[str, NDArray[Any]], outside: dict[str, NDArray[Any]], ctx: Context
    ) -> Iterator[Measurement]:
        from audit.privacy import membership

        threat = ThreatModel(
            access="black_box_labels" if name == "label_gap" else "black_box_scores", goal="membership"
        )
        dims: dict[str, str] = {"attack": name}
        rng = ctx.generator(name)

        def ranked(answers: dict[str, NDArray[Any]], score: Any) -> NDArray[np.float64]:
            known = {k: answers[k] for k in ("logits", "probabilities") if k in answers}
            return score(answers["labels"], **known)  # type: ignore[no-any-return]

        if name == "label_gap":
            members = membership.correctness_scores(inside["labels"], inside["predicted"])
            others = membership.correctness_scores(outside["labels"], outside["predicted"])
            advantage = membership.gap_attack(members, others, rng)
        elif name == "loss":
            members, others = ranked(inside, membership.loss_scores), ranked(outside, membership.loss_scores)
            advantage = membership.threshold_advantage(members, others, rng)
        else:
            attacked = membership.class_threshold_attack(
                ranked(inside, membership.confidence_scores), inside["labels"],
                ranked(outside, membership.confidence_scores), outside["labels"], rng,
            )  # fmt: skip
            members, others, advantage = attacked.member_scores, attacked.non_member_scores, attacked.advantage
        area = membership.auc(members, others)
        roc = _store_roc(members, others, name, ctx)
        yield Measurement(
            metric="auc",
            estimate=RankAuc(value=area.value, n_pos=area.n_members, n_neg=area.n_non_members),
            dims=dims, threat_model=threat, evidence=(roc,),
        )  # fmt: skip
        yield Measurement(
            metric="advantage",
            estimate=Resampled(value=advantage.value, replicates=advantage.replicates, n=advantage.n),
            dims=dims, threat_model=threat,
        )  # fmt: skip
        if name == "label_gap":
            return  # a score of two values has no low false positive rate
        for fpr in self.fprs:
            found = membership.tpr_at_fpr(members, others, fpr, rng)
            yield Measurement(
                metric="tpr_at_fpr",
                estimate=Resampled(value=found.value, replicates=found.replicates, n=found.n),
                dims={**dims, "fpr": f"{fpr:g}"}, threat_model=threat, evidence=(roc,), unresolved=found.unresolved,
            )  # fmt: skip


def _inputs(batch: Batch) -> NDArray[np.float64]:
    return batch.x.reshape(len(batch), -1).astype(float)


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
