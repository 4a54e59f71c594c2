"""Which columns does the model live on, over the whole data set?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from audit.checks import Check
from audit.checks._few_rows import few_rows
from audit.checks._sample import sample
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._columns import column_names, with_groups
from audit.checks.explanation._explaining import attributions, build_explainer, choose
from audit.finding import Exact, Mean, Measurement, Metric, Resampled
from audit.model import Capability
from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData
    from audit.global_explanations.permutation_importance import Score
    from audit.model import AuditedModel

CORRELATED = 0.8
"""Rank correlation from which two columns are called to a reader's attention (policy)."""
REPLICATES = 1000
_LEAVES = 16
"""Most cells that the other columns are cut into for a conditional permutation."""


class Importance(Check):
    """Global ranking of columns by what the model loses without them.

    Permutation importance: each row takes a column's value from another row, and the model is scored again; importance is the
    accuracy (R² of a regression) that is lost, or the log-loss that is gained. Differences are paired row by row; the interval covers
    test rows and permutations. ``rank`` is the column's place, 1 for the most important, its interval over resampled rows; equal
    columns share the mean of their places, so that "age is not among the first three" is the gate ``"rank[feature=age]": "> 3"``.

    With an `explainer`, the mean size of its attributions gives a second ranking: permutation asks what the model's *performance*
    rests on, attributions what moves its *answers*.

    Suits every model with columns, black boxes too, and every explainer of one. A column that ranks high and should not is a reason
    to look for leakage or a proxy; where the two rankings part, a reader of maps sees what moves answers, not what makes them right.

    Source: Breiman 2001, doi 10.1023/A:1010933404324; Fisher, Rudin & Dominici 2019, arXiv:1801.01489; conditional permutation:
    Strobl et al. 2008, doi 10.1186/1471-2105-9-307, by subgroups: Molnar et al. 2023, arXiv:2006.04628; mean size of attributions:
    Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9.
    Blind spots: columns that go together share or hide their importance, and permuting one makes rows that do not exist (the pairs
    are named; group them, or permute conditionally, which counts only what a column adds to the others); only numbers are looked at
    for such pairs; importance for the model is not a cause in the world.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="importance", title="permutation importance", better="neither", kinds=("mean",)),
        Metric(name="rank", title="rank by permutation importance", better="neither", kinds=("resampled", "exact")),
        Metric(name="mean_attribution", title="mean size of attributions", better="neither", kinds=("mean",)),
        Metric(
            name="attribution_rank",
            title="rank by size of attributions",
            better="neither",
            kinds=("resampled", "exact"),
        ),
    )
    remedy: ClassVar[str] = (
        "Ask whether the column may be used at all and whether it is known when the model is used; retrain without it and compare."
    )

    score: Literal["auto", "accuracy", "log_loss", "r2"] = "auto"
    """What is lost: accuracy of a class, r2 of a value (auto); log_loss also sees answers that change without flipping."""
    samples: int = Field(default=2000, ge=2)
    """Test rows used."""
    repeats: int = Field(default=10, ge=1)
    """Permutations of every feature."""
    groups: dict[str, tuple[str, ...]] = {}
    """Columns that are permuted together and ranked as one: ``{address: [city, street]}``."""
    conditional: bool = False
    """Permute only among rows alike in the other columns (leaves of a tree that predicts the column from them): what the column adds
    to the others, without rows that do not exist."""
    explainer: str | dict[str, Any] | None = None
    """Rank by the mean size of this explainer's attributions, too; a group's are added up first."""
    explained: int = Field(default=256, ge=2)
    """Test rows explained."""
    background: int = Field(default=100, ge=1)
    """Background rows of the explainer."""

    @model_validator(mode="after")
    def _explainer_fits(self) -> Importance:
        if self.explainer is not None:
            build_explainer(self.explainer)
        return self

    def requirements(self) -> frozenset[Capability]:
        """What the explainer needs, where there is one."""
        return self.needs | (build_explainer(self.explainer)[1].needs if self.explainer is not None else frozenset())

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input has no columns.
        """
        import numpy as np

        names = column_names(model, "importance")
        features = with_groups(self.groups, names, model)
        influence = self._permutation(model, data, ctx, list(features.values()))
        together = _together(data, model, features)
        yield from self._ranking(ctx, "importance", "rank", influence, list(features), together)
        if self.explainer is not None:
            explainer = build_explainer(self.explainer)[1]
            subject = choose(model, data, ctx, samples=self.explained, background=self.background, target="prediction")
            values = attributions(explainer, model, subject, ctx).numpy()
            sizes = np.stack([np.abs(values[:, columns].sum(axis=1)) for columns in features.values()])
            cautions = dict.fromkeys(features, subject.cautions)
            yield from self._ranking(ctx, "mean_attribution", "attribution_rank", sizes, list(features), cautions)

    def _score(self, model: AuditedModel) -> Score:
        regression = model.task == "regression"
        if self.score == "auto":
            return "r2" if regression else "accuracy"
        if (self.score == "r2") != regression:
            fitting = "r2" if regression else "accuracy or log_loss"
            raise UserError(f"score '{self.score}' does not suit a {model.task}: choose {fitting}")
        return self.score

    def _permutation(
        self, model: AuditedModel, data: AuditData, ctx: Context, features: list[list[int]]
    ) -> NDArray[np.float64]:
        """``(F, N)`` each row's part in each feature's importance."""
        import torch

        from audit.global_explanations.permutation_importance import donors, permutation_importance

        batch = sample(data.test, self.samples, ctx)
        place = {row: i for i, row in enumerate(data.test.ids)}
        answers = model.outputs(data.test)[torch.as_tensor([place[row] for row in batch.ids])]
        x, labels = model.tensor(batch), torch.as_tensor(batch.labels).to(answers.device)
        keys = ctx.rng(batch.ids, "permutations").uniform((self.repeats,)).T.contiguous().to(x.device)
        if self.conditional:
            sources = [donors(keys, _cells(model, batch.x, columns)) for columns in features]
        else:
            sources = [donors(keys)] * len(features)
        found = permutation_importance(
            model, x, labels, answers, features, sources, self._score(model),
            lambda done, total: ctx.progress(done, total, "features permuted"),
        )  # fmt: skip
        return found.influence.numpy()

    def _ranking(
        self,
        ctx: Context,
        metric: str,
        rank: str,
        rows: NDArray[np.float64],
        names: list[str],
        cautions: dict[str, tuple[str, ...]],
    ) -> Iterator[Measurement]:
        """Mean and place of each feature from each row's part ``(F, N)``."""
        from audit.checks.explanation._ranks import places
        from audit.stats import mean_and_se, resampled_interval, t_interval

        means = [mean_and_se(part) for part in rows]
        n = rows.shape[1]
        place = places([value for value, _, _ in means])
        drawn = places(_resampled_means(rows, ctx.generator(f"{rank} resampled")))
        order = sorted(range(len(names)), key=lambda i: (place[i], names[i]))
        intervals = [(t_interval(*means[i]), resampled_interval(float(place[i]), drawn[:, i])) for i in order]
        table = ctx.evidence(f"{metric}-ranking", "table", title=metric.replace("_", " "))
        table.append(
            [names[i] for i in order],
            **{metric: [means[i][0] for i in order]},
            low=[ends[0] for ends, _ in intervals],
            high=[ends[1] for ends, _ in intervals],
            rank=[float(place[i]) for i in order],
            first_rank=[ends[0] for _, ends in intervals],
            last_rank=[ends[1] for _, ends in intervals],
        )
        for i in order:
            said = cautions.get(names[i], ())
            value, se, _ = means[i]
            yield Measurement(
                metric=metric,
                estimate=Mean(value=value, se=se, n=n),
                dims={"feature": names[i]},
                evidence=(table.ref,),
                cautions=said,
            )
            yield Measurement(
                metric=rank,
                estimate=_place(float(place[i]), drawn[:, i], n),
                dims={"feature": names[i]},
                evidence=(table.ref,),
                cautions=said,
                unresolved=few_rows(n),
            )


def _place(value: float, drawn: NDArray[np.float64], n: int) -> Resampled | Exact:
    """A rank over resampled rows; one that none of them moves is certain, as it would not be of a number on a scale."""
    if (drawn == value).all():
        return Exact(value=value, n=n)
    return Resampled(value=value, replicates=tuple(drawn.tolist()), n=n)


def _resampled_means(rows: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of ``(F, N)`` over rows drawn with replacement, the same rows for every feature: ``(B, F)``."""
    import numpy as np

    n = rows.shape[1]
    means = []
    step = max(1, 2**22 // n)
    for first in range(0, REPLICATES, step):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(step, REPLICATES - first))
        means.append(counts.astype(np.float64) @ rows.T / n)
    return np.concatenate(means)


def _together(data: AuditData, model: AuditedModel, features: dict[str, list[int]]) -> dict[str, tuple[str, ...]]:
    """For each feature, what it goes together with."""
    import numpy as np

    from audit.checks.explanation._ranks import column_correlation

    spec = model.spec
    numbers = [i for i in range(spec.shape[0]) if not spec.tabular or spec.fields[i].kind == "number"]
    if len(numbers) < 2:
        return {}
    names = column_names(model, "importance")
    owner = {column: feature for feature, columns in features.items() for column in columns}
    related = column_correlation(np.asarray(data.test.x[:, numbers], dtype=np.float64))
    found: dict[str, list[str]] = {}
    for i, j in zip(*np.nonzero(np.triu(np.abs(related) > CORRELATED, 1)), strict=True):
        one, other = owner[numbers[i]], owner[numbers[j]]
        if one != other:
            pair = (
                f"{names[numbers[i]]} and {names[numbers[j]]} go together (rank correlation {related[i, j]:.2f}): one can stand "
                "in for the other, and permutation shares or hides their importance"
            )
            found.setdefault(one, []).append(pair)
            found.setdefault(other, []).append(pair)
    return {feature: tuple(pairs) for feature, pairs in found.items()}


def _cells(model: AuditedModel, x: NDArray[Any], columns: list[int]) -> Tensor:
    """``(N,)`` the leaf of each row in a tree that predicts `columns` from all others: within one they tell nothing more of it.

    A group's columns are predicted together. Missing values stand below all others.
    """
    import numpy as np
    import torch
    from sklearn.tree import DecisionTreeRegressor

    rest = [i for i in range(x.shape[1]) if i not in columns]
    if not rest:
        return torch.zeros(len(x), dtype=torch.int64)
    filled = np.where(np.isnan(x), np.nanmin(x, axis=0, initial=0.0) - 1.0, x)
    aims = []
    for column in columns:
        values = filled[:, column]
        kind = model.spec.fields[column].kind if model.spec.tabular else "number"
        parts = [(values == code).astype(float) for code in np.unique(values)] if kind == "category" else [values]
        aims += [part / (part.std() or 1.0) for part in parts]
    tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=max(2, len(x) // 100), random_state=0)
    tree.fit(filled[:, rest], np.stack(aims, axis=1))
    return torch.from_numpy(tree.apply(filled[:, rest])).to(torch.int64)
