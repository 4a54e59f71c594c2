"""Can the model's answers be told by rules short enough to read?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from audit.checks import Check
from audit.checks._few_rows import few_rows
from audit.checks._sample import sample
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._tables import known_rows, require_table
from audit.finding import Estimate, EvidenceRef, Mean, Measurement, Metric, Proportion, Resampled

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.global_explanations.surrogate import BoostingSurrogate, SurrogateTree
    from audit.model import AuditedModel

_FAITHFUL = 0.9
"""Fidelity below which a surrogate's rules are no account of the model (policy)."""
_REPLICATES = 1000


class Surrogate(Check):
    """How much of the model a readable stand-in repeats: a small decision tree, or an explainable boosting machine.

    The stand-in learns what the model answers (not the labels) on members or population, and is asked about test rows that it has
    not seen. Fidelity is the share of them with the model's own answer, of a regression R² against the model's values; gain is that
    over always giving the commonest answer (the mean). High fidelity says that the rules, which are stored with the rows they cover,
    are a fair account of what the model does on rows like these. Low fidelity says that they explain nothing, however sensible they
    read. Fidelity by class and group shows for whom the account holds.

    Source: Craven & Shavlik 1996 (Trepan, NeurIPS 8); fidelity by group: Balagopalan et al. 2022, doi 10.1145/3531146.3533179; explainable
    boosting: Nori et al. 2019, arXiv:1909.09223.
    Blind spots: repeating the answers is not having the same reasons: of two columns that go together either may stand in a rule; says
    nothing on rows unlike the test rows, nor on how sure the model is.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="fidelity", title="fidelity of the surrogate", better="higher", kinds=("proportion", "resampled")),
        Metric(name="fidelity_gain", title="fidelity over the commonest answer", better="higher", kinds=("mean", "resampled")),
    )  # fmt: skip
    remedy: ClassVar[str] = (
        "Do not show the rules as the model's reasons. Allow a deeper tree or a boosting machine; where that is no longer readable, "
        "explain single rows instead, or train the readable model on the labels and compare its accuracy."
    )

    kind: Literal["tree", "ebm"] = "tree"
    """``tree``: rules; ``ebm``: an explainable boosting machine, a sum of curves (needs the package interpret-core)."""
    depth: int = Field(4, ge=1, le=12)
    """Most questions until a tree answers."""
    least: int = Field(5, ge=1)
    """Fewest rows behind an answer of a tree."""
    interactions: int = Field(10, ge=0)
    """Pairs of columns that a boosting machine may join."""
    fit_rows: int = Field(5000, ge=10)
    """Most rows that the surrogate learns from."""
    samples: int | None = Field(None, ge=10)
    """Most test rows that it is asked about; None: all."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: the input is no table.
            UserError: interpret-core is missing, or the model's answers leave it nothing to learn.
        """
        require_table(model, "surrogate")
        learn, test, cautions = self._parts(data, ctx)
        x, given = model.tensor(learn), model.predict(model.tensor(learn)).cpu()
        asked = model.predict(model.tensor(test)).cpu()
        if model.task == "regression":
            given, asked = given.double(), asked.double()
        ctx.progress(1, 3, "fitting the surrogate")
        fitted = self._fit(model, x, given, ctx)
        ctx.progress(2, 3, "asking the surrogate")
        said = fitted.predict(model.tensor(test))
        if model.task == "regression":
            yield from self._values(model, test, asked, said, given, fitted, cautions, ctx)
        else:
            yield from self._classes(model, test, asked, said, given, fitted, cautions, ctx)

    def _parts(self, data: AuditData, ctx: Context) -> tuple[Batch, Batch, tuple[str, ...]]:
        """Rows to learn from, rows to ask about, and what must be known of them."""
        known = known_rows(data)
        if known is not None:
            return sample(known, self.fit_rows, ctx), sample(data.test, self.samples, ctx), ()
        order = ctx.rng(data.test.ids, "halves").uniform(()).argsort(stable=True).numpy()
        half = len(order) // 2
        learn, test = (data.test.take(sorted(part)) for part in (order[:half], order[half:]))
        said = "no members or population are known: the surrogate learnt from half of the test rows, and is asked about the rest"
        return sample(learn, self.fit_rows, ctx), sample(test, self.samples, ctx), (said,)

    def _fit(self, model: AuditedModel, x: Tensor, given: Tensor, ctx: Context) -> SurrogateTree | BoostingSurrogate:
        from audit.global_explanations.surrogate import BoostingSurrogate, SurrogateTree

        seed = ctx.number("surrogate")
        if self.kind == "ebm":
            return BoostingSurrogate(x, given, model.spec, interactions=self.interactions, seed=seed)
        return SurrogateTree(x, given, model.spec, depth=self.depth, least=self.least, seed=seed)

    def _classes(
        self, model: AuditedModel, test: Batch, asked: Tensor, said: Tensor, given: Tensor,
        fitted: SurrogateTree | BoostingSurrogate, cautions: tuple[str, ...], ctx: Context,
    ) -> Iterator[Measurement]:  # fmt: skip
        import numpy as np

        from audit.stats import paired_mean_difference

        common = given.bincount(minlength=len(model.classes)).argmax()
        agree, majority = said == asked, asked == common
        outcomes = ctx.evidence("outcomes", "outcomes", title="the surrogate gives the model's answer")
        outcomes.append(test.ids, value=agree.double())
        evidence = (outcomes.ref, self._account(model, test, asked, said, fitted, ctx))
        fidelity = _share(agree)
        cautions = (*cautions, *_low(fidelity.interval()[0], int((~agree).sum()), len(agree)))
        yield Measurement(metric="fidelity", estimate=fidelity, evidence=evidence, cautions=cautions)
        value, se, n = paired_mean_difference(agree.double().numpy(), majority.double().numpy())
        yield Measurement(metric="fidelity_gain", estimate=Mean(value=value, se=se, n=n), evidence=evidence, cautions=cautions)  # fmt: skip
        for index, name in enumerate(model.classes):
            if bool((asked == index).any()):
                yield Measurement(metric="fidelity", estimate=_share(agree[asked == index]), dims={"class": name})
        for attribute, values in sorted(test.groups.items()):
            for value_ in np.unique(values):
                inside = agree.numpy()[values == value_]
                yield Measurement(
                    metric="fidelity",
                    estimate=Proportion(k=int(inside.sum()), n=len(inside)),
                    dims={"group": f"{attribute}:{value_}"},
                )

    def _values(
        self, model: AuditedModel, test: Batch, asked: Tensor, said: Tensor, given: Tensor,
        fitted: SurrogateTree | BoostingSurrogate, cautions: tuple[str, ...], ctx: Context,
    ) -> Iterator[Measurement]:  # fmt: skip
        import numpy as np

        from audit.stats import bootstrap_replicates

        constant = np.full(len(asked), float(given.mean()))
        columns, seed = (asked.numpy(), said.double().numpy(), constant), ctx.number("bootstrap")
        outcomes = ctx.evidence("outcomes", "outcomes", title="squared difference to the model's value")
        outcomes.append(test.ids, value=(columns[0] - columns[1]) ** 2)
        evidence = (outcomes.ref, self._account(model, test, asked, said, fitted, ctx))
        statistics: dict[str, Callable[..., Any]] = {
            "fidelity": lambda y, s, c: _r_squared(y, s),
            "fidelity_gain": lambda y, s, c: _r_squared(y, s) - _r_squared(y, c),
        }
        for metric, statistic in statistics.items():
            drawn = bootstrap_replicates(statistic, columns, _REPLICATES, seed=seed, vectorized=True)
            estimate: Estimate = Resampled(
                value=float(statistic(*columns)), replicates=tuple(drawn.tolist()), n=len(asked)
            )
            low = _low(estimate.interval()[0], None, len(asked)) if metric == "fidelity" else ()
            yield Measurement(
                metric=metric, estimate=estimate, evidence=evidence, cautions=(*cautions, *low),
                unresolved=few_rows(len(asked)),
            )  # fmt: skip

    def _account(
        self,
        model: AuditedModel,
        test: Batch,
        asked: Tensor,
        said: Tensor,
        fitted: SurrogateTree | BoostingSurrogate,
        ctx: Context,
    ) -> EvidenceRef:
        """What the surrogate says, for a reader: the tree's rules, or the size of each term."""
        from audit.global_explanations.surrogate import SurrogateTree

        if not isinstance(fitted, SurrogateTree):
            terms = fitted.importances()
            writer = ctx.evidence("terms", "table", title="terms of the explainable boosting machine")
            writer.append(list(terms), mean_absolute_contribution=list(terms.values()))
            return writer.ref
        leaves = fitted.leaves(model.tensor(test))
        rules = sorted(fitted.rules(), key=lambda rule: -int((leaves == rule.leaf).sum()))
        inside = [leaves == rule.leaf for rule in rules]
        nan = float("nan")
        if model.task == "regression":
            answers: dict[str, list[Any]] = {"answer": [rule.answer for rule in rules]}
            off = (asked - said).abs()
            quality = {
                "mean_absolute_difference": [float(off[part].mean()) if bool(part.any()) else nan for part in inside]
            }
        else:
            answers = {"answer": [model.classes[int(rule.answer)] for rule in rules]}
            right = (asked == said).double()
            quality = {"fidelity": [float(right[part].mean()) if bool(part.any()) else nan for part in inside]}
        writer = ctx.evidence("rules", "table", title=f"the surrogate tree's {len(rules)} rules, the widest first")
        writer.append(
            [f"rule {i}" for i in range(1, len(rules) + 1)],
            rule=[rule.text for rule in rules],
            **answers,
            test_rows=[int(part.sum()) for part in inside],
            **quality,
        )
        return writer.ref


def _share(flags: Tensor) -> Proportion:
    return Proportion(k=int(flags.sum()), n=len(flags))


def _low(lowest: float, wrong: int | None, n: int) -> Iterator[str]:
    """A word on a surrogate that is not faithful."""
    if lowest < _FAITHFUL:
        told = f" (it differs on {wrong} of {n} rows)" if wrong is not None else ""
        yield f"fidelity may be as low as {max(lowest, 0.0):.2f}{told}: below {_FAITHFUL} the rules are no account of the model"


def _r_squared(y: np.ndarray[Any, Any], said: np.ndarray[Any, Any]) -> Any:
    """R² over the last axis; 0 where all values are the same."""
    import numpy as np

    total = ((y - y.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    left = ((y - said) ** 2).sum(axis=-1)
    return np.where(total > 0, 1 - left / np.where(total > 0, total, 1.0), 0.0)
