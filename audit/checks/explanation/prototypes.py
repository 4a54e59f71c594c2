"""A few rows that stand for all, and those that they do not stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from audit.checks import Check
from audit.checks._few_rows import few_rows
from audit.checks._sample import sample
from audit.checks._standards import TRANSPARENCY
from audit.checks.explanation._tables import known_rows
from audit.finding import EvidenceRef, Mean, Measurement, Metric, Proportion, Resampled
from audit.parameters import NotApplicable, Real

if TYPE_CHECKING:
    from torch import Tensor

    from audit.context import Context
    from audit.data import AuditData, Batch
    from audit.model import AuditedModel

_REPLICATES = 400


class Prototypes(Check):
    """Prototypes and criticisms of each class, as the model sees the rows, and how well the prototypes stand for the rest.

    Rows of each class (of a regression: all rows) are chosen so that their distribution is near the class's; criticisms are the rows
    where the two still differ most. Distances are between standardised columns of a table, else between what the network's last layer
    is fed, else between the inputs themselves. Both are measured on test rows that nothing was chosen from: the squared maximum mean
    discrepancy (MMD²) between the class and its prototypes, against as many rows drawn at random; and how often the nearest prototype
    is of a row's own class. A ratio near 1 says that the prototypes are no better than any rows; a low accuracy, that reasoning "it is
    treated like this case" is not how the model can be understood.

    Source: Kim et al. 2016, "Examples are not enough, learn to criticize! Criticism for interpretability" (MMD-critic), NeurIPS 29;
    MMD: Gretton et al. 2012, JMLR 13:723.
    Blind spots: as good as the distance: columns count equally, whether the model uses them or not; says which rows are typical, not why
    the model answers as it does.
    """

    controls: ClassVar = TRANSPARENCY
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="mmd_squared", title="MMD² between class and prototypes", better="lower", kinds=("resampled",)),
        Metric(name="mmd_ratio", title="MMD² relative to random rows", better="lower", kinds=("resampled",)),
        Metric(
            name="accuracy", title="nearest prototype is of the row's class", better="higher", kinds=("proportion",)
        ),
        Metric(name="accuracy_gain", title="accuracy over random rows", better="higher", kinds=("mean",)),
    )
    remedy: ClassVar[str] = (
        "Take more prototypes, or a distance nearer to the model's own (a layer); look at the criticisms: they are the cases that "
        "examples shown to users leave out."
    )

    count: int = Field(5, ge=1)
    """Prototypes of each class."""
    criticisms: int = Field(3, ge=0)
    """Criticisms of each class."""
    by: Literal["prediction", "label"] = "prediction"
    """Which class a row belongs to: the one that the model gives it, or its label."""
    features: Literal["auto", "inputs", "layer"] = "auto"
    """Where rows are compared: ``inputs``; ``layer``: activations; ``auto``: a layer of a network that takes no table."""
    layer: str | None = None
    """The layer whose output is taken; None: what the last linear layer is fed."""
    width: Real = Field(1.0, gt=0)
    """Width of the Gaussian kernel, in median distances between rows."""
    rows: int = Field(2000, ge=10)
    """Most rows that prototypes are chosen from: members, else population, else half of the test rows."""
    samples: int = Field(1000, ge=10)
    """Most test rows that they are measured on."""
    draws: int = Field(50, ge=2)
    """Random choices of as many rows to compare with."""

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """See `Check.run`.

        Raises:
            NotApplicable: texts, whose inputs have no distance, without a layer.
            UserError: the model has no such layer.
        """
        source, test, cautions = self._parts(data, ctx)
        pool, held = self._compared(model, source), self._compared(model, test)
        if model.spec.tabular and not self._in_layer(model):
            from audit.global_explanations._encoding import standardise

            pool, held = standardise(pool, pool), standardise(held, pool)
        classes = [_Class(name, of_pool, of_held) for name, of_pool, of_held in self._classes(model, source, test)]
        yield from self._measured(model, source, test, pool, held, classes, cautions, ctx)

    def _parts(self, data: AuditData, ctx: Context) -> tuple[Batch, Batch, tuple[str, ...]]:
        known = known_rows(data)
        if known is not None:
            return sample(known, self.rows, ctx), sample(data.test, self.samples, ctx), ()
        order = ctx.rng(data.test.ids, "halves").uniform(()).argsort(stable=True).numpy()
        half = len(order) // 2
        chosen, held = (data.test.take(sorted(part)) for part in (order[:half], order[half:]))
        said = "no members or population are known: prototypes come from half of the test rows and are measured on the rest"
        return sample(chosen, self.rows, ctx), sample(held, self.samples, ctx), (said,)

    def _in_layer(self, model: AuditedModel) -> bool:
        import torch

        if self.features != "auto":
            return self.features == "layer"
        if self.layer is not None:
            return True
        linear = model.module is not None and any(isinstance(m, torch.nn.Linear) for m in model.module.modules())
        return linear and not model.spec.tabular

    def _compared(self, model: AuditedModel, batch: Batch) -> Tensor:
        """Rows as points, ``(N, D)`` float64."""
        x = model.tensor(batch)
        if self._in_layer(model):
            from audit.checks.robustness._activations import activations

            return activations(model, x, self.layer).double().cpu()
        if model.spec.kind in ("text", "tokens"):
            raise NotApplicable(f"explanation.prototypes compares texts in a layer; model '{model.name}' shows none")
        if model.spec.tabular:
            from audit.global_explanations._encoding import encode

            return encode(x, model.spec)[0]
        return x.flatten(1).double().cpu()

    def _classes(self, model: AuditedModel, source: Batch, test: Batch) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, rows of the pool and test rows of each class that both have."""
        import torch

        if model.task == "regression":
            yield "", torch.arange(len(source)), torch.arange(len(test))
            return
        if self.by == "label":
            of_source, of_test = torch.as_tensor(source.labels), torch.as_tensor(test.labels)
        else:
            of_source, of_test = (model.predict(model.tensor(part)).cpu() for part in (source, test))
        for index, name in enumerate(model.classes):
            mine, held = (of_source == index).nonzero().flatten(), (of_test == index).nonzero().flatten()
            if len(mine) and len(held) > 1:
                yield name, mine, held

    def _measured(
        self, model: AuditedModel, source: Batch, test: Batch, pool: Tensor, held: Tensor, classes: list[_Class],
        cautions: tuple[str, ...], ctx: Context,
    ) -> Iterator[Measurement]:  # fmt: skip
        import torch

        from audit.global_explanations.accumulated_effects import resampling_weights
        from audit.global_explanations.prototypes import (
            choose_criticisms,
            choose_prototypes,
            gaussian_kernel,
            median_distance,
        )

        if not classes:
            raise NotApplicable("no class has rows to choose prototypes from and test rows to measure them on")
        width = self.width * median_distance(pool[:1000])
        draws = ctx.generator("random rows")
        chosen: dict[str, tuple[Tensor, Tensor]] = {}
        at_random: list[list[Tensor]] = [[] for _ in range(self.draws)]
        values, ratios, sizes = [], [], []
        for number, of in enumerate(classes, 1):
            kernel = gaussian_kernel(pool[of.pool], pool[of.pool], width)
            prototypes = choose_prototypes(kernel, self.count)
            chosen[of.name] = of.pool[prototypes], of.pool[choose_criticisms(kernel, prototypes, self.criticisms)]
            random = [torch.from_numpy(draws.permutation(len(of.pool))[: len(prototypes)]) for _ in at_random]
            for picks, drawn in zip(at_random, random, strict=True):
                picks.append(of.pool[drawn])
            weights = resampling_weights(len(of.held), _REPLICATES, ctx.number(f"resamples {of.name}"))
            discrepancy = _Discrepancy(pool[of.pool], held[of.held], kernel, width, weights)
            values.append(discrepancy(prototypes))
            ratios.append(torch.stack([discrepancy(drawn) for drawn in random]).mean(dim=0))
            sizes.append(len(of.held))
            ctx.progress(number, len(classes), "classes")
        share = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
        own, random_own = torch.stack(values), torch.stack(ratios)
        evidence = (self._table(ctx, model, source, pool, chosen),)
        together, by_chance = (share[:, None] * own).sum(dim=0), (share[:, None] * random_own).sum(dim=0)
        shared = {"evidence": evidence, "cautions": cautions, "unresolved": few_rows(sum(sizes))}
        yield Measurement(metric="mmd_squared", estimate=_resampled(together, sum(sizes)), **shared)
        yield Measurement(metric="mmd_ratio", estimate=_resampled(together / by_chance, sum(sizes)), **shared)
        if model.task == "regression":
            return
        yield from self._accuracy(test, pool, held, classes, chosen, at_random, evidence, cautions, ctx)
        for of, part, chance, n in zip(classes, own, random_own, sizes, strict=True):
            for metric, numbers in (("mmd_squared", part), ("mmd_ratio", part / chance)):
                yield Measurement(
                    metric=metric, estimate=_resampled(numbers, n), dims={"class": of.name}, unresolved=few_rows(n)
                )

    def _accuracy(
        self, test: Batch, pool: Tensor, held: Tensor, classes: list[_Class],
        chosen: Mapping[str, tuple[Tensor, Tensor]], at_random: list[list[Tensor]], evidence: tuple[EvidenceRef, ...],
        cautions: tuple[str, ...], ctx: Context,
    ) -> Iterator[Measurement]:  # fmt: skip
        """How often the nearest of the chosen rows is of a test row's own class."""
        import torch

        from audit.global_explanations.prototypes import nearest
        from audit.stats import mean_and_se

        rows = torch.cat([of.held for of in classes])
        truth = torch.cat([torch.full((len(of.held),), k) for k, of in enumerate(classes)])

        def right(picks: list[Tensor]) -> Tensor:
            owner = torch.cat([torch.full((len(part),), k) for k, part in enumerate(picks)])
            return owner[nearest(held[rows], pool[torch.cat(picks)])] == truth

        mine = right([chosen[of.name][0] for of in classes])
        chance = torch.stack([right(picks).double() for picks in at_random]).mean(dim=0)
        outcomes = ctx.evidence("outcomes", "outcomes", title="the nearest prototype is of the row's class")
        outcomes.append([test.ids[i] for i in rows.tolist()], value=mine.double())
        shared = {"evidence": (outcomes.ref, *evidence), "cautions": cautions}
        yield Measurement(metric="accuracy", estimate=Proportion(k=int(mine.sum()), n=len(mine)), **shared)
        value, se, n = mean_and_se((mine.double() - chance).numpy())
        yield Measurement(metric="accuracy_gain", estimate=Mean(value=value, se=se, n=n), **shared)
        for k, of in enumerate(classes):
            own = mine[truth == k]
            yield Measurement(
                metric="accuracy", estimate=Proportion(k=int(own.sum()), n=len(own)), dims={"class": of.name}
            )

    def _table(
        self,
        ctx: Context,
        model: AuditedModel,
        source: Batch,
        pool: Tensor,
        chosen: Mapping[str, tuple[Tensor, Tensor]],
    ) -> EvidenceRef:
        """Prototypes and criticisms with their rows' ids and, of a table, what stands out in them; the inputs themselves beside."""
        import torch

        from audit.global_explanations.prototypes import nearest

        everyone = torch.cat([prototypes for prototypes, _ in chosen.values()])
        stands_for = nearest(pool, pool[everyone]).bincount(minlength=len(everyone)).tolist()
        rows, roles, names, followers = list[int](), list[str](), list[str](), list[int]()
        for name, (prototypes, criticisms) in chosen.items():
            rows += [*prototypes.tolist(), *criticisms.tolist()]
            roles += ["prototype"] * len(prototypes) + ["criticism"] * len(criticisms)
            names += [name] * (len(prototypes) + len(criticisms))
            followers += [stands_for.pop(0) for _ in range(len(prototypes))] + [0] * len(criticisms)
        x = model.tensor(source)[rows].cpu()
        told = {"what_stands_out": _stand_out(model, x, model.tensor(source).cpu())} if model.spec.tabular else {}
        writer = ctx.evidence("prototypes", "table", title="prototypes and criticisms", input_kind=model.spec.kind)
        writer.append(
            [source.ids[i] for i in rows],
            **({"class": names} if model.task == "classification" else {}),
            role=roles,
            nearest_to_rows=followers,
            **told,
            x=x,
        )
        return writer.ref


@dataclass(frozen=True)
class _Class:
    """A class with its rows in the pool and its test rows, by position."""

    name: str
    pool: Tensor
    held: Tensor


class _Discrepancy:
    """MMD² between test rows and chosen rows, of the test rows as they are and of resamples of them, ``(1 + B,)``.

    Test rows stand for a distribution, so that no row is compared with itself; chosen rows stand for themselves.
    """

    def __init__(self, pool: Tensor, held: Tensor, kernel: Tensor, width: float, weights: Tensor) -> None:
        from audit.global_explanations.prototypes import gaussian_kernel

        inside, self._inside = gaussian_kernel(held, held, width), kernel
        self._to_pool = weights @ gaussian_kernel(held, pool, width) / weights.sum(dim=1, keepdim=True)
        own = (weights**2 * inside.diagonal()).sum(dim=1)
        pairs = weights.sum(dim=1) ** 2 - (weights**2).sum(dim=1)
        self._among = ((weights @ inside * weights).sum(dim=1) - own) / pairs.clamp_min(1e-12)

    def __call__(self, chosen: Tensor) -> Tensor:
        return self._among - 2 * self._to_pool[:, chosen].mean(dim=1) + self._inside[chosen][:, chosen].mean()


def _resampled(values: Tensor, n: int) -> Resampled:
    value, *replicates = values.tolist()
    return Resampled(value=value, replicates=tuple(replicates), n=n)


def _stand_out(model: AuditedModel, x: Tensor, rows: Tensor) -> list[str]:
    """Of each row of a table the three columns that are furthest from what is usual."""
    from audit.global_explanations._encoding import encode, standardise
    from audit.numbers import show

    everyone, columns = encode(rows, model.spec)
    values = encode(x, model.spec)[0]
    away = standardise(values, everyone)
    told = []
    for row, far in zip(values, away, strict=True):
        parts = []
        for i in far.abs().argsort(descending=True, stable=True)[:3].tolist():
            column, sign = columns[i], f"{float(far[i]):+.1f} sd"
            if column.category is None:
                parts.append(f"{column.name} {show(float(row[i]))} ({sign})")
            else:
                parts.append(f"{column.name} is {'' if row[i] else 'not '}{column.category}")
        told.append("; ".join(parts))
    return told
